"""Where the files of a run lie: the one place that spells their names.

```
experiment.json       its settings, and their digest
annotations.parquet   all rows, and what the run does with each (`data.folds.with_uses`)
methods/ARM/          a fitted method, and done.json: its key, what fitting cost
scores/ARM.parquet    predictions of validation and test rows; ARM~newcomers.parquet under a split by people
forgetting/           rows of another source, and what each arm predicts of them
unfinished/           what blocks of users leave until their arm is put together
evaluation.json       which arms are compared, and with what
results.json          everything `beholder run --json` prints
users.parquet         what each method does for each user
figures/  figures-of-users/  report.html  bundle/  tracked.json
```
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from beholder.util.paths import home

ANNOTATIONS = "annotations.parquet"
EVALUATION = "evaluation.json"
EXPERIMENT = "experiment.json"
RESULTS = "results.json"
METHODS = "methods"
SCORES = "scores"
FORGETTING = "forgetting"
UNFINISHED = "unfinished"
BUNDLE = "bundle"
RAY = "ray"
USER_FIGURES = "figures-of-users"


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, here or of a worker. `path`: where it is."""

    path: Path

    @classmethod
    def named(cls, name: str) -> RunFolder:
        """The run of that name in the home folder."""
        return cls(home() / "runs" / name)

    @property
    def annotations(self) -> Path:
        """All rows."""
        return self.path / ANNOTATIONS

    @property
    def experiment(self) -> Path:
        """Settings."""
        return self.path / EXPERIMENT

    @property
    def evaluation(self) -> Path:
        """What is compared."""
        return self.path / EVALUATION

    @property
    def results(self) -> Path:
        """What was found."""
        return self.path / RESULTS

    @property
    def users(self) -> Path:
        """What each method does for each user."""
        return self.path / "users.parquet"

    @property
    def figures(self) -> Path:
        """Of the report, without people."""
        return self.path / "figures"

    @property
    def user_figures(self) -> Path:
        """Of the report, of people."""
        return self.path / USER_FIGURES

    @property
    def bundle(self) -> Path:
        """What is published."""
        return self.path / BUNDLE

    @property
    def tracked(self) -> Path:
        """Which MLflow run records this one."""
        return self.path / "tracked.json"

    @property
    def forgetting(self) -> Path:
        """What is measured of forgetting."""
        return self.path / FORGETTING

    @property
    def unfinished(self) -> Path:
        """Work of arms that are not put together yet."""
        return self.path / UNFINISHED

    @property
    def ray(self) -> Path:
        """Ray's own notes of a job."""
        return self.path / RAY

    @property
    def all_scores(self) -> list[Path]:
        """Files of scores that are whole, in order of name."""
        return sorted((self.path / SCORES).glob("[!.]*.parquet"), key=lambda file: file.stem)

    def scores(self, arm: str) -> Path:
        """Predictions of an arm."""
        return self.path / SCORES / f"{arm}.parquet"

    def newcomers(self, arm: str) -> Path:
        """What an arm predicts of newcomers at every k, under a split by people."""
        return self.path / SCORES / f"{arm}~newcomers.parquet"

    def method(self, arm: str) -> Path:
        """A fitted arm."""
        return self.path / METHODS / arm

    def done(self, arm: str) -> Path:
        """What an arm's fitting cost, and the key of its inputs: written last."""
        return self.method(arm) / "done.json"
