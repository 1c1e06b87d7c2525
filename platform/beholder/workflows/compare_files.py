"""Two files of predictions that were made elsewhere, compared on the judgements that both are of.

Each row of a file is one judgement: who judged which text, the true labels, and the predicted ones. Both files
hold the same judgements, in any order.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beholder.data.label_rules import RefusedValueError, parse_column, present
from beholder.data.texts import unit_key
from beholder.datasets.io import read_table, require_columns
from beholder.evaluation.gains import Compared, Gain, UserCounts, user_log_loss_gains
from beholder.evaluation.intervals import Clusters
from beholder.evaluation.measures import MEASURES, Difference, MethodScores, differences, measure
from beholder.evaluation.metrics import Floats, decide
from beholder.evaluation.results import plain
from beholder.util.errors import DataError


@dataclass(frozen=True)
class PredictionColumns:
    """What the columns of both files are.

    Attributes:
        user: who judged.
        text: what was judged: the text, or an id of it. Intervals take rows as of one text whose texts are equal but
            for case, white space and punctuation at the ends.
        labels: the true labels. With `scores` a column for each label, 0 or 1, empty where it was not asked; with
            `prediction` one column of class names.
        scores: the predicted chance of each label, 0 to 1, in the order of `labels`.
        prediction: the predicted class.
        thresholds: a label is predicted where its score reaches its threshold: one for all, or one for each.
        id: distinguishes judgements where somebody judged a text twice.
    """

    user: str
    text: str
    labels: tuple[str, ...]
    scores: tuple[str, ...] = ()
    prediction: str | None = None
    thresholds: tuple[float, ...] = (0.5,)
    id: str | None = None

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        if not self.labels:
            raise DataError("--label: name the column of the true labels.")
        if bool(self.scores) == bool(self.prediction):
            raise DataError("give --score, a column for each label, or --prediction, the column of predicted classes.")
        if self.prediction and len(self.labels) > 1:
            raise DataError("--prediction: classes are in one --label column. Give scores for several labels.")
        if self.scores and len(self.scores) != len(self.labels):
            raise DataError(
                f"--score: {len(self.labels)} label columns and {len(self.scores)} score columns. Give one for each, "
                "in the same order."
            )
        if self.scores and len(self.thresholds) not in (1, len(self.labels)):
            raise DataError("--threshold: give one for all labels, or one for each.")


@dataclass(frozen=True)
class PredictionFile:
    """A file's rows.

    Attributes:
        file: where they are from.
        keys: user and text (or id), which identify a judgement. [rows]
        texts: str [rows], equal for texts that count as one.
        answers: true and predicted.
        names: of labels, or of classes.
    """

    file: Path
    keys: list[tuple[str, str]]
    texts: NDArray[np.object_]
    answers: MethodScores
    names: tuple[str, ...]


@dataclass(frozen=True)
class Paired:
    """How much better the predictions of one file are than those of another, on the same judgements.

    Attributes:
        gain: in macro-F1, points.
        measures: the same by every measure that is defined, in its own unit.
        users: for how many the second is better: by their log-loss, or, without scores, by their accuracy.
        rows, people, texts: how many there are. commonest: the share of rows that the commonest text has.
        names: of labels, or of classes, as `gain.per_label` numbers them.
    """

    gain: Gain
    measures: dict[str, Difference]
    users: UserCounts
    rows: int
    people: int
    texts: int
    commonest: float
    level: float
    names: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN as None."""
        found = {
            "rows": self.rows,
            "users": self.people,
            "texts": self.texts,
            "commonest_text": self.commonest,
            "level": self.level,
            "gain": self.gain.to_json(),
            "per_label": {
                self.names[each.label]: {key: getattr(each, key) for key in ("points", "low", "high")}
                for each in self.gain.per_label
            },
            "measures": {
                name: {**asdict(each), "better": MEASURES[name].better} for name, each in self.measures.items()
            },
            **asdict(self.users),
        }
        return plain(found)


def read_predictions(files: tuple[Path, Path], columns: PredictionColumns) -> tuple[PredictionFile, PredictionFile]:
    """Read two files of predictions; the rows of the second in the order of the first.

    Raises:
        DataError: a file cannot be read, lacks a column, or has a value that is no label, score or id; a judgement is
            there twice; or the files are not of the same judgements.
    """
    one, other = (_read(file, columns) for file in files)
    place = {key: row for row, key in enumerate(other.keys)}
    for mine, theirs in ((one, other), (other, one)):
        there = set(theirs.keys)
        missing = [row for row, key in enumerate(mine.keys) if key not in there]
        if missing:
            raise DataError(
                f"{theirs.file}: {len(missing):,} of the {len(mine.keys):,} judgements of {mine.file} are not there "
                f"(the first is its row {missing[0] + 1}). Both files must hold the same judgements."
            )
    order = np.asarray([place[key] for key in one.keys])
    names = tuple(sorted({*one.names, *other.names})) if columns.prediction else columns.labels
    first, second = _answers(one, names, np.arange(len(order))), _answers(other, names, order)
    differ = np.flatnonzero(
        ~((first.labels == second.labels) | (np.isnan(first.labels) & np.isnan(second.labels))).all(1)
    )
    if len(differ):
        raise DataError(
            f"{other.file}, row {order[differ[0]] + 1}: its label is not that of {one.file}, row {differ[0] + 1}, "
            "which is the same judgement. The true labels have to be the same in both files."
        )
    texts = one.texts
    return (
        PredictionFile(one.file, one.keys, texts, first, names),
        PredictionFile(other.file, one.keys, texts, second, names),
    )


def compare_predictions(one: PredictionFile, other: PredictionFile, level: float = 0.95) -> Paired:
    """How much better `other` is than `one`, whose rows are the same judgements in the same order."""
    first, second = one.answers, other.answers
    decided = {"one": first.decisions, "other": second.decisions}
    compared = Compared(decided, first.labels, one.texts, first.users, level)
    # of scores that are 0 or 1 the log-loss falls as the accuracy rises
    mine, theirs = (each.decisions.astype(float) if each.scores is None else each.scores for each in (second, first))
    return Paired(
        compared.gain("other", "one"),
        differences(measure(second), measure(first), Clusters(first.users, one.texts), level),
        UserCounts.of(user_log_loss_gains(mine, theirs, first.labels, first.users, first.kind)),
        rows=len(first.labels),
        people=len(set(first.users)),
        texts=len(set(one.texts)),
        commonest=float(np.unique(one.texts.astype(str), return_counts=True)[1].max() / len(one.texts)),
        level=level,
        names=one.names,
    )


@dataclass(frozen=True)
class _Raw:
    """A file's columns, checked. `said` and `predicted`: numbers [rows, labels], or class names [rows]."""

    file: Path
    keys: list[tuple[str, str]]
    users: NDArray[np.object_]
    texts: NDArray[np.object_]
    said: Any
    predicted: Any
    thresholds: tuple[float, ...]
    names: tuple[str, ...]


def _read(file: Path, columns: PredictionColumns) -> _Raw:
    table = read_table(file)
    wanted = [columns.user, columns.text, *columns.labels, *columns.scores, columns.prediction, columns.id]
    require_columns(table, [name for name in wanted if name], file, "Name its columns.")
    if not table.num_rows:
        raise DataError(f"{file}: there is no row to compare.")
    users, texts = (_strings(table, name, file) for name in (columns.user, columns.text))
    ids = _strings(table, columns.id, file) if columns.id else texts
    keys = list(zip(users.tolist(), ids.tolist(), strict=True))
    first: dict[tuple[str, str], int] = {}
    for row, key in enumerate(keys):
        if first.setdefault(key, row) != row:
            raise DataError(
                f"{file}, row {row + 1}: the same user and {'id' if columns.id else 'text'} as row {first[key] + 1}. "
                "Leave one out, or name a column that identifies a judgement: --id."
            )
    if columns.prediction:
        said, predicted = (_strings(table, name, file) for name in (columns.labels[0], columns.prediction))
        names = tuple(sorted({*said.tolist(), *predicted.tolist()}))
    else:
        said = np.stack([_numbers(table, name, file, _label) for name in columns.labels], axis=1)
        predicted = np.stack([_numbers(table, name, file, _score) for name in columns.scores], axis=1)
        names = columns.labels
    keyed = np.asarray([*map(unit_key, texts), None], dtype=object)[:-1]
    return _Raw(file, keys, users, keyed, said, predicted, columns.thresholds, names)


def _answers(raw: _Raw, names: tuple[str, ...], order: NDArray[np.int64]) -> MethodScores:
    if raw.said.ndim == 2:
        scores = raw.predicted[order].astype(np.float64)
        thresholds = np.broadcast_to(np.asarray(raw.thresholds), (len(names),))
        return MethodScores(
            scores, decide(scores, thresholds, "multilabel"), raw.said[order], raw.users[order], "multilabel"
        )
    said, predicted = (np.asarray(each[order])[:, None] == np.asarray(names) for each in (raw.said, raw.predicted))
    return MethodScores(None, predicted, said.astype(np.float64), raw.users[order], "multiclass")


def _strings(table: pa.Table, name: str, file: Path) -> NDArray[np.object_]:
    values = [present(value) for value in table[name].to_pylist()]
    empty = next((row for row, value in enumerate(values) if value is None), None)
    if empty is not None:
        raise DataError(f'{file}, row {empty + 1}, column "{name}": empty. Every judgement needs a value there.')
    return np.asarray([*(str(value).strip() for value in values), None], dtype=object)[:-1]


def _numbers(table: pa.Table, name: str, file: Path, rule: Any) -> Floats:
    values, refused = parse_column(table[name], rule)
    if refused:
        row = min(refused)
        raise DataError(f'{file}, row {row + 1}, column "{name}": {refused[row]}')
    return values


def _label(value: Any) -> float:
    if value is None:
        return float("nan")
    words = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
    said = words.get(str(value).strip().lower(), _number(value))
    if said not in (0, 1):
        raise RefusedValueError("not a label. Expected 0 or 1, or an empty value where the label was not asked.")
    return said


def _score(value: Any) -> float:
    if value is None:
        raise RefusedValueError("empty. Expected a number from 0 to 1 for every judgement.")
    if not 0 <= _number(value) <= 1:
        raise RefusedValueError("not a score. Expected a number from 0 to 1.")
    return _number(value)


def _number(value: Any) -> float:
    """The value as a number; NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
