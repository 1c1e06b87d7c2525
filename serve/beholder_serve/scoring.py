"""One version, loaded: what any users say of any texts, mixed as they come.

Where the personal method is a bank of adapters on the global model, the trunk runs once per distinct text of a batch,
whoever asks, and what it said of recent texts is kept. Users' rows come from memory-mapped shards, and recent ones are
kept, too. A user whose row cannot be read is answered by the global model.

Any other pair of methods (the adapters stand on another model than the global one, on one that is told who reads, or on
a language model) is scored by the bundle, and users who were enrolled by the personal method with their own tensors in
the place of its bank (`overlay`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beholder.adapters.overlay import Overlay
from beholder.methods.cls_user import FittedPersonal
from beholder.methods.user_adapters import FittedBank
from beholder.registry.bundle import Bundle, Predictions
from beholder.training.user_adam import Tensors
from beholder.util.errors import BeholderError
from beholder_serve.recent import Recent

MEGABYTE = 2**20


@dataclass(frozen=True)
class UserPredictions(Predictions):
    """What users say of texts, row by row, and whether that is theirs.

    Attributes:
        fallback: bool [rows], whether the user has a model of their own that could not be read.
        adapters: the digest of the adapter that gave each row's answer (`digest_of`); empty where none did.
    """

    fallback: NDArray[np.bool_]
    adapters: list[str]


class UserTensors(dict[str, Tensor]):
    """One user's tensors [1, ...], and their digest, which is of these very numbers."""

    def __init__(self, tensors: Tensors) -> None:
        super().__init__(tensors)
        self.digest = digest_of(self) if self else ""


Enrolled = Callable[[str], "Tensors | None"]
"""A user -> their tensors [1, ...] where they were enrolled (empty: to the global model); None where they were not."""


def nobody(user: str) -> Tensors | None:
    """Where nobody was enrolled."""
    return None


class Scorer:
    """A bundle, and what is kept of its recent work. Several threads may ask it.

    Attributes:
        trunk_texts: how many texts the trunk has read.
        made: when the bundle was, in seconds since 1970.
    """

    def __init__(
        self,
        bundle: Bundle,
        version: str,
        *,
        enrolled: Enrolled = nobody,
        trunk_mb: int = 64,
        rows_mb: int = 64,
        made: float = 0.0,
    ) -> None:
        self.bundle, self.version, self.enrolled, self.made, self.trunk_texts = bundle, version, enrolled, made, 0
        personal = bundle.personal
        self._bank: FittedPersonal | None = None
        if isinstance(personal, FittedPersonal) and personal.shared is bundle.shared and not personal.shared.users:
            self._bank = personal
        self._states: Recent[str, Tensor] = Recent(trunk_mb * MEGABYTE, _bytes)
        self._rows: Recent[str, UserTensors] = Recent(rows_mb * MEGABYTE, _row_bytes)
        self._own: Recent[str, UserTensors] = Recent(rows_mb * MEGABYTE, _row_bytes)  # of those who were enrolled

    @property
    def arms(self) -> Mapping[str, str]:
        """`global` and, where there is one, `personal` -> the arm's name."""
        return {part: method["arm"] for part, method in self.bundle.manifest["methods"].items()}

    def forget(self, user: str) -> None:
        """Read an enrolled user's row anew when they are next asked for."""
        self._own.drop(user)

    def predict(self, texts: Sequence[str], users: Sequence[str]) -> UserPredictions:
        """What each row's user says of its text."""
        if self._bank is None:
            return self._overlaid(texts, users)
        return self._mixed(self._bank, texts, users)

    def _overlaid(self, texts: Sequence[str], users: Sequence[str]) -> UserPredictions:
        """By the bundle, but those who were enrolled by what they were enrolled to."""
        found = self._blank(len(texts))
        personal = self.bundle.personal
        own: dict[str, UserTensors] = {}
        if isinstance(personal, FittedBank):
            own = {user: row for user in dict.fromkeys(users) if (row := self._enrolled_row(user)) is not None}
        plain = [row for row, user in enumerate(users) if user not in own]
        shared = [row for row, user in enumerate(users) if user in own and not own[user]]
        alone = [row for row, user in enumerate(users) if own.get(user)]
        for rows, answer in ((plain, self._by_bundle), (shared, self._by_global)):
            if rows:
                _fill(found, rows, answer([texts[row] for row in rows], [users[row] for row in rows]))
        if alone and isinstance(personal, FittedBank):
            theirs = personal.with_bank(Overlay(personal.model.shapes, {user: row for user, row in own.items() if row}))
            scores = theirs.score([texts[row] for row in alone], [users[row] for row in alone])
            decisions = self.bundle.decide(scores, personal)
            routes, adapters = [self.arms["personal"]] * len(alone), [own[users[row]].digest for row in alone]
            _fill(
                found, alone, UserPredictions(scores, decisions, routes, np.zeros(len(alone), dtype=np.bool_), adapters)
            )
        return found

    def _by_bundle(self, texts: Sequence[str], users: Sequence[str]) -> UserPredictions:
        """As the version has it; by the global model for users whose row cannot be read."""
        try:
            found = self.bundle.predict(texts, users)
        except BeholderError:
            names = list(dict.fromkeys(users))
            if len(names) == 1 and names[0] not in self.bundle.on_personal:
                raise
            if len(names) == 1:
                return replace(self._by_global(texts, users), fallback=np.ones(len(texts), dtype=np.bool_))
            answers = self._blank(len(texts))
            for name in names:
                rows = [row for row, user in enumerate(users) if user == name]
                _fill(answers, rows, self._by_bundle([texts[row] for row in rows], [name] * len(rows)))
            return answers
        fallback, adapters = np.zeros(len(texts), dtype=np.bool_), [self._digest(user) for user in users]
        return UserPredictions(found.scores, found.decisions, found.routes, fallback, adapters)

    def _digest(self, user: str) -> str:
        """Of the adapter that the version has of somebody whom it serves with one."""
        personal = self.bundle.personal
        if user not in self.bundle.on_personal or not isinstance(personal, FittedBank):
            return ""
        row = self._rows.get(user)
        if row is None:
            row = UserTensors(personal.bank.take([user], personal.device))
            self._rows.put(user, row)
        return row.digest

    def _blank(self, rows: int) -> UserPredictions:
        """To be filled."""
        shape, none = (rows, len(self.bundle.task.labels)), np.zeros(rows, np.bool_)
        return UserPredictions(np.zeros(shape, np.float32), np.zeros(shape, np.bool_), [""] * rows, none, [""] * rows)

    def _by_global(self, texts: Sequence[str], users: Sequence[str]) -> UserPredictions:
        """By the global model, whoever asks."""
        scores = self.bundle.shared.score(texts, users)
        decisions, none = self.bundle.decide(scores, self.bundle.shared), np.zeros(len(texts), dtype=np.bool_)
        return UserPredictions(scores, decisions, [self.arms["global"]] * len(texts), none, [""] * len(texts))

    def _mixed(self, bank: FittedPersonal, texts: Sequence[str], users: Sequence[str]) -> UserPredictions:
        names = list(dict.fromkeys(users))
        place = {name: position for position, name in enumerate(names)}
        rows, unread = self._take(bank, names)
        own = np.asarray([row is not None for row in rows])
        user = np.asarray([place[name] for name in users], dtype=np.int64)
        tensors = _stacked(rows, bank)
        scores = bank.say(self._read(bank, texts), tensors, user)
        mine = own[user]
        decisions = np.where(
            mine[:, None],
            self.bundle.decide(scores, bank),
            self.bundle.decide(scores, self.bundle.shared),
        )
        arms, digests = self.arms, [row.digest if row else "" for row in rows]
        routes = [arms["personal"] if each else arms["global"] for each in mine]
        return UserPredictions(scores, decisions, routes, unread[user], [digests[each] for each in user])

    def _read(self, bank: FittedPersonal, texts: Sequence[str]) -> list[Tensor]:
        """What the trunk says of each text; only those it has not read lately are read, each once."""
        found = {text: self._states.get(text) for text in dict.fromkeys(texts)}
        missing = [text for text, state in found.items() if state is None]
        if missing:
            self.trunk_texts += len(missing)
            for text, state in zip(missing, bank.states(missing), strict=True):
                found[text] = state
                self._states.put(text, state)
        return [found[text] for text in texts]  # type: ignore[misc]

    def _take(self, bank: FittedPersonal, names: Sequence[str]) -> tuple[list[UserTensors | None], NDArray[np.bool_]]:
        """Each user's row, None for those whom the global model serves; and whose could not be read."""
        rows: list[UserTensors | None] = [None] * len(names)
        unread = np.zeros(len(names), dtype=np.bool_)
        wanted: list[int] = []
        for position, name in enumerate(names):
            own = self._enrolled_row(name)
            if own is not None:
                rows[position] = own or None
            elif name in self.bundle.on_personal:
                rows[position] = self._rows.get(name)
                if rows[position] is None:
                    wanted.append(position)
        for position, row in zip(wanted, self._rows_of(bank, [names[each] for each in wanted]), strict=True):
            rows[position], unread[position] = row, row is None
            if row is not None:
                self._rows.put(names[position], row)
        return rows, unread

    def _enrolled_row(self, name: str) -> UserTensors | None:
        """See `Enrolled`; what was read lately is not read again."""
        row = self._own.get(name)
        if row is None and (read := self.enrolled(name)) is not None:
            row = UserTensors(read)
            self._own.put(name, row)
        return row

    def _rows_of(self, bank: FittedPersonal, names: Sequence[str]) -> list[UserTensors | None]:
        """Rows of users who have one; None where it cannot be read."""
        try:
            taken = bank.bank.take(names, bank.device)
        except BeholderError:
            if len(names) == 1:
                return [None]
            return [row for name in names for row in self._rows_of(bank, [name])]
        return [
            UserTensors({name: tensor[at : at + 1].clone() for name, tensor in taken.items()})
            for at in range(len(names))
        ]

    def everybody(self, text: str, users: Sequence[str]) -> UserPredictions:
        """What each of these users says of one text. Users must be different ones.

        With the head alone, all heads are one product; recent rows are neither used nor kept, and digests not made.
        """
        bank = self._bank
        if bank is None:
            return self.predict([text] * len(users), users)
        own = {user: row for user in users if (row := self._enrolled_row(user)) is not None}
        plain = [user for user in users if user in self.bundle.on_personal and user not in own]
        alone = [user for user, row in own.items() if row]
        shared = self.predict([text], [""])
        found = UserPredictions(
            np.repeat(shared.scores, len(users), axis=0),
            np.repeat(shared.decisions, len(users), axis=0),
            shared.routes * len(users),
            np.zeros(len(users), dtype=np.bool_),
            [""] * len(users),
        )
        place = {user: position for position, user in enumerate(users)}
        if plain:
            try:
                said = bank.score_all([text], plain)[0]
                routes = [self.arms["personal"]] * len(plain)
                decisions = self.bundle.decide(said, bank)
                read = UserPredictions(said, decisions, routes, np.zeros(len(plain), "?"), [""] * len(plain))
                _fill(found, [place[user] for user in plain], read)
            except BeholderError:  # somebody's shard cannot be read: one by one, each by what can be
                alone += plain
        if alone:
            _fill(found, [place[user] for user in alone], self._mixed(bank, [text] * len(alone), alone))
        return found


def digest_of(tensors: Tensors) -> str:
    """What tells one adapter from others: 64 bits of SHA-256 of its numbers, tensor by tensor in order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _fill(answers: UserPredictions, at: Sequence[int], some: UserPredictions) -> None:
    """Put some rows into the place of others."""
    index = np.asarray(at)
    answers.scores[index], answers.decisions[index], answers.fallback[index] = (
        some.scores,
        some.decisions,
        some.fallback,
    )
    for each, route, adapter in zip(at, some.routes, some.adapters, strict=True):
        answers.routes[each], answers.adapters[each] = route, adapter


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _row_bytes(row: Tensors) -> int:
    return 256 + sum(map(_bytes, row.values()))  # an empty one takes something, too


def _stacked(rows: Sequence[Tensors | None], bank: FittedPersonal) -> Tensors:
    """Rows side by side: name -> [users, ...]; zeros, the global model, for those without."""
    nothing = _nothing(bank)
    return {name: torch.cat([(row or nothing)[name] for row in rows]) for name in nothing}


def _nothing(bank: FittedPersonal) -> Tensors:
    """Tensors of somebody who does not differ from the shared model: name -> [1, ...]."""
    return {name: torch.zeros(1, *shape, device=bank.device) for name, shape in bank.model.shapes.items()}
