"""Models, or scores made elsewhere, held against each other on test rows they never saw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from beholder.data.annotations import Annotations
from beholder.evaluation.arm_scores import ArmScores, Judgements
from beholder.evaluation.results import evaluate as compare_arms
from beholder.evaluation.summary import Evaluation
from beholder.evaluation.verdict import verdict
from beholder.methods import is_personal
from beholder.util.errors import DataError, unknown
from beholder.workflows.model import BundleModel, MethodModel, Model


def evaluate(
    models: Mapping[str, Model | ArrayLike],
    test: Annotations,
    *,
    reference: str | None = None,
    controls: Mapping[str, str] | None = None,
    level: float = 0.95,
    worthwhile: float = 1.0,
) -> Evaluation:
    """Measure each model and its gain over one of them, with intervals, and judge whether personalisation pays.

    Args:
        models: name -> a model, or scores: float [rows, labels] in 0..1, of which a label counts as predicted from 0.5.
        test: judgements that no model was fitted on.
        reference: the model that gains are over. By default the first that does not look at users; where all do, what
            the first of them started from, which is then evaluated, too.
        controls: name of a control -> the model it is the control of. A name like `cls-u~shuffled-users` is the control
            of `cls-u` without being given. A model fitted with `shuffle_users=True` is scored under permuted users.
        level: of the intervals.
        worthwhile: points of macro-F1 below which a gain is not worth having.

    Of several personal models the verdict is about the one that was best on validation rows; where these are not known
    (of scores, of loaded models, or where models were fitted on different ones), about the first.

    Raises:
        DataError: a model is of another task, scores have another shape or are out of range, or a name is unknown.
    """
    models = dict(models)
    if not models:
        raise DataError("evaluate: give at least one model, as in {'cls': model}.")
    for name, model in models.items():
        if isinstance(model, Model) and model.task != test.task:
            raise DataError(
                f"{name}: predicts {', '.join(model.task.labels)} ({model.task.kind}), and the test rows hold "
                f"{', '.join(test.task.labels)} ({test.task.kind})."
            )
    if reference is None:
        models, reference = _with_reference(models)
    elif reference not in models:
        raise DataError(f"reference: {unknown('model', reference, models)}")
    control_of = _controls(models, controls or {})
    valid = _common_valid(models)
    arms = [_arm(name, model, test, valid, control_of.get(name)) for name, model in models.items()]
    rows = valid if valid is not None else test.select([])
    found = compare_arms(
        arms,
        Judgements.of(rows),
        Judgements.of(test),
        test.task,
        reference,
        level=level,
        worthwhile=worthwhile,
    )
    return Evaluation(found, verdict(found, {name for name, model in models.items() if _is_personal(name, model)}))


def _with_reference(models: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The models and the one that gains are over by default; where all are personal, what the first started from."""
    for name, model in models.items():
        if not _is_personal(name, model):
            return models, name
    name, first = next(iter(models.items()))
    start = first.start if isinstance(first, MethodModel) else None
    if start is None:
        raise DataError(
            f"every model here depends on the user: none is the reference by default. Add one that does not, or "
            f'pass reference="{name}".'
        )
    return {start.name: start, **models}, start.name


def _controls(models: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """Control -> what it is the control of."""
    for pair in given.items():
        for name in pair:
            if name not in models:
                raise DataError(f"controls: {unknown('model', name, models)}")
    by_name = {name: name.partition("~")[0] for name in models if "~" in name}
    return {name: model for name, model in by_name.items() if model in models} | dict(given)


def _common_valid(models: Mapping[str, Any]) -> Annotations | None:
    """The validation rows that all models chose on; None where they differ, or are not known of one."""
    found = [model.valid if isinstance(model, MethodModel) else None for model in models.values()]
    first = found[0]
    if first is None or any(each is None or each.fingerprint != first.fingerprint for each in found):
        return None
    return first


def _arm(name: str, model: Any, test: Annotations, valid: Annotations | None, control_of: str | None) -> ArmScores:
    """A model's scores of the rows."""
    shape = (len(test), len(test.task.labels))
    nothing = np.empty((0, shape[1]), dtype=np.float32)
    if isinstance(model, MethodModel):
        known = model.valid_scores() if valid is not None else None
        return ArmScores(
            name,
            model.name,
            model.thresholds,
            nothing if known is None else known,
            model.scores_of(test),
            model.fitted.training.seconds,
            control_of,
        )
    if isinstance(model, BundleModel):
        return _of_bundle(name, model, test, nothing, control_of)
    scores = _checked(name, model, shape)
    return ArmScores(name, name, np.full(shape[1], 0.5, dtype=np.float32), nothing, scores, 0.0, control_of)


def _of_bundle(
    name: str, model: BundleModel, test: Annotations, nothing: NDArray[np.float32], control_of: str | None
) -> ArmScores:
    """A bundle decides by one set of thresholds; those of earlier versions by one for each of its two methods."""
    bundle = model.bundle
    scores = model.score(list(test.texts), list(test.user_ids))
    common = bundle.manifest.thresholds
    both = [bundle.shared.thresholds, (bundle.personal or bundle.shared).thresholds] if common is None else [common] * 2
    part = np.asarray([user in bundle.on_personal for user in test.user_ids], dtype=np.int64)
    thresholds = np.asarray(both, dtype=np.float32)  # [global or personal, labels]
    empty = np.empty(0, dtype=np.int64)
    return ArmScores(name, name, thresholds, nothing, scores, 0.0, control_of, valid_fold=empty, test_fold=part)


def _checked(name: str, given: Any, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Scores made elsewhere."""
    try:
        scores = np.asarray(given, dtype=np.float32)
    except (TypeError, ValueError):
        raise DataError(f"{name}: expected a model or an array of scores, got {type(given).__name__}.") from None
    if scores.shape != shape:
        raise DataError(f"{name}: scores have shape {scores.shape}, and the test rows ask for {shape} (rows, labels).")
    wrong = ~((scores >= 0) & (scores <= 1))
    if wrong.any():
        row = int(np.flatnonzero(wrong.any(axis=1))[0])
        raise DataError(f"{name}, row {row + 1}: a score is no number from 0 to 1. Give probabilities, or 0 and 1.")
    return scores


def _is_personal(name: str, model: Any) -> bool:
    """Whether it looks at users; of scores made elsewhere by their name, where it is a method's."""
    return model.personal if isinstance(model, Model) else is_personal(name.partition("~")[0])
