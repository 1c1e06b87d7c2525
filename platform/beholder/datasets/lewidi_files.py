"""The JSON files of the shared tasks Learning With Disagreements (LeWiDi), item by item.

A file is one object: the item's id -> its fields, the same in both editions (2023: SemEval-2023 task 11, Leonardelli et
al., arXiv 2304.14803; 2025: third edition at NLPerspectives, arXiv 2510.08460; the formats are described in the readme
files of github.com/Le-Wi-Di/le-wi-di.github.io):

* `text`: in 2023 the text (of ConvAbuse a string that holds an object of four turns), in 2025 an object of two parts;
* `annotators`: ids with commas between. Of VariErrNLI an id stands there once for each label its annotator gave;
* `annotations`: in 2023 values with commas between, in the order of `annotators`; in 2025 an object, id -> value. The
  values of ConvAbuse are severities from 1 (no abuse) to -3, of VariErrNLI label names with commas between;
* `soft_label`: value -> share, in part rounded to two decimals; of VariErrNLI label -> {"0": share, "1": share};
* `lang`, `split`, `other_info`: in 2023 with the group of each annotator (HS-Brexit, ArMIS).

Files without annotations (`*_test_clear.json`, and the test files of 2023 during the competition) have the same fields,
`annotations` and `soft_label` empty.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from beholder.data.label_rules import present, written
from beholder.data.scales import Scale
from beholder.data.task import Task
from beholder.util.errors import DataError

Part = Literal["train", "dev", "test"]
SetName = Literal["ArMIS", "ConvAbuse", "HS-Brexit", "MD-Agreement", "CSC", "MP", "Par", "VariErrNLI"]
FETCH = "Fetch the file again, or name another folder under source.path."
SEGMENT = " [SEP] "
"""Between what a text answers or stands in, and what is judged."""


@dataclass(frozen=True)
class LewidiSet:
    """One of the data sets.

    Attributes:
        name: as in the task.
        edition: its year.
        task: what annotators were asked.
        fields: of a text that has several, in their order; the last is judged.
        bins: the values of a soft label, in the order of the files; of VariErrNLI those of each label.
        stems: what names of its files begin with.
        other: fields of `other_info` that describe the item.
    """

    name: SetName
    edition: Literal[2023, 2025]
    task: Task
    fields: tuple[str, ...] = ()
    bins: tuple[str, ...] = ("0", "1")
    stems: tuple[str, ...] = ()
    other: tuple[str, ...] = ()

    @property
    def scale(self) -> Scale | None:
        """The scale of CSC and Par."""
        return self.task.scales[0] if self.task.scales else None

    def folders(self, path: Path) -> Iterator[tuple[Path, str]]:
        """Where its files may be, and what their names then begin with."""
        for stem in self.stems or (self.name,):
            for folder in (path, path / stem, path / f"{stem}_dataset"):
                yield folder, stem


def _points(low: int, high: int) -> tuple[float, ...]:
    return tuple(float(point) for point in range(low, high + 1))


def _written_points(low: int, high: int) -> tuple[str, ...]:
    return tuple(str(point) for point in range(low, high + 1))


SETS: dict[str, LewidiSet] = {
    each.name: each
    for each in (
        LewidiSet("ArMIS", 2023, Task(("misogynistic",))),
        LewidiSet("ConvAbuse", 2023, Task(("abusive",)), ("prev_agent", "prev_user", "agent", "user"), other=("bot",)),
        LewidiSet("HS-Brexit", 2023, Task(("hateful",))),
        LewidiSet("MD-Agreement", 2023, Task(("offensive",)), other=("domain",)),
        LewidiSet(
            "CSC", 2025, Task.of([Scale("sarcastic", _points(1, 6))]), ("context", "response"), _written_points(0, 6)
        ),
        LewidiSet("MP", 2025, Task(("ironic",)), ("post", "reply"), other=("source", "language_variety")),
        LewidiSet(
            "Par",
            2025,
            Task.of([Scale("paraphrase", _points(-5, 5))]),
            ("Question1", "Question2"),
            _written_points(-5, 5),
            ("Paraphrase", "Par"),
        ),
        LewidiSet("VariErrNLI", 2025, Task(("contradiction", "entailment", "neutral")), ("context", "statement")),
    )
}
"""Every set. The points of CSC are 1 to 6; during the competition its soft labels had a share of 0, too, always 0."""


@dataclass(frozen=True)
class Item:
    """One text, and who judged it.

    Attributes:
        id: its key in the file.
        text: as models read it; what is judged stands after the last [SEP].
        annotators: each once, in the order of the file.
        answers: of each annotator what the file has, empty where the file has no annotations.
        groups: of each annotator, where the item states them.
        context: language and further columns.
        bins: the values its soft label has shares of.
        problem: field and message, where it cannot be read.
    """

    id: str
    text: str = ""
    annotators: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    context: Mapping[str, str] | None = None
    bins: frozenset[str] = frozenset()
    problem: tuple[str, str] | None = None


def find_part(path: Path, of: LewidiSet, part: Part) -> Path | None:
    """The file of a part, in the folder or one named after the set; the test file with annotations where both are."""
    endings = (f"_{part}.json", "_test_clear.json") if part == "test" else (f"_{part}.json",)
    for ending in endings:
        for folder, stem in of.folders(path):
            if (folder / f"{stem}{ending}").is_file():
                return folder / f"{stem}{ending}"
    return None


def require_part(path: Path, of: LewidiSet, part: Part) -> Path:
    """The same. Raises DataError: there is none."""
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder. Name the folder of the task's JSON files under source.path.")
    found = find_part(path, of, part)
    if found is None:
        stem = (of.stems or (of.name,))[0]
        raise DataError(
            f"{path}: holds no {stem}_{part}.json, nor does {stem}/ in it. Name the folder of the task's files."
        )
    return found


def read_items(file: Path, of: LewidiSet) -> list[Item]:
    """Read a file, every item in its order.

    What is wrong with a single item is its `problem`, for the caller to refuse.

    Raises:
        DataError: missing, no JSON, or not an object of items; names the place.
    """
    written_items = read_json(file)
    if not isinstance(written_items, dict) or not all(isinstance(each, dict) for each in written_items.values()):
        raise DataError(f"{file}: expected an object of items, id -> fields. {FETCH}")
    if not written_items:
        raise DataError(f"{file}: holds no item. {FETCH}")
    return [_item(id_, fields, of) for id_, fields in written_items.items()]


def read_traits(path: Path, of: LewidiSet) -> dict[str, dict[str, str]]:
    """What annotators stated about themselves, by id; nothing where the folder has no such file.

    Of MP ids are written without `Ann` in that file, `"0"` for `Ann0`. Two of the files have commas before closing
    brackets, which are no JSON and are read all the same.

    Raises:
        DataError: damaged.
    """
    for folder, stem in of.folders(path):
        file = folder / f"{stem}_annotators_meta.json"
        if file.is_file():
            break
    else:
        return {}
    people = read_json(file)
    if not isinstance(people, dict) or not all(isinstance(each, dict) for each in people.values()):
        raise DataError(f"{file}: expected an object of annotators, id -> traits. {FETCH}")
    named = {id_ if id_.startswith("Ann") else f"Ann{id_}": traits for id_, traits in people.items()}
    return {id_: {key_of(name): written(value) for name, value in traits.items()} for id_, traits in named.items()}


def key_of(name: str) -> str:
    """The name of a field as a column's: `Country of birth` is `country_of_birth`."""
    return re.sub(r"\W+", "_", name.strip().lower()).strip("_")


def read_json(file: Path) -> Any:
    """A file's JSON; commas before closing brackets are left out.

    Raises:
        DataError: missing, not UTF-8, no JSON (with the place), or a key that stands twice in an object.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({type(error).__name__}). {FETCH}") from error
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        plain = re.sub(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])', lambda match: match[1] or "", text)
        try:
            return json.loads(plain, object_pairs_hook=_once)
        except json.JSONDecodeError:
            place = f"line {error.lineno}, column {error.colno}"
            raise DataError(f"{file}, {place}: no well-formed JSON ({error.msg}). {FETCH}") from error
    except _TwiceError as error:
        raise DataError(f"{file}: key {str(error)!r} stands twice in one object. Remove one of the two.") from error


class _TwiceError(Exception):
    """A key that stands twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return found


class _ItemError(Exception):
    """An item that cannot be read: field, message."""


def _item(id_: str, fields: dict[str, Any], of: LewidiSet) -> Item:
    try:
        text = _text(fields.get("text"), of)
        names = _names(fields.get("annotators"))
        answers = _answers(fields.get("annotations"), names, of)
        bins = _bins(fields.get("soft_label"), of) if any(answers) else frozenset()
    except _ItemError as error:
        return Item(id_, problem=error.args)
    people = tuple(dict.fromkeys(names))
    more = fields.get("other_info")
    about = {key_of(str(name)): value for name, value in more.items()} if isinstance(more, dict) else {}
    groups = [each.strip() for each in str(about.get("annotators_group", "")).split(",")]
    of_name = dict(zip(names, groups, strict=True)) if len(groups) == len(names) and all(groups) else {}
    context = {"lang": written(fields.get("lang")), **{name: written(about.get(name)) for name in of.other}}
    return Item(id_, text, people, answers, tuple(of_name.get(each, "") for each in people), context, bins)


def _text(given: Any, of: LewidiSet) -> str:
    """The parts of a text: what stands before the last of them is its context."""
    if isinstance(given, str) and of.fields and given.lstrip().startswith("{"):
        given = _turns(given)
    if isinstance(given, str) and (of.edition == 2023 or not of.fields):
        return given
    if not isinstance(given, dict):
        raise _ItemError("text", f"expected {' and '.join(of.fields) or 'a string'}. {FETCH}")
    missing = [name for name in of.fields if not isinstance(given.get(name), str)]
    if missing:
        raise _ItemError("text", f"has no {missing[0]!r}. {FETCH}")
    before = [given[name].strip() for name in of.fields[:-1]]
    judged = given[of.fields[-1]].strip()
    if not judged:
        raise _ItemError("text", f"{of.fields[-1]!r} is empty. {FETCH}")
    context = "\n".join(each for each in before if each)
    return f"{context}{SEGMENT}{judged}" if context else judged


def _turns(text: str) -> Any:
    """An object that was written into a string, as JSON or as Python writes it; the string where it is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return text


def _names(given: Any) -> list[str]:
    if present(given) is None:
        raise _ItemError("annotators", f"names nobody. {FETCH}")
    if not isinstance(given, str):
        raise _ItemError("annotators", f'expected ids with commas between, as in "Ann1,Ann2". {FETCH}')
    names = [name.strip() for name in given.split(",")]
    if not all(names) or any(re.search(r"[;|\s]", name) for name in names):
        raise _ItemError("annotators", f'expected ids with commas between, as in "Ann1,Ann2". {FETCH}')
    return names


def _answers(given: Any, names: list[str], of: LewidiSet) -> tuple[str, ...]:
    """What each annotator gave, in the order of the distinct names; nothing where the file has no annotations."""
    people = list(dict.fromkeys(names))
    if isinstance(given, dict):
        values = {str(name).strip(): written(value) for name, value in given.items()}
        if not any(values.values()):
            return ()
        for name in people:
            if not values.get(name):
                raise _ItemError("annotations", f"has none of {name}, who is among the annotators. {FETCH}")
        others = values.keys() - set(people)
        if others:
            raise _ItemError("annotations", f"has one of {min(others)}, who is not among the annotators. {FETCH}")
        return tuple(values[name] for name in people)
    if present(given) is None or given == []:
        return ()
    if not isinstance(given, str | int) or of.edition != 2023:
        form = "values with commas between" if of.edition == 2023 else "an object, annotator -> value"
        raise _ItemError("annotations", f"expected {form}. {FETCH}")
    each = [value.strip() for value in str(given).split(",")]
    if len(each) != len(names):
        raise _ItemError("annotations", f"has {len(each)} values of {len(names)} annotators. {FETCH}")
    own: dict[str, list[str]] = {}
    for name, value in zip(names, each, strict=True):
        own.setdefault(name, []).append(value)
    return tuple(",".join(own[name]) for name in people)


def _bins(given: Any, of: LewidiSet) -> frozenset[str]:
    """The values a soft label has shares of; its shares have to add up to one, but for two decimals."""
    if given is None:
        return frozenset()
    if not isinstance(given, dict):
        raise _ItemError("soft_label", f"expected an object, value -> share. {FETCH}")
    if len(of.task.labels) == 1 or of.scale is not None:
        return _shares(given, of, "")
    for label in of.task.labels:
        if not isinstance(given.get(label), dict):
            raise _ItemError("soft_label", f"has no {label!r}. {FETCH}")
        _shares(given[label], of, f"{label}: ")
    return frozenset(of.bins)


def _shares(given: dict[str, Any], of: LewidiSet, where: str) -> frozenset[str]:
    keys = [str(key).removesuffix(".0") for key in given]
    unknown = [key for key in keys if key not in of.bins]
    if unknown:
        raise _ItemError("soft_label", f"{where}has {unknown[0]!r}. Expected {of.bins[0]} to {of.bins[-1]}. {FETCH}")
    try:
        shares = [float(value) for value in given.values()]
    except (TypeError, ValueError):
        raise _ItemError("soft_label", f"{where}a share is no number. {FETCH}") from None
    if abs(sum(shares) - 1) > 0.005 * len(of.bins) + 1e-6 or min(shares) < 0:
        raise _ItemError("soft_label", f"{where}its shares add up to {sum(shares):g}, not to one. {FETCH}")
    return frozenset(keys)
