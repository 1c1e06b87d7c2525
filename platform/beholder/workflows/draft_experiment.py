"""From somebody's table to an experiment that runs: what its columns hold, and whether there is anything to learn."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from beholder.data.annotations import Annotations
from beholder.datasets.io import read_table
from beholder.datasets.profile.agreement import agreement, offset_share
from beholder.datasets.profile.describe import describe
from beholder.datasets.profile.infer_columns import Column, GivenColumns, guess, look_at, wide_columns
from beholder.datasets.table import Table, load
from beholder.util.atomic import atomic_write, scratch
from beholder.util.errors import DataError
from beholder.util.strict_model import build

ROWS = 20_000
"""A first experiment uses no more judgements than this, so that it answers in about ten minutes on two cores."""
JUDGEMENT = "judgement"
"""What the label of a wide table is called: its columns are named after people."""
BASE = "minilm-l6"
EPOCHS = ((3_000, 8), (10_000, 5))
"""Epochs of the global model by distinct texts: at most 8 below 3,000 texts, 5 below 10,000, else 3. Fewer texts
take more epochs to the same number of steps; training stops before, where validation no longer improves."""
CURVE = (5, 10, 20, 50, 100)
"""Judgements of each user at which a learning curve is measured: those below what half of the people gave for training.
"""
TEMPLATE = """\
# {title}
#
#   beholder run {file}{skip}
name: {name}
source:
{source}
split: {split}
{subsample}base: {base}
methods:
  prior: {{}} # how often each label is given; never sees the text
  user-prior: {{}} # the same for each user
  cls: {cls} # one global model
  cls+: {{init_from: cls}} # a small network on its features, without users: a cls that was trained as long
  cls-e: {{init_from: cls, controls: [shuffled-users]}} # the same with user embeddings, the field's standard arm
  cls-u: # an adapter for each user, given what is learned of users in general
    init_from: cls
    controls: [shuffled-users] # the same with users permuted: its gain has to vanish
{curve}  # cls-p: {{extends: cls, controls: [shuffled-users]}} # the user in the prompt; takes twice as long
evaluate: {{reference: cls}}
register: {{name: {name}}}
"""


@dataclass(frozen=True)
class DraftExperiment:
    """An experiment on somebody's table, not written yet.

    Attributes:
        name: of the experiment.
        source: settings of the source `table`.
        by_column: whether a column of the table marks rows for training, validation and test.
        left_out: columns that are not used -> why.
        facts: from `describe`, with `agreement` and `user_offset` of each label.
        words: what follows from that, a sentence each.
        bad_rows: rows that will be refused, or put aside with `--on-bad-rows skip`.
        long: the table turned to one row per judgement, where it was one row per text.
    """

    name: str
    source: dict[str, Any]
    by_column: bool
    left_out: dict[str, str]
    facts: dict[str, Any]
    words: tuple[str, ...]
    bad_rows: int
    long: pa.Table | None = None


def draft(file: Path, asked: GivenColumns | None = None) -> DraftExperiment:
    """Look at a table and draft an experiment.

    Args:
        file: see `datasets.io.read_table`.
        asked: what is known of its columns; the rest is guessed.

    Raises:
        DataError: it cannot be read, or holds no text, no users or no judgements; names the remedy.
    """
    if not file.exists():
        raise DataError(f"{file}: no such file or folder.")
    asked = asked or GivenColumns()
    table, long = read_table(file), None
    columns = look_at(table)
    wide = [] if asked.user else wide_columns(columns)
    if wide:
        long = _long(table, wide, columns)
        columns = look_at(long)
        asked = GivenColumns(asked.text, "user", (JUDGEMENT,))
    found = guess(columns, asked, file)
    settings = {"name": "table", "path": str(file.absolute()), **found.settings}
    annotations, bad = _load(settings, long)
    facts = {
        **describe(annotations),
        "agreement": agreement(annotations),
        "user_offset": offset_share(annotations),
    }
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-._")[:60] or "table"
    return DraftExperiment(
        name,
        settings,
        found.split,
        found.left_out,
        facts,
        tuple(_words(facts, annotations)),
        bad,
        long,
    )


def write(made: DraftExperiment, file: Path) -> list[Path]:
    """Write the experiment file, and the long table beside it where there is one; returns what was written."""
    written = [file]
    source = dict(made.source)
    if made.long is not None:
        target = file.with_name(f"{made.name}-long.parquet").absolute()
        with atomic_write(target) as temporary:
            pq.write_table(made.long, temporary, compression="zstd")
        source["path"] = str(target)
        written.append(target)
    rows = made.facts["rows"]
    subsample = (
        f"subsample: {{rows: {ROWS}}} # of {rows:,}, for a first answer; take this line out for all\n"
        if rows > ROWS
        else ""
    )
    split = (
        "{by: column}"
        if made.by_column
        else "{by: text, fractions: [0.8, 0.1, 0.1], seed: 42} # equal texts stay together"
    )
    text = TEMPLATE.format(
        title=f"{rows:,} judgements of {made.facts['texts']:,} texts by {made.facts['users']:,} people.",
        file=file,
        skip=" --on-bad-rows skip" if made.bad_rows else "",
        name=made.name,
        source=_indented(source),
        split=split,
        subsample=subsample,
        base=BASE,
        cls=_cls(made.facts),
        curve=_curve(made.facts),
    )
    with atomic_write(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return written


def _cls(facts: dict[str, Any]) -> str:
    """Settings of the global model, from the shape of the data: see `EPOCHS`."""
    texts = min(facts["texts"], ROWS)
    epochs = next((epochs for limit, epochs in EPOCHS if texts < limit), 3)
    return f"{{epochs: {epochs}}}"


def _curve(facts: dict[str, Any]) -> str:
    """The line of the learning curve, see `CURVE`; none where people gave too few judgements for one."""
    some = [rows for rows in CURVE if rows <= 0.8 * facts["rows_per_user"]["median"]]
    return f"    curve: {some} # the gain from this many judgements of each user\n" if some else ""


def _load(settings: dict[str, Any], long: pa.Table | None) -> tuple[Annotations, int]:
    """The rows as a run would see them, and how many it would refuse. The long form is read from a file, as then."""
    with scratch() as folder:
        if long is not None:
            settings = {**settings, "path": str(folder / "long.parquet")}
            pq.write_table(long, settings["path"])
        else:  # refused rows are written beside the input only by a run
            settings = {**settings, "path": _linked(Path(settings["path"]), folder)}
        loaded = load(build(Table, settings, "source"), "skip")
    return loaded.annotations, loaded.refused


def _linked(file: Path, folder: Path) -> str:
    link = folder / file.name
    link.symlink_to(file, target_is_directory=file.is_dir())
    return str(link)


def _long(table: pa.Table, wide: list[str], columns: dict[str, Column]) -> pa.Table:
    """One row for each cell of the columns that are one for each annotator, empty ones left out."""
    kept = [name for name in columns if name not in wide]
    pieces = []
    for name in wide:
        cells = (
            table[name].cast(pa.string()) if not pa.types.is_boolean(table[name].type) else table[name].cast(pa.int8())
        )
        piece = (
            table.select(kept)
            .append_column("user", pa.array([name] * table.num_rows))
            .append_column(JUDGEMENT, cells.cast(pa.string()))
        )
        given = np.asarray([bool(str(cell or "").strip()) for cell in piece[JUDGEMENT].to_pylist()])
        pieces.append(piece.filter(pa.array(given)))
    return pa.concat_tables(pieces)


def _indented(settings: dict[str, Any]) -> str:
    written = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    return "\n".join(f"  {line}" for line in written.splitlines())


def _words(facts: dict[str, Any], annotations: Annotations) -> list[str]:
    """What a person should know before they run it."""
    words = []
    rows = facts["rows_per_user"]
    alphas = [alpha for alpha in facts["agreement"].values() if alpha is not None]
    offsets = [share for share in facts["user_offset"].values() if share is not None]
    if not alphas:
        words.append("No text was judged by two people, so how far they agree is not known.")
    elif np.median(alphas) > 0.8:
        words.append(f"People agree (alpha {np.median(alphas):.2f}): there is little for personalisation to gain.")
    else:
        words.append(f"People disagree (alpha {np.median(alphas):.2f}, where 1 is all alike and 0 is chance).")
    if offsets and max(offsets) < 0.02:
        words.append(
            "Hardly any of it is a matter of who judges: personalisation would have to learn tastes, not tendencies."
        )
    elif offsets:
        most = f" (up to {100 * max(offsets):.0f} %)" if len(offsets) > 1 else ""
        words.append(
            f"{100 * np.median(offsets):.0f} %{most} of the differences are how readily each person gives a label: "
            "that much one number per user would explain; the rest is taste or chance."
        )
    if rows["median"] < 10:
        words.append(
            f"Half of the people gave {rows['median']:.0f} judgements or fewer: most of what is known of them is what "
            "the prior knows of people in general."
        )
    if facts["users"] < 5:
        words.append(f"With {facts['users']} people an interval is only a rough guide to people at large.")
    foreign = np.mean([_foreign(text) for text in annotations.distinct_texts[0][:2_000]])
    if foreign > 0.2:
        words.append(f"Much of the text is not in English letters, and {BASE} was made for English: name another base.")
    return words


def _foreign(text: str) -> float:
    letters = [letter for letter in text if letter.isalpha()]
    return float(np.mean([not letter.isascii() for letter in letters])) if letters else 0.0
