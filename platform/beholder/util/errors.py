"""Everything beholder refuses, and why.

A message states what is wrong, where (file, row, column, value) and what to do next, in one line. The command line
prints it without a traceback and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BeholderError(Exception):
    """Base of all errors a user can fix."""


class DataError(BeholderError):
    """The annotations, or the file they come from, cannot be used as they are."""


class SplitError(BeholderError):
    """The rows cannot be split as configured."""


class ExperimentError(BeholderError):
    """The experiment file is wrong, or cannot be run."""


class BaseModelError(BeholderError):
    """A base model cannot be found, or is not what it should be."""


class MethodError(BeholderError):
    """A method cannot be fitted, saved, loaded or applied."""


class BankError(BeholderError):
    """A bank of adapters cannot be built, trained or read."""


class ClusterError(BeholderError):
    """Ray could not be started, or a distributed job failed."""


class TrackingError(BeholderError):
    """The MLflow store cannot be reached or written."""


class RegistryError(BeholderError):
    """A bundle or a registered version is missing, damaged or refused."""


class FeedbackError(BeholderError):
    """The database of users' judgements cannot be reached, read or written."""


class ErasedError(FeedbackError):
    """Something of a person who was erased was to be kept."""


class ServeError(BeholderError):
    """The server cannot be started as configured."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its name where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def counted(number: int, what: str) -> str:
    """A number of things, for people: `1 user`, `1,204 users`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One line for a name nobody knows: what was meant, and what there is.

    Args:
        kind: what the name should have been ("method", "source", ...).
        name: what was written.
        known: every valid name.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}."
