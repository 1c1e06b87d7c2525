"""Predictions of one loaded version for any users on any texts, mixed in one batch.

If the personal method is a bank of adapters on the global model, the trunk runs once per distinct text of a batch, and
its hidden states of recent texts are cached. Users' adapters are read from memory-mapped shards and cached as well. The
global model predicts for a user whose adapter cannot be read.

Any other pair of methods (adapters on another model than the global one, on a user-conditioned one, or on a language
model) is scored by the bundle; enrolled users are scored by the personal method with their own tensors in place of its
bank (`overlay`).
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
from beholder_serve.lru_cache import LRUCache

MEGABYTE = 2**20


@dataclass(frozen=True)
class ServedPredictions(Predictions):
    """Predictions row by row, and the adapters that made them.

    Attributes:
        fallback: bool [rows], whether the user has an adapter that could not be read.
        adapters: the digest (`digest_of`) of the adapter that made each row's prediction; empty if none did.
    """

    fallback: NDArray[np.bool_]
    adapters: list[str]


class UserTensors(dict[str, Tensor]):
    """One user's tensors [1, ...] and the digest of their values."""

    def __init__(self, tensors: Tensors) -> None:
        super().__init__(tensors)
        self.digest = digest_of(self) if self else ""


EnrolledTensors = Callable[[str], "Tensors | None"]
"""User -> the tensors [1, ...] of their enrolment (empty if enrolled to the global model); None if not enrolled."""


def none_enrolled(user: str) -> Tensors | None:
    """No user is enrolled."""
    return None


class Scorer:
    """A bundle with caches of recent texts and users. Thread-safe.

    Attributes:
        trunk_texts: number of texts the trunk has encoded.
        created: when the bundle was created, in seconds since 1970.
    """

    def __init__(
        self,
        bundle: Bundle,
        version: str,
        *,
        enrolled: EnrolledTensors = none_enrolled,
        trunk_mb: int = 64,
        rows_mb: int = 64,
        created: float = 0.0,
    ) -> None:
        self.bundle, self.version, self.enrolled, self.created, self.trunk_texts = bundle, version, enrolled, created, 0
        personal = bundle.personal
        self._bank: FittedPersonal | None = None
        if isinstance(personal, FittedPersonal) and personal.shared is bundle.shared and not personal.shared.users:
            self._bank = personal
        self._states: LRUCache[str, Tensor] = LRUCache(trunk_mb * MEGABYTE, _bytes)
        self._adapters: LRUCache[str, UserTensors] = LRUCache(rows_mb * MEGABYTE, _adapter_bytes)
        self._enrolments: LRUCache[str, UserTensors] = LRUCache(rows_mb * MEGABYTE, _adapter_bytes)

    @property
    def arms(self) -> Mapping[str, str]:
        """`global` and, if the bundle has one, `personal` -> the arm's name."""
        return {part: method["arm"] for part, method in self.bundle.manifest["methods"].items()}

    def reload(self, user: str) -> None:
        """Read a user's enrolment again when it is next needed."""
        self._enrolments.drop(user)

    def predict(self, texts: Sequence[str], users: Sequence[str]) -> ServedPredictions:
        """The prediction of each row's text for its user."""
        if self._bank is None:
            return self._predict_with_overlay(texts, users)
        return self._predict_with_bank(self._bank, texts, users)

    def _predict_with_overlay(self, texts: Sequence[str], users: Sequence[str]) -> ServedPredictions:
        """By the bundle, except for enrolled users, who are scored by their enrolment."""
        found = self._empty(len(texts))
        personal = self.bundle.personal
        enrolled: dict[str, UserTensors] = {}
        if isinstance(personal, FittedBank):
            enrolled = {
                user: tensors for user in dict.fromkeys(users) if (tensors := self._enrolment(user)) is not None
            }
        not_enrolled = [row for row, user in enumerate(users) if user not in enrolled]
        to_global = [row for row, user in enumerate(users) if user in enrolled and not enrolled[user]]
        to_own = [row for row, user in enumerate(users) if enrolled.get(user)]
        for rows, predict in ((not_enrolled, self._predict_by_bundle), (to_global, self._predict_by_global)):
            if rows:
                _fill(found, rows, predict([texts[row] for row in rows], [users[row] for row in rows]))
        if to_own and isinstance(personal, FittedBank):
            overlay = Overlay(personal.model.shapes, {user: tensors for user, tensors in enrolled.items() if tensors})
            scores = personal.with_bank(overlay).score([texts[row] for row in to_own], [users[row] for row in to_own])
            decisions = self.bundle.decide(scores, personal)
            routes, adapters = [self.arms["personal"]] * len(to_own), [enrolled[users[row]].digest for row in to_own]
            no_fallback = np.zeros(len(to_own), dtype=np.bool_)
            _fill(found, to_own, ServedPredictions(scores, decisions, routes, no_fallback, adapters))
        return found

    def _predict_by_bundle(self, texts: Sequence[str], users: Sequence[str]) -> ServedPredictions:
        """By the bundle; by the global model for users whose adapter cannot be read."""
        try:
            found = self.bundle.predict(texts, users)
        except BeholderError:
            names = list(dict.fromkeys(users))
            if len(names) == 1 and names[0] not in self.bundle.on_personal:
                raise
            if len(names) == 1:
                return replace(self._predict_by_global(texts, users), fallback=np.ones(len(texts), dtype=np.bool_))
            predictions = self._empty(len(texts))
            for name in names:
                rows = [row for row, user in enumerate(users) if user == name]
                _fill(predictions, rows, self._predict_by_bundle([texts[row] for row in rows], [name] * len(rows)))
            return predictions
        fallback, adapters = np.zeros(len(texts), dtype=np.bool_), [self._digest(user) for user in users]
        return ServedPredictions(found.scores, found.decisions, found.routes, fallback, adapters)

    def _digest(self, user: str) -> str:
        """The digest of a user's adapter in this version; empty if the global model serves them."""
        personal = self.bundle.personal
        if user not in self.bundle.on_personal or not isinstance(personal, FittedBank):
            return ""
        adapter = self._adapters.get(user)
        if adapter is None:
            adapter = UserTensors(personal.bank.take([user], personal.device))
            self._adapters.put(user, adapter)
        return adapter.digest

    def _empty(self, rows: int) -> ServedPredictions:
        """Predictions to be filled by `_fill`."""
        shape, none = (rows, len(self.bundle.task.labels)), np.zeros(rows, np.bool_)
        return ServedPredictions(np.zeros(shape, np.float32), np.zeros(shape, np.bool_), [""] * rows, none, [""] * rows)

    def _predict_by_global(self, texts: Sequence[str], users: Sequence[str]) -> ServedPredictions:
        """By the global model, for all users."""
        scores = self.bundle.shared.score(texts, users)
        decisions, none = self.bundle.decide(scores, self.bundle.shared), np.zeros(len(texts), dtype=np.bool_)
        return ServedPredictions(scores, decisions, [self.arms["global"]] * len(texts), none, [""] * len(texts))

    def _predict_with_bank(self, bank: FittedPersonal, texts: Sequence[str], users: Sequence[str]) -> ServedPredictions:
        names = list(dict.fromkeys(users))
        position = {name: place for place, name in enumerate(names)}
        adapters, unread = self._adapters_of(bank, names)
        has_own = np.asarray([adapter is not None for adapter in adapters])  # [users]
        user = np.asarray([position[name] for name in users], dtype=np.int64)  # [rows]
        scores = bank.say(self._hidden_states(bank, texts), _stack(adapters, bank), user)  # [rows, labels]
        personal = has_own[user]  # [rows]
        decisions = np.where(
            personal[:, None],
            self.bundle.decide(scores, bank),
            self.bundle.decide(scores, self.bundle.shared),
        )
        arms, digests = self.arms, [adapter.digest if adapter else "" for adapter in adapters]
        routes = [arms["personal"] if each else arms["global"] for each in personal]
        return ServedPredictions(scores, decisions, routes, unread[user], [digests[each] for each in user])

    def _hidden_states(self, bank: FittedPersonal, texts: Sequence[str]) -> list[Tensor]:
        """The trunk's hidden states of each text; the trunk runs once per distinct text that is not cached."""
        found = {text: self._states.get(text) for text in dict.fromkeys(texts)}
        missing = [text for text, state in found.items() if state is None]
        if missing:
            self.trunk_texts += len(missing)
            for text, state in zip(missing, bank.states(missing), strict=True):
                found[text] = state
                self._states.put(text, state)
        return [found[text] for text in texts]  # type: ignore[misc]

    def _adapters_of(
        self, bank: FittedPersonal, names: Sequence[str]
    ) -> tuple[list[UserTensors | None], NDArray[np.bool_]]:
        """Each user's adapter, None if the global model serves them; and whether it could not be read [users]."""
        adapters: list[UserTensors | None] = [None] * len(names)
        unread = np.zeros(len(names), dtype=np.bool_)
        missing: list[int] = []
        for place, name in enumerate(names):
            enrolled = self._enrolment(name)
            if enrolled is not None:
                adapters[place] = enrolled or None
            elif name in self.bundle.on_personal:
                adapters[place] = self._adapters.get(name)
                if adapters[place] is None:
                    missing.append(place)
        for place, adapter in zip(missing, self._load_adapters(bank, [names[each] for each in missing]), strict=True):
            adapters[place], unread[place] = adapter, adapter is None
            if adapter is not None:
                self._adapters.put(names[place], adapter)
        return adapters, unread

    def _enrolment(self, user: str) -> UserTensors | None:
        """See `EnrolledTensors`; cached."""
        tensors = self._enrolments.get(user)
        if tensors is None and (read := self.enrolled(user)) is not None:
            tensors = UserTensors(read)
            self._enrolments.put(user, tensors)
        return tensors

    def _load_adapters(self, bank: FittedPersonal, names: Sequence[str]) -> list[UserTensors | None]:
        """Adapters of users who have one; None for each that cannot be read."""
        try:
            taken = bank.bank.take(names, bank.device)
        except BeholderError:
            if len(names) == 1:
                return [None]
            return [adapter for name in names for adapter in self._load_adapters(bank, [name])]
        return [
            UserTensors({name: tensor[at : at + 1].clone() for name, tensor in taken.items()})
            for at in range(len(names))
        ]

    def predict_users(self, text: str, users: Sequence[str]) -> ServedPredictions:
        """Predictions of one text for distinct users.

        If only heads are personal, all heads are computed as one product, without the cache and without digests.
        """
        bank = self._bank
        if bank is None:
            return self.predict([text] * len(users), users)
        enrolled = {user: tensors for user in users if (tensors := self._enrolment(user)) is not None}
        in_bank = [user for user in users if user in self.bundle.on_personal and user not in enrolled]
        one_by_one = [user for user, tensors in enrolled.items() if tensors]
        shared = self.predict([text], [""])
        found = ServedPredictions(
            np.repeat(shared.scores, len(users), axis=0),
            np.repeat(shared.decisions, len(users), axis=0),
            shared.routes * len(users),
            np.zeros(len(users), dtype=np.bool_),
            [""] * len(users),
        )
        position = {user: place for place, user in enumerate(users)}
        if in_bank:
            try:
                scores = bank.score_all([text], in_bank)[0]  # [users, labels]
                routes = [self.arms["personal"]] * len(in_bank)
                decisions = self.bundle.decide(scores, bank)
                read = ServedPredictions(scores, decisions, routes, np.zeros(len(in_bank), "?"), [""] * len(in_bank))
                _fill(found, [position[user] for user in in_bank], read)
            except BeholderError:  # a shard cannot be read: load users one by one, so that only its users fall back
                one_by_one += in_bank
        if one_by_one:
            rows = [position[user] for user in one_by_one]
            _fill(found, rows, self._predict_with_bank(bank, [text] * len(one_by_one), one_by_one))
        return found


def digest_of(tensors: Tensors) -> str:
    """Identifies an adapter: 64 bits of SHA-256 of its values, tensor by tensor in order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _fill(target: ServedPredictions, rows: Sequence[int], source: ServedPredictions) -> None:
    """Write predictions into rows of others, in place."""
    index = np.asarray(rows)
    target.scores[index], target.decisions[index], target.fallback[index] = (
        source.scores,
        source.decisions,
        source.fallback,
    )
    for row, route, adapter in zip(rows, source.routes, source.adapters, strict=True):
        target.routes[row], target.adapters[row] = route, adapter


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _adapter_bytes(tensors: Tensors) -> int:
    return 256 + sum(map(_bytes, tensors.values()))  # the overhead of an entry, so that empty ones count


def _stack(adapters: Sequence[Tensors | None], bank: FittedPersonal) -> Tensors:
    """Stacked adapters: name -> [users, ...]; zeros, which is the global model, for users without one."""
    zeros = _zero_adapter(bank)
    return {name: torch.cat([(adapter or zeros)[name] for adapter in adapters]) for name in zeros}


def _zero_adapter(bank: FittedPersonal) -> Tensors:
    """The adapter of a user who does not differ from the global model: name -> [1, ...]."""
    return {name: torch.zeros(1, *shape, device=bank.device) for name, shape in bank.model.shapes.items()}
