"""What a run leaves for others: a bundle, its record in MLflow, a version in the registry."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beholder import __version__
from beholder.data.annotations import UNIT, Annotations
from beholder.data.folds import part_of_rows
from beholder.evaluation.compare import surely_worse
from beholder.evaluation.intervals import in_words, percent, signed
from beholder.evaluation.results import ROUTED
from beholder.evaluation.run_results import (
    EvaluationResult,
    ForgettingMeasures,
    ForgettingResult,
    IntervalResult,
    MeasureResult,
    MethodResult,
    Number,
    RegisteredResult,
)
from beholder.evaluation.scores_io import read_scores
from beholder.experiment.config import Arm, Experiment
from beholder.models.precision import ROUNDING, split_form
from beholder.prompting.wording import load_wording
from beholder.registry import versions as registry
from beholder.registry.bundle import Bundle, open_bundle, write_bundle
from beholder.registry.memory import TEXTS, texts_table
from beholder.report.page import NAMELESS
from beholder.tracking.client import ChildRun, log_run, register_prompt, tracking_uri
from beholder.util.atomic import digest_of, write_json
from beholder.util.errors import RegistryError, TrackingError
from beholder.util.run_folder import RunFolder
from beholder.workflows.cross_fitting import on_all
from beholder.workflows.finished_run import FinishedRun

EVALUATED = ("macro_f1", "valid_macro_f1", "score", "valid_score", "gain")
"""What a bundle records of its best arm."""


def make_bundle(run: FinishedRun) -> Bundle | None:
    """Write the bundle, load it as a server would, and hold its scores against those that were evaluated.

    The rows are those of which the very models that are served have saved scores: the test rows; with folds, where
    these were scored by other models, the validation rows. None where nothing is served.
    """
    experiment, routing, folder, results = run.experiment, run.routing, run.folder, run.results
    if routing is None:
        return None
    best = results.methods[routing.best].to_json()
    recorded = {
        "experiment": experiment.name,
        "split_hash": results.split.hash,
        "data_fingerprint": results.data.fingerprint,
        "seed": experiment.seed,
        "run": run.name,
        "split": experiment.split.model_dump(mode="json"),
        **({"folds": experiment.evaluate.folds} if experiment.evaluate.folds > 1 else {}),
        "routes": routing.to_json(),
        "thresholds": routing.thresholds,
        "evaluation": {key: best[key] for key in EVALUATED if key in best},
    }
    fitted = {arm.name: folder.method(arm.name) for arm in experiment.arms}
    tables = {}
    everything = run.prepared.marked
    if experiment.split.by != "text" or UNIT in everything.context_columns:  # the hash of a text does not decide
        tables[TEXTS] = texts_table(everything, part_of_rows(everything))
    written = write_bundle(folder.bundle, routing.choice, fitted, experiment.base, recorded, routing.users, tables)
    bundle = open_bundle(written)
    held = run.prepared.part("valid" if run.prepared.folds else "test")
    sample = _sample(experiment, held, 200)
    rows = held.select(sample)
    predicted = bundle.predict(list(rows.texts), list(rows.user_ids))
    saved = {}
    for name in set(predicted.routes):
        scores = on_all(name) if experiment.evaluate.folds > 1 else name
        saved[name] = read_scores(folder.scores(scores)).arm.test_scores
    expected = np.stack([saved[route][row] for route, row in zip(predicted.routes, sample, strict=True)])
    difference = float(np.abs(predicted.scores - expected).max())
    if difference > _tolerance(experiment):
        raise RegistryError(
            f"{folder.bundle}: loaded again, it scores differently by {difference:.2g}. It was not published."
        )
    return bundle


def track(run: FinishedRun, say: Callable[[str], None]) -> str:
    """Log the run once: an unchanged run that is run again keeps its MLflow run."""
    experiment, routing, folder, results = run.experiment, run.routing, run.folder, run.results
    digest = digest_of([results.found, [job.key for job in run.prepared.jobs]])
    note = folder.tracked
    with contextlib.suppress(OSError, ValueError, KeyError):
        tracked = json.loads(note.read_text())
        if tracked["digest"] == digest and tracked["uri"] == tracking_uri():
            return tracked["run_id"]
    shared = {
        "base": experiment.base_model.name,
        "split_hash": results.split.hash,
        "data_fingerprint": results.data.fingerprint,
        "code_version": __version__,
    }
    of_arms = {
        arm.name: (
            {**arm.config.identity, "method": arm.method},
            {"method": arm.method, "control_of": arm.control_of or ""},
        )
        for arm in experiment.arms
    }
    if routing and routing.routed:
        pair = {"method": ROUTED, "global": routing.choice.global_arm, "personal": routing.choice.personal_arm}
        of_arms[ROUTED] = (pair, {"method": ROUTED, "control_of": ""})
    prompts = _prompts(experiment.arms, say)
    forgotten = results.forgetting or ForgettingResult()
    best = max(results.methods.values(), key=lambda method: method.valid_headline or 0.0)
    run_id = log_run(
        experiment.name,
        run.name,
        parameters={
            "source": experiment.source.model_dump(mode="json")["name"],
            "base": experiment.base_model.name,
            "seed": experiment.seed,
            "trainings": experiment.evaluate.seeds,
            "reference": experiment.evaluate.reference,
            "rows": results.data.rows,
            "users": results.data.users,
            "split": experiment.split.by,
        },
        metrics={
            **_headline(best),
            "gain_points": best.gain.points,
            "win_rate": best.win_rate,
            "test_judgements": results.rows,
            "people": results.users,
            "texts": results.texts,
            **_forgetting(forgotten.before),
        },
        tags={**shared, "verdict": results.verdict.answer},
        description=f"{results.verdict.sentence}\n\n{gain_table(results)}\n\nMore, as a page: `report/{NAMELESS}` "
        "among the artifacts.",
        folders={  # nothing that names a user: what MLflow has been given, nobody erases
            "": folder.evaluation,
            "figures": folder.figures,
            "report": folder.path / NAMELESS,
            "experiment": folder.experiment,
        },
        children=[
            ChildRun(
                name,
                of_arms[name][0],
                {**_metrics(method), **_forgetting(forgotten.arms.get(name))},
                {**of_arms[name][1], **prompts.get(name, {})},
            )
            for name, method in results.methods.items()
        ],
    )
    write_json(note, {"digest": digest, "uri": tracking_uri(), "run_id": run_id})
    return run_id


def publish(run: FinishedRun, bundle: Bundle, run_id: str, say: Callable[[str], None]) -> RegisteredResult | None:
    """Publish the bundle once per MLflow run, and promote it unless the champion is better.

    None where the experiment registers nothing.
    """
    experiment, routing, results = run.experiment, run.routing, run.results
    if experiment.register_ is None or routing is None:
        return None
    model = experiment.register_.name
    best = results.methods[routing.best]
    version = None
    if model in registry.models():
        version = next((each for each in registry.versions(model) if each.run_id == run_id), None)
    if version is None:
        valid = run.prepared.part("valid")
        rows = valid.select(_sample(experiment, valid, 20))
        texts, users = list(rows.texts), list(rows.user_ids)
        if experiment.base_model.endpoint is None:  # there it would be another question, and cost
            texts, users = [*texts, texts[0]], [*users, "nobody knows this reader"]
        scores = bundle.predict(texts, users).scores
        version = registry.publish(
            model,
            run.folder.bundle,
            run_id,
            {
                "best": routing.choice.best,
                "base": experiment.base_model.name,
                "users": str(results.data.users),
                "split_hash": results.split.hash,
                "macro_f1": f"{best.headline:.4f}",
                "valid_macro_f1": f"{best.valid_headline:.6f}",
                **({"metric": results.metric} if best.score is not None else {}),
                "gain_points": f"{best.gain.points:.2f}",
                "win_rate": f"{best.win_rate:.3f}",
            },
            version_page(run),
            registry.Proof(texts, users, scores, _tolerance(experiment)),
            run.prepared.annotations.users,
        )
    try:
        version = registry.promote(
            model,
            version.number,
            check=lambda mine, theirs: refuse_surely_worse(mine, theirs, run.folder, routing.best),
        )
    except RegistryError as error:
        say(f"not promoted: {error}")
    served = {"best": routing.choice.best, "global": routing.choice.global_arm, **routing.counts}
    return RegisteredResult.from_json({**version.to_json(), **served})


def refuse_surely_worse(version: registry.Version, champion: registry.Version, folder: RunFolder, best: str) -> None:
    """Validation rows stopped training, chose thresholds, arms and settings: who is best there may be worse elsewhere.

    Args:
        version: to be promoted.
        champion: in whose place.
        folder: of the version's run.
        best: what it serves, as results name it.

    Raises:
        RegistryError: the champion's run is kept here, and on the same test rows the version is surely worse.
    """
    if registry.REFRESHED in champion.tags:  # it was not measured on test
        return
    manifest = registry.store_of(champion).manifest(registry.bundle_of(champion))
    served = ROUTED if "personal" in manifest.arms else manifest.arms["global"]
    theirs = RunFolder.named(manifest.run).scores(served)
    if not theirs.is_file():
        return
    loss = surely_worse(folder.scores(best), theirs)
    if loss is not None:
        raise RegistryError(
            f"{version.model} v{version.number} is surely worse on test than the champion v{champion.number} "
            f"({loss.points:+.1f} points of macro-F1, {in_words(loss.low, loss.high)}). To promote it anyway: beholder "
            f"registry promote {version.model} {version.number} --force"
        )


def version_page(run: FinishedRun) -> str:
    """The page of a version, as Markdown: what it is for, what it serves to whom, how good it was."""
    experiment, routing, results = run.experiment, run.routing, run.results
    assert routing is not None  # there is a version
    best, choice, counts = results.methods[routing.best], routing.choice, routing.counts
    serves = f"Serves **{choice.global_arm}** to everybody"
    if choice.personal_arm is not None:
        some = (
            f"to {counts['on_global']:,} and to everybody it does not know" if counts["on_global"] else "to all others"
        )
        serves = f"Serves **{choice.personal_arm}** to {counts['on_personal']:,} users, **{choice.global_arm}** {some}"
    gain, users = best.gain, best.users
    against = ""
    if routing.best != results.reference:
        against = (
            f", {signed(gain.points)} points over {results.reference} ({in_words(gain.low, gain.high)}); "
            f"better than it for {users.better:,} users, worse for {users.worse:,}, the same for {users.same:,}"
        )
    how = ""
    if experiment.evaluate.folds > 1:
        how = (
            f"fitted on all judgements, with epochs and what it serves to whom chosen in {experiment.evaluate.folds} "
            "folds, which is where it was measured, each judgement by models that had not seen its text: "
        )
    return (
        f"# {experiment.name} on {experiment.base_model.name}\n\n"
        f"Predicts how each reader would judge a text: {', '.join(results.data.labels)}.\n\n"
        f"{serves}: {how}{results.metric} {percent(best.headline)} on test{against}.\n\n"
        f"{results.verdict.sentence}\n\n{gain_table(results)}\n\n"
        f"Trained on judgements of {results.data.users:,} users. Figures and the experiment's settings are "
        f"artifacts of the run this version comes from (`{run.name}`); its methods, to compare side by side, are that "
        "run's children."
    )


def gain_table(found: EvaluationResult) -> str:
    """Methods, headline and gains as a Markdown table."""
    lines = [
        f"| arm | {found.metric} | gain over "
        + found.reference
        + " (points) | people at large, 95 % | these people, 95 % | beyond control, at large |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, method in found.methods.items():
        gain = method.gain
        cells, beyond = ["reference", "", "", ""], method.beyond_control
        if name != found.reference:
            ends = ((gain.low, gain.high), (gain.texts_low, gain.texts_high))
            cells = [
                signed(gain.points),
                *(in_words(*each) for each in ends),
                f"{signed(beyond.points)} ({in_words(beyond.low, beyond.high)})" if beyond else "",
            ]
        lines.append(f"| {name} | {percent(method.headline)} | {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\n{found.rows:,} test rows, {found.users:,} users, {found.texts:,} texts."


def _sample(experiment: Experiment, rows: Annotations, most: int) -> NDArray[np.int64]:
    return np.random.default_rng(experiment.seed).permutation(len(rows))[:most]


def _tolerance(experiment: Experiment) -> float:
    """How far apart two readings of the same bundle may be."""
    base = experiment.base_model
    return ROUNDING["float32" if base.endpoint else split_form(base.local)[1]]


def _metrics(method: MethodResult) -> dict[str, Number]:
    """What MLflow compares of an arm."""
    part = "f1" if method.score is None else "part"
    return {
        **_headline(method),
        "gain_points": method.gain.points,
        **_ends("gain", method.gain),
        **_beyond(method.beyond_control),
        **_measures(method.measures),
        "win_rate": method.win_rate,
        "subset_accuracy": method.subset_accuracy,
        "ece": method.ece,
        "seconds": method.seconds,
        **{f"{part}.{_metric_name(label)}": value for label, value in method.per_label.items()},
        **{f"macro_f1.{task}": value for task, value in (method.per_task or {}).items()},
    }


def _headline(method: MethodResult) -> dict[str, Number]:
    """What arms are compared by, and with scales their own measures."""
    if method.score is None:
        return {"macro_f1": method.macro_f1, "valid_macro_f1": method.valid_macro_f1}
    found = {"score": method.score, "valid_score": method.valid_score}
    for name, scale in (method.scales or {}).items():
        of = _metric_name(name)
        for measure in ("mae", "rmse", "quadratic_kappa", "spearman"):
            each: MeasureResult = getattr(scale, measure)
            found |= {f"{measure}.{of}": each.value, f"{measure}_gain.{of}": each.gain}
            found |= {f"{end}.{of}": value for end, value in _ends(f"{measure}_gain", each).items()}
        found |= {f"coverage.{of}": scale.interval.coverage, f"interval_width.{of}": scale.interval.width}
    return found


def _ends(name: str, interval: IntervalResult | MeasureResult) -> dict[str, Number]:
    """Both intervals of a difference, as metrics."""
    return {
        f"{name}_low": interval.low,
        f"{name}_high": interval.high,
        f"{name}_low_these_people": interval.texts_low,
        f"{name}_high_these_people": interval.texts_high,
    }


def _beyond(gain: IntervalResult | None) -> dict[str, Number]:
    """The personal part of a gain, as metrics; none where there is no control."""
    return {} if gain is None else {"gain_beyond_control": gain.points, **_ends("gain_beyond_control", gain)}


def _measures(measures: Mapping[str, MeasureResult]) -> dict[str, Number]:
    """Measures besides macro-F1, as metrics: each its value, what it is better than the reference's, the intervals."""
    found: dict[str, Number] = {}
    for name, each in measures.items():
        if name != "macro_f1":
            found |= {name: each.value, f"{name}_gain": each.gain, **_ends(f"{name}_gain", each)}
    return found


def _forgetting(measures: ForgettingMeasures | None) -> dict[str, Number]:
    return {f"forgetting.{measure}": value for measure, value in measures.to_json().items()} if measures else {}


def _prompts(arms: list[Arm], say: Callable[[str], None]) -> dict[str, dict[str, str]]:
    """The tags that name the wording of each arm that prompts, put into MLflow's Prompt Registry where there is one."""
    tags: dict[str, dict[str, str]] = {}
    for arm in arms:
        settings = arm.config.prompting
        if settings is None:
            continue
        wording = load_wording(settings.wording)
        name = "wording-" + re.sub(r"[^A-Za-z0-9_.-]", "_", Path(settings.wording).stem)
        try:
            tags[arm.name] = register_prompt(
                name, wording.template, {"wording_version": str(wording.version), "digest": wording.digest}
            )
        except TrackingError as error:
            say(f"note: {error} The run is logged all the same.")
            break
    return tags


def _metric_name(label: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in label)
