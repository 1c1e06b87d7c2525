"""What a run leaves for others: a bundle, its record in MLflow, a version in the registry."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beholder import __version__
from beholder.data.annotations import Annotations
from beholder.evaluation.compare import surely_worse
from beholder.evaluation.intervals import in_words, percent, signed
from beholder.evaluation.results import ROUTED
from beholder.evaluation.scores_io import read_scores
from beholder.execution.arm import ArmJob
from beholder.experiment.config import Arm, Experiment
from beholder.models.hosted import Endpoint, base_name
from beholder.models.precision import ROUNDING, split_form
from beholder.prompting.config import PromptSettings
from beholder.prompting.wording import load_wording
from beholder.registry import versions as registry
from beholder.registry.bundle import Bundle, open_bundle, write_bundle
from beholder.registry.memory import TEXTS, texts_table
from beholder.report.page import NAMELESS
from beholder.tracking.client import ChildRun, log_run, register_prompt, tracking_uri
from beholder.util.atomic import atomic_write
from beholder.util.errors import RegistryError, TrackingError
from beholder.util.run_folder import RunFolder
from beholder.workflows.choose import Routing
from beholder.workflows.cross_fitting import on_all


def make_bundle(
    experiment: Experiment,
    facts: dict[str, Any],
    test: Annotations,
    folder: Path,
    routing: Routing,
    found: dict[str, Any],
) -> Bundle:
    """Write the bundle, load it as a server would, and hold its scores against those that were evaluated.

    Args:
        experiment: of the run.
        facts: see `report.page.write_reports`.
        test: rows of which the very models that are served have saved scores: the test rows; with folds, where these
            were scored by other models, the validation rows.
        folder: of the run.
        routing: what is served.
        found: its results.
    """
    best = found["methods"][routing.best]
    recorded = {
        "experiment": experiment.name,
        "split_hash": facts["split"]["hash"],
        "data_fingerprint": facts["data"]["fingerprint"],
        "seed": experiment.seed,
        "run": folder.name,
        "split": experiment.split.model_dump(mode="json"),
        **({"folds": experiment.evaluate.folds} if experiment.evaluate.folds > 1 else {}),
        "routes": routing.to_json(),
        "thresholds": routing.thresholds,
        "evaluation": {key: best[key] for key in ("macro_f1", "valid_macro_f1", "gain")},
    }
    fitted = {arm.name: RunFolder(folder).method(arm.name) for arm in experiment.arms}
    tables = {}
    if experiment.split.by != "text":  # the hash of a text does not decide whether it is kept for testing
        everything = Annotations.read_parquet(RunFolder(folder).annotations)
        tables[TEXTS] = texts_table(everything, np.asarray(everything.column("part"), dtype=object))
    written = write_bundle(
        RunFolder(folder).bundle, routing.choice, fitted, experiment.base, recorded, routing.users, tables
    )
    bundle = open_bundle(written)
    sample = _sample(experiment, test, 200)
    rows = test.select(sample)
    predicted = bundle.predict(list(rows.texts), list(rows.user_ids))
    saved = {}
    for name in set(predicted.routes):
        scores = on_all(name) if experiment.evaluate.folds > 1 else name
        saved[name] = read_scores(RunFolder(folder).scores(scores)).arm.test_scores
    expected = np.stack([saved[route][row] for route, row in zip(predicted.routes, sample, strict=True)])
    difference = float(np.abs(predicted.scores - expected).max())
    if difference > _tolerance(experiment):
        raise RegistryError(
            f"{folder / 'bundle'}: loaded again, it scores differently by {difference:.2g}. It was not published."
        )
    return bundle


def track(
    experiment: Experiment,
    facts: dict[str, Any],
    jobs: list[ArmJob],
    folder: Path,
    routing: Routing | None,
    found: dict[str, Any],
    say: Callable[[str], None],
) -> str:
    """Log the run once: an unchanged run that is run again keeps its MLflow run."""
    digest = hashlib.sha256(json.dumps([found, [job.key for job in jobs]], sort_keys=True).encode()).hexdigest()
    note = RunFolder(folder).tracked
    with contextlib.suppress(OSError, ValueError, KeyError):
        tracked = json.loads(note.read_text())
        if tracked["digest"] == digest and tracked["uri"] == tracking_uri():
            return tracked["run_id"]
    shared = {
        "base": base_name(experiment.base),
        "split_hash": facts["split"]["hash"],
        "data_fingerprint": facts["data"]["fingerprint"],
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
    forgotten = found.get("forgetting", {"before": {}, "arms": {}})
    best = max(found["methods"].values(), key=lambda method: method["valid_macro_f1"] or 0.0)
    run_id = log_run(
        experiment.name,
        folder.name,
        parameters={
            "source": experiment.source.model_dump(mode="json")["name"],
            "base": base_name(experiment.base),
            "seed": experiment.seed,
            "trainings": experiment.evaluate.seeds,
            "reference": experiment.evaluate.reference,
            "rows": facts["data"]["rows"],
            "users": facts["data"]["users"],
            "split": experiment.split.by,
        },
        metrics={
            "macro_f1": best["macro_f1"],
            "gain_points": best["gain"]["points"],
            "win_rate": win_rate(best),
            "test_judgements": found["rows"],
            "people": found["users"],
            "texts": found["texts"],
            **_forgetting(forgotten["before"]),
        },
        tags={**shared, "verdict": found["verdict"]["answer"]},
        description=f"{found['verdict']['sentence']}\n\n{gain_table(found)}\n\nMore, as a page: `report/{NAMELESS}` "
        "among the artifacts.",
        folders={  # nothing that names a user: what MLflow has been given, nobody erases
            "": RunFolder(folder).evaluation,
            "figures": RunFolder(folder).figures,
            "report": folder / NAMELESS,
            "experiment": RunFolder(folder).experiment,
        },
        children=[
            ChildRun(
                name,
                of_arms[name][0],
                {**_metrics(method), **_forgetting(forgotten["arms"].get(name, {}))},
                {**of_arms[name][1], **prompts.get(name, {})},
            )
            for name, method in found["methods"].items()
        ],
    )
    write_json(note, {"digest": digest, "uri": tracking_uri(), "run_id": run_id})
    return run_id


def publish(
    experiment: Experiment,
    folder: Path,
    routing: Routing,
    bundle: Bundle,
    valid: Annotations,
    found: dict[str, Any],
    facts: dict[str, Any],
    run_id: str,
    people: Collection[str],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Publish the bundle once per MLflow run, and promote it unless the champion is better."""
    assert experiment.register_ is not None
    model = experiment.register_.name
    best = found["methods"][routing.best]
    version = None
    if model in registry.models():
        version = next((each for each in registry.versions(model) if each.run_id == run_id), None)
    if version is None:
        rows = valid.select(_sample(experiment, valid, 20))
        texts, users = list(rows.texts), list(rows.user_ids)
        if not isinstance(experiment.base, Endpoint):  # there it would be another question, and cost
            texts, users = [*texts, texts[0]], [*users, "nobody knows this reader"]
        scores = bundle.predict(texts, users).scores
        version = registry.publish(
            model,
            RunFolder(folder).bundle,
            run_id,
            {
                "best": routing.choice.best,
                "base": base_name(experiment.base),
                "users": str(facts["data"]["users"]),
                "split_hash": facts["split"]["hash"],
                "macro_f1": f"{best['macro_f1']:.4f}",
                "valid_macro_f1": f"{best['valid_macro_f1']:.6f}",
                "gain_points": f"{best['gain']['points']:.2f}",
                "win_rate": f"{win_rate(best):.3f}",
            },
            version_page(experiment, routing, found, facts, folder.name),
            registry.Proof(texts, users, scores, _tolerance(experiment)),
            people,
        )
    try:
        version = registry.promote(
            model, version.number, check=lambda mine, theirs: refuse_surely_worse(mine, theirs, folder, routing.best)
        )
    except RegistryError as error:
        say(f"not promoted: {error}")
    return {**version.to_json(), "best": routing.choice.best, "global": routing.choice.global_arm, **routing.counts}


def refuse_surely_worse(version: registry.Version, champion: registry.Version, folder: Path, best: str) -> None:
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
    served = ROUTED if "personal" in manifest["methods"] else manifest["methods"]["global"]["arm"]
    theirs = RunFolder.named(str(manifest["run"])).scores(served)
    if not theirs.is_file():
        return
    loss = surely_worse(RunFolder(folder).scores(best), theirs)
    if loss is not None:
        raise RegistryError(
            f"{version.model} v{version.number} is surely worse on test than the champion v{champion.number} "
            f"({loss.points:+.1f} points of macro-F1, {in_words(loss.low, loss.high)}). To promote it anyway: beholder "
            f"registry promote {version.model} {version.number} --force"
        )


def win_rate(method: dict[str, Any]) -> float:
    """The share of the users of the test rows whom a method serves better than the reference does, by log-loss."""
    return method["users"]["better"] / max(1, sum(method["users"].values()))


def version_page(
    experiment: Experiment, routing: Routing, found: dict[str, Any], facts: dict[str, Any], run: str
) -> str:
    """The page of a version, as Markdown: what it is for, what it serves to whom, how good it was."""
    best, choice, counts = found["methods"][routing.best], routing.choice, routing.counts
    serves = f"Serves **{choice.global_arm}** to everybody"
    if choice.personal_arm is not None:
        some = (
            f"to {counts['on_global']:,} and to everybody it does not know" if counts["on_global"] else "to all others"
        )
        serves = f"Serves **{choice.personal_arm}** to {counts['on_personal']:,} users, **{choice.global_arm}** {some}"
    gain, users = best["gain"], best["users"]
    against = ""
    if routing.best != found["reference"]:
        against = (
            f", {signed(gain['points'])} points over {found['reference']} ({in_words(gain['low'], gain['high'])}); "
            f"better than it for {users['better']:,} users, worse for {users['worse']:,}, the same for "
            f"{users['same']:,}"
        )
    how = ""
    if experiment.evaluate.folds > 1:
        how = (
            f"fitted on all judgements, with epochs and what it serves to whom chosen in {experiment.evaluate.folds} "
            "folds, which is where it was measured, each judgement by models that had not seen its text: "
        )
    return (
        f"# {experiment.name} on {base_name(experiment.base)}\n\n"
        f"Predicts how each reader would judge a text: {', '.join(facts['data']['labels'])}.\n\n"
        f"{serves}: {how}macro-F1 {percent(best['macro_f1'])} on test{against}.\n\n"
        f"{found['verdict']['sentence']}\n\n{gain_table(found)}\n\n"
        f"Trained on judgements of {facts['data']['users']:,} users. Figures and the experiment's settings are "
        f"artifacts of the run this version comes from (`{run}`); its methods, to compare side by side, are that run's "
        "children."
    )


def gain_table(found: dict[str, Any]) -> str:
    """Methods, macro-F1 and gains as a Markdown table."""
    lines = [
        "| arm | macro-F1 | gain over "
        + found["reference"]
        + " (points) | people at large, 95 % | these people, 95 % | beyond control, at large |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, method in found["methods"].items():
        gain = method["gain"]
        cells, beyond = ["reference", "", "", ""], method["beyond_control"]
        if name != found["reference"]:
            ends = ((gain["low"], gain["high"]), (gain["texts_low"], gain["texts_high"]))
            cells = [
                signed(gain["points"]),
                *(in_words(*each) for each in ends),
                f"{signed(beyond['points'])} ({in_words(beyond['low'], beyond['high'])})" if beyond else "",
            ]
        lines.append(f"| {name} | {percent(method['macro_f1'])} | {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\n{found['rows']:,} test rows, {found['users']:,} users, {found['texts']:,} texts."


def _sample(experiment: Experiment, rows: Annotations, most: int) -> NDArray[np.int64]:
    return np.random.default_rng(experiment.seed).permutation(len(rows))[:most]


def _tolerance(experiment: Experiment) -> float:
    """How far apart two readings of the same bundle may be."""
    return ROUNDING["float32" if isinstance(experiment.base, Endpoint) else split_form(experiment.base)[1]]


def _metrics(method: dict[str, Any]) -> dict[str, float | None]:
    """What MLflow compares of an arm."""
    return {
        "macro_f1": method["macro_f1"],
        "valid_macro_f1": method["valid_macro_f1"],
        "gain_points": method["gain"]["points"],
        **_ends("gain", method["gain"]),
        **_beyond(method["beyond_control"]),
        **_measures(method["measures"]),
        "win_rate": win_rate(method),
        "subset_accuracy": method["subset_accuracy"],
        "ece": method["ece"],
        "seconds": method["seconds"],
        **{f"f1.{_metric_name(label)}": value for label, value in method["per_label"].items()},
        **{f"macro_f1.{task}": value for task, value in method.get("per_task", {}).items()},
    }


def _ends(name: str, interval: dict[str, float | None]) -> dict[str, float | None]:
    """Both intervals of a difference, as metrics."""
    return {
        f"{name}_low": interval["low"],
        f"{name}_high": interval["high"],
        f"{name}_low_these_people": interval["texts_low"],
        f"{name}_high_these_people": interval["texts_high"],
    }


def _beyond(gain: dict[str, float | None] | None) -> dict[str, float | None]:
    """The personal part of a gain, as metrics; none where there is no control."""
    return {} if gain is None else {"gain_beyond_control": gain["points"], **_ends("gain_beyond_control", gain)}


def _measures(measures: dict[str, dict[str, float | None]]) -> dict[str, float | None]:
    """Measures besides macro-F1, as metrics: each its value, what it is better than the reference's, the intervals."""
    found: dict[str, float | None] = {}
    for name, each in measures.items():
        if name != "macro_f1":
            found |= {name: each["value"], f"{name}_gain": each["gain"], **_ends(f"{name}_gain", each)}
    return found


def _forgetting(measures: dict[str, float | None]) -> dict[str, float | None]:
    return {f"forgetting.{measure}": value for measure, value in measures.items()}


def _prompts(arms: list[Arm], say: Callable[[str], None]) -> dict[str, dict[str, str]]:
    """The tags that name the wording of each arm that prompts, put into MLflow's Prompt Registry where there is one."""
    tags: dict[str, dict[str, str]] = {}
    for arm in arms:
        settings: PromptSettings | None = getattr(arm.config, "prompt", None)
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


def write_json(file: Path, value: Any) -> None:
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(value, indent=2, default=str) + "\n")
