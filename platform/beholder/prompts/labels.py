"""Label lists as words: how an answer is written, and how one is read back, however it was punctuated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEPARATOR = ", "


@dataclass(frozen=True)
class LabelWords:
    """The words for a task's labels.

    Attributes:
        labels: the task's label names, in its order.
        none: the word for no label at all.
    """

    labels: tuple[str, ...]
    none: str = "none"

    @property
    def words(self) -> tuple[str, ...]:
        """What is written for each label: its name, with spaces for underscores and dots."""
        return tuple(" ".join(re.split(r"[\s_.]+", label)) for label in self.labels)

    @property
    def order(self) -> list[int]:
        """Positions of the labels in the order in which answers name them: alphabetical."""
        words = self.words
        return sorted(range(len(words)), key=lambda label: words[label].casefold())

    def write(self, given: NDArray[np.bool_] | Sequence[bool]) -> str:
        """An answer: the labels given, alphabetically, or the word for none."""
        words = self.words
        return SEPARATOR.join(words[label] for label in self.order if given[label]) or self.none

    def listed(self, with_none: bool) -> str:
        """All labels, as the prompt lists them."""
        listed = [self.words[label] for label in self.order]
        return SEPARATOR.join([*listed, self.none] if with_none else listed)

    def read(self, answer: str) -> NDArray[np.bool_] | None:
        """The labels an answer names: bool [labels]; None where it names none of them, nor the word for none.

        Case, punctuation, bullets and what stands around the names do not matter: "Anger.", " - anger" and "ANGER" all
        say anger. Of overlapping names the longer one counts ("very angry" is not "angry").
        """
        said = f" {_plain(answer)} "
        given = np.zeros(len(self.labels), dtype=bool)
        forms = [(_plain(form), label) for label in range(len(self.labels)) for form in self._forms(label)]
        for form, label in sorted(set(forms), key=lambda each: -len(each[0])):
            found = f" {form} "
            if found in said:
                given[label] = True
                said = said.replace(found, "  ")
        if given.any():
            return given
        return given if f" {_plain(self.none)} " in said else None

    def _forms(self, label: int) -> tuple[str, str]:
        return self.labels[label], self.words[label]


def _plain(words: str) -> str:
    """Case folded, everything but letters and digits a single space."""
    return " ".join(re.findall(r"[^\W_]+", words.casefold()))
