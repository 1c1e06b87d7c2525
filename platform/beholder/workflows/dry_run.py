"""The calls to an endpoint that a run would make: counted before anything is sent, or paid for."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Literal

from beholder.data.folds import parts_of
from beholder.execution.arm import as_seen, to_learn
from beholder.experiment.config import Experiment
from beholder.methods.query_hosted import answers_folder
from beholder.models.hosted import CallPlan, Messages, plan
from beholder.training.context import Context
from beholder.workflows.prepare import prepare


def dry_run(experiment: Experiment, on_bad_rows: Literal["refuse", "skip"] = "refuse") -> dict[str, Any]:
    """Calls, kept answers and estimated prompt tokens of every arm, and of all: prompts that arms share count once.

    Nothing is sent, trained or written. `answer_tokens`: at most.

    Raises:
        BeholderError: see `workflows.prepare`.
    """
    prepared = prepare(experiment, on_bad_rows)
    context = Context(experiment.base, experiment.seed)
    asked: dict[str, list[Messages]] = {}
    for job in prepared.measured:
        seed = experiment.seed if job.seed is None else job.seed
        seen = as_seen(job.settings, parts_of(prepared.marked, job.fold), seed)
        train, _ = to_learn(job.settings, seen)
        questions = job.settings.questions({**seen, "train": train}, replace(context, seed=seed))
        asked.setdefault(job.name.partition("@")[0], []).extend(questions)

    def cost(prompts: list[Messages]) -> dict[str, int]:
        endpoint = experiment.base_model.endpoint
        if endpoint is None:
            return {**asdict(CallPlan(0, 0, 0)), "answer_tokens": 0}
        planned = plan(endpoint, prompts, answers_folder(), experiment.seed)
        return {**asdict(planned), "answer_tokens": planned.calls * endpoint.max_tokens}

    return {
        "experiment": experiment.name,
        "origin": prepared.loaded.origin,
        "base": experiment.base_model.name,
        "endpoint": experiment.base_model.endpoint is not None,
        "methods": {name: cost(prompts) for name, prompts in asked.items()},
        "total": cost([prompt for prompts in asked.values() for prompt in prompts]),
    }
