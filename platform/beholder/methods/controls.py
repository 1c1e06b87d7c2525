"""Controls: the same method with what it claims to use taken away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from beholder.annotations import Annotations


def shuffle_users(annotations: Annotations, seed: int, traits: Sequence[str] = ()) -> Annotations:
    """The same judgements, each under the id of another row's user, drawn without replacement.

    Every user keeps their number of rows, but a row's user says nothing of who judged it. A personalised method fitted
    and scored on this must not gain; if it does, its gain is not personalisation. Where several tasks are asked, users
    stay in their task: to know that is not to know a person.

    Args:
        annotations: the judgements.
        seed: of the draw.
        traits: context columns that describe a user: they stay with the id.
    """
    rng = np.random.default_rng(seed)
    order = np.arange(len(annotations))
    for rows in annotations.rows_of_tasks.values() or [np.arange(len(annotations))]:
        order[rows] = rng.permutation(order[rows])
    shuffled = annotations.replace_users(list(annotations.user_ids[order]))
    for column in traits:
        if column in annotations.context_columns:
            values = annotations.column(column)
            shuffled = shuffled.with_column(column, [values[row] for row in order])
    return shuffled
