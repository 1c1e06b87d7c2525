"""The words around a text: data in YAML, with a version and a hash, so that two runs can be held against each other."""

from __future__ import annotations

import string
from functools import lru_cache
from pathlib import Path

import yaml
from pydantic import Field, field_validator

from beholder.data.texts import SEPARATOR
from beholder.util.atomic import digest_of
from beholder.util.errors import ExperimentError, unknown
from beholder.util.strict_model import Section, build

FOLDER = Path(__file__).parent / "wordings"
_FIELDS = {
    "labels": {"labels"},
    "text": {"text"},
    "id": {"number"},
    "statistics": {"rates"},
    "profile": {"facts"},
    "each": {"text", "labels"},
}


def with_user(text: str, number: int) -> str:
    """The text behind its reader's number, as plain digits (the paper's `cls-p`).

    The number is the user's position among the training users, never the id itself, which may be personal.
    """
    context, between, judged = text.rpartition(SEPARATOR)  # what stands before a context is the first to be cut
    return f"{context}{between}user {number}: {judged}"


class _Words(Section):
    @field_validator("*")
    @classmethod
    def _has_its_fields(cls, words: object, info: object) -> object:
        wanted = _FIELDS.get(info.field_name or "", set())  # type: ignore[attr-defined]
        if isinstance(words, str):
            found = {field for _, field, _, _ in string.Formatter().parse(words) if field is not None}
            if found != wanted:
                expected = " and ".join(f"{{{field}}}" for field in sorted(wanted)) or "no {field}"
                raise ValueError(f"expected {expected} in the words")
        return words


class ExampleWords(_Words):
    """The line above a user's own examples, the one above other people's, and an example itself."""

    own: str
    others: str
    each: str


class Wording(_Words):
    """The words of a prompt, part by part. Parts stand on lines of their own.

    Attributes:
        version: raised with every change of words.
        instruction: what to do.
        labels: the list of labels; `{labels}`.
        none: the word for no label.
        text: `{text}`.
        answer: the line an answer follows.
        id, statistics, profile, examples: the user blocks; `{number}`, `{rates}`, `{facts}`, see `ExampleWords`.
        system: a system message, for bases that have a chat template.
    """

    version: int = Field(ge=1)
    instruction: str
    labels: str
    none: str
    text: str
    answer: str
    id: str
    statistics: str
    profile: str
    examples: ExampleWords
    system: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of all words."""
        return digest_of(self.model_dump())

    @property
    def template(self) -> str | list[dict[str, str]]:
        """All words in the order of a prompt, fields as `{{variables}}`: what a prompt registry shows.

        A prompt has those of the user blocks of its arm, and examples under one of their two headings. With a
        system message, the messages of a chat.
        """
        examples = self.examples
        each = examples.each.format(text="{{example_text}}", labels="{{example_labels}}")
        whole = "\n".join(
            [
                self.instruction,
                self.labels.format(labels="{{labels}}"),
                "",
                self.id.format(number="{{number}}"),
                self.profile.format(facts="{{facts}}"),
                self.statistics.format(rates="{{rates}}"),
                examples.own,
                each,
                examples.others,
                each,
                self.text.format(text="{{text}}"),
                self.answer,
            ]
        )
        if self.system is None:
            return whole
        return [{"role": "system", "content": self.system}, {"role": "user", "content": whole}]


def wordings() -> list[str]:
    """The names of the wordings that ship."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load_wording(name: str) -> Wording:
    """A wording that ships, by name, or one's own, by the path of its YAML file.

    Raises:
        ExperimentError: there is none, or the file is not a wording; names what is wrong with it.
    """
    file = FOLDER / f"{name}.yaml" if name in wordings() else Path(name).expanduser()
    if not file.is_file():
        raise ExperimentError(f"prompt.wording: {unknown('wording', name, wordings())} A YAML file's path will do too.")
    return _read(file, file.stat().st_mtime_ns, file.stat().st_size)


@lru_cache(maxsize=32)
def _read(file: Path, changed: int, size: int) -> Wording:
    """A file's wording, read once while neither its time nor its size changes."""
    try:
        written = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ExperimentError(f"{file}: not readable as YAML ({type(error).__name__}).") from error
    return build(Wording, written, str(file))
