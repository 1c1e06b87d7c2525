"""Annotations from and to the tables of other libraries: Arrow, pandas, Hugging Face `datasets`.

A table in memory is read by the rules of `data.columns`, like a file: what is refused names row, column and remedy in
one line, and quotes no text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from beholder.util.errors import DataError, unknown
from beholder.util.strict_model import build
from beholder.util.tables import RowTable

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    from numpy.typing import NDArray

    from beholder.data.annotations import Annotations
    from beholder.data.task import Task

CLASS = "label"
"""The column of `to_arrow` that holds the class of a multiclass row."""
Labels = str | Sequence[str] | Mapping[str, Any]
"""One column of class names; or columns of 0 and 1; or label -> `label_rules.LabelRule`."""


class Convertible:
    """What `Annotations` shares with other libraries."""

    if TYPE_CHECKING:
        _table: pa.Table
        task: Task

        @property
        def users(self) -> list[str]: ...
        @property
        def context_columns(self) -> list[str]: ...
        @cached_property
        def labels(self) -> NDArray[np.float32]: ...
        @cached_property
        def distinct_texts(self) -> tuple[list[str], NDArray[np.int64]]: ...
        def __len__(self) -> int: ...
        def type_of(self, name: str) -> pa.DataType: ...

    @classmethod
    def from_arrow(
        cls,
        table: pa.Table,
        *,
        labels: Labels,
        text: str = "text",
        user: str = "user_id",
        text_id: str | None = None,
        classes: Sequence[str] | None = None,
        allow_missing: bool = False,
        context: Sequence[str] = (),
        reshape: Mapping[str, Any] | None = None,
    ) -> Annotations:
        """Check every row of an Arrow table and build annotations.

        Args:
            table: one judgement a row.
            labels: a list of columns that hold 0 and 1 (or a share between them); or label -> rule, as in
                `{"rude": {"column": "stars", "at_least": 4}}`; or the one column that holds each row's class.
            text, user: the columns of the text and of who judged it. Ids are strings or whole numbers.
            text_id: the column of the text's id; made from the text where None.
            classes: the class names, in order; by default all that occur, sorted.
            allow_missing: read an empty label as "not asked" instead of refusing the row.
            context: further columns to keep, as text.
            reshape: how the table becomes one with a judgement in each row, where it is not, as in
                `{"users": ["rater1", "rater2"]}`; see `reshape.Reshape`.

        Raises:
            DataError: a column is missing, or a row is refused; names the row, column and value, and what to do.
            ExperimentError: the arguments do not fit together.
        """
        columns = _columns(labels, text, user, text_id, classes, allow_missing, context)
        return _annotations_of(table.column_names, table.column, "table", columns, reshape)

    @classmethod
    def from_pandas(
        cls,
        frame: pd.DataFrame,
        *,
        labels: Labels,
        text: str = "text",
        user: str = "user_id",
        text_id: str | None = None,
        classes: Sequence[str] | None = None,
        allow_missing: bool = False,
        context: Sequence[str] = (),
        reshape: Mapping[str, Any] | None = None,
    ) -> Annotations:
        """The same from a pandas DataFrame, whose index is not read. See `from_arrow`."""
        if not hasattr(frame, "columns"):
            raise DataError(f"expected a pandas DataFrame, got {type(frame).__name__}.")

        def column(name: str) -> pa.ChunkedArray:
            try:
                return pa.chunked_array([pa.Array.from_pandas(frame[name])])  # type: ignore[arg-type]
            except (pa.ArrowException, ValueError, TypeError):  # the message would quote a value
                raise DataError(
                    f'DataFrame, column "{name}": holds values of several kinds. Make them all text, or all numbers.'
                ) from None

        columns = _columns(labels, text, user, text_id, classes, allow_missing, context)
        return _annotations_of([str(name) for name in frame.columns], column, "DataFrame", columns, reshape)

    @classmethod
    def from_datasets(
        cls,
        dataset: datasets.Dataset,
        *,
        labels: Labels,
        text: str = "text",
        user: str = "user_id",
        text_id: str | None = None,
        classes: Sequence[str] | None = None,
        allow_missing: bool = False,
        context: Sequence[str] = (),
        reshape: Mapping[str, Any] | None = None,
    ) -> Annotations:
        """The same from a `datasets.Dataset`; a `ClassLabel` column holds class names. See `from_arrow`.

        Raises:
            DataError: also where it is a `DatasetDict`, or is streamed.
        """
        rows = _dataset(dataset)
        feature = rows.features.get(labels) if isinstance(labels, str) else None
        classes = classes or getattr(feature, "names", None)
        table = arrow_of(rows)
        columns = _columns(labels, text, user, text_id, classes, allow_missing, context)
        return _annotations_of(table.column_names, table.column, "Dataset", columns, reshape)

    def to_arrow(self) -> pa.Table:
        """Plain columns: `text_id`, `text`, `user_id`, the labels, then context columns.

        A multilabel task has a float32 column for each label and scale, null where it was not asked; a multiclass task
        one column `label`, which holds the class's name.

        Raises:
            DataError: a label is called like another column, or a multiclass row has no single class.
        """
        columns: dict[str, Any] = {name: self._table[name].cast(pa.string()) for name in ("text_id", "text", "user_id")}
        if self.task.kind == "multiclass":
            if not ((self.labels == 0) | (self.labels == 1)).all():
                raise DataError("these rows share out a judgement among classes, which one column cannot hold.")
            names = np.asarray(self.task.labels, dtype=object)
            labels = {CLASS: pa.array(names[self.labels.argmax(axis=1)].tolist(), pa.string())}
        else:
            words = {scale.name: scale.words for scale in self.task.scales if scale.words}
            labels = {
                name: pa.array(values, from_pandas=True) if name not in words else _named(values, words[name])
                for name, values in self._answers().items()
            }
        for name in (*labels, *self.context_columns):
            if name in columns or (name in labels and name in self.context_columns):
                raise DataError(f"two columns would be called {name!r}. Rename the label or the context column.")
        columns |= labels
        columns |= {name: self._table[name].cast(self.type_of(name)) for name in self.context_columns}
        return pa.table(columns)

    def _answers(self) -> dict[str, NDArray[Any]]:
        """Label or scale -> what was answered, in the unit of the scale: float [rows], NaN = not asked."""
        found = {}
        for question in self.task.questions:
            values = np.array(self.labels[:, list(question.columns)])
            scale = question.scale
            found[question.name] = values[:, 0] if scale is None else scale.nearest(scale.decode(values))
        return found

    def to_pandas(self) -> pd.DataFrame:
        """The columns of `to_arrow` as a pandas DataFrame.

        Raises:
            DataError: see `to_arrow`; or pandas is not installed.
        """
        require_pandas("to_arrow()")
        return self.to_arrow().to_pandas()

    def to_datasets(self) -> datasets.Dataset:
        """The columns of `to_arrow` as a `datasets.Dataset`; the column `label` of a multiclass task is a `ClassLabel`.

        Raises:
            DataError: see `to_arrow`.
        """
        from datasets import ClassLabel, Dataset

        made = Dataset(self.to_arrow())  # type: ignore[arg-type]
        if self.task.kind == "multiclass":
            made = made.cast_column(CLASS, ClassLabel(names=list(self.task.labels)))
        return made

    def __repr__(self) -> str:
        names = [question.name for question in self.task.questions] if self.task.scales else self.task.labels
        labels = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        return f"Annotations({self._counts()}; {self.task.kind}: {labels})"

    def _repr_html_(self) -> str:
        """What a notebook shows: how many there are, and how often each label is given. No text and no id."""
        rows: list[dict[str, Any]] = []
        for question in self.task.questions if self.task.scales else ():
            values = self._answers()[question.name]
            answered = values[~np.isnan(values)]
            mean = float(answered.mean()) if len(answered) else float("nan")
            said = f"mean {mean:.2f}" if question.scale else f"{100 * mean:.1f} %"
            rows.append({"label": question.name, "asked": len(answered), "given": said})
        if not self.task.scales:
            asked = (~np.isnan(self.labels)).sum(axis=0)
            given = np.nansum(self.labels, axis=0) / np.maximum(asked, 1)
            rows = [
                {"label": label, "asked": int(asked[place]), "given": f"{100 * given[place]:.1f} %"}
                for place, label in enumerate(self.task.labels)
            ]
        return RowTable(rows, f"{self._counts()} ({self.task.kind})")._repr_html_()

    def _counts(self) -> str:
        return f"{len(self):,} judgements of {len(self.distinct_texts[0]):,} texts by {len(self.users):,} users"


def _named(values: NDArray[np.float64], words: Sequence[str]) -> pa.Array:
    """Points of a scale by their names, null where there is no answer."""
    return pa.array([None if np.isnan(value) else words[round(value)] for value in values], pa.string())


def require_pandas(instead: str) -> None:
    """Check that pandas is there, before something is made for it.

    Raises:
        DataError: it is not.
    """
    try:
        import pandas  # noqa: F401
    except ImportError as error:
        raise DataError(f"pandas is not installed. Run: pip install pandas, or use {instead}.") from error


def arrow_of(dataset: datasets.Dataset) -> pa.Table:
    """The rows of a `datasets.Dataset`, in its order; class numbers become class names."""
    from datasets import ClassLabel

    table: Any = dataset.with_format("arrow")[:]
    for position, (name, feature) in enumerate(dataset.features.items()):
        if isinstance(feature, ClassLabel):
            numbers = table[name].to_pylist()
            classes = [None if number is None or number < 0 else feature.names[number] for number in numbers]
            table = table.set_column(position, name, pa.array(classes, pa.string()))
    return table.replace_schema_metadata(None)


def label_columns(labels: Labels, classes: Sequence[str] | None) -> dict[str, Any]:
    """The argument `labels` as settings of `columns.Columns`."""
    if isinstance(labels, str):
        return {"kind": "multiclass", "label_column": labels, "classes": classes}
    return {"labels": labels, "classes": classes}


def require_classes(task: Task, column: str, where: str) -> None:
    """Check that what was read as classes is no label that is given or not: `labels="rude"` for `labels=["rude"]`.

    Raises:
        DataError: the classes are 0 and 1.
    """
    if set(task.labels) <= {"0", "1", "true", "false"}:
        raise DataError(
            f'{where}, column "{column}": holds {" and ".join(task.labels)}: a label that is given or not, and no '
            f'class. Pass labels=["{column}"].'
        )


def in_python(message: str) -> str:
    """A message about a file's rows in the words of a Python caller, who has arguments and no options."""
    message = message.replace("--on-bad-rows skip", 'on_bad_rows="skip"').replace("source.", "")
    message = re.sub(r"\b([a-z_]+): true\b", r"\1=True", message)
    return re.sub(r"\bunder (text|user|text_id|labels|classes)\b", r"with \1=", message)


def _dataset(dataset: Any) -> datasets.Dataset:
    from datasets import Dataset, DatasetDict

    if isinstance(dataset, DatasetDict):
        parts = ", ".join(map(str, dataset))
        raise DataError(f"this DatasetDict holds several parts ({parts}). Give one of them.")
    if not isinstance(dataset, Dataset):
        raise DataError(f"expected a datasets.Dataset, got {type(dataset).__name__}. Load it whole, without streaming.")
    return dataset


def _columns(
    labels: Labels,
    text: str,
    user: str,
    text_id: str | None,
    classes: Sequence[str] | None,
    allow_missing: bool,
    context: Sequence[str],
) -> dict[str, Any]:
    """The arguments of `from_arrow` as settings of `columns.Columns`."""
    same = {"text": text, "user": user, "text_id": text_id, "allow_missing": allow_missing, "context": context}
    return {**same, **label_columns(labels, classes)}


def _annotations_of(
    names: Sequence[str],
    column: Callable[[str], pa.ChunkedArray],
    where: str,
    written: Mapping[str, Any],
    reshape: Mapping[str, Any] | None,
) -> Annotations:
    """Annotations of the columns of a table in memory, of which only those that are named are looked at."""
    from beholder.data.columns import ColumnsInMemory, drafted, text_columns
    from beholder.data.reshape import Reshape, reshaped
    from beholder.data.validation import Raw, admit

    config = build(ColumnsInMemory, dict(written), where)
    turned = None
    if reshape is not None:
        form = build(Reshape, dict(reshape), f"{where}: reshape")
        of_form = [*form.named, *([form.multiselect.column] if form.multiselect else [])]
        wanted = dict.fromkeys([*of_form, *(name for _, name in config.named)])
        columns = {name: column(name) for name in wanted if name in names}
        turned = reshaped(pa.table(columns), form, Path(where), [*text_columns(config.text), config.user])
        names, column = turned.table.column_names, turned.table.column
    for key, name in config.named:
        if name not in names:
            argument = "labels" if key == "label_column" else key.partition(".")[0]
            raise DataError(f"{where}: {unknown('column', name, names)} Name the right one with {argument}=.")
        if names.count(name) > 1:
            raise DataError(f'{where}, column "{name}": there are two of that name. Rename one.')
    table = pa.table({name: column(name) for name in dict.fromkeys(name for _, name in config.named)})
    raw = Raw.of(table, Path(where))
    if turned is not None:
        raw = Raw(table, raw.files, dict(turned.problems), turned.rows)
    try:
        made = admit(drafted(config, raw), where, "refuse").annotations
    except DataError as error:  # there is nothing to skip rows into: who has the table can leave them out
        plain = re.sub(r",? or pass --on-bad-rows skip( to keep the first)?\.", ".", str(error))
        raise DataError(in_python(plain)) from None
    if config.label_column and not config.classes:
        require_classes(made.task, config.label_column, where)
    return made
