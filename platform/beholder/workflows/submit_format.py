"""Predictions for the items of a LeWiDi set, in the files that the task takes.

A line is an item: its id, a tab and a list, in the order of the set's file, without a header. Of the soft track the
list is the predicted distribution over the values of the set's soft labels, the mean over the item's annotators; of
VariErrNLI one such list for each of contradiction, entailment and neutral. Of the perspectivist track it is the
predicted answer of each annotator, in the order of the item; of VariErrNLI a list of 0 and 1 for each label. In 2023
there was no such track, and a line was the likelier label and the two shares, with tabs between
(arXiv 2510.08460, 2304.14803; codabench.org/competitions/7192).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from beholder.datasets.lewidi import Lewidi, bins_of, items_of
from beholder.datasets.lewidi_files import SETS, Item, LewidiSet, Part
from beholder.evaluation.metrics import Floats
from beholder.evaluation.saved_run import read_results
from beholder.evaluation.scores_io import read_scores
from beholder.experiment.config import Experiment, make_experiment
from beholder.experiment.renamed_keys import with_new_keys
from beholder.methods import load_fitted
from beholder.util.atomic import atomic_write
from beholder.util.errors import DataError, unknown
from beholder.util.run_folder import RunFolder
from beholder.workflows.find_runs import find_run

Track = Literal["soft", "perspectivist"]
DECIMALS = 6


@dataclass(frozen=True)
class Submission:
    """What a file holds.

    Attributes:
        lines: one for each item.
        items: the file they are of.
        arm: whose predictions.
        predicted: how many rows were predicted now, and not taken from the scores of a run.
    """

    lines: tuple[str, ...]
    items: Path
    arm: str
    predicted: int

    def write(self, file: Path) -> Path:
        """Write it; the file appears whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in self.lines), encoding="utf-8")
        return file


@dataclass(frozen=True)
class _Rows:
    """Each item with each of its annotators: str [rows], and the rows of each item."""

    text_ids: list[str]
    texts: list[str]
    users: list[str]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, items: Sequence[tuple[str, Item]]) -> _Rows:
        pairs = [(id_, item.text, user) for id_, item in items for user in item.annotators]
        ids, texts, users = (list(each) for each in zip(*pairs, strict=True))
        return cls(ids, texts, users, np.cumsum([len(item.annotators) for _, item in items]))

    def by_item(self, values: Floats) -> list[Floats]:
        """values: [rows, ...]"""
        return np.split(values, self.ends[:-1])


def submission(
    run_or_model: str,
    track: Track,
    *,
    arm: str | None = None,
    part: Part = "test",
    path: Path | None = None,
    data: str | None = None,
) -> Submission:
    """Predict the items of a part, and put them into the form of a track.

    Of a run the saved scores are taken where it scored every row, as they were evaluated; else the fitted arm predicts.

    Args:
        run_or_model: a run by name or folder; or a model as `load_model` takes it: `models:/NAME@champion`, a folder.
        track: `soft` or `perspectivist`.
        arm: of a run; by default the best on validation rows that is no control.
        part: whose items.
        path, data: the folder of the files and the set; by default those of the run's source.

    Raises:
        DataError: the run is not of a LeWiDi set, an arm or file is missing, or the model is of another task.
    """
    if run_or_model.startswith("models:") or _holds_model(Path(run_or_model)):
        return _of_model(run_or_model, track, part, path, data, arm)
    folder = find_run(run_or_model)
    experiment = _experiment_of(folder)
    source = experiment.source
    if not isinstance(source, Lewidi):
        raise DataError(f"{folder.name}: its data are {source.name}, not lewidi. Name a run of a LeWiDi set.")
    of, path = SETS[data or source.data], path or source.path
    if of.task != SETS[source.data].task:
        raise DataError(f"{folder.name}: it learned {source.data}, not {of.name}. Leave out --data.")
    file, items = items_of(path, of.name, part)
    name = arm or _best(folder)
    rows = _Rows.of(items)
    scores = _saved(folder, name, rows, of)
    predicted = 0
    if scores is None:
        scores, predicted = _predicted(folder, name, experiment, rows), len(rows.users)
    return _made(of, track, items, rows, scores, bins_of(path, of.name), file, name, predicted)


def _of_model(name: str, track: Track, part: Part, path: Path | None, data: str | None, arm: str | None) -> Submission:
    from beholder.workflows.python_api import load_model

    if path is None or data is None:
        raise DataError(f"{name}: a model knows no items. Give --path, the folder of the task's files, and --data.")
    if arm is not None:
        raise DataError(f"{name}: a model has no arms. Leave out --arm.")
    if data not in SETS:
        raise DataError(f"--data: {unknown('set', data, SETS)}")
    of = SETS[data]
    model = load_model(name)
    if model.task != of.task:
        raise DataError(f"{name}: predicts {', '.join(model.task.labels)}, which {data} does not ask for.")
    file, items = items_of(path, data, part)
    rows = _Rows.of(items)
    scores = model.score(rows.texts, rows.users)
    return _made(of, track, items, rows, scores, bins_of(path, data), file, model.name, len(rows.users))


def _holds_model(folder: Path) -> bool:
    from beholder.registry.bundle import MANIFEST
    from beholder.workflows.model import SAVED

    return (folder / MANIFEST).is_file() or (folder / SAVED).is_file()


def _experiment_of(run: Path) -> Experiment:
    file = RunFolder(run).experiment
    try:
        written: dict[str, Any] = json.loads(file.read_text())
        del written["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: missing or damaged. Run the experiment again.") from error
    return make_experiment(with_new_keys(written, str(run))[0])


def _best(run: Path) -> str:
    arms = {
        name: each.valid_headline
        for name, each in read_results(run).methods.items()
        if each.control_of is None and each.valid_headline is not None and RunFolder(run).scores(name).is_file()
    }
    if not arms:
        raise DataError(f"{run.name}: no arm has a score on validation rows. Name one with --arm.")
    return max(arms, key=lambda name: arms[name])


def _saved(run: Path, arm: str, rows: _Rows, of: LewidiSet) -> Floats | None:
    """An arm's scores of these rows, the mean over its trainings; None where it did not score all of them."""
    file = RunFolder(run).scores(arm)
    if not file.is_file():
        known = [each.stem for each in RunFolder(run).all_scores]
        raise DataError(f"{run.name}: {unknown('arm', arm, known)}")
    saved = read_scores(file)
    if saved.task != of.task:
        raise DataError(f"{file}: of another task than {of.name}. Name a run of that set.")
    trainings = saved.arm.trainings
    found = {}
    for judged, scores in (
        (saved.valid, np.mean([each.valid_scores for each in trainings], axis=0)),
        (saved.test, np.mean([each.test_scores for each in trainings], axis=0)),
    ):
        found |= dict(zip(zip(judged.text_ids, judged.user_ids, strict=True), scores, strict=True))
    wanted = list(zip(rows.text_ids, rows.users, strict=True))
    return np.stack([found[pair] for pair in wanted]) if all(pair in found for pair in wanted) else None


def _predicted(run: Path, arm: str, experiment: Experiment, rows: _Rows) -> Floats:
    """What the fitted arm predicts of rows that the run did not score."""
    config = {each.name: each for each in experiment.arms}.get(arm)
    if config is None or config.control_of is not None:
        raise DataError(f"{run.name}: {arm} did not score these items, and is a control. Name another arm.")
    folder = RunFolder(run).method(arm)
    if not folder.is_dir():
        raise DataError(f"{folder}: missing, and {arm} did not score these items. Run the experiment again.")
    return load_fitted(folder, experiment.base_model).score(rows.texts, rows.users)


def _made(
    of: LewidiSet,
    track: Track,
    items: Sequence[tuple[str, Item]],
    rows: _Rows,
    scores: Floats,
    bins: tuple[str, ...],
    file: Path,
    arm: str,
    predicted: int,
) -> Submission:
    """Put scores [rows, labels] into the form of a track, and check it."""
    if track == "perspectivist" and of.edition == 2023:
        raise DataError(f"{of.name}: the task of 2023 had no perspectivist track. Use --track soft.")
    if not np.isfinite(scores).all() or scores.min() < 0 or scores.max() > 1:
        raise DataError(f"{arm}: a score is no probability. Fit it again.")
    each = rows.by_item(np.asarray(scores, dtype=np.float64))
    formed = [_soft(of, some, bins) if track == "soft" else _answers(of, some) for some in each]
    if track == "soft" and of.edition == 2023:
        lines = [f"{int(shares[1] >= 0.5)}\t{shares[0]}\t{shares[1]}" for shares in formed]
    else:
        lines = [f"{item.id}\t{json.dumps(values)}" for (_, item), values in zip(items, formed, strict=True)]
    return Submission(tuple(lines), file, arm, predicted)


def _soft(of: LewidiSet, scores: Floats, bins: tuple[str, ...]) -> list[Any]:
    """The distribution of one item. scores: [annotators, labels]"""
    if of.scale is not None:
        points = of.scale.probabilities(of.scale.survival(scores)).mean(axis=0)
        share = {f"{point:g}": float(value) for point, value in zip(of.scale.points, points, strict=True)}
        return _rounded([share.get(value, 0.0) for value in bins])
    mean = scores.mean(axis=0)
    shares = [_rounded([1 - float(each), float(each)]) for each in mean]
    return shares if len(shares) > 1 else shares[0]


def _answers(of: LewidiSet, scores: Floats) -> list[Any]:
    """The answer of each annotator to one item: the median of a scale, the likelier value of a label."""
    if of.scale is not None:
        return of.scale.median(scores).astype(int).tolist()
    given = (scores >= 0.5).astype(int).T.tolist()  # [labels, annotators]
    return given if len(given) > 1 else given[0]


def _rounded(shares: list[float]) -> list[float]:
    """Shares with few decimals which add up to one: the largest has what rounding leaves.

    Raises:
        DataError: they add up to something else.
    """
    if abs(sum(shares) - 1) > 10**-DECIMALS:
        raise DataError(f"the predicted shares of an item add up to {sum(shares):g}, not to one. Fit the arm again.")
    found = [round(each, DECIMALS) for each in shares]
    largest = found.index(max(found))
    found[largest] = round(1 - sum(found[:largest] + found[largest + 1 :]), DECIMALS)
    return found
