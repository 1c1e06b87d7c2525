"""A run whose arms are fitted and evaluated: what a bundle, MLflow and the registry are given."""

from __future__ import annotations

from dataclasses import dataclass

from beholder.evaluation.run_results import RunResults
from beholder.experiment.config import Experiment
from beholder.util.run_folder import RunFolder
from beholder.workflows.choose import Routing
from beholder.workflows.prepare import Prepared


@dataclass(frozen=True)
class FinishedRun:
    """A run that was evaluated.

    Attributes:
        experiment: its settings.
        prepared: its rows and jobs.
        folder: where its files are.
        routing: what is served; None where no arm serves everybody.
        results: what was found.
    """

    experiment: Experiment
    prepared: Prepared
    folder: RunFolder
    routing: Routing | None
    results: RunResults

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.path.name
