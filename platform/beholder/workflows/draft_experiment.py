"""From somebody's table to an experiment that runs: what its columns hold, and whether there is anything to learn."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from beholder.data.annotations import Annotations
from beholder.data.columns import text_columns
from beholder.data.splits import PARTS, ByText
from beholder.datasets.duplicates import surplus
from beholder.datasets.hub import is_hub_name
from beholder.datasets.importers import inferred, open_export
from beholder.datasets.io import FORMATS
from beholder.datasets.profile.agreement import agreement, offset_share
from beholder.datasets.profile.describe import describe
from beholder.datasets.profile.guesses import GivenColumns, Guess
from beholder.datasets.profile.infer_columns import InferredColumns, Parts, infer
from beholder.datasets.table import Table, of_rows
from beholder.util.atomic import atomic_write
from beholder.util.errors import DataError
from beholder.util.strict_model import build

ROWS = 20_000
"""A first experiment uses no more judgements than this, so that it answers in about ten minutes on two cores."""
BASE = "minilm-l6"
EPOCHS = ((3_000, 8), (10_000, 5))
"""Epochs of the global model by distinct texts: at most 8 below 3,000 texts, 5 below 10,000, else 3. Fewer texts
take more epochs to the same number of steps; training stops before, where validation no longer improves."""
CURVE = (5, 10, 20, 50, 100)
"""Judgements of each user at which a learning curve is measured: those below what half of the people gave for training.
"""
FEW_TEXTS = 300
"""Below this, a split by text is tried before it is written: a part may have no text."""
SPLITS: dict[Parts | None, str] = {
    None: "{by: text, fractions: [0.8, 0.1, 0.1], seed: 42} # equal texts stay together",
    "train, valid, test": "{by: column}",
    "train, test": "{by: column, valid: 0.1, seed: 42} # a tenth of the training texts becomes validation",
}
TEMPLATE = """\
# {title}
#
#   {command}
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


TablePath = Path | str | Sequence[Path | str]


@dataclass(frozen=True)
class DraftExperiment:
    """An experiment on somebody's table, not written yet.

    Attributes:
        name: of the experiment.
        source: settings of the source `table`.
        parts: which parts a column of the table marks rows for; None where the split is by text.
        guesses: role -> the column, how sure, and why.
        left_out: columns that are not used -> why.
        dropped: why rows are not used -> how many.
        notes: what else a person should know of the table, a line each.
        shape: the form of a table that does not have one judgement a row, in words.
        facts: from `describe`, with `agreement` and `user_offset` of each label.
        words: what follows from that, a sentence each.
        bad_rows: rows that will be refused, or put aside with `--on-bad-rows skip`.
        split: how rows are split, as written.
    """

    name: str
    source: dict[str, Any]
    parts: Parts | None
    guesses: dict[str, Guess]
    left_out: dict[str, str]
    dropped: dict[str, int]
    notes: tuple[str, ...]
    shape: str | None
    facts: dict[str, Any]
    words: tuple[str, ...]
    bad_rows: int
    split: str = SPLITS[None]

    def command(self, file: Path) -> str:
        """How to run it."""
        return f"beholder run {shlex.quote(str(file))}{' --on-bad-rows skip' if self.bad_rows else ''}"


def draft(
    where: TablePath, asked: GivenColumns | None = None, format: str = "auto", header: bool = True
) -> DraftExperiment:
    """Look at a table, or at the export of an annotation tool, and draft an experiment.

    Args:
        where, header: see `datasets.io.read_rows`.
        asked: what is known of its columns; the rest is guessed.
        format: see `datasets.importers.open_export`.

    Raises:
        DataError: it cannot be read, or holds no text, no users or no judgements; names the remedy.
        UnsureError: a guess is not sure enough to be used without being confirmed.
    """
    opened = open_export(where, format, header)
    file, asked = opened.rows.files[0][0], asked or GivenColumns()
    found = inferred(opened, asked) if opened.imported else _inferred(opened.rows.table, asked, file)
    settings: dict[str, Any] = {"name": "table", "path": _absolute(where)}
    settings |= {"format": opened.format} if opened.imported else {}
    settings |= {} if header else {"header": False}
    settings |= found.settings
    loaded = of_rows(build(Table, settings, "source"), opened.rows, "skip", keep_refused=False)
    annotations = loaded.annotations
    if len(annotations.users) < 2:
        raise DataError(
            f'{file}: "{found.settings["user"]}" names one person only. Personalisation compares people: give more.'
        )
    facts = {
        **describe(annotations),
        "agreement": agreement(annotations),
        "user_offset": offset_share(annotations),
    }
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", _stem(where)).strip("-._")[:60] or "table"
    return DraftExperiment(
        name,
        settings,
        found.parts,
        found.guesses,
        found.left_out,
        dict(loaded.left_out),
        (*loaded.notes, *found.notes),
        found.shape,
        facts,
        tuple(_words(facts, annotations)),
        loaded.refused,
        SPLITS[found.parts] if found.parts else _by_text(annotations),
    )


def _by_text(annotations: Annotations) -> str:
    """The first of some splits by text that leaves no part empty."""
    if len(annotations.distinct_texts[0]) >= FEW_TEXTS:
        return SPLITS[None]
    for fractions in ((0.8, 0.1, 0.1), (0.6, 0.2, 0.2)):
        for seed in range(42, 52):
            config = ByText(fractions=fractions, seed=seed)
            parts = config.assign(config.prepared(annotations))
            if all((parts == part).any() for part in PARTS):
                return f"{{by: text, fractions: {list(fractions)}, seed: {seed}}} # equal texts stay together"
    return SPLITS[None]


def _absolute(where: TablePath) -> str | list[str]:
    """The path as a run finds it from any folder."""
    if isinstance(where, str | Path):
        return str(where) if is_hub_name(where) else str(Path(where).expanduser().absolute())
    return [str(_absolute(each)) for each in where]


def _stem(where: TablePath) -> str:
    first = where if isinstance(where, str | Path) else where[0]
    name = Path(first).name.partition(":")[0]
    while Path(name).suffix.lower() in FORMATS:
        name = Path(name).stem
    return name


def _inferred(table: pa.Table, asked: GivenColumns, file: Path) -> InferredColumns:
    """What its columns hold, as the rows that add nothing are left out; those without a text stay, to be refused."""
    kept = surplus(table).kept
    if not len(kept):
        raise DataError(f"{file}: no row has anything in it. Give at least one judgement.")
    found = infer(table.take(pa.array(kept)), asked, file, kept.tolist())
    judged = surplus(table, text_columns(found.settings["text"])[-1]).kept
    if len(judged) == len(kept):
        return found
    return infer(table.take(pa.array(judged)), asked, file, judged.tolist())


def write(made: DraftExperiment, file: Path) -> list[Path]:
    """Write the experiment file, and its folder where that is missing; returns what was written.

    Raises:
        DataError: it cannot be written there.
    """
    rows = made.facts["rows"]
    subsample = (
        f"subsample: {{rows: {ROWS}}} # of {rows:,}, for a first answer; take this line out for all\n"
        if rows > ROWS
        else ""
    )
    text = TEMPLATE.format(
        title=f"{rows:,} judgements of {made.facts['texts']:,} texts by {made.facts['users']:,} people.",
        command=made.command(file),
        name=_quoted(made.name),
        source=_indented(made.source),
        split=made.split,
        subsample=subsample,
        base=BASE,
        cls=_cls(made.facts),
        curve=_curve(made.facts),
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{file}: cannot be written ({error.strerror}). Name another place with --out FILE.") from error
    return [file]


def _quoted(name: str) -> str:
    """A name as YAML reads it back: one like a date, a number or a truth value in quotes."""
    return name if yaml.safe_load(f"[{name}]") == [name] and not re.match(r"[\d.]", name) else json.dumps(name)


def _cls(facts: dict[str, Any]) -> str:
    """Settings of the global model, from the shape of the data: see `EPOCHS`."""
    texts = min(facts["texts"], ROWS)
    epochs = next((epochs for limit, epochs in EPOCHS if texts < limit), 3)
    return f"{{epochs: {epochs}}}"


def _curve(facts: dict[str, Any]) -> str:
    """The line of the learning curve, see `CURVE`; none where people gave too few judgements for one."""
    some = [rows for rows in CURVE if rows <= 0.8 * facts["rows_per_user"]["median"]]
    return f"    curve: {some} # the gain from this many judgements of each user\n" if some else ""


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
