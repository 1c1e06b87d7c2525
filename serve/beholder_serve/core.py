"""What an engine does, without Ray: follows a registered model, answers, and never stops answering.

A new version is loaded beside the old one, asked once, and only then takes its place: whoever is being answered is
answered by one version to the end. One that cannot be loaded is refused, and the old stays.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from beholder.data.annotations import Annotations
from beholder.data.texts import text_key
from beholder.lifecycle.enroll import tensors_of
from beholder.registry import bundle_store as stored
from beholder.registry import versions as registry
from beholder.registry.feedback import Feedback, when
from beholder.training.user_adam import Tensors
from beholder.util.errors import BeholderError, ServeError
from beholder.util.run_folder import RunFolder
from beholder_serve.scoring import Scorer, UserPredictions
from beholder_serve.texts import most_informative, spread

Item = tuple[str, Sequence[str]]
"""A user and their texts."""
POOL, JUDGES, LONGEST = 300, 200, 500
"""Texts that are looked through for telling ones, readers they are held against, and characters of such a text."""

AGAIN_S = 60.0
"""After so many seconds, a version that could not be loaded is tried again."""
REREAD_S = 60.0
"""Seconds after which all enrolments are read again though the database counts no change: it may be restored."""

log = logging.getLogger("beholder.serve")


class Followed(BaseModel):
    """What an engine serves. Ray Serve hands it over as `user_config`, anew whenever it changes.

    Args:
        model: a registered model.
        version: a number, or an alias that is followed wherever it goes.
        poll_s: how often to look.
        trunk_mb, rows_mb: what is kept of recent texts and users.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    version: str = registry.CHAMPION
    poll_s: float = Field(default=2.0, gt=0)
    trunk_mb: int = Field(default=64, ge=0)
    rows_mb: int = Field(default=64, ge=0)


class Core:
    """Holds what is served now. Several threads may ask it.

    Attributes:
        refused: what could not be loaded, by its key: in words, and when that was.
    """

    def __init__(self, followed: Followed, feedback: Feedback | None = None) -> None:
        """Load what is followed.

        Raises:
            BeholderError: there is nothing to serve.
        """
        self.followed, self.feedback = followed, feedback or Feedback()
        self.refused: dict[tuple[str, ...], tuple[str, float]] = {}
        self._looking = threading.Lock()
        self._enrolled: dict[str, str] = {}
        self._key: tuple[str, ...] = ()
        self._scorer: Scorer
        self._texts: tuple[str, list[str]] | None
        self._switch(self._newest())

    @property
    def version(self) -> str:
        """What is served now."""
        return self._scorer.version

    @property
    def trunk_texts(self) -> int:
        """How many texts the trunk of the present version has read."""
        return self._scorer.trunk_texts

    def follow(self, followed: Followed) -> None:
        """Serve something else from now on.

        Raises:
            BeholderError: it cannot be served; all stays as it is.
        """
        before, self.followed = self.followed, followed
        try:
            with self._looking:
                self._switch(self._newest())
        except BeholderError:
            self.followed = before
            raise

    def look(self) -> bool:
        """See whether another version is to be served, or the same without somebody; returns whether it is now.

        What cannot be loaded is refused, in the log and in `refused`, and tried again in a minute.
        """
        with self._looking:
            try:
                found = self._newest()
                if found[0] == self._key or self._lately_refused(found[0]):
                    if self._enrolments_changed():
                        self._read_enrolled(self._scorer)
                    return False
            except Exception as error:  # registry or database cannot be reached: go on with what there is
                log.warning("cannot see whether there is another version: %s", _one_line(error))
                return False
            try:
                self._switch(found)
            except Exception as error:
                reason = _one_line(error)
                self.refused[found[0]] = (reason, time.monotonic())
                log.error(
                    "%s v%d is not served, %s stays: %s", self.followed.model, found[1].number, self.version, reason
                )
                return False
            return True

    def predict(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """What each user says of their texts: for each item what `schemas.PredictResponse` holds."""
        scorer = self._scorer
        answers = scorer.predict(
            [text for _, texts in items for text in texts], [user for user, texts in items for _ in texts]
        )
        rows = _plain(scorer.bundle.task.labels, answers)
        ends = np.cumsum([len(texts) for _, texts in items])
        return [
            {"version": scorer.version, "predictions": rows[end - len(texts) : end]}
            for end, (_, texts) in zip(ends, items, strict=True)
        ]

    def perspectives(self, text: str, users: Sequence[str] | None, at_most: int) -> dict[str, Any]:
        """How some users, or all (None), would see a text: what `schemas.PerspectivesResponse` holds."""
        scorer = self._scorer
        asked = list(dict.fromkeys(users)) if users is not None else self._readers(scorer)
        labels = list(scorer.bundle.task.labels)
        shared = scorer.predict([text], [""])
        answers = scorer.everybody(text, asked) if asked else shared
        distance = np.sqrt(((answers.scores - answers.scores.mean(axis=0)) ** 2).mean(axis=1))
        order = np.argsort(-distance, kind="stable")[: min(at_most, len(asked))]
        return {
            "version": scorer.version,
            "labels": labels,
            "readers_total": len(asked),
            "readers": [
                {
                    "user_id": asked[each],
                    "route": answers.routes[each],
                    "scores": answers.scores[each].tolist(),
                    "decisions": answers.decisions[each].tolist(),
                    "distance": float(distance[each]),
                }
                for each in order
            ],
            "spread": spread(labels, answers.scores, answers.decisions) if asked else [],
            "everybody": _plain(tuple(labels), shared)[0],
        }

    def user(self, user: str) -> dict[str, Any]:
        """What is known of a user: `schemas.UserResponse` without the judgements."""
        scorer = self._scorer
        row: dict[str, Any] = scorer.bundle.user_row(user)
        enrolled = user in self._enrolled
        if enrolled:
            kept = self.feedback.enrolment(self.followed.model, scorer.bundle.backbone_digest, user)
            row = {"known": True, **(kept.facts if kept else {})}
        arm = scorer.arms.get("personal" if row.get("route") == "personal" else "global", scorer.arms["global"])
        facts = {name: row.get(name) for name in ("train_rows", "valid_rows", "gain", "expected")}
        return {"user_id": user, "known": bool(row.get("known")), "route": arm, "enrolled": enrolled, **facts}

    def describe(self) -> dict[str, Any]:
        """What is served: what `schemas.ModelResponse` holds."""
        scorer = self._scorer
        manifest = scorer.bundle.manifest
        return {
            "version": scorer.version,
            "labels": list(scorer.bundle.task.labels),
            "kind": scorer.bundle.task.kind,
            "base": manifest["base"]["name"],
            "users": len(scorer.bundle.users),
            "personal_method": scorer.arms.get("personal"),
            "global_method": scorer.arms["global"],
            "routes": {name: value for name, value in manifest["routes"].items() if name != "population"},
            "evaluation": manifest.get("evaluation", {}),
            "split_hash": manifest.get("split_hash", ""),
            "enrolled": len(self._enrolled),
            "looks_every_s": self.followed.poll_s,
        }

    def where(self) -> tuple[str, str, str, str]:
        """The store, the bundle in it and its seal, and what its users' adapters stand on."""
        return self._key[1], self._key[2], self._key[3], self._scorer.bundle.backbone_digest

    def texts(self, count: int) -> dict[str, Any]:
        """Texts a newcomer should judge first: what `schemas.TextsResponse` holds.

        They are training texts of the run that made the version; there are none where that run is not kept here.
        """
        kept = self._texts
        if kept is None:
            kept = self._texts = _telling(self._scorer)
        return {"source": kept[0], "texts": kept[1][:count]}

    def _lately_refused(self, key: tuple[str, ...]) -> bool:
        return key in self.refused and time.monotonic() - self.refused[key][1] < AGAIN_S

    def _newest(self) -> tuple[tuple[str, ...], registry.Version]:
        """What is to be served; its key changes with the version, and with whoever is erased from it."""
        version = registry.find(self.followed.model, self.followed.version)
        store, bundle = registry.store_of(version), registry.bundle_of(version)
        return (str(version.number), store.uri, bundle, store.seal(bundle)), version

    def _switch(self, found: tuple[tuple[str, ...], registry.Version]) -> None:
        """Load what was found, ask it once, and put it in the place of what is served; all stays where that fails."""
        key, version = found
        open_now = self._scorer.bundle if self._key else None
        bundle = stored.open_stored(registry.bundle_of(version), registry.store_of(version), like=open_now)
        backbone_digest = (
            bundle.backbone_digest
        )  # and not the scorer, which would hold itself until garbage is collected
        scorer = Scorer(
            bundle,
            f"{version.model} v{version.number}",
            enrolled=lambda user: self._row(backbone_digest, user),
            trunk_mb=self.followed.trunk_mb,
            rows_mb=self.followed.rows_mb,
            made=stored.made(registry.bundle_of(version)),
        )
        if "endpoint" not in bundle.manifest["base"]:  # there it would cost
            some = [*bundle.users[:2], ""]
            if not np.isfinite(scorer.bundle.predict(["A text to begin with."] * len(some), some).scores).all():
                raise ServeError(f"{scorer.version}: its scores are no numbers.")
        self._read_enrolled(scorer)
        self._key, self._scorer, self._texts = key, scorer, None

    def _readers(self, scorer: Scorer) -> list[str]:
        return list(dict.fromkeys([*scorer.bundle.users, *self._enrolled]))

    def _read_enrolled(self, scorer: Scorer) -> None:
        """Who was enrolled, or erased, since the last look, by whichever engine.

        A version has taken in what somebody said where a refresh learned from the judgements of this very enrolment.
        """
        count = self._changes_of(scorer)  # before what it counts: a change meanwhile is seen at the next look
        told = self.feedback.enrolled(self.followed.model, scorer.bundle.backbone_digest)
        now = {user: stamp for user, stamp in told.items() if not _took_in(scorer, user, stamp)}
        for user in {user for user in now.keys() | self._enrolled.keys() if now.get(user) != self._enrolled.get(user)}:
            scorer.forget(user)
        self._enrolled, self._enrolments_at = now, (count, time.monotonic())

    def _changes_of(self, scorer: Scorer) -> int:
        return self.feedback.changes(self.followed.model, scorer.bundle.backbone_digest)

    def _enrolments_changed(self) -> bool:
        """Whether the database counts another change, or was not read for a minute: it may have been restored."""
        count, at = self._enrolments_at
        return time.monotonic() - at > REREAD_S or self._changes_of(self._scorer) != count

    def _row(self, backbone_digest: str, user: str) -> Tensors | None:
        """See `scoring.Enrolled`. Where the database is away, users have what the version has of them."""
        if user not in self._enrolled:
            return None
        try:
            kept = self.feedback.enrolment(self.followed.model, backbone_digest, user)
        except BeholderError as error:
            log.warning("an enrolled user is served as before: %s", error)
            return None
        return None if kept is None else tensors_of(kept)


def _took_in(scorer: Scorer, user: str, stamp: str) -> bool:
    """Whether a version has learned from the judgements of an enrolment."""
    taken_in = scorer.bundle.taken_in
    if taken_in is None:  # refreshed before this was recorded: by age
        return when(stamp) <= scorer.made and bool(scorer.bundle.user_row(user)["known"])
    return taken_in.get(user) == stamp


def _telling(scorer: Scorer) -> tuple[str, list[str]]:
    manifest = scorer.bundle.manifest
    file = RunFolder.named(str(manifest["run"])).annotations
    readers = sorted(scorer.bundle.on_personal)
    if not file.is_file() or not readers or scorer.bundle.personal is None:
        return "", []
    rows = Annotations.read_parquet(file)
    part = np.asarray(rows.column("part"), dtype=object)
    random = np.random.default_rng(int(manifest["seed"]))
    pool = {text_key(text): text for text, where in zip(rows.texts, part, strict=True) if where == "train"}
    short = sorted(text for text in pool.values() if len(text) < LONGEST)
    some = [short[each] for each in random.permutation(len(short))[:POOL]]
    judges = [readers[each] for each in random.permutation(len(readers))[:JUDGES]]
    if not some:
        return "", []
    scores = scorer.bundle.personal.score_all(some, judges)
    return f"training texts of {manifest['experiment']}", [some[each] for each in most_informative(scores, 50)]


def _one_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _plain(labels: Sequence[str], answers: UserPredictions) -> list[dict[str, Any]]:
    """Predictions as JSON has them."""
    return [
        {
            "scores": dict(zip(labels, scores, strict=True)),
            "decisions": dict(zip(labels, decisions, strict=True)),
            "route": route,
            "fallback": fallback,
            "adapter": adapter or None,
        }
        for scores, decisions, route, fallback, adapter in zip(
            answers.scores.tolist(),
            answers.decisions.tolist(),
            answers.routes,
            answers.fallback.tolist(),
            answers.adapters,
            strict=True,
        )
    ]
