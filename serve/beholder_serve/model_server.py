"""Serves a registered model without Ray: follows its versions and predicts without interruption.

A new version is loaded beside the current one, makes a trial prediction, and then replaces it; a request is answered by
one version from beginning to end. A version that cannot be loaded is refused, and the current one stays.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.data.texts import text_key
from beholder.lifecycle.enroll import tensors_of
from beholder.registry import bundle_store as stored
from beholder.registry import versions as registry
from beholder.registry.feedback import Feedback, when
from beholder.training.user_adam import Tensors
from beholder.util.errors import BeholderError, ServeError
from beholder.util.run_folder import RunFolder
from beholder_serve.active_learning import most_informative, scale_spread, spread
from beholder_serve.scoring import Scorer, ServedPredictions

Item = tuple[str, Sequence[str]]
"""A user and their texts."""
POOL_TEXTS, POOL_USERS, MAX_CHARACTERS = 300, 200, 500
"""Texts for new users are chosen from this many, by the scores of this many users; longer texts are left out."""

RETRY_S = 60.0
"""Seconds after which a version that could not be loaded is tried again."""
RELOAD_S = 60.0
"""Seconds after which enrolments are read again even if the change count is equal: the database may be restored."""

log = logging.getLogger("beholder.serve")


class ServedModel(BaseModel):
    """What to serve. On Ray Serve this is the `user_config` of the engines, which changes without restarting them.

    Args:
        model: a registered model.
        version: a number, or an alias, which is followed.
        poll_s: seconds between checks for another version and for changed enrolments.
        trunk_mb, rows_mb: size of the caches of hidden states and of adapters.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    version: str = registry.CHAMPION
    poll_s: float = Field(default=2.0, gt=0)
    trunk_mb: int = Field(default=64, ge=0)
    rows_mb: int = Field(default=64, ge=0)


class ModelServer:
    """Predicts with the current version of a model. Thread-safe.

    Attributes:
        refused: versions that could not be loaded: key -> reason and time.
    """

    def __init__(self, served: ServedModel, feedback: Feedback | None = None) -> None:
        """Load the version to be served.

        Raises:
            BeholderError: the version is missing or cannot be loaded.
        """
        self.served, self.feedback = served, feedback or Feedback()
        self.refused: dict[tuple[str, ...], tuple[str, float]] = {}
        self._polling = threading.Lock()
        self._enrolled: dict[str, str] = {}
        self._key: tuple[str, ...] = ()
        self._scorer: Scorer
        self._texts: tuple[str, list[str]] | None
        self._switch_to(*self._resolve())

    @property
    def version(self) -> str:
        """The version that is served."""
        return self._scorer.version

    @property
    def trunk_texts(self) -> int:
        """Number of texts the trunk of the current version has encoded."""
        return self._scorer.trunk_texts

    def reconfigure(self, served: ServedModel) -> None:
        """Serve another model or version.

        Raises:
            BeholderError: it cannot be loaded; the current version stays.
        """
        before, self.served = self.served, served
        try:
            with self._polling:
                self._switch_to(*self._resolve())
        except BeholderError:
            self.served = before
            raise

    def poll(self) -> bool:
        """Switch if the alias points to another version or a user was erased; returns whether it switched.

        Changed enrolments are reloaded. A version that cannot be loaded is logged, added to `refused`, and tried again
        after `RETRY_S`.
        """
        with self._polling:
            try:
                key, version = self._resolve()
                if key == self._key or self._recently_refused(key):
                    if self._enrolments_changed():
                        self._load_enrolments(self._scorer)
                    return False
            except Exception as error:  # registry or database unreachable: keep serving
                log.warning("cannot check for another version: %s", _one_line(error))
                return False
            try:
                self._switch_to(key, version)
            except Exception as error:
                reason = _one_line(error)
                self.refused[key] = (reason, time.monotonic())
                log.error(
                    "%s v%d cannot be loaded, %s stays: %s", self.served.model, version.number, self.version, reason
                )
                return False
            return True

    def predict(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """Predictions for each user and their texts: for each item the content of `schemas.PredictResponse`."""
        scorer = self._scorer
        predictions = scorer.predict(
            [text for _, texts in items for text in texts], [user for user, texts in items for _ in texts]
        )
        rows = _as_json(scorer.bundle.task, predictions)
        ends = np.cumsum([len(texts) for _, texts in items])
        return [
            {"version": scorer.version, "predictions": rows[end - len(texts) : end]}
            for end, (_, texts) in zip(ends, items, strict=True)
        ]

    def perspectives(self, text: str, users: Sequence[str] | None, at_most: int) -> dict[str, Any]:
        """Predictions of a text for some users, or all (None): the content of `schemas.PerspectivesResponse`."""
        scorer = self._scorer
        names = list(dict.fromkeys(users if users is not None else [*scorer.bundle.users, *self._enrolled]))
        task = scorer.bundle.task
        labels = list(task.labels)
        shared = scorer.predict([text], [""])
        predictions = scorer.predict_users(text, names) if names else shared
        distance = np.sqrt(((predictions.scores - predictions.scores.mean(axis=0)) ** 2).mean(axis=1))  # [users]
        order = np.argsort(-distance, kind="stable")[: min(at_most, len(names))]
        asked = [(each.scale, list(each.columns)) for each in task.questions if each.scale]
        values = [scale.mean(predictions.scores[:, columns]) for scale, columns in asked]  # of each scale [users]
        return {
            "version": scorer.version,
            "labels": labels,
            "readers_total": len(names),
            "readers": [
                {
                    "user_id": names[each],
                    "route": predictions.routes[each],
                    "scores": predictions.scores[each].tolist(),
                    "decisions": predictions.decisions[each].tolist(),
                    "values": [float(some[each]) for some in values],
                    "distance": float(distance[each]),
                }
                for each in order
            ],
            "spread": spread(labels, predictions.scores, predictions.decisions) if names else [],
            "scales": [scale_spread(scale, each) for (scale, _), each in zip(asked, values, strict=True) if names],
            "everybody": _as_json(task, shared)[0],
        }

    def user(self, user: str) -> dict[str, Any]:
        """State of a user: the content of `schemas.UserResponse` without the number of judgements."""
        scorer = self._scorer
        row: dict[str, Any] = scorer.bundle.user_row(user)
        enrolled = user in self._enrolled
        if enrolled:
            enrolment = self.feedback.enrolment(self.served.model, scorer.bundle.backbone_digest, user)
            row = {"known": True, **(enrolment.facts if enrolment else {})}
        arm = scorer.arms.get("personal" if row.get("route") == "personal" else "global", scorer.arms["global"])
        facts = {name: row.get(name) for name in ("train_rows", "valid_rows", "gain", "expected")}
        return {"user_id": user, "known": bool(row.get("known")), "route": arm, "enrolled": enrolled, **facts}

    def describe(self) -> dict[str, Any]:
        """The version that is served: the content of `schemas.ModelResponse`."""
        scorer = self._scorer
        manifest = scorer.bundle.manifest
        return {
            "version": scorer.version,
            "labels": list(scorer.bundle.task.labels),
            "kind": scorer.bundle.task.kind,
            "scales": [scale.to_json() for scale in scorer.bundle.task.scales],
            "base": manifest["base"]["name"],
            "users": len(scorer.bundle.users),
            "personal_method": scorer.arms.get("personal"),
            "global_method": scorer.arms["global"],
            "routes": {name: value for name, value in manifest["routes"].items() if name != "population"},
            "evaluation": manifest.get("evaluation", {}),
            "split_hash": manifest.get("split_hash", ""),
            "enrolled": len(self._enrolled),
            "looks_every_s": self.served.poll_s,
        }

    def location(self) -> tuple[str, str, str, str]:
        """URI of the store, name of the bundle, its seal, and the digest of the backbone its adapters belong to."""
        return self._key[1], self._key[2], self._key[3], self._scorer.bundle.backbone_digest

    def texts(self, count: int) -> dict[str, Any]:
        """Texts for a new user to judge first: the content of `schemas.TextsResponse`.

        They are training texts of the run that made the version; empty if that run is missing on this machine.
        """
        found = self._texts
        if found is None:
            found = self._texts = _informative_texts(self._scorer)
        return {"source": found[0], "texts": found[1][:count]}

    def _recently_refused(self, key: tuple[str, ...]) -> bool:
        return key in self.refused and time.monotonic() - self.refused[key][1] < RETRY_S

    def _resolve(self) -> tuple[tuple[str, ...], registry.Version]:
        """The version to be served, and a key that changes with the version and with every user erased from it."""
        version = registry.find(self.served.model, self.served.version)
        store, bundle = registry.store_of(version), registry.bundle_of(version)
        return (str(version.number), store.uri, bundle, store.seal(bundle)), version

    def _switch_to(self, key: tuple[str, ...], version: registry.Version) -> None:
        """Load a version, make a trial prediction, and replace the current version, which stays if that fails."""
        current = self._scorer.bundle if self._key else None
        bundle = stored.open_stored(registry.bundle_of(version), registry.store_of(version), like=current)
        digest = bundle.backbone_digest  # a closure over the scorer would be a reference cycle
        scorer = Scorer(
            bundle,
            f"{version.model} v{version.number}",
            enrolled=lambda user: self._enrolment(digest, user),
            trunk_mb=self.served.trunk_mb,
            rows_mb=self.served.rows_mb,
            created=stored.made(registry.bundle_of(version)),
        )
        if "endpoint" not in bundle.manifest["base"]:  # a hosted model charges for predictions
            users = [*bundle.users[:2], ""]
            if not np.isfinite(scorer.bundle.predict(["A text to begin with."] * len(users), users).scores).all():
                raise ServeError(f"{scorer.version}: its scores are not finite.")
        self._load_enrolments(scorer)
        self._key, self._scorer, self._texts = key, scorer, None

    def _load_enrolments(self, scorer: Scorer) -> None:
        """Read which users are enrolled, by any engine, and drop changed enrolments from the scorer's cache.

        An enrolment does not apply if a refresh has trained the version on its judgements.
        """
        count = self._change_count(scorer)  # read first, so that a concurrent change is found by the next poll
        stamps = self.feedback.enrolled(self.served.model, scorer.bundle.backbone_digest)
        now = {user: stamp for user, stamp in stamps.items() if not _is_learned(scorer, user, stamp)}
        for user in {user for user in now.keys() | self._enrolled.keys() if now.get(user) != self._enrolled.get(user)}:
            scorer.reload(user)
        self._enrolled, self._enrolments_at = now, (count, time.monotonic())

    def _change_count(self, scorer: Scorer) -> int:
        return self.feedback.changes(self.served.model, scorer.bundle.backbone_digest)

    def _enrolments_changed(self) -> bool:
        """Whether the database counts changes, or enrolments are older than `RELOAD_S`."""
        count, at = self._enrolments_at
        return time.monotonic() - at > RELOAD_S or self._change_count(self._scorer) != count

    def _enrolment(self, backbone_digest: str, user: str) -> Tensors | None:
        """See `scoring.UserTensors`. While the database is unreachable, the bundle predicts for the user."""
        if user not in self._enrolled:
            return None
        try:
            enrolment = self.feedback.enrolment(self.served.model, backbone_digest, user)
        except BeholderError as error:
            log.warning("an enrolment cannot be read, its user is served without it: %s", error)
            return None
        return None if enrolment is None else tensors_of(enrolment)


def _is_learned(scorer: Scorer, user: str, stamp: str) -> bool:
    """Whether a version was trained on the judgements of an enrolment."""
    taken_in = scorer.bundle.taken_in
    if taken_in is None:  # refreshed before this was recorded: compare times
        return when(stamp) <= scorer.created and bool(scorer.bundle.user_row(user)["known"])
    return taken_in.get(user) == stamp


def _informative_texts(scorer: Scorer) -> tuple[str, list[str]]:
    """Source and texts; empty without the run's annotations or without personal models."""
    manifest = scorer.bundle.manifest
    file = RunFolder.named(str(manifest["run"])).annotations
    users = sorted(scorer.bundle.on_personal)
    if not file.is_file() or not users or scorer.bundle.personal is None:
        return "", []
    rows = Annotations.read_parquet(file)
    part = np.asarray(rows.column("part"), dtype=object)
    random = np.random.default_rng(int(manifest["seed"]))
    distinct = {text_key(text): text for text, name in zip(rows.texts, part, strict=True) if name == "train"}
    short = sorted(text for text in distinct.values() if len(text) < MAX_CHARACTERS)
    pool = [short[each] for each in random.permutation(len(short))[:POOL_TEXTS]]
    sample = [users[each] for each in random.permutation(len(users))[:POOL_USERS]]
    if not pool:
        return "", []
    scores = scorer.bundle.personal.score_all(pool, sample)
    return f"training texts of {manifest['experiment']}", [pool[each] for each in most_informative(scores, 50)]


def _one_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _as_json(task: Task, predictions: ServedPredictions) -> list[dict[str, Any]]:
    """The content of `schemas.Prediction` of each row."""
    scales = _scales_as_json(task, predictions.scores)
    return [
        {
            "scores": dict(zip(task.labels, scores, strict=True)),
            "decisions": dict(zip(task.labels, decisions, strict=True)),
            "scales": answers,
            "route": route,
            "fallback": fallback,
            "adapter": adapter or None,
        }
        for scores, decisions, answers, route, fallback, adapter in zip(
            predictions.scores.tolist(),
            predictions.decisions.tolist(),
            scales,
            predictions.routes,
            predictions.fallback.tolist(),
            predictions.adapters,
            strict=True,
        )
    ]


def _scales_as_json(task: Task, scores: NDArray[np.float32]) -> list[dict[str, Any]]:
    """Scale -> the content of `schemas.ScaleAnswer`, of each row."""
    found: list[dict[str, Any]] = [{} for _ in scores]
    for question in task.questions:
        scale, mine = question.scale, scores[:, list(question.columns)]
        if scale is None:
            continue
        low, high = scale.interval(mine)
        columns = (scale.mean(mine), scale.median(mine), low, high, scale.probabilities(mine))
        for row, (value, median, lowest, highest, shares) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        ):
            found[row][scale.name] = {
                "value": value,
                "median": median,
                "low": lowest,
                "high": highest,
                "probabilities": shares,
            }
    return found
