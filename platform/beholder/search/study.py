"""What a search has tried: an Optuna study on disk, and a record of each trial that was measured.

A worker writes the record when it has measured; the driver then reports to Optuna. One that died in between reports
when it resumes: a trial that has a record is never lost, and Optuna refuses to take one twice.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from beholder.search.space import Choices, Objective, Space, TrialSettings
from beholder.util.atomic import atomic_write
from beholder.util.errors import ClusterError, first_line

if TYPE_CHECKING:
    import optuna

METRICS: dict[Objective, tuple[str, str]] = {
    "macro_f1": ("valid_macro_f1", "max"),
    "seconds": ("seconds", "min"),
    "parameters": ("parameters", "min"),
}
"""Objective -> (the field of a trial, which way is better)."""


@dataclass(frozen=True)
class Trial:
    """A setting that was tried.

    Attributes:
        number: Optuna's, from 0.
        state: `finished`; `stopped` early, because others were better after as many epochs; `failed`.
        settings: dotted, those that matter.
        valid_macro_f1: of a stopped trial, the best until then; None of one that failed.
        seconds, parameters: see `execution.trial.TrialResult`; of finished trials.
        error: why it failed.
    """

    number: int
    state: Literal["finished", "stopped", "failed"]
    settings: TrialSettings
    valid_macro_f1: float | None = None
    seconds: float | None = None
    parameters: int | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As a plain object."""
        return asdict(self)


class Study:
    """The trials of one search, in one folder."""

    def __init__(self, folder: Path, space: Space, objective: tuple[Objective, ...], seed: int) -> None:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError

        self._quiet()
        self.folder, self.space, self.objective = folder, space, objective
        file = folder / "optuna.db"
        try:
            self.storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
            self._study = optuna.create_study(
                study_name=folder.name,
                storage=self.storage,
                directions=["maximize" if METRICS[each][1] == "max" else "minimize" for each in objective],
                load_if_exists=True,
            )
        except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
            reason = first_line(error)
            raise ClusterError(
                f"{file}: cannot be read ({reason}). Remove {folder} to start this search again."
            ) from error
        # One that resumes draws from another seed than from the start, or it would draw the same again.
        self.sampler = optuna.samplers.TPESampler(
            seed=seed + len(self._study.trials), multivariate=True, group=True, n_startup_trials=8
        )
        (folder / "trials").mkdir(exist_ok=True)

    def go_on(self) -> int:
        """Put in order what a search that died left behind, and queue the first points; returns how many trials count.

        A trial with a record is reported to Optuna. One without is queued again under another number.
        """
        from optuna.trial import TrialState

        for point in self.space.points:
            named = self._named(point)
            self._study.enqueue_trial(named, user_attrs={"point": named}, skip_if_exists=True)
        for trial in self._study.get_trials(states=(TrialState.RUNNING,)):
            record = read_record(self.folder, trial.number)
            if record.get("error"):
                self._study.tell(trial.number, state=TrialState.FAIL)
            elif record:
                self._study.tell(trial.number, [record[METRICS[each][0]] for each in self.objective])
            else:
                point = {**trial.user_attrs.get("point", {}), **trial.params}
                waiting = self._study.get_trials(states=(TrialState.WAITING,))
                if point and point not in [each.user_attrs.get("point") for each in waiting]:
                    self._study.enqueue_trial(point, user_attrs={"point": point})
                write_record(self.folder, trial.number, {"interrupted": True})
                self._study.tell(trial.number, state=TrialState.FAIL)
        return len(self.trials())

    def trials(self) -> list[Trial]:
        """All trials that came to an end, without those that were interrupted."""
        from optuna.trial import TrialState

        found: list[Trial] = []
        for trial in self._study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)):
            record = read_record(self.folder, trial.number)
            if record.get("interrupted"):
                continue
            values = {name: self._value(name, value) for name, value in trial.params.items()}
            settings = {name: values[name] for name in self.space.dimensions if name in values}
            if trial.state == TrialState.COMPLETE:
                costs = {name: record.get(name) for name in ("seconds", "parameters")}
                found.append(Trial(trial.number, "finished", settings, trial.values[0], **costs))
            elif trial.state == TrialState.PRUNED:
                best = max(trial.intermediate_values.values(), default=None)
                found.append(Trial(trial.number, "stopped", settings, best))
            else:
                error = record.get("error", "its process died: see memory and disk with beholder doctor")
                found.append(Trial(trial.number, "failed", settings, error=error))
        return found

    def draw(self, trial: optuna.Trial) -> dict[str, Any]:
        """Optuna's choice for every setting that matters; what this returns goes to the worker besides."""
        drawn: TrialSettings = {}
        for name, dimension in self.space.dimensions.items():
            if not self.space.used(name, drawn):
                continue
            if isinstance(dimension, Choices):
                drawn[name] = self._value(name, trial.suggest_categorical(name, list(dimension.names)))
            elif dimension.whole:
                step = int(dimension.step or 1)
                low, high = int(dimension.low), int(dimension.high)
                drawn[name] = trial.suggest_int(name, low, high, step=step, log=dimension.log)
            else:
                drawn[name] = trial.suggest_float(
                    name, dimension.low, dimension.high, step=dimension.step, log=dimension.log
                )
        return {"number": trial.number, "settings": json.dumps(drawn)}

    def _named(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """A point as Optuna's store holds it."""
        return {name: self._name(name, value) for name, value in point.items()}

    def _name(self, setting: str, value: Any) -> Any:
        dimension = self.space.dimensions[setting]
        if isinstance(dimension, Choices):
            return next(name for name, each in dimension.names.items() if each == value)
        return int(value) if dimension.whole else float(value)

    def _value(self, setting: str, name: Any) -> Any:
        dimension = self.space.dimensions[setting]
        return dimension.names[name] if isinstance(dimension, Choices) else name

    @staticmethod
    def _quiet() -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        logging.getLogger("alembic").setLevel(logging.ERROR)


def record_file(folder: Path, number: int) -> Path:
    """Where a trial's record is."""
    return folder / "trials" / f"{number:05d}.json"


def read_record(folder: Path, number: int) -> dict[str, Any]:
    """What was noted of a trial; empty where nothing was."""
    try:
        return json.loads(record_file(folder, number).read_text())
    except (OSError, ValueError):
        return {}


def write_record(folder: Path, number: int, record: Mapping[str, Any]) -> None:
    """Note how a trial ended; the file appears whole or not at all."""
    with atomic_write(record_file(folder, number)) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")


def measured_before(folder: Path, settings: TrialSettings) -> dict[str, Any]:
    """The record of a trial with the same settings, which would measure the same; empty where there is none."""
    for file in sorted((folder / "trials").glob("*.json")):
        record = read_record(folder, int(file.stem))
        if record.get("settings") == settings and "valid_macro_f1" in record:
            return record
    return {}
