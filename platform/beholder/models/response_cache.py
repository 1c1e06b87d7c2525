"""Answers of hosted models on disk, so that none is requested, or paid for, twice."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Container
from functools import lru_cache
from pathlib import Path

from beholder.util.atomic import digest_of
from beholder.util.errors import BaseModelError

FORMAT = 1
_KEY = slice(len('{"key": "'), len('{"key": "') + 64)
"""Where a line has its key."""


class AnswersCache:
    """A folder of answers by key: `answers-FORMAT-*.jsonl`, one checksummed line an answer.

    Every process appends to a file of its own, so that processes, on one machine or many, may share a folder. A
    line is written as its answer arrives: what was answered before a crash is there after it, and a line that a crash
    tore is passed over. Only key and answer are kept; a key is a hash, so neither prompts nor users can be read here.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = folder / f"answers-{FORMAT}-{_writer(os.getpid())}.jsonl"

    def read(self, keys: Container[str]) -> dict[str, str]:
        """The kept answers among `keys`.

        Raises:
            BaseModelError: the folder or a file in it cannot be read.
        """
        found: dict[str, str] = {}
        try:
            for file in sorted(self._folder.glob(f"answers-{FORMAT}-*.jsonl")):
                with file.open("rb") as lines:
                    for line in lines:
                        if line[_KEY].decode("ascii", "replace") not in keys:  # most are not: spare them the parsing
                            continue
                        key, answer = _parse(line) or ("", "")
                        if key in keys:
                            found.setdefault(key, answer)
        except OSError as error:
            raise BaseModelError(f"{self._folder}: the kept answers cannot be read: {error.strerror}.") from error
        return found

    def keep(self, key: str, answer: str) -> None:
        """Write one answer down, now.

        Raises:
            BaseModelError: it cannot be written.
        """
        line = json.dumps({"key": key, "answer": answer, "checksum": _checksum(key, answer)}).encode("ascii") + b"\n"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._own.open("a+b") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else b"\n" + line  # what stands before was torn
                file.write(line)
        except OSError as error:
            raise BaseModelError(
                f"{self._folder}: an answer cannot be written: {error.strerror}. Make room there, or allow writing."
            ) from error


@lru_cache(maxsize=1)
def _writer(process: int) -> str:
    """A name no other process has; a fork is another process."""
    return uuid.uuid4().hex


def _parse(line: bytes) -> tuple[str, str] | None:
    """Key and answer of one line; None where it is not the line that was written."""
    try:
        written = json.loads(line)
        key, answer = written["key"], written["answer"]
        whole = written["checksum"] == _checksum(key, answer)
    except (ValueError, KeyError, TypeError):
        return None
    return (key, answer) if whole else None


def _checksum(key: str, answer: str) -> str:
    return digest_of([key, answer])[:16]
