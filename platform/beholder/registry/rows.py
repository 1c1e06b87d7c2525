"""The lease of a store that has no conditional writes: a row in the database of judgements (`feedback`)."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator

from beholder.registry.feedback import Feedback
from beholder.util.errors import FeedbackError, RegistryError


class LeaseRow:
    """See `lease.Swaps`: of one file, whatever its name."""

    def __init__(self, feedback: Feedback, where: str) -> None:
        """`where`: the store, for messages, and by which machines know that they mean the same."""
        self._feedback, self._where = feedback, where
        self._store = hashlib.sha256(where.partition("?")[0].rstrip("/").encode()).hexdigest()

    def read(self, name: str) -> tuple[bytes, str] | None:
        """See `lease.Swaps`."""
        with self._said():
            return self._feedback.lease(self._store)

    def swap(self, name: str, data: bytes, tag: str | None) -> str | None:
        """See `lease.Swaps`."""
        with self._said():
            return self._feedback.swap_lease(self._store, data, tag)

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except FeedbackError as error:
            raise RegistryError(f"store {self._where}: it has no lock of its own, and {error}") from None


@contextlib.contextmanager
def row_of(where: str) -> Iterator[LeaseRow | None]:
    """Of a store, for the time of a block; None where the database is SQLite, so that no other machine reaches it.

    Raises:
        RegistryError: the database cannot be reached.
    """
    if (os.environ.get("BEHOLDER_FEEDBACK") or "sqlite").startswith("sqlite"):
        yield None
        return
    try:
        feedback = Feedback()
    except FeedbackError as error:
        raise RegistryError(f"store {where}: it has no lock of its own, and {error}") from None
    with contextlib.closing(feedback):
        yield LeaseRow(feedback, where)
