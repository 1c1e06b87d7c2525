"""`cls-e`: user embeddings fitted jointly on a `cls`'s features; and `cls+`, the same network without users."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from crowd import KINDS, TEXTS, crowd
from experiments import written
from fits import embedded, start_from
from safetensors.torch import load_file

from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.evaluation.metrics import decide, macro_f1
from beholder.evaluation.scores_io import read_scores
from beholder.execution.arm import ArmJob, is_done, run_arm
from beholder.experiment.config import make_experiment
from beholder.methods import erase_saved, load_fitted, save_fitted
from beholder.methods.embedding_network import NOBODY, EmbeddingNetwork, in_order
from beholder.training.context import Context
from beholder.util.errors import ExperimentError, MethodError

pytestmark = pytest.mark.long


def opposites(count=12):
    """Two users who never agree, and one who was never seen: the right answer is in who reads alone."""
    texts = [f"{text} {i}" for i in range(count) for text in TEXTS]
    labels = np.tile([[1.0], [0.0]], (len(texts), 1))
    return Annotations.from_columns(
        Task(("rude",)), text=np.repeat(texts, 2).tolist(), user_id=["strict", "mild"] * len(texts), labels=labels
    )


def f1(fitted, rows, users=None):
    scores = fitted.score(list(rows.texts), list(rows.user_ids if users is None else users))
    return macro_f1(decide(scores, fitted.thresholds, rows.task.kind), rows.labels)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["cls-e", "cls+"])
def test_it_fits_scores_saves_and_loads(method, kind, tmp_path):
    rows = crowd(kind=kind)
    shared, context = start_from(tmp_path, rows)
    fitted = embedded(method, epochs=3).fit(rows, rows, context)
    texts, users = [*rows.texts[:20], "never seen"], [*rows.user_ids[:20], "nobody"]
    scores = fitted.score(texts, users)
    assert scores.dtype == np.float32 and scores.shape == (21, 3)
    assert scores.min() >= 0 and scores.max() <= 1
    assert np.abs(scores - shared.score(texts, users)).max() > 1e-3
    if kind in ("multiclass", "shares"):
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert fitted.knows("u1") == (method == "cls-e") and not fitted.knows("nobody")
    asked = ["u1", "nobody", "u0"]
    everybody = fitted.score_all(texts, asked)
    assert everybody.shape == (21, 3, 3)
    for place, user in enumerate(asked):
        np.testing.assert_allclose(everybody[:, place], fitted.score(texts, [user] * len(texts)), atol=1e-5)
    assert (np.abs(everybody[:, 0] - everybody[:, 2]).max() > 1e-4) == (method == "cls-e")
    assert fitted.score([], []).shape == (0, 3) and fitted.score_all([], asked).shape == (0, 3, 3)
    learned = fitted.training
    assert learned.seconds > 0 and len(learned.history) == 3 and set(learned.history[0]) >= {"loss", "valid_loss"}
    assert learned.parameters == sum(each.numel() for each in fitted.network.parameters())
    (tmp_path / "saved").mkdir()
    save_fitted(fitted, tmp_path / "saved")
    shutil.rmtree(tmp_path / "methods")
    again = load_fitted(tmp_path / "saved", "tiny-bert")
    np.testing.assert_allclose(again.score(texts, users), scores, atol=1e-6)
    np.testing.assert_allclose(again.thresholds, fitted.thresholds)
    assert not [file for pattern in ("*.bin", "*.pkl", "*.pt") for file in tmp_path.rglob(pattern)]


def test_it_learns_who_reads_where_one_model_cannot_and_the_control_does_not(tmp_path):
    rows = opposites()
    shared, context = start_from(tmp_path, rows)
    fitted, without = embedded().fit(rows, rows, context), embedded("cls+").fit(rows, rows, context)
    assert f1(shared, rows) < 0.7 and f1(without, rows) < 0.7 and f1(fitted, rows) > 0.95
    assert f1(fitted, rows, rows.user_ids[::-1]) < 0.1  # the other one's view
    job = ArmJob("e~shuffled-users", {**embedded(shuffle_users=True).model_dump(), "method": "cls-e"}, "e", "key")
    run_arm(job, {part: rows for part in ("train", "valid", "test")}, tmp_path, context)
    control = read_scores(tmp_path / "scores" / f"{job.name}.parquet").arm
    assert is_done(job, tmp_path)
    assert macro_f1(decide(control.test_scores, control.thresholds, "multilabel"), rows.labels) < 0.75


def test_what_is_compared_is_text_and_user_and_not_a_bias_alone(tmp_path):
    """One minds what the other one likes: both say yes equally often, so that no bias of a user can tell them apart."""
    texts = [f"{word} {i}" for i in range(40) for word in ("GO AWAY!!!", "thank you")]
    labels = [[float((user == "strict") == (text[0] == "G"))] for text in texts for user in ("strict", "mild")]
    rows = Annotations.from_columns(
        Task(("minded",)),
        text=np.repeat(texts, 2).tolist(),
        user_id=["strict", "mild"] * len(texts),
        labels=np.asarray(labels),
    )
    _, context = start_from(tmp_path, rows)
    assert f1(embedded(epochs=60, patience=60).fit(rows, rows, context), rows) > 0.95


def test_a_stranger_is_answered_as_the_crowd_would(tmp_path):
    """Three in four say yes to everything: that is what is likely of somebody who was never seen."""
    rows = crowd(rows=400, users=8)
    labels = np.tile((rows.by_user[1] % 4 > 0).astype(np.float32)[:, None], (1, 3))
    rows = Annotations.from_columns(rows.task, text=list(rows.texts), user_id=list(rows.user_ids), labels=labels)
    _, context = start_from(tmp_path, rows)
    fitted = embedded().fit(rows, rows, context)
    texts = sorted(set(rows.texts))
    stranger = fitted.score(texts, ["stranger"] * len(texts))
    assert abs(stranger.mean() - labels.mean()) < 0.1
    assert fitted.score(texts, ["u0"] * len(texts)).max() < 0.2 < 0.8 < fitted.score(texts, ["u1"] * len(texts)).min()
    np.testing.assert_array_equal(stranger, fitted.score(texts, ["another stranger"] * len(texts)))


def test_erasing_a_user_makes_them_a_stranger_and_leaves_everybody_elses_bits(tmp_path):
    rows = crowd()
    _, context = start_from(tmp_path, rows)
    saved = tmp_path / "saved"
    saved.mkdir()
    save_fitted(embedded(epochs=3).fit(rows, rows, context), saved)
    texts = list(rows.texts[:8])
    before, tensors = load_fitted(saved, "tiny-bert"), load_file(str(saved / "network.safetensors"))
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    slot = before.users["u1"]
    assert erase_saved(saved, "u1") and not erase_saved(saved, "u1") and not erase_saved(saved, "stranger")
    after, left = load_fitted(saved, "tiny-bert"), load_file(str(saved / "network.safetensors"))
    assert not after.knows("u1") and after.knows("u2")
    assert "u1" not in json.loads((saved / "network.json").read_text())["users"]
    for name, tensor in tensors.items():
        own = name in ("embeddings", "biases")
        assert not own or (tensor[slot].any() and not left[name][slot].any())
        others = [each for each in range(len(tensor)) if not own or each != slot]
        assert torch.equal(left[name][others], tensor[others])
    for user in ("u0", "u2", "stranger"):
        np.testing.assert_array_equal(after.score(texts, [user] * 8), before.score(texts, [user] * 8))
    np.testing.assert_array_equal(after.score(texts, ["u1"] * 8), before.score(texts, ["stranger"] * 8))


def test_a_label_that_was_not_asked_changes_nothing(tmp_path):
    rows = crowd(rows=96)
    labels = rows.labels.copy()
    labels[rows.user_ids == "u1"] = [1, 0, np.nan]  # the last one was never asked of u1
    rows = Annotations.from_columns(rows.task, text=list(rows.texts), user_id=list(rows.user_ids), labels=labels)
    _, context = start_from(tmp_path, rows)
    fitted = embedded(epochs=5).fit(rows, rows, context)
    slot = fitted.users["u1"]
    own = fitted.network.biases[slot].detach().abs()
    assert float(own[2]) == 0 and float(own[:2].min()) > 0


def test_the_seed_decides_and_the_order_of_rows_does_not(tmp_path):
    rows = crowd(rows=96)
    start_from(tmp_path, rows)
    mixed = rows.select(np.random.default_rng(5).permutation(len(rows)))
    texts, users = list(rows.texts), list(rows.user_ids)

    def scores(learned, seed=1):
        again = Context(base="tiny-bert", seed=seed, run_folder=tmp_path)
        return embedded(epochs=5).fit(learned, learned, again).score(texts, users)

    np.testing.assert_array_equal(scores(rows), scores(rows))
    np.testing.assert_allclose(scores(mixed), scores(rows), atol=1e-5)
    assert np.abs(scores(rows, seed=2) - scores(rows)).max() > 1e-4
    sort, other = in_order(rows), in_order(mixed)
    assert [rows.texts[i] for i in sort] == [mixed.texts[i] for i in other]
    np.testing.assert_array_equal(rows.labels[sort], mixed.labels[other])


def test_epochs_that_are_known_are_trained_and_the_last_is_kept(tmp_path):
    """The same as where the validation log-loss chooses that epoch."""
    rows = crowd()
    _, context = start_from(tmp_path, rows)
    texts, users = list(rows.texts), list(rows.user_ids)
    chosen = embedded().fit(rows, rows, context)
    known = embedded().fit(rows, rows, replace(context, epochs=chosen.training.epochs))
    np.testing.assert_array_equal(known.score(texts, users), chosen.score(texts, users))
    fewer = embedded().fit(rows, rows, replace(context, epochs=2))
    assert fewer.training.epochs == len(fewer.training.history) == 2
    assert np.abs(fewer.score(texts, users) - chosen.score(texts, users)).max() > 1e-3


def test_it_begins_as_the_classifier_and_zeros_are_nobody():
    torch.manual_seed(0)
    head, features = torch.nn.Linear(12, 3), 5 + 3 * torch.randn(40, 12)
    network = EmbeddingNetwork(12, 3, hidden=8, dim=4, users=6, dropout=0.5).eval()
    network.start_from(head, features)
    slots = torch.arange(40) % 6
    torch.testing.assert_close(network(features, slots), head(features), atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        network.out.weight.normal_()
        network.embeddings[2], network.biases[2] = 0, 0
    stranger = network(features, torch.full((40,), NOBODY))
    torch.testing.assert_close(network(features, torch.full((40,), 2)), stranger)
    assert (network(features, torch.full((40,), 3)) - stranger).abs().max() > 1e-4
    many = network.everybody(*network.read(features), torch.tensor([3, NOBODY, 2]))
    torch.testing.assert_close(many[:, 1], stranger)
    torch.testing.assert_close(many[:, 0], network(features, torch.full((40,), 3)))


def test_each_distinct_text_is_read_once(tmp_path, monkeypatch):
    rows = crowd(rows=96)
    _, context = start_from(tmp_path, rows)
    fitted = embedded(epochs=1).fit(rows, rows, context)
    read, forward = [], fitted.shared.network.features
    monkeypatch.setattr(
        fitted.shared.network, "features", lambda tokens, *rest: read.append(len(tokens)) or forward(tokens, *rest)
    )
    distinct = len(set(rows.texts))
    assert distinct < len(rows)
    fitted.score(list(rows.texts), list(rows.user_ids))
    assert sum(read) == distinct
    fitted.score_all(list(rows.texts), [f"u{i}" for i in range(50)])
    assert sum(read) == 2 * distinct


def test_what_it_cannot_start_from_is_refused_in_one_line(tmp_path):
    rows = crowd()
    start_from(tmp_path, rows, method="cls-p", user_token="text")
    context = Context(base="tiny-bert", run_folder=tmp_path)

    def refused(*call, match):
        with pytest.raises((MethodError, ExperimentError), match=match) as caught:
            call[0](*call[1:])
        assert "\n" not in str(caught.value)

    refused(embedded(init_from="cls-p").fit, rows, rows, context, match="cls-p is a cls-p; cls-e starts from a cls")
    refused(embedded("cls+").fit, rows, rows, Context(base="tiny-bert"), match="run_folder")
    refused(embedded(init_from="gone").fit, rows, rows, context, match="no readable fitted method")
    methods = {"cls": {}, "cls-p": {"extends": "cls"}, "cls+": {}, "cls-e": {"controls": ["shuffled-users"]}}
    made = make_experiment(written(methods=methods))
    assert [arm.after for arm in made.arms] == [None, None, "cls", "cls", "cls"]
    wrong = {**methods, "cls-e": {"init_from": "cls-p"}}
    refused(make_experiment, written(methods=wrong), match="init_from: cls-p is a cls-p; cls-e starts from a cls")
    refused(make_experiment, written(methods={"cls": {}, "cls-e": {"init_from": "clz"}}), match="Did you mean 'cls'")
    plus = {**methods, "cls+": {"controls": ["shuffled-users"]}}
    refused(make_experiment, written(methods=plus), match=r"methods\.cls\+\.controls")


def test_damaged_and_newer_files_and_another_base_are_refused(tmp_path):
    rows = crowd()
    _, context = start_from(tmp_path, rows)
    saved = tmp_path / "saved"
    saved.mkdir()
    save_fitted(embedded(epochs=1).fit(rows, rows, context), saved)
    with pytest.raises(MethodError, match="other weights"):
        load_fitted(saved, "tiny-llama")
    weights, settings = (saved / name for name in ("network.safetensors", "network.json"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(MethodError, match=r"network\.safetensors: missing, damaged"):
        load_fitted(saved, "tiny-bert")
    weights.write_bytes(whole)
    described = json.loads(settings.read_text())
    settings.write_text(json.dumps({**described, "shape": {**described["shape"], "dim": 9}}))
    with pytest.raises(MethodError, match="not of this network"):
        load_fitted(saved, "tiny-bert")
    settings.write_text(json.dumps({**described, "format": 99}))
    with pytest.raises(MethodError, match="newer"):
        load_fitted(saved, "tiny-bert")
    settings.write_text("{")
    with pytest.raises(MethodError, match=r"network\.json: missing or damaged"):
        load_fitted(saved, "tiny-bert")


def test_a_diverging_fit_is_named(tmp_path):
    rows = crowd()
    _, context = start_from(tmp_path, rows)
    with pytest.raises(MethodError, match="Lower learning_rate"):
        embedded(learning_rate=1e30, epochs=9).fit(rows, rows, context)
