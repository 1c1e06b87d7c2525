"""One writer at a time, of many machines: a lease that is kept where the store is.

The lease is one small file, replaced by compare-and-swap: only if it has not changed since it was read. Its holder
renews it again and again. Others look: where it stays the same for a whole term by *their own* clock, its holder is
dead or stopped, and one of them takes it. No two clocks are compared, so that a wrong one does no harm; all that is
assumed is that they run about equally fast (Gray & Cheriton 1989, Leases, SOSP). A holder that was stopped for too long
detects that by its own clock, and writes nothing more.

Each holder's number is one higher than the last (a fencing token): it is in the lease, for people who look at it. What
protects a store from a writer that wakes up between its last look and its write is not the lease but that manifests,
too, are replaced by compare-and-swap, and that what such a writer wrote is deleted only once its manifest is sure to
be refused (`unfinished`).
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from typing import Protocol

from beholder.util.errors import RegistryError

FILE = "lease.json"
TERM_S = 30.0
"""A holder that has not renewed for so long is taken for dead; it renews four times as often."""


class HeldError(RegistryError):
    """Another process holds what was waited for."""


class Swaps(Protocol):
    """Where small files are replaced by compare-and-swap."""

    def read(self, name: str) -> tuple[bytes, str] | None:
        """A file's bytes and a tag that changes with them; None where there is none."""
        ...

    def swap(self, name: str, data: bytes, tag: str | None) -> str | None:
        """Replace a file that still has this tag, or make one where there is none (None); returns its new tag.

        None where it is not so: another was faster.
        """
        ...


class Lease:
    """A lease on a place, by the file `lease.json` in it."""

    def __init__(self, place: Swaps, where: str, term: float = TERM_S) -> None:
        """`where`: for messages. `term`: seconds, see `TERM_S`; the same for all who use the place."""
        self.place, self.where, self.term = place, where, term

    @contextlib.contextmanager
    def held(self, what: str, patience: float) -> Iterator[Hold]:
        """Hold it for the time of a `with` block.

        Args:
            what: is done meanwhile, for messages; it is written into the lease.
            patience: seconds to wait for another holder.

        Raises:
            RegistryError: another holds it.
        """
        hold = self._take(what, time.monotonic() + patience)
        beating = threading.Thread(target=hold.beat, daemon=True)
        beating.start()
        try:
            yield hold
        finally:
            hold.let_go()
            beating.join()

    def _take(self, what: str, until: float) -> Hold:
        seen: tuple[str, float] | None = None  # a tag, and since when it is the same
        while True:
            found, now = self.place.read(FILE), time.monotonic()
            tag = found and found[1]
            said = _said(found[0]) if found else {}
            if tag is not None and (seen is None or seen[0] != tag):
                seen = tag, now
            if not said.get("holder") or (seen is not None and now - seen[1] >= self.term):
                hold = Hold(self, what, int(said.get("fence", 0)) + 1)
                if hold.write(tag):
                    return hold
                continue  # another was faster
            if now >= until:
                raise HeldError(
                    f"store {self.where}: another process is {said.get('what', 'writing')} there, so {what} did not "
                    "begin. Try again."
                )
            time.sleep(min(0.2, self.term / 10, max(0.0, until - now)))


class Hold:
    """A lease that is held.

    Attributes:
        fence: one more than the last holder's.
    """

    def __init__(self, lease: Lease, what: str, fence: int) -> None:
        self._lease, self._what, self.fence = lease, what, fence
        self._holder = secrets.token_hex(8)
        self._lock, self._gone = threading.Lock(), threading.Event()
        self._tag: str | None = None
        self._renewed, self._beats, self._taken = 0.0, 0, False

    def write(self, tag: str | None) -> bool:
        """Take the lease from its last state, or renew it; False where it is another's now."""
        self._beats += 1
        written = {"holder": self._holder, "fence": self.fence, "what": self._what, "beats": self._beats}
        began = time.monotonic()
        new = self._lease.place.swap(FILE, json.dumps(written).encode(), tag)
        if new is not None:
            self._tag, self._renewed = new, began
            return True
        found = self._lease.place.read(FILE)
        if found is None or _said(found[0]).get("holder") != self._holder:
            return False
        self._tag = found[1]  # an earlier renewal got through, and its answer did not: the next one counts
        return True

    def beat(self) -> None:
        """Renew until it is let go, or lost."""
        while not self._gone.wait(self._lease.term / 4):
            with self._lock, contextlib.suppress(RegistryError, OSError):  # the next beat may get through
                if not self._gone.is_set() and not self.write(self._tag):
                    self._renewed = float("-inf")
                    return

    @property
    def lost(self) -> bool:
        """Whether it was not renewed for most of a term, so that another may hold it; after `let_go`: or one did."""
        return self._taken or time.monotonic() - self._renewed > 0.75 * self._lease.term

    def check(self) -> None:
        """For the moment before something is written that another holder must not see.

        Raises:
            RegistryError: it may be `lost`.
        """
        if self.lost:
            raise RegistryError(
                f"store {self._lease.where}: {self._what} was held up for so long that another process may be writing "
                "there. What was written so far stays. Do it again."
            )

    def let_go(self) -> None:
        """Leave it to others; nothing happens where it was lost."""
        self._gone.set()
        with self._lock, contextlib.suppress(RegistryError, OSError):  # if this fails, it runs out
            given = json.dumps({"holder": "", "fence": self.fence}).encode()
            if self._lease.place.swap(FILE, given, self._tag) is None:
                found = self._lease.place.read(FILE)
                said = _said(found[0]) if found else {}
                if said.get("holder") == self._holder:  # a renewal got through, and its answer did not
                    self._lease.place.swap(FILE, given, found and found[1])
                else:  # a clock that stood still did not tell it
                    self._taken = found is None or found[0] != given


def _said(data: bytes) -> dict[str, str]:
    """A lease's contents; a damaged one counts as held, so that it has to run out."""
    try:
        said = json.loads(data)
        return said if isinstance(said, dict) and str(said.get("fence", "0")).isdigit() else {"holder": "?"}
    except ValueError:
        return {"holder": "?"}
