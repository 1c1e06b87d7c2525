"""Judgements, enrolments and erasures of users. Long work runs in a background process (`background_worker`)."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.lifecycle.erase import erase_everywhere
from beholder.registry.feedback import Enrolment, Feedback
from beholder.util.errors import MethodError, ServeError, unknown
from beholder_serve.concurrency import ConcurrencyLimit

ENROLMENTS, ERASURES = (2, 16), (1, 16)
"""How many run and how many wait. Each finally takes the store's lock; one enrolment can read while another trains."""
REOPEN_S = 5.0
"""A replica that has detected an erasure reopens the bundle within this time."""
_bundle_lock = threading.Lock()
"""One bundle is open for enrolments, and one user at a time is trained on it."""
Judged = tuple[str, Mapping[str, bool], Mapping[str, float]]
"""A text, label -> whether it is given, scale -> the answer."""
RunInBackground = Callable[..., Awaitable[Any]]
"""Calls a function with arguments in the background, and returns its result."""


class Engine(Protocol):
    """The predicting side of a server; see `model_server.ModelServer`. One call is answered by one version."""

    async def predict(self, user: str, texts: Sequence[str]) -> dict[str, Any]: ...

    async def perspectives(self, text: str, users: Sequence[str] | None, at_most: int) -> dict[str, Any]: ...

    async def user(self, user: str) -> dict[str, Any]: ...

    async def describe(self) -> dict[str, Any]: ...

    async def texts(self, count: int) -> dict[str, Any]: ...

    async def location(self) -> tuple[str, str, str, str]: ...

    async def poll(self) -> bool:
        """Load changes; when this returns, all responding replicas have."""
        ...


class UserService:
    """Stores judgements of the users of one registered model, enrols and erases users."""

    def __init__(self, model: str, engine: Engine, feedback: Feedback, run: RunInBackground) -> None:
        self.model, self.feedback, self._engine, self._run = model, feedback, engine, run
        self._enrolments, self._erasures = ConcurrencyLimit(*ENROLMENTS), ConcurrencyLimit(*ERASURES)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def count(self, user: str) -> int:
        """Number of a user's stored judgements."""
        return await asyncio.to_thread(self.feedback.count, self.model, user)

    async def put(self, user: str, judgements: Sequence[Judged]) -> int:
        """Store judgements durably. Returns how many the user has.

        Raises:
            ServeError: a label or scale is unknown, an answer is not on its scale, or a judgement of a multiclass task
                does not have exactly one label.
        """
        task = Task.from_json(await self._engine.describe())
        stored = []
        for number, (text, labels, answers) in enumerate(judgements):
            try:
                stored.append((text, labels_of(task, labels, answers)))
            except ServeError as error:
                raise ServeError(f"judgements[{number}]: {error}") from None
        return await asyncio.to_thread(self.feedback.put, self.model, user, stored)

    async def enrol(self, user: str) -> dict[str, Any]:
        """Train a user's model on their judgements and serve it: the content of `schemas.EnrolResponse`.

        Raises:
            BusyError: this user is being enrolled, or the queue is full.
            ErasedError: the user was erased, possibly during the training.
            BeholderError: there are too few judgements, or the version has no personal method.
        """
        return await self._finish(self._enrol(user))

    async def _enrol(self, user: str) -> dict[str, Any]:
        async with self._enrolments.slot(user, "enrolment"):
            return await self._train_and_store(user)

    async def _train_and_store(self, user: str) -> dict[str, Any]:
        started = time.perf_counter()
        described = await self._engine.describe()
        task = Task.from_json(described)
        rows = await asyncio.to_thread(self.feedback.annotations, self.model, task, user)
        if rows is None:
            raise MethodError("this user has no judgements. Submit some first: PUT /v1/users/{id}/annotations")
        store, bundle, seal, backbone_digest = await self._engine.location()
        enrolment: Enrolment = await self._run(train, store, bundle, seal, rows)
        await asyncio.to_thread(self.feedback.enrol, self.model, backbone_digest, user, enrolment)
        await self._engine.poll()
        facts = enrolment.facts
        helped = facts["route"] == "personal"
        arm = described["personal_method"] if helped else described["global_method"]
        return {
            "version": described["version"],
            "route": arm,
            "helped": helped,
            **{name: facts[name] for name in ("train_rows", "valid_rows", "gain", "expected")},
            "seconds": time.perf_counter() - started,
            "message": _message(facts, helped),
        }

    async def erase(self, user: str) -> dict[str, Any]:
        """Erase a user everywhere: the content of `schemas.ErasedResponse`.

        Raises:
            BusyError: this user is being erased, or the queue is full.
            RegistryError: the erasure may be incomplete; see `lifecycle.erase.erase_everywhere`.
        """
        return await self._finish(self._erase(user))

    async def _erase(self, user: str) -> dict[str, Any]:
        async with self._erasures.slot(user, "erasure"):
            return await self._erase_and_poll(user)

    async def _finish(self, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        """Finish work even if the client disconnects; it holds its slot until then."""
        task = asyncio.create_task(work, context=contextvars.Context())  # Ray Serve cancels by the context of a request
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _erase_and_poll(self, user: str) -> dict[str, Any]:
        try:
            record = await self._run(erase, user)
        finally:  # engines also drop what was erased before a failure
            await self._engine.poll()
        described = await self._engine.describe()
        keys = ("judgements", "bundles", "runs", "record")
        priors = [
            {key: share[key] for key in ("version", "rows", "of_rows", "of_people")}
            for share in record["priors"]
            if share["model"] == self.model
        ]
        within = described["looks_every_s"] + REOPEN_S
        return {"erased": True, **{key: record[key] for key in keys}, "priors": priors, "within_s": within}


def labels_of(task: Task, labels: Mapping[str, bool], answers: Mapping[str, float]) -> dict[str, float]:
    """A judgement as it is kept: label -> 0 or 1, scale -> the answer.

    Args:
        task: of the served model.
        labels: label -> whether it is given.
        answers: scale -> the answer.

    Raises:
        ServeError: see `UserService.put`.
    """
    scales = {scale.name: scale for scale in task.scales}
    known = {question.name for question in task.questions} if task.kind == "multilabel" else set(task.labels)
    found: dict[str, float] = {}
    for label, given in labels.items():
        if label in scales:
            raise ServeError(f"{label!r} is a scale; put the answer under scales.")
        if label not in known:
            raise ServeError(unknown("label", label, known))
        found[label] = given
    for name, answer in answers.items():
        if name not in scales:
            raise ServeError(unknown("scale", name, scales))
        scale = scales[name]
        if not scale.holds(answer):
            low, high = scale.points[0], scale.points[-1]
            raise ServeError(f"{answer:g} is not on the scale {name!r}, {low:g} to {high:g}.")
        found[name] = answer
    if task.kind == "multiclass" and sum(found.values()) != 1:
        raise ServeError("exactly one label must be true.")
    return found


def erase(user: str) -> dict[str, Any]:
    """See `lifecycle.erase.erase_everywhere`. Also closes the bundle open for enrolments, which contains the user."""
    try:
        return erase_everywhere(user)
    finally:
        with _bundle_lock:
            _open_bundle.cache_clear()


def train(store: str, bundle: str, seal: str, rows: Annotations) -> Enrolment:
    """Train one user on a stored bundle, which stays open for the next. See `lifecycle.enroll.train_user`."""
    from beholder.lifecycle.enroll import train_user

    with _bundle_lock:
        return train_user(_open_bundle(store, bundle, seal), rows)


@lru_cache(maxsize=1)
def _open_bundle(store: str, bundle: str, seal: str) -> Any:
    from beholder.registry.blob_store import Store
    from beholder.registry.bundle_store import open_stored

    return open_stored(bundle, Store(store))


def _message(facts: Mapping[str, Any], helped: bool) -> str:
    accuracy = facts["right"]
    measured = (
        f"Cross-validated on your {facts['valid_rows']} judgements, your own model predicts "
        f"{100 * accuracy['personal']:.0f} % of labels correctly, the global model {100 * accuracy['global']:.0f} %."
    )
    if helped:
        return f"From now on your own model predicts for you. {measured}"
    return (
        "The global model still predicts for you: your own model is not expected to be better with the judgements so "
        f"far. {measured} Judge more texts and try again."
    )
