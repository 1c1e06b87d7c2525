"""Learning With Disagreements, 2023 and 2025: the data sets of a shared task, with its official parts.

Eight sets of judgements with the id of who made each: ArMIS (misogyny, Arabic), ConvAbuse (abuse of chatbots),
HS-Brexit (hate speech) and MD-Agreement (offensive tweets) of SemEval-2023 task 11 (Leonardelli et al. 2023, arXiv
2304.14803); CSC (sarcasm from 1 to 6), MP (MultiPICo, irony in nine languages), Par (paraphrases from -5 to 5) and
VariErrNLI (entailment, where several labels may hold) of 2025 (arXiv 2510.08460; the best system of its per-annotator
track: arXiv 2510.07105). Submissions are judged by predicted distributions of a text's answers and by predicted answers
of each annotator; see `evaluation.distribution_measures` for the measures, `workflows.submit_format` for the files.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beholder.data.label_rules import LabelRule, RefusedValueError, one_of
from beholder.data.text_splits import uniform
from beholder.data.validation import BadRows, Loaded, Raw, UncheckedRows, admit
from beholder.datasets.lewidi_files import (
    FETCH,
    SETS,
    Item,
    LewidiSet,
    Part,
    SetName,
    find_part,
    read_items,
    read_traits,
    require_part,
)
from beholder.datasets.traits import UNKNOWN
from beholder.util.errors import DataError, counted
from beholder.util.strict_model import Section

EXPIRED = ("", "DATA_EXPIRED", "CONSENT_REVOKED")
"""What the metadata have in place of a trait that is not known."""
VALID = 0.1
"""Share of the training items that validates where the development items are tested on."""
SEED = 42
HOUSE_PARTS: dict[Part, str] = {"train": "train", "dev": "valid", "test": "test"}
REFUSED = f"{FETCH.removesuffix('.')}, or pass --on-bad-rows skip."


class Lewidi(Section):
    """Settings of `lewidi`.

    The part of each item is the context column `split` (`train`, `valid`, `test`), for `split: {by: column}`. Traits
    of annotators are context columns, too.

    Args:
        path: the folder of the official JSON files, or the folder that has one for each set.
        data: which set.
        test_on: `test`: the official parts; development items validate. `dev`: development items are tested on, and a
            tenth of the training items, drawn by their ids, validates. For while the test items have no annotations.
    """

    name: Literal["lewidi"] = "lewidi"
    path: Path
    data: SetName
    test_on: Literal["test", "dev"] = "test"


def load(config: Lewidi, on_bad_rows: BadRows = "refuse") -> Loaded:
    """Load a set, one row per item and annotator.

    Raises:
        DataError: a file is missing or damaged, the test items have no annotations, or a row is refused.
    """
    of, path = SETS[config.data], config.path.expanduser()
    parts: tuple[Part, ...] = ("train", "dev", "test") if config.test_on == "test" else ("train", "dev")
    files: dict[Part, Path] = {part: require_part(path, of, part) for part in parts}
    items: dict[Part, list[Item]] = {part: read_items(file, of) for part, file in files.items()}
    if config.test_on == "test" and not any(item.answers for item in items["test"] if item.problem is None):
        raise DataError(
            f"{files['test']}: its items have no annotations, so that predictions cannot be evaluated on them. Set "
            "source.test_on: dev; beholder submit-format predicts these items from such a run."
        )
    traits = read_traits(path, of)
    raw, repeats = _table(of, items, files, traits, config.test_on)
    labels = _labels(of, raw)
    _with_items(raw)
    rows = np.flatnonzero(raw.sound)
    columns = [name for name in raw.table.column_names if name not in ("item", "text", "annotators", "annotations")]
    draft = UncheckedRows(
        raw,
        of.task,
        rows,
        text=raw.strings("text")[rows],
        user_id=raw.strings("annotators")[rows],
        labels=labels[rows].astype(np.float32),
        text_id=raw.strings("item")[rows],
        context={name: raw.strings(name)[rows] for name in columns},
        column_of={"user_id": "annotators", "text_id": "item", **dict.fromkeys(of.task.labels, "annotations")},
    )
    return admit(draft, _origin(of, path, config, items, repeats, traits), on_bad_rows)


def items_of(path: Path, data: str, part: Part) -> tuple[Path, list[tuple[str, Item]]]:
    """The items of a part with the text ids that `load` gives them, in the order of its file.

    Raises:
        DataError: the file is missing or damaged, or an item cannot be read.
    """
    of, path = SETS[data], path.expanduser()
    file = require_part(path, of, part)
    items = read_items(file, of)
    for item in items:
        if item.problem is not None:
            field, message = item.problem
            raise DataError(f'{file}, item "{item.id}", field "{field}": {message}')
    others = [read_items(found, of) for each in HOUSE_PARTS if each != part and (found := find_part(path, of, each))]
    shared = {item.id for item in items} & {item.id for some in others for item in some}
    return file, [(_text_id(part, item, shared), item) for item in items]


def bins_of(path: Path, data: str) -> tuple[str, ...]:
    """The values that submitted distributions are over: those of the set, as its annotated files have them.

    CSC had shares of 0 to 6 during the competition, and has shares of 1 to 6 in the files published after it.
    """
    of = SETS[data]
    files = [found for part in HOUSE_PARTS if (found := find_part(path.expanduser(), of, part))]
    found = {each for file in files for item in read_items(file, of) for each in item.bins}
    needed = {f"{point:g}" for point in of.scale.points} if of.scale else set(of.bins)
    return tuple(each for each in of.bins if each in found | needed) if found else of.bins


def _text_id(part: Part, item: Item, shared: set[str]) -> str:
    """The item's id; with its part where another part has an item of that id."""
    return f"{part}/{item.id}" if item.id in shared else item.id


def _table(
    of: LewidiSet,
    items: dict[Part, list[Item]],
    files: dict[Part, Path],
    traits: dict[str, dict[str, str]],
    test_on: str,
) -> tuple[Raw, int]:
    """All rows with what is wrong with whole items, and how many judgements are repeats of one by the same person."""
    names = list(dict.fromkeys(name for each in traits.values() for name in each))
    counts = Counter(id_ for some in items.values() for id_ in {item.id for item in some})
    shared = {id_ for id_, parts in counts.items() if parts > 1}
    rows: list[dict[str, Any]] = []
    ends: list[tuple[Path, int]] = []
    problems: dict[int, tuple[str, str]] = {}
    repeats = 0
    grouped = any(group for some in items.values() for item in some for group in item.groups)
    for part, some in items.items():
        before = len(rows)
        for item in some:
            if item.problem is None and not item.answers:
                item = Item(item.id, problem=("annotations", f"there are none. {REFUSED}"))
            if item.problem is not None:
                problems[len(rows)] = item.problem
                rows.append({"item": item.id, "split": HOUSE_PARTS[part]})
                continue
            if of.edition == 2023:
                repeats += sum(answer.count(",") for answer in item.answers)
            for place, annotator in enumerate(item.annotators):
                stated = traits.get(annotator, {})
                rows.append(
                    {
                        "item": _text_id(part, item, shared),
                        "text": item.text,
                        "annotators": annotator,
                        "annotations": item.answers[place],
                        "split": _part(part, item, test_on),
                        **(item.context or {}),
                        **({"annotators_group": item.groups[place] or UNKNOWN} if grouped else {}),
                        **{name: _known(stated.get(name, "")) for name in names},
                    }
                )
        ends.append((files[part], len(rows) - before))
    fields = list(dict.fromkeys(name for row in rows for name in row))
    fields += [name for name in ("text", "annotators", "annotations") if name not in fields]
    table = pa.table({name: pa.array([row.get(name) for row in rows], pa.string()) for name in fields})
    return Raw(table, tuple(ends), problems), repeats


def _part(part: Part, item: Item, test_on: str) -> str:
    if test_on == "test":
        return HOUSE_PARTS[part]
    if part == "dev":
        return "test"
    return "valid" if uniform(SEED, item.id) < VALID else "train"


def _known(trait: str) -> str:
    return UNKNOWN if trait in EXPIRED else trait


def _labels(of: LewidiSet, raw: Raw) -> NDArray[np.float64]:
    """float64 [rows, labels]; what is no answer is noted in `raw`."""
    if of.scale is not None:
        rule = LabelRule(kind="ordinal", range=(of.scale.points[0], of.scale.points[-1]))
        return of.scale.encode(raw.numbers("annotations", lambda value: rule.read(value, False)))
    if len(of.task.labels) == 1:
        return raw.numbers("annotations", _severity if of.name == "ConvAbuse" else _share)[:, None]
    return np.column_stack([raw.numbers("annotations", _given(of, label)) for label in of.task.labels])


def _share(value: Any) -> float:
    """0 or 1, or the mean of several by one person."""
    return _mean_of(value, range(2))


def _severity(value: Any) -> float:
    """Abusive below 0; of several by one person by their mean, as `convabuse` has it."""
    return float(_mean_of(value, range(-3, 2)) < 0)


def _mean_of(value: Any, allowed: range) -> float:
    rule = one_of(allowed, REFUSED)
    return float(np.mean([rule(each.strip() or None) for each in str(value).split(",")])) if value else rule(value)


def _given(of: LewidiSet, label: str) -> Any:
    def rule(value: Any) -> float:
        given = [each.strip() for each in str(value or "").split(",")]
        unknown = [each for each in given if each not in of.task.labels]
        if unknown:
            raise RefusedValueError(f"{unknown[0]!r} is no label. Expected {', '.join(of.task.labels)}; {REFUSED}")
        return float(label in given)

    return rule


def _with_items(raw: Raw) -> None:
    """Every message names its item, as files have no rows."""
    ids = raw.strings("item")
    for row, (column, message) in raw.problems.items():
        raw.problems[row] = (column, f'item "{ids[row]}": {message}')


def _origin(
    of: LewidiSet,
    path: Path,
    config: Lewidi,
    items: dict[Part, list[Item]],
    repeats: int,
    traits: dict[str, dict[str, str]],
) -> str:
    """One line: what was loaded, and what its rows do not show."""
    counts = ", ".join(f"{part} {len(some):,}" for part, some in items.items())
    notes = [f"LeWiDi {of.edition} {of.name} ({path}; licence of each set: its authors'); items: {counts}"]
    if config.test_on == "dev":
        notes.append(f"tested on dev, validated on {100 * VALID:g} % of the training items")
    if repeats:
        notes.append(f"{counted(repeats, 'repeat judgement')} averaged")
    if traits:
        people = {name for some in items.values() for item in some for name in item.annotators}
        missing = len(people - traits.keys())
        if missing:
            notes.append(f"{counted(missing, 'annotator')} without metadata, of unknown traits")
    return "; ".join(notes)
