"""Controls: the same method with what it claims to use taken away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from beholder.data.annotations import Annotations
from beholder.util.errors import MethodError, unknown

ACROSS, WITHIN = "shuffled-users", "shuffled-within-text"
CONTROLS = (ACROSS, WITHIN)
MOST = 20
"""Permutations of one control."""
Shuffled = bool | Annotated[str, Field(pattern=f"^({ACROSS}|{WITHIN})(-[0-9]+)?$")]
"""Whether a method is a control: no (False), `shuffled-users` (True), or another one by name, as `named` has it."""


def named(written: Any) -> list[str]:
    """The controls an experiment asks for, each permutation by a name: `shuffled-users: 2` is two.

    Args:
        written: a list of controls, each a name, or a name with the number of its permutations.

    Raises:
        MethodError: it is something else.
    """
    if not isinstance(written, list):
        raise MethodError(f"expected a list, as in [{ACROSS}] or [{{{ACROSS}: 3}}], got {written!r}")
    names: list[str] = []
    for each in written:
        control, times = next(iter(each.items())) if isinstance(each, dict) and len(each) == 1 else (each, 1)
        if control not in CONTROLS:
            raise MethodError(unknown("control", str(control), CONTROLS))
        if not isinstance(times, int) or isinstance(times, bool) or not 1 <= times <= MOST:
            raise MethodError(f"{control}: expected a number of permutations from 1 to {MOST}, got {times!r}")
        names += [control, *(f"{control}-{number}" for number in range(2, times + 1))]
    if len(set(names)) < len(names):
        raise MethodError(f"the same control twice. Say how many permutations: [{{{ACROSS}: 2}}]")
    return names


def shuffle_users(
    annotations: Annotations, seed: int, traits: Sequence[str] = (), control: Shuffled = ACROSS
) -> Annotations:
    """The same judgements, each under the id of another row's user, drawn without replacement.

    Every user keeps their number of rows, but a row's user is not who judged it. A personalised method fitted
    and scored on this must not gain; if it does, its gain is not personalisation. Where there are several tasks, users
    stay in their task: to know that is not to know a person.

    `shuffled-users` permutes over all rows. `shuffled-within-text` permutes among those who judged the same text, so
    that users keep the texts they judged: what is tested is that, given the text, it does not matter who judged it
    (a permutation within strata: Good 2005, Permutation, Parametric and Bootstrap Tests of Hypotheses). Of a text with
    n judgements one in n stays where it was; texts of one judgement are permuted among each other.

    Args:
        annotations: the judgements.
        seed: of the draw.
        traits: context columns that describe a user: they stay with the id.
        control: which, as `named` calls it.
    """
    name = ACROSS if isinstance(control, bool) else control
    kind = next(each for each in sorted(CONTROLS, key=len, reverse=True) if name.startswith(each))
    number = int(name[len(kind) + 1 :] or 1)
    rng = np.random.default_rng(seed if number == 1 else [seed, number])
    order = np.arange(len(annotations))
    for rows in annotations.rows_of_tasks.values() or [np.arange(len(annotations))]:
        strata = np.zeros(len(rows), dtype=np.int64) if kind == ACROSS else _texts(annotations, rows)
        order[rows] = order[rows][_permuted(strata, rng)]
    shuffled = annotations.replace_users(list(annotations.user_ids[order]))
    for column in traits:
        if column in annotations.context_columns:
            values = annotations.column(column)
            shuffled = shuffled.with_column(column, [values[row] for row in order])
    return shuffled


def _texts(annotations: Annotations, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The text of each row by number, -1 for all texts with one judgement among them: int64 [rows]."""
    _, text, count = np.unique(annotations.same_texts[rows].astype(str), return_inverse=True, return_counts=True)
    return np.where(count[text] > 1, text, -1)


def _permuted(strata: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """A permutation of rows that leaves each in its stratum: int64 [rows]."""
    if len(np.unique(strata)) == 1:
        return rng.permutation(len(strata))
    order = np.empty(len(strata), dtype=np.int64)
    order[np.lexsort((np.arange(len(strata)), strata))] = np.lexsort((rng.random(len(strata)), strata))
    return order
