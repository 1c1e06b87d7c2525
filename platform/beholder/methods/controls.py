"""Controls: the same method with what it claims to use taken away."""

from __future__ import annotations

import numpy as np

from beholder.annotations import Annotations


def shuffle_users(annotations: Annotations, seed: int) -> Annotations:
    """The same judgements, each under the id of another row's user, drawn without replacement.

    Every user keeps their number of rows, but a row's user says nothing of who judged it. A personalised method fitted
    and scored on this must not gain; if it does, its gain is not personalisation. Where several tasks are asked, users
    stay in their task: to know that is not to know a person.
    """
    rng = np.random.default_rng(seed)
    order = np.arange(len(annotations))
    for rows in annotations.rows_of_tasks.values() or [np.arange(len(annotations))]:
        order[rows] = rng.permutation(order[rows])
    return annotations.replace_users(list(annotations.user_ids[order]))
