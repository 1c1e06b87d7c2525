"""The tombstones of one store, and their key. See `beholder.util.tombstones`.

```
keys/tombstones            the key
tombstones/HASH            one for each person who was erased; the file is empty
```
"""

from __future__ import annotations

from collections.abc import Collection

from beholder.registry.places import Place
from beholder.util.errors import RegistryError
from beholder.util.tombstones import KEY_BYTES, new_key, tombstone

FOLDER, KEY = "tombstones", "keys/tombstones"


class Tombstones:
    """Of the store at a place."""

    def __init__(self, place: Place, where: str) -> None:
        """`where`: the store, for messages."""
        self.place, self.where = place, where

    def add(self, user: str) -> None:
        """Put one up, for those who hold the store's lock; the first makes the key.

        Raises:
            RegistryError: there are tombstones whose key is gone.
        """
        if self.place.read(KEY) is None and not self._names():
            self.place.swap(KEY, new_key(), None)  # another may have been faster: what is there counts
        self.place.swap(f"{FOLDER}/{tombstone(self._key(), user)}", b"", None)

    def remove(self, user: str) -> bool:
        """Take one away; whether there was one. Raises RegistryError: see `add`."""
        names = self._names()
        mine = f"{FOLDER}/{tombstone(self._key(), user)}" if names else ""
        if mine in names:
            self.place.delete(mine)
        return mine in names

    def among(self, users: Collection[str]) -> set[str]:
        """Those of these people who have one. Raises RegistryError: see `add`."""
        names = self._names()
        if not names:
            return set()
        key = self._key()
        return {user for user in users if f"{FOLDER}/{tombstone(key, user)}" in names}

    def _names(self) -> set[str]:
        return {name for name in self.place.names(FOLDER) if not name.rpartition("/")[2].startswith(".")}

    def _key(self) -> bytes:
        found = self.place.read(KEY)
        if found is None or len(found[0]) != KEY_BYTES:
            raise RegistryError(
                f"store {self.where}: {KEY} is {'missing' if found is None else 'damaged'}, so nobody can tell who was "
                f"erased. Put it back from a copy; where there is none, delete {FOLDER}/ and erase these people again."
            )
        return found[0]
