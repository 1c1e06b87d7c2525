"""What a machine fetched of a store elsewhere: bounded in size, and without what no bundle names."""

from __future__ import annotations

import os
import time
from pathlib import Path

from beholder.registry.blob_store import OBJECTS, Store
from beholder.registry.places import Elsewhere, told
from beholder.util.errors import RegistryError

FETCHED_GB, IN_USE_S = 50.0, 86_400.0
"""How much is kept of each store elsewhere, and for how long after its last use nothing is evicted to make space."""


def evict(store: Store) -> int:
    """Delete what this machine fetched of the store and does not need; returns how many files.

    Objects that no bundle names go: what another machine erased is among them. Of the others, those go that were
    not used for longest, down to `BEHOLDER_FETCHED_GB` (50), but none that was used within a day: somebody may have
    a bundle of it open. They are fetched again when they are needed. What was half-written when a process died
    goes after a day, too. In a folder of this machine nothing was fetched.

    Raises:
        RegistryError: a manifest is damaged, so that nobody knows what it names: nothing was deleted. Or the limit
            is not a number: what no bundle names was deleted.
    """
    if not isinstance(store.place, Elsewhere):
        return 0
    named, last = store.named(), time.time() - IN_USE_S
    with told(store.uri):
        used = store.place.used(OBJECTS)
        left = {name: about for name, about in used.items() if Path(name).name in named}
        whole = {name for name in used if len(Path(name).name) == 64}
        gone = [name for name in used if name not in left and (name in whole or used[name][0] < last)]
        for name in gone:  # of the others, what a process writes at this moment stays
            store.place.cache.delete(name)
        over = sum(size for _, size in left.values()) - _fetched_bytes()
        for name, (when, size) in sorted(left.items(), key=lambda each: each[1]):
            if over <= 0 or when > last:
                break
            store.place.cache.delete(name)
            gone.append(name)
            over -= size
    return len(gone)


def _fetched_bytes() -> float:
    written = os.environ.get("BEHOLDER_FETCHED_GB") or str(FETCHED_GB)
    try:
        found = float(written)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise RegistryError(f"BEHOLDER_FETCHED_GB={written}: not a number of gigabytes. Set it to 0 or more.")
    return found * 1e9
