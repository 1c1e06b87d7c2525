"""`beholder run`, `validate`, `report` and `demo`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from beholder.cli.console import AsJson, RunReporter, console, print_gains, print_json, print_rows
from beholder.util.errors import ExperimentError

if TYPE_CHECKING:
    from beholder.data.annotations import Annotations
    from beholder.data.scales import Question
    from beholder.evaluation.run_results import RunResults
    from beholder.registry.bundle import Predictions

ExperimentFile = Annotated[Path, typer.Argument(help="An experiment file, as in experiments/convabuse.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a setting: dotted.key=value, e.g. methods.cls.epochs=2.")
]
OnBadRows = Annotated[
    str,
    typer.Option(
        "--on-bad-rows", help="refuse, or skip: write bad rows to a file beside the input and use the others."
    ),
]

DEMO = Path(__file__).with_name("demo")
"""Folder of the demo's experiment files."""


def add_to(app: typer.Typer) -> None:
    """Register this file's commands."""
    app.command("run")(run_command)
    app.command("validate")(validate_command)
    app.command("report")(report_command)
    app.command("demo")(demo_command)


def run_command(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    as_json: AsJson = False,
    on_bad_rows: OnBadRows = "refuse",
    fresh: Annotated[bool, typer.Option("--fresh", help="Fit every method again, also those finished before.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Count the calls to an endpoint that a run would make; call, fit and write nothing."
        ),
    ] = False,
) -> None:
    """Run an experiment: data, split, methods, gains, MLflow, registered model.

    Example: beholder run experiments/convabuse.yaml --set methods.cls.epochs=2
    """
    from beholder.experiment.config import load_experiment
    from beholder.workflows import run as pipeline

    settings = load_experiment(experiment, overrides or ())
    if dry:
        _dry_run(settings, on_bad_rows, as_json)
        return
    with RunReporter(quiet).live() as reporter:
        outcome = pipeline.run(settings, reporter, on_bad_rows=_bad_rows(on_bad_rows), fresh=fresh)
    if as_json:
        print_json(outcome.results.to_json())
        return
    print_gains(outcome.results)
    _say_registered(outcome.results)
    if outcome.results.mlflow.page:
        console.print(f"MLflow: {outcome.results.mlflow.page}", markup=False)
    _say_report(outcome.run_folder)


def _dry_run(settings: Any, on_bad_rows: str, as_json: bool) -> None:
    from beholder.workflows.dry_run import dry_run

    found = dry_run(settings, _bad_rows(on_bad_rows))
    if as_json:
        print_json(found)
        return
    console.print(f"data: {found['origin']}", markup=False)
    if not found["endpoint"]:
        console.print(f"base: {found['base']}, which is local: a run would call no endpoint.", markup=False)
        return
    console.print(f"base: {found['base']}. Nothing was called; a run would make these calls:", markup=False)
    print_rows(
        [
            {
                "arm": name,
                "calls": f"{cost['calls']:,}",
                "kept": f"{cost['cached']:,}",
                "prompt tokens": f"{cost['tokens']:,}",
                "answer tokens": f"{cost['answer_tokens']:,}",
            }
            for name, cost in {**found["methods"], "all": found["total"]}.items()
        ],
        as_json=False,
    )
    console.print(
        "prompt tokens are estimated, answer tokens are the most possible; prompts that methods share count once",
        markup=False,
    )


def validate_command(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    as_json: AsJson = False,
    on_bad_rows: OnBadRows = "refuse",
) -> None:
    """Check an experiment file and its data without running it.

    Example: beholder validate experiments/brighter.yaml
    """
    from beholder.data.splits import held_out_people
    from beholder.experiment.config import load_experiment
    from beholder.workflows import run as pipeline

    settings = load_experiment(experiment, overrides or ())
    prepared = pipeline.prepare(settings, _bad_rows(on_bad_rows))
    people = held_out_people(prepared.annotations, prepared.split) if prepared.split.people else None
    facts = {
        "experiment": settings.name,
        "arms": [job.name for job in prepared.jobs],
        "rows": prepared.facts["rows"],
        **({"folds": prepared.facts["folds"]} if prepared.folds else {}),
        "users": len(prepared.annotations.users),
        "split_hash": prepared.facts["hash"],
        **({"people": asdict(people)} if people else {}),
        "origin": prepared.loaded.origin,
        "left_out": dict(prepared.loaded.left_out),
        "bad_rows": prepared.loaded.refused,
        "notes": list(prepared.loaded.notes),
    }
    if as_json:
        print_json(facts)
        return
    console.print(f"{experiment}: valid. {prepared.loaded.origin}", markup=False)
    for line in prepared.loaded.lines:
        console.print(line, markup=False)
    if prepared.loaded.refused:
        kept = ", ".join(map(str, prepared.loaded.refused_files))
        console.print(f"{prepared.loaded.refused:,} bad rows left out, kept in {kept}", markup=False)
    console.print(f"{facts['users']:,} users; {prepared.line}; methods: {', '.join(facts['arms'])}", markup=False)
    if people:
        console.print(people.line(), markup=False)


def report_command(
    run: Annotated[str, typer.Argument(help="A run's folder, its name, or the beginning of its name.")],
    as_json: AsJson = False,
) -> None:
    """Evaluate a run again from its saved scores, and write its report: one HTML file that needs no network.

    Example: beholder report convabuse
    """
    from beholder.report.page import NAMED, NAMELESS
    from beholder.workflows.find_runs import find_run
    from beholder.workflows.run_report import redraw_report

    folder = find_run(run)
    results = redraw_report(folder)
    if as_json:
        print_json(results.to_json())
        return
    print_gains(results)
    console.print(f"report: {folder / NAMED}   (to pass on, without names and texts: {NAMELESS})", markup=False)


def demo_command(
    folder: Annotated[
        Path | None, typer.Option(help="Folder of the two experiment files, where they are not those that ship.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Does personalisation pay? Run two small experiments and show what comes out.

    One is of eight real people, too few to be sure; the other of simulated readers, of whom the truth is known. Without
    the real data on this machine there is the second alone.
    """
    from beholder.cluster.runtime import on_ray
    from beholder.datasets import DataNotFound
    from beholder.experiment.config import load_experiment
    from beholder.workflows import run as pipeline

    started, ran = time.perf_counter(), list[str]()
    with on_ray():  # once for both
        for name in ("convabuse", "simulated"):
            with RunReporter(quiet=False).live() as reporter:
                try:
                    experiment = load_experiment((folder or DEMO) / f"{name}.yaml", overrides or ())
                    if ran:  # one model, for `beholder serve` to find
                        experiment = experiment.model_copy(update={"register_": None})
                    outcome = pipeline.run(experiment, reporter)
                except DataNotFound as missing:
                    reporter.say(f"{str(missing).split('.')[0]}: there is the simulated population of readers alone.")
                    continue
            results = outcome.results
            ran.append(name)
            console.print()
            console.print(f"data: {results.data.origin}", markup=False)
            console.print(f"base: {results.base}", markup=False)
            print_gains(results)
            _say_registered(results)
            _say_disagreement(outcome)
            _say_report(outcome.run_folder)
    seconds = time.perf_counter() - started
    console.print(f"\nThat took {seconds:.0f} s. Next:", markup=False)
    for command, what in (
        *((f"report {name}", "the run as a page") for name in ran[:1]),
        ("ui", "compare the runs in MLflow"),
        ("serve", "serve the champion over HTTP"),
        ("init YOUR.csv", "your own table"),
    ):
        console.print(f"  .venv/bin/beholder {command:<17} {what}", markup=False)


def _say_report(folder: Path) -> None:
    from beholder.report.page import NAMED

    console.print(f"report: {folder / NAMED}   again: beholder report {folder.name}", markup=False)


def _say_registered(results: RunResults) -> None:
    registered = results.registered
    if registered is None:
        return
    aliases = ", ".join(registered.aliases) or "no alias"
    serves = registered.best
    if registered.global_ != serves:
        serves += f" for {registered.on_personal:,} users, {registered.global_} for everybody else"
    console.print(f"registered: {registered.model} v{registered.version} ({aliases}), serves {serves}", markup=False)


def _say_disagreement(outcome: Any) -> None:
    """One held-out text two users judged differently, and what the bundle predicts for each."""
    if outcome.bundle is None or outcome.results.split.folds:  # then no text was held out
        return
    test = outcome.test
    predicted = outcome.bundle.predict(list(test.texts), list(test.user_ids))
    found = most_telling_pair(test.texts, test.labels, predicted.scores, predicted.decisions)
    if found is None:
        console.print("\nNo two users disagree about a held-out text here.", markup=False)
        return
    first, second, label = found
    asked = next(each for each in test.task.questions if label in each.columns)
    if asked.scale:
        scale, *answers = scale_lines(test, predicted, asked, (first, second))
        console.print(f'\nA held-out text: "{test.texts[first]}"   {scale}', *answers, sep="\n", markup=False)
        return
    console.print(f'\nA held-out text: "{test.texts[first]}"   Label: {test.task.labels[label]}', markup=False)
    for row in (first, second):
        said, says = (
            "yes" if value else "no" for value in (test.labels[row, label] >= 0.5, predicted.decisions[row, label])
        )
        console.print(
            f"  {test.user_ids[row]} answered {said:<4} {predicted.routes[row]} predicts {says:<4} "
            f"(score {predicted.scores[row, label]:.2f})",
            markup=False,
        )


def scale_lines(test: Annotations, found: Predictions, question: Question, rows: Sequence[int]) -> list[str]:
    """What users answered on a scale, and the predicted answers with their intervals: the scale, and each row."""
    scale, columns = question.scale, list(question.columns)
    if scale is None:
        raise ValueError(f"{question.name} is no scale")
    words = [f" {scale.words[place]}" if scale.words else "" for place in (0, -1)]
    lines = [f"Scale: {scale.name}, {scale.points[0]:g}{words[0]} to {scale.points[-1]:g}{words[1]}"]
    for row in rows:
        scores = found.scores[row, columns]
        low, high = scale.interval(scores)
        lines.append(
            f"  {test.user_ids[row]} answered {scale.decode(test.labels[row, columns]):.4g}   {found.routes[row]} "
            f"predicts {scale.mean(scores):.2f} (90 % interval {low:.4g} to {high:.4g})"
        )
    return lines


def most_telling_pair(
    texts: np.ndarray, labels: np.ndarray, scores: np.ndarray, decisions: np.ndarray
) -> tuple[int, int, int] | None:
    """Two rows of one text and a label on which their users disagree, preferably with both predicted rightly.

    Returns (row judged no, row judged yes, label), or None where nobody disagrees.
    """
    rows_of: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        rows_of.setdefault(text, []).append(row)
    best: tuple[float, int, int, int] | None = None
    for rows in rows_of.values():
        for label in range(labels.shape[1]):
            said_no = [row for row in rows if labels[row, label] < 0.5]
            said_yes = [row for row in rows if labels[row, label] >= 0.5]
            for no in said_no:
                for yes in said_yes:
                    right = float(decisions[yes, label]) + float(not decisions[no, label])
                    value = right + float(scores[yes, label] - scores[no, label])
                    if best is None or value > best[0]:
                        best = (value, no, yes, label)
    return best[1:] if best else None


def _bad_rows(value: str) -> Any:
    if value not in ("refuse", "skip"):
        raise ExperimentError(f"--on-bad-rows {value}: expected refuse or skip.")
    return value
