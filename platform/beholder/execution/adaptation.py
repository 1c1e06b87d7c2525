"""A fitted method adapted to people it was not fitted on, by their first 1, 2, 5, ... judgements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from beholder.adapters.trait_values import traits_of
from beholder.adapters.traits import Traits
from beholder.data.annotations import Annotations
from beholder.data.splits import CELLS, ByPeople
from beholder.data.texts import text_key
from beholder.evaluation.newcomers import NewcomerScores
from beholder.methods.base import Fitted, MethodConfig

NEW = ("test", "seen_texts", "unseen_texts")
"""Parts of a split by people that hold judgements of people nothing was fitted on."""


@runtime_checkable
class Grouping(Protocol):
    """A fitted method whose first guess of somebody depends on their traits."""

    @property
    def traits(self) -> tuple[str, ...]:
        """Context columns that it reads; none where it learned nothing of them."""
        ...

    def adapt(self, rows: Annotations, seed: int = 42, traits: Mapping[str, Traits] | None = None) -> Fitted:
        """See `Adaptable`; people without rows start where others with their traits are."""
        ...


@runtime_checkable
class Adaptable(Protocol):
    """A fitted method that can take in people after it was fitted."""

    def adapt(self, rows: Annotations) -> Fitted:
        """The same fitted method, in which the users of `rows` are estimated from these rows alone."""
        ...


def score_newcomers(
    name: str,
    control_of: str | None,
    config: MethodConfig,
    fitted: Fitted,
    seen: Mapping[str, Annotations],
    parts: Mapping[str, Annotations],
    people: ByPeople,
) -> NewcomerScores:
    """Score every row that a split by people measures on: new people at every k, people seen in training once.

    A method that cannot be adapted has scores at k = 0 only. One that knows what traits shift is given those of new
    people at every k, so that at k = 0 a person is the mean of their group.

    Args:
        name, control_of, config: the arm's.
        fitted: the method.
        seen: the rows of each part as the arm sees them; see `arm.as_seen`.
        parts: the rows as they are.
        people: the split.
    """
    steps = people.adapt if config.personal and isinstance(fitted, Adaptable) else (0,)
    measured = [part for part in ("test", *CELLS) if part in parts]
    has = _rows_by_user(parts["enrol"]) if "enrol" in parts else {}
    found: dict[str, list[Any]] = {"part": [], "k": [], "given": [], "scores": [], "rows": []}
    traits = _traits_of_new(fitted, seen)
    for k in steps:
        method = _adapted(config, fitted, seen, people, k, traits)
        for part in measured:
            if k and part not in NEW:
                continue
            rows, shown = parts[part], seen[part]
            given = [min(k, has.get(user, 0)) if part in NEW else 0 for user in rows.user_ids]
            found["part"] += [part] * len(rows)
            found["k"] += [k] * len(rows)
            found["given"] += given
            using = method if part in NEW else fitted
            found["scores"].append(using.score(list(shown.texts), list(shown.user_ids)))
            found["rows"].append(rows)
    return NewcomerScores(
        arm=name,
        method=fitted.method,
        control_of=control_of,
        thresholds=np.asarray(fitted.thresholds, dtype=np.float32),
        task=fitted.task,
        part=np.asarray(found["part"], dtype=object),
        k=np.asarray(found["k"], dtype=np.int64),
        given=np.asarray(found["given"], dtype=np.int64),
        text_ids=np.asarray([text_key(text) for rows in found["rows"] for text in rows.texts], dtype=object),
        user_ids=np.concatenate([rows.user_ids for rows in found["rows"]]),
        labels=np.concatenate([rows.labels for rows in found["rows"]]),
        scores=np.concatenate(found["scores"]).astype(np.float32),
    )


def _traits_of_new(fitted: Fitted, seen: Mapping[str, Annotations]) -> dict[str, Traits]:
    """Traits of new people, where the method uses any."""
    if not isinstance(fitted, Grouping) or not fitted.traits:
        return {}
    return traits_of([seen[part] for part in ("enrol", *NEW) if part in seen], fitted.traits)


def _adapted(
    config: MethodConfig,
    fitted: Fitted,
    seen: Mapping[str, Annotations],
    people: ByPeople,
    k: int,
    traits: Mapping[str, Traits],
) -> Fitted:
    """The method after the first k judgements of every new person; at 0 as it was fitted, or from traits alone."""
    by_traits = bool(traits) and isinstance(fitted, Grouping)
    if not isinstance(fitted, Adaptable) or "enrol" not in seen or not (k or by_traits):
        return fitted
    enrol = seen["enrol"]
    tasks = config.only_tasks
    if tasks is not None:  # the arm learns from some tasks only, of newcomers as of everybody
        enrol = enrol.select(np.unique(np.concatenate([enrol.rows_of_tasks[task] for task in tasks])))
    first = enrol.select(np.flatnonzero(people.turns(enrol) < k))
    if by_traits:
        return fitted.adapt(first, traits=traits)
    return fitted.adapt(first) if len(first) else fitted


def _rows_by_user(rows: Annotations) -> dict[str, int]:
    names, user = rows.by_user
    return dict(zip(names, np.bincount(user, minlength=len(names)).tolist(), strict=True))
