"""A population of readers with known, seeded biases over given texts: a source whose best achievable scores are known.

Reader u gives label l to text x with probability

    p(u, x, l) = (1 - noise) * sigmoid(global[x, l] + effect * (bias[u, l] + weight[u, l, topic(x)])) + noise / 2

`global` comes from the text alone; a reader sees a label more or less often everywhere (`bias`, which a user prior
can learn) and more or less often on some topics (`weight`, for which the text must be read). Both are drawn from N(0,
1).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.data.validation import BadRows, Loaded
from beholder.datasets import templates
from beholder.datasets.config import SourceSettings
from beholder.datasets.goemotions import EMOTIONS
from beholder.datasets.io import read_parquet, require_columns
from beholder.datasets.locate import find, locate
from beholder.util.errors import DataError, unknown

PRESENT, ABSENT = 1.5, -2.5  # global logits of a label that the aggregated judgement gives, or does not
# GoEmotions' own grouping of its labels; a text's topic is the group of its first label.
GROUPS = {
    "positive": "admiration amusement approval caring desire excitement gratitude joy love optimism pride relief",
    "negative": "anger annoyance disappointment disapproval disgust embarrassment fear grief nervousness remorse "
    "sadness",
    "ambiguous": "confusion curiosity realization surprise",
    "neutral": "neutral",
}


class Simulated(SourceSettings):
    """Settings of `simulated`.

    Args:
        texts: `goemotions` takes real texts from `goemotions_texts.parquet` (`path`, or the usual places), whose
            aggregated labels are the global signal; `templates` makes sentences of known strength; `auto` the first if
            it is there.
        labels: names among GoEmotions' 28 labels, or among the templates' own.
        users, rows_per_user, distinct_texts: how many readers, how many texts each judges, out of how many.
        effect: size of the personal part; at 0 all readers are alike.
        noise: share of judgements decided by a coin.
        seed: of texts, readers and judgements.
    """

    name: Literal["simulated"] = "simulated"
    texts: Literal["auto", "goemotions", "templates"] = "auto"
    labels: tuple[str, ...] = Field(default=("anger", "fear", "joy", "sadness"), min_length=1)
    users: int = Field(default=50, ge=2)
    rows_per_user: int = Field(default=200, ge=1)
    distinct_texts: int = Field(default=2000, ge=1)
    effect: float = Field(default=1.0, ge=0)
    noise: float = Field(default=0.05, ge=0, lt=1)
    seed: int = 0

    @model_validator(mode="after")
    def _enough_texts(self) -> Simulated:
        if self.rows_per_user > self.distinct_texts:
            raise ValueError(
                f"rows_per_user ({self.rows_per_user}) exceeds distinct_texts ({self.distinct_texts}): "
                "nobody judges a text twice"
            )
        if self.path is not None and self.texts == "templates":
            raise ValueError("path is for texts: goemotions; templates need no file")
        return self


@dataclass(frozen=True)
class Texts:
    """What is judged. `logits`: float64 [texts, labels]; `topic`: int [texts]."""

    ids: NDArray[np.object_]
    texts: NDArray[np.object_]
    logits: NDArray[np.float64]
    topic: NDArray[np.int64]
    origin: str


def load(config: Simulated, on_bad_rows: BadRows = "refuse") -> Loaded:
    """Draw a population of readers and their judgements.

    Context columns: `truth`, the probability each label was drawn with, which is the best score anybody could give for
    that reader; `truth_global`, its mean over all readers, the best score without knowing who reads.

    Args:
        config: what to draw.
        on_bad_rows: there are none.

    Raises:
        DataError: the texts were not found or are too few, or a label is unknown.
    """
    rng = np.random.default_rng(config.seed)
    texts = texts_of(config, rng)
    topics = int(texts.topic.max()) + 1
    bias = rng.normal(size=(config.users, len(config.labels)))  # [users, labels]
    weight = rng.normal(size=(config.users, len(config.labels), topics))  # [users, labels, topics]
    personal = config.effect * (bias[:, :, None] + weight)  # [users, labels, topics]

    text = np.concatenate(
        [rng.choice(len(texts.ids), config.rows_per_user, replace=False, shuffle=False) for _ in range(config.users)]
    )  # [rows]
    user = np.repeat(np.arange(config.users), config.rows_per_user)  # [rows]
    truth = _probability(texts.logits[text] + personal[user, :, texts.topic[text]], config.noise)  # [rows, labels]
    labels = (rng.random(truth.shape) < truth).astype(np.float32)
    order = rng.permutation(len(text))  # a file does not come sorted by reader
    text, user, truth, labels = text[order], user[order], truth[order], labels[order]

    width = len(str(config.users))
    names = np.asarray([f"reader{number:0{width}d}" for number in range(1, config.users + 1)], dtype=object)
    annotations = Annotations.from_columns(
        Task(config.labels),
        text=texts.texts[text].tolist(),
        user_id=names[user].tolist(),
        labels=labels,
        text_id=texts.ids[text].tolist(),
        context={
            "truth": _lists(truth),
            "truth_global": _lists(_mean_reader(texts, personal, config.noise)[text]),
        },
        where="simulated population",
    )
    origin = (
        f"simulated: {config.users} readers of {texts.origin}, "
        f"effect {config.effect:g}, noise {config.noise:g}, seed {config.seed}"
    )
    return Loaded(annotations, origin)


def texts_of(config: Simulated, rng: np.random.Generator) -> Texts:
    """What readers judge. With a generator of the settings' seed it is what `load` draws.

    Raises:
        DataError: see `load`.
    """
    file = config.path or locate("goemotions_texts")
    real = config.texts == "goemotions" or (config.texts == "auto" and file is not None)
    return _goemotions(config, rng) if real else _templates(config, rng)


def _lists(values: NDArray[np.float64]) -> pa.Array:
    """A row of a matrix as a value of a column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _probability(logits: NDArray[np.float64], noise: float) -> NDArray[np.float64]:
    return (1 - noise) / (1 + np.exp(-logits)) + noise / 2


def _mean_reader(texts: Texts, personal: NDArray[np.float64], noise: float) -> NDArray[np.float64]:
    """Mean probability over all readers: float64 [texts, labels]. Texts of equal logits and topic share the work."""
    kinds, kind = np.unique(np.column_stack([texts.topic, texts.logits]), axis=0, return_inverse=True)
    means = [
        _probability(logits[1:] + personal[:, :, int(logits[0])], noise).mean(axis=0)  # over [users, labels]
        for logits in kinds
    ]
    return np.stack(means)[kind.reshape(-1)]


def _goemotions(config: Simulated, rng: np.random.Generator) -> Texts:
    """Real texts, an equal share for each label and for none of them, so that rare emotions are learnable."""
    _check_labels(config.labels, EMOTIONS)
    file: Path = find("goemotions_texts", config.path)
    table = read_parquet(file)
    require_columns(table, ("text_id", "text", *EMOTIONS), file, "Expected goemotions_texts.parquet.")
    if config.distinct_texts > table.num_rows:
        raise DataError(
            f"{file}: source.distinct_texts is {config.distinct_texts}, but it holds {table.num_rows} texts."
        )
    given = np.column_stack([table[name].to_numpy() for name in EMOTIONS]) > 0  # [texts, 28]
    wanted = given[:, [EMOTIONS.index(label) for label in config.labels]]  # [texts, labels]
    bins = [*wanted.T, ~wanted.any(axis=1)]
    order = rng.permutation(table.num_rows)
    turn = np.full(table.num_rows, table.num_rows)  # a text's turn: its place in the queue of any bin that holds it
    for members in bins:
        queue = order[members[order]]
        turn[queue] = np.minimum(turn[queue], np.arange(len(queue)))
    chosen = order[np.argsort(turn[order], kind="stable")][: config.distinct_texts]
    group_of = np.asarray([[name in names.split() for names in GROUPS.values()].index(True) for name in EMOTIONS])
    neutral = len(GROUPS) - 1
    topic = np.where(given.any(axis=1), group_of[given.argmax(axis=1)], neutral)[chosen]
    return Texts(
        table["text_id"].to_numpy()[chosen],
        table["text"].to_numpy()[chosen],
        np.where(wanted[chosen], PRESENT, ABSENT),
        topic.astype(np.int64),
        f"{len(chosen)} GoEmotions texts ({file}, CC BY 4.0)",
    )


def _templates(config: Simulated, rng: np.random.Generator) -> Texts:
    _check_labels(config.labels, templates.LABELS)
    if config.distinct_texts > templates.COUNT:
        raise DataError(
            f"source.distinct_texts is {config.distinct_texts}, but the templates make {templates.COUNT} sentences. "
            "Lower it, or use source.texts: goemotions."
        )
    chosen = rng.choice(templates.COUNT, config.distinct_texts, replace=False)
    sentences, strength, topic = templates.sentences(chosen, config.labels)
    ids = np.asarray([f"template{number}" for number in chosen], dtype=object)
    logits = ABSENT + (PRESENT - ABSENT) * strength
    return Texts(ids, sentences, logits, topic, f"{len(ids)} sentences made from templates")


def _check_labels(labels: tuple[str, ...], known: tuple[str, ...]) -> None:
    for label in labels:
        if label not in known:
            raise DataError(f"source.labels: {unknown('label', label, known)}")
