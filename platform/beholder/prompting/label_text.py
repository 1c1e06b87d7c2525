"""Label lists as words: how an answer is written, and how one is read back, however it was punctuated."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beholder.util.errors import ExperimentError

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
        return tuple(" ".join(re.split(r"[\s_.]+", label)).strip() for label in self.labels)

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
        mean anger. Of overlapping names the longer one counts ("very angry" is not "angry"), but a name ends
        at a comma and at the end of a line ("very, angry" is not "very angry").
        """
        named = self.named(answer)
        return None if named is None else np.isin(np.arange(len(self.labels)), named)

    def named(self, answer: str) -> list[int] | None:
        """The same as positions, in the order in which the answer names them first."""
        said = _plain(answer)
        place: dict[int, int] = {}
        forms = {(_plain(form), label) for label in range(len(self.labels)) for form in self._forms(label)}
        for form, label in sorted(forms, key=lambda each: (-len(each[0]), each[1])):
            name = re.compile(rf"(?<!\S){re.escape(form)}(?!\S)")
            if found := name.search(said):
                place[label] = min(found.start(), place.get(label, found.start()))
                said = name.sub(lambda match: "-" * len(match[0]), said)
        if place:
            return sorted(place, key=lambda label: place[label])
        return [] if re.search(rf"(?<!\S){re.escape(_plain(self.none))}(?!\S)", said) else None

    def require_readable(self, with_none: bool) -> None:
        """Check that what is written of a label is read as that label.

        Raises:
            ExperimentError: names two that read alike, or one of which nothing can be read.
        """
        forms: dict[str, str] = {}
        said = [(label, form) for place, label in enumerate(self.labels) for form in self._forms(place)]
        for label, form in [*said, *([("", self.none)] if with_none else [])]:
            plain = _plain(form)
            called = f"the label {label!r}" if label else f"the word for no label, {form!r},"
            if not plain:
                raise ExperimentError(f"{called} has neither letters nor digits: no answer could name it. Rename it.")
            if forms.setdefault(plain, label) != label:
                remedy = "Rename it." if label else "Rename it, or give a wording with another word under none."
                raise ExperimentError(f"in answers {called} reads like the label {forms[plain]!r}. {remedy}")

    def _forms(self, label: int) -> tuple[str, str]:
        return self.labels[label], self.words[label]


def _plain(words: str) -> str:
    """Case folded; everything but letters, their marks and digits a single space, but ", " between parts of a list."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", words).casefold())
    kept = "".join(
        each if each.isalnum() or unicodedata.category(each)[0] == "M" else "," if each in ",;\n" else " "
        for each in folded
    )
    return re.sub(r"(\s*,\s*)+", " , ", " ".join(kept.split())).strip(" ,")
