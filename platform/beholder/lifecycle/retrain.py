"""Learning a registered model's prior again, as after an erasure: from the people who are still there.

The prior is learned from the rows of the champion's run, everybody is estimated given it, routes and thresholds are
chosen on the validation rows, and what comes out is a candidate. The global model stays as it is: it was trained on
the rows of the same people, and only a new run of the experiment removes somebody from it (`train_again`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from beholder.adapters.prior import Prior, save_prior
from beholder.adapters.shards import Bank, record_prior_rows, update
from beholder.cluster.run_storage import run_here
from beholder.data.annotations import Annotations
from beholder.data.folds import part_of_rows
from beholder.data.task import Task
from beholder.evaluation.headline import choose_thresholds, headline, scored_headline
from beholder.evaluation.results import ROUTED
from beholder.evaluation.scores_io import read_scores
from beholder.execution.arm import to_learn
from beholder.experiment.config import Experiment, make_experiment
from beholder.experiment.renamed_keys import with_new_keys
from beholder.lifecycle.earlier import merged, with_earlier
from beholder.lifecycle.refresh import publish_candidate, scores_of, with_champion
from beholder.methods import load_fitted
from beholder.methods.user_adapters import FittedBank
from beholder.registry import bundle_store as stored
from beholder.registry import maintenance as upkeep
from beholder.registry import versions as registry
from beholder.registry.blob_store import Store
from beholder.registry.bundle import USERS_FILE
from beholder.registry.feedback import Feedback
from beholder.registry.manifest import Manifest
from beholder.registry.memory import read_texts, read_told
from beholder.registry.remainder import STILL_HOLDS
from beholder.registry.routing import USERS, Population, reroute, route, row_losses
from beholder.training.context import Context
from beholder.util.atomic import atomic_write, scratch
from beholder.util.errors import RegistryError
from beholder.util.paths import home
from beholder.util.run_folder import ANNOTATIONS, EXPERIMENT, SCORES, RunFolder
from beholder.workflows import run as pipeline
from beholder.workflows.run import Reporter, Silent


@dataclass(frozen=True)
class Estimated:
    """People estimated given a prior.

    Attributes:
        train, valid: the rows.
        prior: given, or learned from `train`.
        bank: the people.
        before: the people before they learned from `valid`.
    """

    train: Annotations
    valid: Annotations
    prior: Prior
    bank: Bank
    before: Bank

    @property
    def rows(self) -> dict[str, int]:
        """How many rows each person was estimated from."""
        return _rows_by_user(self.bank)


def retrain(model: str, reporter: Reporter | None = None) -> dict[str, Any]:
    """Learn the champion's prior again and estimate everybody given it; publish a candidate.

    People who came after the run are estimated from what they gave the served model. Those of whom fewer rows are here
    than they were estimated from, as of a refresh with a table, keep their tensors, which stand on the old prior.

    Args:
        model: a registered model that gives users adapters.
        reporter: receives progress.

    Returns:
        Everything `beholder refresh --retrain-prior --json` prints. `prior`: `people` and `rows` it was learned from;
        `kept`: people whose tensors stay. `valid_macro_f1`: on the run's validation rows, as the run measured it
        (`old`) and of the candidate (`new`), both before these rows were learned from; None where not known.

    Raises:
        BeholderError: the champion's run is not here, or there is nobody to learn from; nothing was published.
    """
    return with_champion(model, reporter or Silent(), _retrain)


def _retrain(champion: registry.Version, store: Store, manifest: Manifest, reporter: Reporter) -> dict[str, Any]:
    """One try. See `retrain`."""
    with _run_of(champion, manifest) as run:
        return _retrained(champion, store, manifest, reporter, run)


def _retrained(
    champion: registry.Version, store: Store, manifest: Manifest, reporter: Reporter, run: Path
) -> dict[str, Any]:
    model = champion.model
    learned_from = _learned_from(run, manifest.arms["personal"])
    train, valid = (upkeep.without_erased(rows, store) for rows in learned_from)  # the run may be a copy
    if not len(train):
        raise RegistryError(f"{model} v{champion.number}: its run {run.name} has no training row left to learn from.")
    base = manifest.base
    with scratch() as work, stored.unfolded(manifest, store, True) as folder:
        old = load_fitted(folder / "personal", base)
        assert isinstance(old, FittedBank)
        seed = manifest.seed
        everybody = _estimate(old, train, valid, None, _context(base, seed, reporter, work, "run"))
        told = Feedback().annotations(model, old.task)
        later = None
        of_tables = read_told(manifest, store)
        told = of_tables if told is None else merged(told, of_tables)
        told = told and upkeep.without_erased(told, store)
        if told:
            parts, _ = with_earlier(told, manifest, reporter, (), read_texts(manifest, store))
            if len(parts["train"]):
                context = _context(base, seed, reporter, work, "feedback")
                later = _estimate(old, parts["train"], parts["valid"], everybody.prior, context)
        from_feedback = _as_many_rows(old.bank, later) if later else set[str]()
        from_run = _as_many_rows(old.bank, everybody) - from_feedback
        rewritten = update(folder / "personal" / "bank", everybody.bank, from_run)
        if later:
            rewritten += update(folder / "personal" / "bank", later.bank, from_feedback)
        index = everybody.bank.index
        record_prior_rows(
            folder / "personal" / "bank",
            dict(zip(index["user_id"].to_pylist(), index["prior_rows"].to_pylist(), strict=True)),
        )
        save_prior(everybody.prior, folder / "personal")
        kept = len(set(old.bank.users) - from_run - from_feedback)
        new = load_fitted(folder / "personal", base)
        assert isinstance(new, FittedBank)
        shared = load_fitted(folder / "global", base)

        own, others = scores_of(new.with_bank(everybody.before), valid), scores_of(shared, valid)
        known, population = _train_rows(everybody), manifest.population
        if len(valid):
            _, population = route(known, valid.user_ids.tolist(), _losses(others, valid), _losses(own, valid))
        tables = [_routes(known, from_run, valid, others, own, population)]
        if later:
            theirs = scores_of(shared, later.valid), scores_of(new.with_bank(later.before), later.valid)
            tables.append(_routes(_train_rows(later), from_feedback, later.valid, *theirs, population))
        users = _write_routes(folder / USERS_FILE, tables)
        thresholds, measured = _decisions(users, valid, others, own, manifest.thresholds, run)
        counts = [each.as_py() for each in users["route"]]
        prior = {key: everybody.prior.facts.get(key) for key in ("people", "rows")}
        becomes = Manifest(
            {
                **{key: value for key, value in manifest.items() if key != STILL_HOLDS},
                "thresholds": thresholds,
                "routes": {
                    **manifest["routes"],
                    "population": population.to_json(),
                    "users": {"on_personal": counts.count("personal"), "on_global": counts.count("global")},
                },
                "prior_retrained": {"from": champion.number, **prior, "kept": kept, "valid_macro_f1": measured},
            }
        )
        estimated = len(from_run | from_feedback)
        page = _page(model, champion.number, estimated, kept, prior, measured)
        version = publish_candidate(champion, manifest, becomes, folder, measured, page)
    return {
        **version.to_json(),
        "refreshed_from": champion.number,
        "prior": prior,
        "users": estimated,
        "kept": kept,
        "shards_rewritten": rewritten,
        "valid_macro_f1": measured,
    }


@contextlib.contextmanager
def _run_of(champion: registry.Version, manifest: Manifest) -> Iterator[Path]:
    """The folder of the run a version comes from, with the files that are read here.

    Raises:
        RegistryError: it is not here.
    """
    with run_here(manifest.run) as run:
        folder = run.folder
        run.fetch(ANNOTATIONS, EXPERIMENT, f"{SCORES}/{ROUTED}.parquet")
        if not RunFolder(folder).annotations.is_file() or not RunFolder(folder).experiment.is_file():
            raise RegistryError(
                f"{champion.model} v{champion.number}: its run {folder.name} is not in {home() / 'runs'}, so there are "
                "no judgements to learn from. Run this where the run is kept, or run the experiment again."
            )
        yield folder


def train_again(model: str, reporter: Reporter | None = None) -> dict[str, Any]:
    """Run the experiment of the champion again: what all users share is trained without the people erased since.

    Args:
        model: a registered model.
        reporter: receives progress.

    Returns:
        `model`, `version` (a candidate), and `run`, its folder's name.

    Raises:
        BeholderError: the champion's run is not here, or the experiment fails; nothing was published.
    """
    champion = registry.find(model)
    with _run_of(champion, registry.store_of(champion).manifest(registry.bundle_of(champion))) as run:
        experiment, name = _experiment_of(run), run.name
    outcome = pipeline.run(experiment, reporter)
    registered = outcome.results.registered
    if registered is None or registered.model != model:
        raise RegistryError(f"{model}: the experiment of its run {name} registers nothing of that name.")
    return {"model": model, "version": registered.version, "run": outcome.run_folder.name}


def _experiment_of(run: Path) -> Experiment:
    written = json.loads(RunFolder(run).experiment.read_text())
    del written["digest"]
    return make_experiment(with_new_keys(written, str(run))[0])  # a run of an earlier version needs no notice


def _learned_from(run: Path, arm: str) -> tuple[Annotations, Annotations]:
    """The training and validation rows that an arm of a run learned from."""
    rows = Annotations.read_parquet(RunFolder(run).annotations)
    part = part_of_rows(rows)
    seen = {name: rows.select(np.flatnonzero(part == name)) for name in ("train", "valid")}
    arms = {each.name: each.config for each in _experiment_of(run).arms}
    if arm not in arms:
        raise RegistryError(f"{RunFolder(run).experiment}: has no arm {arm}. Run the experiment again.")
    return to_learn(arms[arm], seen)


def _context(base: Any, seed: int, reporter: Reporter, work: Path, name: str) -> Context:
    folder = work / name
    folder.mkdir()

    def progress(done: int, total: int, note: str, unit: str = "steps") -> None:
        reporter.step("refresh", done, total, note, unit)

    return Context(base, seed, progress=progress, say=reporter.say, run_folder=folder)


def _estimate(
    fitted: FittedBank, train: Annotations, valid: Annotations, prior: Prior | None, context: Context
) -> Estimated:
    """Estimate the users of some rows; where no prior is given, it is learned from these rows first."""
    fitting = fitted.config.begin_on(fitted.shared, train, valid, context, prior)
    for number in range(len(fitting.blocks)):
        fitting.train(number)
    return Estimated(train, valid, fitting.prior, *fitting.finish())


def _rows_by_user(bank: Bank) -> dict[str, int]:
    index = bank.index
    rows = pc.add(index["train_rows"], index["valid_rows"])  # type: ignore[attr-defined]
    return dict(zip(index["user_id"].to_pylist(), rows.to_pylist(), strict=True))


def _as_many_rows(old: Bank, new: Estimated) -> set[str]:
    """People who were estimated from at least as many rows as before."""
    before = _rows_by_user(old)
    return {user for user, rows in new.rows.items() if rows >= before.get(user, 0)}


def _train_rows(estimated: Estimated) -> dict[str, int]:
    users, rows = np.unique(estimated.train.user_ids.astype(str), return_counts=True)
    return dict(zip(users.tolist(), rows.tolist(), strict=True))


def _losses(scores: NDArray[np.float32], rows: Annotations) -> NDArray[np.float64]:
    return row_losses(scores, rows.labels, rows.task.kind)


def _routes(
    train_rows: Mapping[str, int],
    users: Collection[str],
    valid: Annotations,
    shared: NDArray[np.float32],
    personal: NDArray[np.float32],
    population: Population,
) -> pa.Table:
    """Routes of some people: a table like `USERS`."""
    known = {user: rows for user, rows in train_rows.items() if user in users}
    return reroute(known, valid.user_ids.tolist(), _losses(shared, valid), _losses(personal, valid), population)


def _write_routes(file: Path, tables: Sequence[pa.Table]) -> pa.Table:
    """Put routes in the place of those the same people had; returns everybody's."""
    fresh = pa.concat_tables(tables)
    others = pq.read_table(file).filter(~pc.field("user_id").isin(fresh["user_id"].to_pylist()))
    users = pa.concat_tables([others.cast(USERS), fresh])
    with atomic_write(file) as temporary:
        pq.write_table(users, temporary, compression="zstd")
    return users


def _decisions(
    users: pa.Table,
    valid: Annotations,
    shared: NDArray[np.float32],
    personal: NDArray[np.float32],
    thresholds: list[float] | None,
    run: Path,
) -> tuple[list[float] | None, dict[str, float | None]]:
    """One threshold a label, on the validation rows as they are routed; and macro-F1 there, the run's beside it."""
    if not len(valid):
        return thresholds, {"old": None, "new": None}
    own = set(users.filter(pc.field("route") == "personal")["user_id"].to_pylist())
    scores = np.where(np.asarray([user in own for user in valid.user_ids])[:, None], personal, shared)
    chosen = choose_thresholds(scores, valid.labels, valid.task)
    measured = {"old": None, "new": scored_headline(scores, chosen, valid.labels, valid.task)}
    file = RunFolder(run).scores(ROUTED)
    if file.is_file():
        arm, rows = (found := read_scores(file)).arm, found.valid
        if rows.text_ids.tolist() == list(valid.text_ids) and rows.user_ids.tolist() == valid.user_ids.tolist():
            measured["old"] = _value(arm.valid_answers(found.task), rows.labels, found.task)
    return [float(each) for each in chosen], measured


def _value(predicted: NDArray[Any], labels: NDArray[np.float32], task: Task) -> float | None:
    value = headline(predicted, labels, task)
    return value if np.isfinite(value) else None


def _page(
    model: str, old: int, users: int, kept: int, prior: Mapping[str, Any], measured: Mapping[str, float | None]
) -> str:
    better = "There is no validation score to compare with."
    if None not in measured.values():
        before, after = (100 * (measured[name] or 0.0) for name in ("old", "new"))
        better = f"Macro-F1 on the run's validation rows: {after:.1f}, {before:.1f} before."
    stay = f" {kept:,} people keep the adapters they had, because their judgements are not kept here." if kept else ""
    return (
        f"# {model} v{old}, with a new prior\n\nThe prior was learned again from {prior['rows']:,} judgements of "
        f"{prior['people']:,} people, and {users:,} people were estimated given it.{stay} {better}\n\n"
        f"The global model is v{old}'s, whose page has the gains on test; this version was not measured there."
    )
