"""Who was enrolled is served by what they were enrolled to, on every pair of methods a bundle can hold."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pyarrow as pa
import pytest
import torch
from house import MODEL, settings
from worlds import home_with_a_run

from beholder.adapters.overlay import Overlay
from beholder.adapters.shards import INDEX, Bank, write_index, write_shard
from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.evaluation.metrics import decide
from beholder.lifecycle.enroll import tensors_of, train_user
from beholder.methods import config_class, save_fitted
from beholder.methods.user_adapters import FittedBank
from beholder.registry import versions as registry
from beholder.registry.bundle import Bundle, open_bundle, write_bundle
from beholder.registry.routing import USERS, Choice
from beholder.training.context import Context
from beholder_serve.model_server import ModelServer, ServedModel
from beholder_serve.scoring import Scorer

CLS = {"max_tokens": 32, "epochs": 1}
LM = {"max_tokens": 300, "epochs": 1, "prompt": {"wording": "brief"}}
BANK = {"epochs": 8, "batch_size": 4, "learning_rate": 0.05, "pull": 0.0, "caution": 0.0}
ARMS = {
    "first": ("tiny-bert", "cls", CLS),
    "other": ("tiny-bert", "cls", {**CLS, "epochs": 2}),
    "told": ("tiny-bert", "cls-p", CLS),
    "added": ("tiny-bert", "cls-p", {**CLS, "user_token": "added"}),
    "writer": ("tiny-llama", "lm", LM),
    "told-writer": ("tiny-llama", "lm-p", LM),
    "reader": ("tiny-llama", "cls", CLS),
}
KINDS = {
    "cls-u on the global model": ("first", "cls-u", {}, "first"),
    "cls-u on another than the global model": ("first", "cls-u", {"top_layers": 1}, "other"),
    "cls-u on a cls-p": ("told", "cls-u", {"top_layers": 1}, "first"),
    "cls-u on added vectors": ("added", "cls-u", {}, "other"),
    "lm-u on the global model": ("writer", "lm-u", {}, "writer"),
    "lm-u, a classifier for all": ("writer", "lm-u", {}, "reader"),
    "lm-u on a lm-p": ("told-writer", "lm-u", {"top_layers": 1}, "reader"),
}
TEXTS = [f"{text} {number}" for number in range(6) for text in ("you are kind", "you are a fool")]


def rows() -> Annotations:
    """Two users who judge everything alike, and contrarily to each other."""
    return Annotations.from_columns(
        Task(("kind", "rude")),
        text=[text for text in TEXTS for _ in range(2)],
        user_id=["ann", "bob"] * len(TEXTS),
        labels=np.tile([[1.0, 0.0], [0.0, 1.0]], (len(TEXTS), 1)),
    )


@lru_cache
def bundle_of(kind: str) -> Bundle:
    """A bundle with one personal and one global arm; Bob is routed to the global one."""
    from_, method, bank, shared = KINDS[kind]
    run, base = Path(mkdtemp()), ARMS[from_][0]
    context = Context(base, seed=1, run_folder=run)

    def keep(name: str, config) -> None:
        (run / "methods" / name).mkdir(parents=True)
        save_fitted(config.fit(rows(), rows(), context), run / "methods" / name)

    for name in dict.fromkeys((from_, shared)):
        keep(name, config_class(ARMS[name][1])(**ARMS[name][2]))
    keep("own", config_class(method)(init_from=from_, bank={**BANK, **bank}))
    users = pa.Table.from_pylist(
        [
            {"user_id": user, "train_rows": 12, "valid_rows": 12, "gain": 0.1, "expected": 0.1, "route": route}
            for user, route in (("ann", "personal"), ("bob", "global"))
        ],
        USERS,
    )
    facts = {"seed": 1, "run": "not kept", "routes": {"population": {"mean": 0.1, "between": 0.1, "within": 0.01}}}
    folders = {name: run / "methods" / name for name in (from_, shared, "own")}
    return open_bundle(write_bundle(run / "bundle", Choice(shared, "own"), folders, base, facts, users))


def bank_of(fitted: FittedBank, tensors, folder: Path) -> FittedBank:
    """The same method under a bank on disk that holds one user, "new"."""
    row = {"user_id": "new", "shard": write_shard(folder, tensors), "row": 0, "epoch": 1, "status": "own"}
    write_index(folder, pa.Table.from_pylist([row], INDEX), fitted.model.shapes)
    return fitted.with_bank(Bank(folder))


@pytest.mark.parametrize("kind", list(KINDS))
def test_who_was_enrolled_is_served_their_own_model(kind, tmp_path):
    """As by a bank on disk that holds them; all others, in the same batch, as the bundle has it, to the bit."""
    bundle = bundle_of(kind)
    personal = bundle.personal
    assert isinstance(personal, FittedBank) and "ann" in personal.bank
    shift = {name: torch.randn(1, *shape, generator=torch.Generator().manual_seed(3)) / 4
             for name, shape in personal.model.shapes.items()}  # fmt: skip
    kept = {"new": shift, "ann": {}}  # Ann was enrolled, too, and keeps the model for all
    scorer = Scorer(bundle, "v1", enrolled=kept.get)
    texts, users = TEXTS[:4] * 4, [user for user in ("new", "ann", "bob", "stranger") for _ in range(4)]
    found = scorer.predict(texts, users)
    arm, own = bundle.manifest["methods"]["global"]["arm"], bank_of(personal, shift, tmp_path)
    assert found.routes == ["own"] * 4 + [arm] * 12 and not found.fallback.any()
    expected = own.score(TEXTS[:4], ["new"] * 4)
    np.testing.assert_allclose(found.scores[:4], expected, atol=2e-6)
    assert (found.decisions[:4] == decide(found.scores[:4], personal.thresholds, "multilabel")).all()
    shared = bundle.shared.score(texts[4:], users[4:])
    np.testing.assert_allclose(found.scores[4:], shared, atol=2e-6)
    assert np.abs(expected - bundle.shared.score(TEXTS[:4], ["new"] * 4)).max() > 0.01
    everybody = scorer.predict_users(TEXTS[0], ["bob", "new", "ann", "stranger"])
    assert everybody.routes == [arm, "own", arm, arm]
    np.testing.assert_allclose(everybody.scores[1], expected[0], atol=2e-6)
    np.testing.assert_allclose(everybody.scores[[0, 2, 3]], shared[[4, 0, 8]], atol=2e-6)

    del kept["ann"]
    scorer.reload("ann")
    asked = (TEXTS[:4] * 3, [user for user in ("ann", "bob", "stranger") for _ in range(4)])
    before, after = bundle.predict(*asked), scorer.predict(*asked)
    assert after.routes == before.routes and set(before.routes) == {"own", arm}
    np.testing.assert_allclose(after.scores, before.scores, atol=2e-6 if kind == next(iter(KINDS)) else 0)
    assert (after.decisions == before.decisions).all()
    kept["new"] = {}
    scorer.reload("new")
    assert set(scorer.predict(TEXTS[:2], ["new"] * 2).routes) == {arm}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cls-u on the global model"])
def test_a_user_is_enrolled_on_every_kind_of_bank(kind):
    """From judgements to answers: what `train_user` keeps is what is served."""
    bundle = bundle_of(kind)
    told = Annotations.from_columns(
        bundle.task, text=TEXTS, user_id=["new"] * len(TEXTS), labels=np.tile([[0.0, 1.0]], (len(TEXTS), 1))
    )
    enrolment = train_user(bundle, told)
    tensors = tensors_of(enrolment)
    assert (enrolment.facts["route"] == "personal") == bool(tensors)
    scorer = Scorer(bundle, "v1", enrolled=lambda user: tensors if user == "new" else None)
    found = scorer.predict(TEXTS, ["new"] * len(TEXTS))
    assert set(found.routes) == {"own" if tensors else bundle.manifest["methods"]["global"]["arm"]}
    if tensors:
        shared = bundle.shared.score(TEXTS, ["new"] * len(TEXTS))
        assert found.scores[:, 1].mean() > shared[:, 1].mean() and found.scores[:, 0].mean() < shared[:, 0].mean()


def test_whose_row_cannot_be_read_is_answered_by_the_global_model(tmp_path):
    bundle = bundle_of("cls-u on another than the global model")
    assert isinstance(bundle.personal, FittedBank)
    expected = bundle.predict(TEXTS[:3], ["bob", "stranger", "bob"])
    shards, kept = bundle.personal.bank._shards, bundle.personal.bank.shard_file
    held = dict(shards)
    shards.clear()
    bundle.personal.bank.shard_file = lambda digest: tmp_path / digest
    try:
        found = Scorer(bundle, "v1").predict(TEXTS[:4], ["bob", "stranger", "bob", "ann"])
    finally:
        bundle.personal.bank.shard_file = kept
        shards.update(held)
    assert found.fallback.tolist() == [False] * 3 + [True] and set(found.routes) == {"other"}
    np.testing.assert_allclose(found.scores[:3], expected.scores, atol=2e-6)


def test_an_overlay_refuses_whom_it_does_not_hold():
    overlay = Overlay({"head.bias": (2,)}, {"new": {"head.bias": torch.ones(1, 2)}})
    assert overlay.users == ["new"] and "new" in overlay and "ann" not in overlay
    assert overlay.take(["new", "new"])["head.bias"].tolist() == [[1, 1], [1, 1]]
    with pytest.raises(Exception, match="not among those whose tensors are here") as refused:
        overlay.take(["new", "ann"])
    assert "ann" not in str(refused.value)


def test_a_newcomer_is_served_where_another_global_arm_won(tmp_path):
    """The findings' own case, from a run to an engine: adapters stand on `cls`, and `plain` is the global arm.

    `plain` is as good as `cls` and named before it: of equals the first is served, on whatever machine.
    """
    methods = settings()["methods"]
    plain = {"method": "cls", **methods["cls"]}
    with home_with_a_run(tmp_path / "world", settings(methods={"plain": plain, **methods})) as outcome:
        bundle = registry.open_version(registry.find(MODEL))
        assert isinstance(bundle.personal, FittedBank) and bundle.personal.shared is not bundle.shared
        model_server = ModelServer(ServedModel(model=MODEL))
        kept = Annotations.read_parquet(outcome.run_folder / "annotations.parquet")
        who = max(outcome.test.users, key=lambda user: registry.user_row(registry.find(MODEL), user)["expected"])
        mine = kept.select(np.flatnonzero(kept.user_ids == who))
        first = {str(text): row for row, text in reversed(list(enumerate(mine.texts)))}
        mine = mine.select(sorted(first.values())[:24])
        told = Annotations.from_columns(
            mine.task, text=list(mine.texts), user_id=["a newcomer"] * len(mine), labels=mine.labels
        )
        enrolment = train_user(bundle, told)
        assert enrolment.facts["route"] == "personal"
        asked = ("a newcomer", [str(text) for text in outcome.test.texts[:8]])
        before = model_server.predict([asked])[0]["predictions"]
        model_server.feedback.enrol(MODEL, bundle.backbone_digest, "a newcomer", enrolment)
        model_server.poll()
        after = model_server.predict([asked])[0]["predictions"]
        assert {row["route"] for row in before} == {"plain"} and {row["route"] for row in after} == {"cls-u"}
        difference = [abs(a["scores"][label] - b["scores"][label]) for a, b in zip(after, before, strict=True)
                      for label in a["scores"]]  # fmt: skip
        assert max(difference) > 0.01
        reader = next(
            row for row in model_server.perspectives(asked[1][0], None, 100)["readers"] if row["user_id"] == asked[0]
        )
        assert reader["route"] == "cls-u"
        np.testing.assert_allclose(reader["scores"], list(after[0]["scores"].values()), atol=2e-6)
