"""Which rows train, which choose settings, which are only ever looked at once.

The splits `text`, `new-users` and `people` cut by text: two rows whose texts count as one (`texts.unit_key`: whatever
their case, white space, Unicode form and punctuation at the ends) fall on the same side of the cut, whatever their ids.
`column` and `paper` follow a column of the table, and a test text may recur in training. A split is recorded by its
hash, and two results are comparable only under equal hashes.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from beholder.data.annotations import Annotations
from beholder.data.text_splits import PARTS, CutByText, normalised, uniform
from beholder.util.errors import SplitError, unknown
from beholder.util.strict_model import Section

RowNumbers = NDArray[np.int64]
CELLS = ("seen_people", "seen_texts", "unseen_texts", "seen_both")
"""Further parts of a split by people, which are neither learned from nor chosen on; see `ByPeople`."""
FEWEST_PEOPLE = 3
"""Of a split by people: two held out, so that there is an interval over people, and one to train on."""


@dataclass(frozen=True)
class Split:
    """Row numbers of each part: `train`, `valid`, `test`; where people are held out `enrol` and those of `CELLS`."""

    parts: dict[str, RowNumbers]
    hash: str
    leaked: float
    """Share of test rows whose text (`Annotations.text_keys`) is also in training: 0 by construction by `text`,
    `new-users`, `people` with `texts: unseen`, 1 with `texts: seen`; what the table makes it by `column` or `paper`."""
    people: ByPeople | None = None
    """The settings of a split by people."""

    def __getitem__(self, part: str) -> RowNumbers:
        return self.parts[part]

    @property
    def served(self) -> list[str]:
        """Parts whose users a published model may know. Adapting under a split by people is for measuring only."""
        return ["train", "enrol"] if "enrol" in self.parts and self.people is None else ["train"]

    def facts(self, annotations: Annotations) -> dict[str, Any]:
        """What results say of it: `hash`, `leaked`, `rows` of each part; `people` of a split by people."""
        people = {"people": asdict(held_out_people(annotations, self))} if self.people else {}
        rows = {name: len(rows) for name, rows in self.parts.items()}
        return {"hash": self.hash, "leaked": self.leaked, "rows": rows, **people}


class ByText(CutByText):
    """Each distinct text falls into one part, drawn by a hash of seed and text, so that a text stays where it is when
    the data grow.
    """

    by: Literal["text"] = "text"

    def assign(self, annotations: Annotations) -> NDArray[np.object_]:
        """The part of each row: str [rows]."""
        return self.by_text(annotations)


class ByColumn(Section):
    """As in the table: a context column holds `train`, `valid` (or `val`, `dev`) and `test`.

    Args:
        column: its name.
        valid: the share of training texts that becomes validation, where the column marks no row for it. Drawn by a
            hash of seed and text, so that equal texts stay together.
        seed: of that draw.
    """

    added: ClassVar[tuple[str, ...]] = ("valid", "seed")

    by: Literal["column"]
    column: str = "split"
    valid: float | None = Field(default=None, gt=0, lt=1)
    seed: int = 42

    @model_validator(mode="after")
    def _draws(self) -> ByColumn:
        if "seed" in self.model_fields_set and self.valid is None:
            raise ValueError("split.seed is of the draw of split.valid; give both, or neither")
        return self

    def assign(self, annotations: Annotations) -> NDArray[np.object_]:
        """The part of each row: str [rows]."""
        parts = _parts_by_column(annotations, self.column)
        if self.valid is None or (parts == "valid").any():
            return parts
        keys = annotations.text_keys
        drawn = {key for key in set(keys[parts == "train"]) if uniform(self.seed, f"valid\0{key}") < self.valid}
        parts[(parts == "train") & np.asarray([key in drawn for key in keys], dtype=bool)] = "valid"
        return parts


class ByPaper(Section):
    """The paper's protocol: the official split files; only users present in all three parts; users with fewer than
    `crop[0]` of the busiest user's rows dropped; users above `crop[1]` of it sampled down to it, seeded. The crop's
    thresholds come from all rows, not per part, so that the split can be rebuilt.
    """

    by: Literal["paper"]
    column: str = "official_split"
    crop: tuple[float, float] = (0.01, 0.6)
    seed: int = 42

    def assign(self, annotations: Annotations) -> NDArray[np.object_]:
        """The part of each row: str [rows], "" for rows the protocol drops."""
        parts = _parts_by_column(annotations, self.column, others_dropped=True)
        users = annotations.user_ids
        names, user = np.unique(users.astype(str), return_inverse=True)
        official = parts != ""
        rows = np.bincount(user[official], minlength=len(names))
        ceiling = max(1, int(rows.max() * self.crop[1]))
        rng = np.random.default_rng(self.seed)
        for u in range(len(names)):
            own = np.flatnonzero((user == u) & official)
            if rows[u] < self.crop[0] * rows.max():
                parts[own] = ""
            elif len(own) > ceiling:
                parts[rng.permutation(own)[ceiling:]] = ""
        for u in range(len(names)):
            own = user == u
            if any(not (own & (parts == part)).any() for part in PARTS):
                parts[own] = ""
        return parts


class ByNewUsers(CutByText):
    """Test users are unseen in training. `enrol` of each new user's rows, on training texts, are set aside to learn the
    user from; the test rows are theirs on texts nobody was trained on.
    """

    by: Literal["new-users"]
    new_users: float = Field(default=0.2, gt=0, lt=1)
    enrol: int = Field(default=20, ge=0)
    fractions: tuple[float, float, float] = (0.6, 0.1, 0.3)

    def assign(self, annotations: Annotations) -> NDArray[np.object_]:
        """The part of each row: str [rows], "" for rows set aside unused."""
        by_text = self.by_text(annotations)
        users = annotations.users
        rng = np.random.default_rng(self.seed)
        count = max(1, round(self.new_users * len(users)))
        if count >= len(users):
            raise SplitError(f"split by new-users needs users on both sides, but there are {len(users)}.")
        new = set(np.asarray(users, dtype=object)[rng.permutation(len(users))[:count]])
        is_new = np.asarray([user in new for user in annotations.user_ids])
        parts = by_text.copy()
        parts[is_new & (by_text != "test")] = ""
        parts[~is_new & (by_text == "test")] = ""
        for user in sorted(new):
            own = np.flatnonzero((annotations.user_ids == user) & (by_text == "train"))
            parts[rng.permutation(own)[: self.enrol]] = "enrol"
        return parts


class ByPeople(CutByText):
    """Test people are disjoint from training people, as in PersEval (EMNLP 2025); test texts are disjoint from training
    texts as well, unless `texts: seen`. Methods are measured on the test people after 0, 1, 2, 5, ... judgements each.

    A person is held out by a hash of seed and user id, and texts are cut as in a split by text, so that people and
    texts stay where they are when the data grow. Parts: `train` and `valid` are of training people; `enrol` holds the
    judgements that held-out people may be adapted on, on texts that are not tested; `test` is of held-out people.
    Neither learned from nor chosen on are `seen_people` (training people, test texts), `seen_texts` (held-out people,
    training texts), `seen_both` (training people, training texts); with `texts: seen` also `unseen_texts` (held-out
    people's test judgements whose text no training row has). Every row falls into exactly one part.

    Args:
        people: the share of people who are held out.
        texts: `unseen`: nobody's judgement of a test text is learned from. `seen`: training people's judgements of test
            texts are.
        fractions: of distinct texts for training, validation and test.
        adapt: how many judgements of each held-out person are adapted on, from 0 up. Those with fewer give all they
            have.
        seen_texts: the share of judgements of training texts that is set aside to measure seen texts on; 0 for none.
        seed: of people, texts, the judgements set aside, and the order in which a person's judgements are taken.
    """

    by: Literal["people"]
    people: float = Field(default=0.25, gt=0, lt=1)
    texts: Literal["unseen", "seen"] = "unseen"
    fractions: tuple[float, float, float] = (0.6, 0.1, 0.3)
    adapt: tuple[int, ...] = (0, 1, 2, 5, 10, 20)
    seen_texts: float = Field(default=0.1, ge=0, lt=1)
    seed: int = 42

    @model_validator(mode="after")
    def _valid(self) -> ByPeople:
        if self.adapt[:1] != (0,) or any(b <= a for a, b in zip(self.adapt, self.adapt[1:], strict=False)):
            raise ValueError(f"split.adapt: expected rising numbers from 0, as in [0, 1, 5], got {list(self.adapt)}")
        return self

    def holds_out(self, user: str) -> bool:
        """Whether this person is held out."""
        return uniform(self.seed, f"person\0{user}") < self.people

    def assign(self, annotations: Annotations) -> NDArray[np.object_]:
        """The part of each row: str [rows].

        Raises:
            SplitError: too few people, in all or on one of the two sides.
        """
        users, user = annotations.by_user
        if len(users) < FEWEST_PEOPLE:
            raise SplitError(
                f"split by people: there are {len(users)} people, fewer than {FEWEST_PEOPLE}. It needs one or more to "
                "train on and two or more to hold out. Split by text instead."
            )
        held_out = np.asarray([self.holds_out(each) for each in users])
        if held_out.sum() < 2 or held_out.all():
            raise SplitError(
                f"split by people: {held_out.sum()} of {len(users)} people are held out with people: {self.people:g} "
                f"and seed: {self.seed}. It needs two or more held out, and one or more to train on. Change "
                "split.people or split.seed, or give more people."
            )
        is_new, text = held_out[user], self.keys(annotations)
        by_text = self.by_text(annotations)
        parts = by_text.copy()
        parts[is_new & (by_text != "test")] = "enrol"
        parts[~is_new & (by_text == "test")] = "train" if self.texts == "seen" else "seen_people"
        aside = self._set_aside(annotations.user_ids, text)
        kept = np.isin(text, text[(parts == "train") & ~aside])
        parts[aside & kept & (parts == "train")] = "seen_both"
        seen = np.isin(text, text[parts == "train"])
        if self.texts == "unseen":
            parts[aside & seen & (parts == "enrol")] = "seen_texts"
        else:
            parts[~seen & (parts == "test")] = "unseen_texts"
        return parts

    def _set_aside(self, users: NDArray[np.object_], texts: NDArray[np.object_]) -> NDArray[np.bool_]:
        """Judgements on which seen texts are measured, where somebody else's of the text stays in training."""
        if not self.seen_texts:
            return np.zeros(len(users), dtype=bool)
        pairs = zip(users, texts, strict=True)
        return np.asarray([uniform(self.seed, f"aside\0{user}\0{text}") < self.seen_texts for user, text in pairs])

    def turns(self, enrol: Annotations) -> RowNumbers:
        """When each row of `enrol` is adapted on: int64 [rows], from 0, in an order of each person's own.

        The first k judgements of everybody are the rows with a turn below k. The order is drawn by a hash of seed,
        user and text, so it depends neither on the order of the rows nor on other people.
        """
        _, user = enrol.by_user
        keys = zip(enrol.user_ids, normalised(enrol), enrol.text_ids, strict=True)
        draws = np.asarray([uniform(self.seed, f"turn\0{who}\0{text}\0{id_}") for who, text, id_ in keys])
        order = np.lexsort((draws, user))
        turns = np.empty(len(enrol), dtype=np.int64)
        turns[order] = np.arange(len(enrol)) - np.searchsorted(user[order], user[order])
        return turns


AnySplit = ByText | ByColumn | ByPaper | ByNewUsers | ByPeople
SplitConfig = Annotated[AnySplit, Field(discriminator="by")]
SPLITS: dict[str, type[AnySplit]] = {
    "text": ByText,
    "column": ByColumn,
    "paper": ByPaper,
    "new-users": ByNewUsers,
    "people": ByPeople,
}


def split(annotations: Annotations, config: AnySplit) -> Split:
    """Cut the rows into the parts of `config`.

    Raises:
        SplitError: a part would be empty, the column the split comes from is missing or holds something else, or there
            are too few people for a split by people.
    """
    made = cut(annotations, config.assign(annotations), config)
    if isinstance(config, ByPeople):
        _check_measurable(annotations, made.parts, config)
    return made


def cut(annotations: Annotations, assigned: NDArray[np.object_], config: AnySplit) -> Split:
    """The split that puts each row into the part `config` assigned it: str [rows], "" for rows that are left out.

    Raises:
        SplitError: no row is assigned to training, validation or test.
    """
    names = [*PARTS, *(name for name in ("enrol", *CELLS) if (assigned == name).any())]
    parts = {name: np.flatnonzero(assigned == name).astype(np.int64) for name in names}
    for name in PARTS:
        if not len(parts[name]):
            sizes = ", ".join(f"{part} {len(rows)}" for part, rows in parts.items())
            cut_some = name == "valid" and isinstance(config, ByColumn) and config.valid is None
            remedy = "Set split.valid, as in 0.1, to take some of training" if cut_some else "Give more rows"
            raise SplitError(f"split by {config.by}: no rows are left for {name} ({sizes}). {remedy}, or change split.")
    people = config if isinstance(config, ByPeople) else None
    return Split(parts, split_digest(annotations, assigned), _leaked(annotations, parts), people)


def split_digest(annotations: Annotations, assigned: NDArray[np.object_]) -> str:
    """SHA-256 of which row is in which part, whatever their order."""
    digest = hashlib.sha256()
    keys = zip(assigned, annotations.text_ids, annotations.user_ids, strict=True)
    for part, text_id, user in sorted(key for key in keys if key[0]):
        digest.update(f"{part}\0{text_id}\0{user}\0".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class HeldOut:
    """Who is held out by a split by people.

    Attributes:
        people: how many are held out.
        tested: how many of them have test rows.
        with_k: k -> how many of those tested have k judgements to adapt on, for each k of `split.adapt`.
    """

    people: int
    tested: int
    with_k: dict[int, int]

    def line(self) -> str:
        """For people."""
        steps = ", ".join(f"{count:,} for {k}" for k, count in self.with_k.items() if k)
        enough = f"; enough judgements to adapt on: {steps}" if steps else ""
        return f"people: {self.people:,} are held out, {self.tested:,} of them tested{enough}"


def held_out_people(annotations: Annotations, made: Split) -> HeldOut:
    """Count the people a split by people holds out."""
    assert made.people is not None
    enrol = annotations.user_ids[made.parts.get("enrol", np.zeros(0, dtype=np.int64))]
    names, counts = np.unique(enrol.astype(str), return_counts=True)
    has = dict(zip(names.tolist(), counts.tolist(), strict=True))
    tested = set(annotations.user_ids[made["test"]].tolist())
    held_out = [user for user in annotations.users if made.people.holds_out(user)]
    with_k = {k: sum(has.get(user, 0) >= k for user in tested) for k in made.people.adapt}
    return HeldOut(len(held_out), len(tested), with_k)


def _check_measurable(annotations: Annotations, parts: dict[str, RowNumbers], config: ByPeople) -> None:
    """Refuse a split by people on which nothing could be measured."""
    tested = set(annotations.user_ids[parts["test"]])
    if len(tested) < 2:
        raise SplitError(
            "split by people: only 1 of the people held out has test rows, and an interval over people needs two. "
            "Raise split.people or the test share of split.fractions, or give more rows."
        )
    if config.adapt[-1] and not tested & set(annotations.user_ids[parts.get("enrol", np.zeros(0, dtype=np.int64))]):
        raise SplitError(
            f"split by people: none of the {len(tested)} people tested has a judgement to adapt on. Lower the test "
            "share of split.fractions, or give more rows of each person."
        )


def _parts_by_column(annotations: Annotations, column: str, others_dropped: bool = False) -> NDArray[np.object_]:
    context = annotations.context_columns
    if column not in context:
        raise SplitError(
            f"split.column: {unknown('column', column, context)} Name it under source, or split by text."
            if context
            else f"split.column: these annotations have no column {column!r}. Split by text instead."
        )
    names = {"train": "train", "training": "train", "test": "test"}
    names |= dict.fromkeys(("valid", "val", "dev", "validation", "development"), "valid")
    values = annotations.column(column)
    parts = np.asarray([names.get(str(value).strip().casefold(), "") for value in values], dtype=object)
    if not others_dropped and (parts == "").any():
        row = int(np.flatnonzero(parts == "")[0])
        raise SplitError(f'row {row + 1}, column "{column}": {values[row]!r} is no part. Use train, valid or test.')
    return parts


def _leaked(annotations: Annotations, parts: dict[str, RowNumbers]) -> float:
    keys = annotations.text_keys.astype(str)
    return float(np.isin(keys[parts["test"]], keys[parts["train"]]).mean())
