"""Fitting one method on annotations, without an experiment file and without a run."""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from beholder.cluster.runtime import apply_settings
from beholder.data.annotations import Annotations
from beholder.execution.arm import to_learn
from beholder.methods import MethodConfig, config_class
from beholder.methods.base import RENAMED
from beholder.models import facts_of
from beholder.models.hosted import Endpoint
from beholder.models.model_ref import ModelRef
from beholder.models.precision import device_for, require_form
from beholder.training.context import Context
from beholder.util.atomic import scratch
from beholder.util.errors import BeholderError, DataError, MethodError
from beholder.util.strict_model import build
from beholder.workflows.model import MethodModel, seen_in_fit
from beholder.workflows.progress import Bars, bars

BASE = "minilm-l6"
"""The base where none is named, as in experiment files."""


def fit(
    method: str,
    train: Annotations,
    valid: Annotations,
    *,
    base: str | Mapping[str, Any] | None = None,
    seed: int = 42,
    device: str | None = None,
    progress: bool = True,
    on: MethodModel | None = None,
    **settings: Any,
) -> MethodModel:
    """Fit a method: learn from `train`, choose settings and thresholds on `valid`.

    The same rows, base, settings and seed give what a run fits. Nothing is written that outlives the model.

    Args:
        method: a name of `beholder.methods()`, such as `cls`, `cls-u` or `user-prior`.
        train, valid: judgements of the same task.
        base: a known base, a local folder, a hub id, or `{"endpoint": URL, "model": NAME}`; by default that of `on`,
            else `minilm-l6`.
        seed: every random draw comes from it.
        device: `cpu`, `cuda` or `cuda:N`; by default a GPU where there is one.
        progress: draw a bar in a terminal or a notebook.
        on: the fitted model that a method such as `cls-u` starts from; where None, the one it needs is fitted first,
            with default settings, and is `start` of what is returned.
        settings: of the method, as in an experiment file: `epochs=3`, `lora={"rank": 4}`.

    Raises:
        MethodError: an unknown method; or it cannot work with this base, these rows or `on`.
        ExperimentError: an unknown or wrong setting.
        BaseModelError: the base is not here.
        DataError: `train` and `valid` are not annotations of one task.
    """
    apply_settings()
    _check_rows(train, valid)
    config = _config(method, on, settings)
    chosen = _base(base, on)
    where = Context(chosen, seed, _device(chosen, device))
    with bars(progress) as shown:
        return _fitted(config, train, valid, where, on, shown)


def _fitted(
    config: MethodConfig,
    train: Annotations,
    valid: Annotations,
    where: Context,
    start: MethodModel | None,
    shown: Bars,
) -> MethodModel:
    """Fit a method, after the one it starts from where that is still to be fitted."""
    method = config.model_dump()["method"]
    _check(config, method, where.base_model, train)
    needed = config.start
    if needed is not None and start is None:
        shown.say(f"{method} starts from a fitted {needed}: fitting one first, with default settings")
        start = _fitted(config_class(needed)(), train, valid, where, None, shown)
    seen = seen_in_fit(config, train, valid, where.seed)
    with contextlib.ExitStack() as files:
        context = replace(
            where,
            progress=shown.of(method),
            say=shown.say,
            run_folder=files.enter_context(scratch()) if config.in_blocks else None,
            start=start.fitted if start else None,
        )
        fitted = config.fit(*to_learn(config, seen), context)
        weakref.finalize(fitted, files.pop_all().close)  # users' adapters are read from there on first use
    shown.step(method, 1, 1, "done")
    return MethodModel(fitted, where.base_model, config, where.seed, start, valid)


def _check_rows(train: Annotations, valid: Annotations) -> None:
    for name, rows in (("train", train), ("valid", valid)):
        if not isinstance(rows, Annotations):
            raise DataError(
                f"{name}: expected Annotations, got {type(rows).__name__}. Make them with load_dataset, or with "
                "Annotations.from_pandas, from_arrow or from_datasets."
            )
        if not len(rows):
            raise DataError(f"{name}: there is no judgement.")
    if train.task != valid.task:
        raise DataError(
            f"train and valid are of two tasks: {', '.join(train.task.labels)} ({train.task.kind}) and "
            f"{', '.join(valid.task.labels)} ({valid.task.kind}). Split one set of annotations."
        )


def _config(method: str, on: MethodModel | None, settings: Mapping[str, Any]) -> MethodConfig:
    """The method's settings; what it starts from is named after what it is given."""
    kind = config_class(method)
    for old, new in RENAMED.items():
        for given in {old, f"{old}_"} & set(settings):
            if new in settings:
                raise MethodError(f"fit: {given} is the old name of {new}. Keep only {new}.")
            warnings.warn(f"fit: {given} is now {new}. The old name works in this release only.", stacklevel=3)
            settings = {new if name == given else name: value for name, value in settings.items()}
    if on is not None:
        if not isinstance(on, MethodModel):
            raise MethodError(f"on: expected a model that fit returned, got {type(on).__name__}.")
        if "init_from" not in kind.model_fields:
            raise MethodError(f"{method} starts from no other method. Leave out on.")
        if "init_from" in settings:
            raise MethodError("init_from: on is what the method starts from. Leave out init_from.")
        settings = {**settings, "init_from": on.name}
    return build(kind, {"method": method, **settings}, f'fit("{method}")')


def _base(base: str | Mapping[str, Any] | None, on: MethodModel | None) -> ModelRef:
    given = build(Endpoint, dict(base), "base") if isinstance(base, Mapping) else base
    if on is None:
        return ModelRef(given or BASE)
    known = on.base.written
    if given is not None and given != known:
        raise MethodError(f"base {given!r} is not the one that on was fitted with ({known!r}). Leave base out.")
    return on.base


def _check(config: MethodConfig, method: str, base: ModelRef, train: Annotations) -> None:
    """Refuse before anything is fitted what would fail in the middle of it."""
    try:
        if config.bases:
            if base.endpoint is None:
                require_form(base.local)
            config.check(base.endpoint or facts_of(base.local), train.task)
        config.check_rows(train)
    except BeholderError as error:
        raise type(error)(f"{method}: {error}") from error


def _device(base: ModelRef, device: str | None) -> str:
    import torch

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return chosen if base.endpoint else device_for(base.local, chosen)
