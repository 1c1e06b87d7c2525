"""Ids that look alike: the same letters in another case, or with white space at the ends."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def fold(user: str) -> str:
    """The form under which two ids look alike."""
    return " ".join(user.casefold().split())


def folded(users: NDArray[np.object_]) -> NDArray[np.object_]:
    """Ids in that form: object [rows], None where missing."""
    forms = {user: None if user is None else fold(str(user)) for user in set(users.tolist())}
    return np.asarray([*(forms[user] for user in users), None], dtype=object)[:-1]


def look_alikes(users: NDArray[np.object_]) -> str | None:
    """One line that counts ids which look alike, and how to join them; None where there are none."""
    ids = {str(user) for user in users.tolist() if user is not None and str(user).strip()}
    people = len({fold(user) for user in ids})
    if people == len(ids):
        return None
    groups: dict[str, int] = {}
    for user in ids:
        groups[fold(user)] = groups.get(fold(user), 0) + 1
    alike = sum(count for count in groups.values() if count > 1)
    joined = sum(count > 1 for count in groups.values())
    return (
        f"{alike:,} user ids differ only in case or white space and may be {joined:,} "
        f"{'person' if joined == 1 else 'people'}; they count as different people. "
        "To join them: source.user_ids: fold (of init: --join-ids)"
    )
