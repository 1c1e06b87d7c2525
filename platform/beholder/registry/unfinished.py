"""Changes of a store that were begun, so that what a writer left that died, or stands still, is known and can go.

```
unfinished/ID.json        of a change of bundle ID: the objects it writes and replaces, and the manifest it replaces
```

A writer puts a record up before it writes its first object, and takes it down after its manifest. A later holder of the
store's lock that finds a record knows of a writer that died, or that is stopped and may still write its manifest. It
makes that impossible first: manifests are replaced by compare-and-swap, so that another seal in place of the one the
writer has read, or an empty file where there was none, is enough. Then no manifest will ever name what the writer
wrote, and it can be deleted however young it is. (Write-ahead log and fencing, as in Gray & Reuter 1993, Transaction
Processing, ch. 10, and Kleppmann 2017, Designing Data-Intensive Applications, ch. 8.)

Only places that several machines reach need it. A folder's lock is held as long as its process lives, so that there
all that no manifest names can be deleted by the next who holds it. Where nothing can be replaced by compare-and-swap,
nobody can be kept from writing, so that what a change left half-made stays until it is old.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection
from typing import Any

from beholder.registry.objects import manifest_name
from beholder.registry.places import MANIFESTS, Place
from beholder.registry.seal import opened, seal_in, sealed

FOLDER, RETIRED = "unfinished", "retired"
FENCE = "fence"
"""Key of a manifest that was written once more as it was, so that another writer does not replace it."""
BEGUN, DONE, WITHDRAWN = "begun", "done", "withdrawn"
TRIES = 20


class Unfinished:
    """Of the store at a place. All of it is for those who hold the store's lock."""

    def __init__(self, place: Place, swaps: bool) -> None:
        """`swaps`: whether its files can be replaced by compare-and-swap."""
        self.place, self.swaps = place, swaps

    def begin(self, bundle: str, objects: Collection[str], replaces: str | None) -> str:
        """Put a record up; returns its name.

        Args:
            bundle: that is changed; any other name where no manifest will be written.
            objects: digests of what is written, and of what is replaced.
            replaces: seal of the manifest that is replaced; None where there is none.
        """
        name = f"{FOLDER}/{bundle}-{secrets.token_hex(4)}.json"
        record = {"bundle": bundle, "objects": sorted(objects), "replaces": replaces, "state": BEGUN}
        if self.place.swap(name, json.dumps(record).encode(), None) is None:
            raise OSError(f"{name}: another process is writing there")
        return name

    def end(self, name: str, replaced: Collection[str] = ()) -> bool:
        """Nothing more will be written: `replaced` goes with the next collection. Whether nobody had withdrawn it."""
        found = self.place.read(name)
        if found is None or _read(name, found[0])["state"] != BEGUN:
            return False
        if replaced:
            return self._set(name, {"objects": sorted(replaced), "state": DONE}, found[1])
        self.place.delete(name)
        return True

    def withdraw(self) -> tuple[set[str], list[str]]:
        """See that no writer but this one can write its manifest any more.

        Returns:
            The objects of all records: those that no manifest names can be deleted. And records that say nothing any
            more once that is done; the others stay (`forget`), as a writer that stands still may yet write an object.
        """
        objects: set[str] = set()
        over: list[str] = []
        for name in [name for name in self.place.names(FOLDER) if name.endswith(".json")]:
            found = self.place.read(name)
            if found is None:
                continue
            record = _read(name, found[0])
            if record["state"] == BEGUN:
                if not self.swaps:
                    continue
                self._fence(record["bundle"], record["replaces"])
                self._set(name, {**record, "state": WITHDRAWN}, found[1])
            elif record["state"] == DONE:
                over.append(name)
            objects |= set(record["objects"])
        for name in self.place.names(RETIRED):  # of an erasure that died, by an earlier version of this program
            found = self.place.read(name)
            if found is not None and name.endswith(".json"):
                objects |= set(_read(name, b'{"state": "done", "objects": ' + found[0] + b"}")["objects"])
            over.append(name)
        return objects, over

    def forget(self, before: float) -> None:
        """Take down what is older (seconds since 1970, by the place's own clock), and old stand-ins of manifests."""
        written = {name: when for name, (when, _) in self.place.written(FOLDER).items()}
        empty = [name for name, (when, size) in self.place.written(MANIFESTS).items() if not size and when < before]
        for name in [*(name for name, when in written.items() if when < before), *empty]:
            self.place.delete(name)

    def _fence(self, bundle: str, replaces: str | None) -> None:
        name = manifest_name(bundle)
        for _ in range(TRIES):
            found = self.place.read(name)
            if found is None:
                if replaces is not None or self.place.swap(name, b"", None) is not None:
                    return
            elif replaces is None or seal_in(found[0]) != replaces:
                return  # it was written, or was replaced by another
            else:
                again = sealed({**opened(found[0]), FENCE: secrets.token_hex(8)})
                if self.place.swap(name, again, found[1]) is not None:
                    return
        raise OSError(f"{name}: changes all the time")

    def _set(self, name: str, record: dict[str, Any], tag: str) -> bool:
        return self.place.swap(name, json.dumps(record).encode(), tag) is not None


def _read(name: str, data: bytes) -> dict[str, Any]:
    """Raises ValueError: it is no record."""
    try:
        record = json.loads(data)
        known = record["state"] in (DONE, WITHDRAWN) or {"bundle", "replaces"} <= record.keys()
        if known and all(isinstance(digest, str) for digest in record["objects"]):
            return dict(record)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ValueError(
        f"{name} is not a record of a change, so that nobody knows what it left. Delete it, and collect again"
    )
