"""What writes: judgements, enrolments, erasures. Long work goes elsewhere (see `clerk`) and is waited for."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

from beholder.data.annotations import Annotations, Task
from beholder.lifecycle.erase import erase_everywhere
from beholder.registry.feedback import Enrolment, Feedback
from beholder.util.errors import MethodError, ServeError, unknown
from beholder_serve.gate import Gate

ENROLMENTS, ERASURES = (2, 16), (1, 16)
"""At once, and waiting: each takes the store's lock in the end. Of two enrolments, one reads while the other trains."""
OPENING_S = 5.0
"""Within this time a replica that has detected an erasure has reopened the others' adapters."""
_training = threading.Lock()
"""One bundle is open for enrolments, and one user at a time is trained on it."""
Run = Callable[..., Awaitable[Any]]
"""Calls a function with arguments, somewhere, and waits for what it returns."""


class Engine(Protocol):
    """What answers. One call is answered by one version."""

    async def predict(self, user: str, texts: Sequence[str]) -> dict[str, Any]: ...

    async def perspectives(self, text: str, users: Sequence[str] | None, at_most: int) -> dict[str, Any]: ...

    async def user(self, user: str) -> dict[str, Any]: ...

    async def describe(self) -> dict[str, Any]: ...

    async def texts(self, count: int) -> dict[str, Any]: ...

    async def where(self) -> tuple[str, str, str, str]: ...

    async def look(self) -> bool:
        """See what is new; all replicas that answer have when this returns."""
        ...


class Desk:
    """Takes judgements, enrols and erases users of one registered model."""

    def __init__(self, model: str, engine: Engine, feedback: Feedback, run: Run) -> None:
        self.model, self.feedback, self._engine, self._run = model, feedback, engine, run
        self._enrolments, self._erasures = Gate(*ENROLMENTS), Gate(*ERASURES)
        self._begun: set[asyncio.Task[Any]] = set()

    async def count(self, user: str) -> int:
        """How many judgements are kept of a user."""
        return await asyncio.to_thread(self.feedback.count, self.model, user)

    async def put(self, user: str, judgements: Sequence[tuple[str, Mapping[str, bool]]]) -> int:
        """Keep judgements; they are on disk when this returns. Returns how many the user has.

        Raises:
            ServeError: a label nobody knows, or of a multiclass task not exactly one that is given.
        """
        described = await self._engine.describe()
        known = set(described["labels"])
        for number, (_, labels) in enumerate(judgements):
            for label in labels:
                if label not in known:
                    raise ServeError(f"judgements[{number}]: {unknown('label', label, known)}")
            if described["kind"] == "multiclass" and sum(labels.values()) != 1:
                raise ServeError(f"judgements[{number}]: exactly one label has to be given. Set one to true.")
        return await asyncio.to_thread(self.feedback.put, self.model, user, judgements)

    async def enrol(self, user: str) -> dict[str, Any]:
        """Train a user on their judgements and serve what comes out: what `schemas.EnrolResponse` holds.

        Raises:
            BusyError: this user is being enrolled, or too many others wait for it.
            ErasedError: the user was erased, perhaps meanwhile.
            BeholderError: there are too few judgements, or the version gives nobody a model of their own.
        """
        return await self._to_its_end(self._enrol(user))

    async def _enrol(self, user: str) -> dict[str, Any]:
        async with self._enrolments.passed(user, "enrolment"):
            return await self._enrolled(user)

    async def _enrolled(self, user: str) -> dict[str, Any]:
        started = time.perf_counter()
        described = await self._engine.describe()
        task = Task(tuple(described["labels"]), described["kind"])
        rows = await asyncio.to_thread(self.feedback.annotations, self.model, task, user)
        if rows is None:
            raise MethodError("there are no judgements of this user. Give some first: PUT /v1/users/{id}/annotations")
        store, bundle, seal, backbone_digest = await self._engine.where()
        enrolment: Enrolment = await self._run(train, store, bundle, seal, rows)
        await asyncio.to_thread(self.feedback.enrol, self.model, backbone_digest, user, enrolment)
        await self._engine.look()
        facts = enrolment.facts
        helped = facts["route"] == "personal"
        arm = described["personal_method"] if helped else described["global_method"]
        return {
            "version": described["version"],
            "route": arm,
            "helped": helped,
            **{name: facts[name] for name in ("train_rows", "valid_rows", "gain", "expected")},
            "seconds": time.perf_counter() - started,
            "message": _in_words(facts, helped),
        }

    async def erase(self, user: str) -> dict[str, Any]:
        """Take a user away, everywhere: what `schemas.ErasedResponse` holds.

        Raises:
            BusyError: this user is being erased, or too many others wait for it.
            RegistryError: something of theirs may be left; see `erasure.erase_everywhere`.
        """
        return await self._to_its_end(self._erase(user))

    async def _erase(self, user: str) -> dict[str, Any]:
        async with self._erasures.passed(user, "erasure"):
            return await self._erased(user)

    async def _to_its_end(self, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        """Finish work even if the client disconnects; it keeps its place at the gate meanwhile."""
        task = asyncio.create_task(work, context=contextvars.Context())  # Ray Serve cancels by the context of a request
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)
        return await asyncio.shield(task)

    async def _erased(self, user: str) -> dict[str, Any]:
        try:
            record = await self._run(erase, user)
        finally:  # what was erased before it failed is not served any more either
            await self._engine.look()
        described = await self._engine.describe()
        keys = ("judgements", "bundles", "runs", "record")
        priors = [
            {key: share[key] for key in ("version", "rows", "of_rows", "of_people")}
            for share in record["priors"]
            if share["model"] == self.model
        ]
        within = described["looks_every_s"] + OPENING_S
        return {"erased": True, **{key: record[key] for key in keys}, "priors": priors, "within_s": within}


def erase(user: str) -> dict[str, Any]:
    """See `erasure.erase_everywhere`. The bundle that is open for enrolments has the person in it, and is closed."""
    try:
        return erase_everywhere(user)
    finally:
        with _training:
            _opened.cache_clear()


def train(store: str, bundle: str, seal: str, rows: Annotations) -> Enrolment:
    """Train one user on a stored bundle, which is kept open for the next. See `enrolment.train_user`."""
    from beholder.lifecycle.enroll import train_user

    with _training:
        return train_user(_opened(store, bundle, seal), rows)


@lru_cache(maxsize=1)
def _opened(store: str, bundle: str, seal: str) -> Any:
    from beholder.registry.blob_store import Store
    from beholder.registry.bundle_store import open_stored

    return open_stored(bundle, Store(store))


def _in_words(facts: Mapping[str, Any], helped: bool) -> str:
    right = facts["right"]
    told = (
        f"Each of your {facts['valid_rows']} judgements was held against a model learned from your others: it is right "
        f"about {100 * right['personal']:.0f} % of labels, the model for everybody about {100 * right['global']:.0f} %."
    )
    if helped:
        return f"A model of your own serves you from now on. {told}"
    return (
        "You keep the model for everybody: one of your own is not expected to do better with what you told so far. "
        f"{told} Judge more texts and try again."
    )
