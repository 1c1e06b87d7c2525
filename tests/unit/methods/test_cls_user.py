"""`cls-u`: an adapter per user on top of a fitted model, its shards, and a fit that goes on where it died."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from crowd import KINDS, TEXTS, crowd
from fits import personal, start_from
from hypothesis import given
from hypothesis import strategies as st

from beholder.adapters.block_training import blocks
from beholder.adapters.overlay import Overlay
from beholder.adapters.shards import Bank, read_shard, shard_file, shards_of
from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.evaluation.metrics import decide, macro_f1
from beholder.experiment.config import make_experiment
from beholder.methods import config_class, load_fitted, save_fitted
from beholder.training.context import Context
from beholder.util.errors import BankError, ExperimentError, MethodError
from beholder.util.run_folder import RunFolder

pytestmark = pytest.mark.long


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("base", "init_from", "more", "bank"),
    [
        ("tiny-bert", "cls", {}, {}),
        ("tiny-bert", "cls", {"lora": None}, {"head": "gate"}),
        ("tiny-llama", "cls", {}, {"top_layers": 1, "head": "bias"}),
        ("tiny-t5", "cls", {}, {"top_layers": 2}),
        ("tiny-bert", "cls-p", {"user_token": "text"}, {}),
        ("tiny-llama", "cls-p", {"user_token": "added"}, {"top_layers": 1}),
    ],
)
def test_it_fits_scores_saves_and_loads(base, init_from, more, bank, kind, tmp_path):
    rows = crowd(kind=kind)
    shared, context = start_from(tmp_path, rows, base, init_from, **more)
    fitted = personal(init_from, **bank).fit(rows, rows, context)
    texts, users = [*rows.texts[:20], "never seen"], [*rows.user_ids[:20], "nobody"]
    scores = fitted.score(texts, users)
    assert scores.dtype == np.float32 and scores.shape == (21, 3)
    assert scores.min() >= 0 and scores.max() <= 1
    assert any(fitted.knows(user) for user in rows.users) and not fitted.knows("nobody")
    before = shared.score(texts, users)
    nobody = fitted.with_bank(Overlay(fitted.model.shapes, {}, fitted.prior.without_rows()))
    a_stranger = nobody.score(texts[-1:], users[-1:])[0]
    np.testing.assert_allclose(scores[-1], a_stranger, atol=1e-6)  # who is the prior's mean
    assert np.abs(scores - before).max() > 1e-3
    everybody = fitted.score_all(texts, ["u1", "nobody", "u0"])
    assert everybody.shape == (21, 3, 3)
    for place, user in enumerate(["u1", "nobody", "u0"]):
        np.testing.assert_allclose(everybody[:, place], fitted.score(texts, [user] * len(texts)), atol=1e-5)
    (tmp_path / "saved").mkdir()
    save_fitted(fitted, tmp_path / "saved")
    shutil.rmtree(RunFolder(tmp_path).unfinished)
    again = load_fitted(tmp_path / "saved", base)
    np.testing.assert_allclose(again.score(texts, users), scores, atol=1e-6)
    np.testing.assert_allclose(again.thresholds, fitted.thresholds)
    assert not [file for pattern in ("*.bin", "*.pkl", "*.pt") for file in tmp_path.rglob(pattern)]


def test_it_learns_who_reads_where_one_model_for_all_cannot(tmp_path):
    texts = [f"{text} {i}" for i in range(12) for text in TEXTS]
    labels = np.tile([[1.0], [0.0]], (len(texts), 1))
    rows = Annotations.from_columns(
        Task(("rude",)), text=np.repeat(texts, 2).tolist(), user_id=["strict", "mild"] * len(texts), labels=labels
    )
    shared, context = start_from(tmp_path, rows)
    fitted = personal(epochs=40, step_size=0.3).fit(rows, rows, context)

    def f1(method):
        scores = method.score(list(rows.texts), list(rows.user_ids))
        return macro_f1(decide(scores, method.thresholds, "multilabel"), rows.labels)

    assert f1(shared) < 0.7 and f1(fitted) > 0.95
    shuffled = fitted.score(list(rows.texts), list(rows.user_ids[::-1]))
    assert macro_f1(decide(shuffled, fitted.thresholds, "multilabel"), rows.labels) < 0.1  # the other one's view


def test_blocks_change_nothing(tmp_path):
    rows = crowd(rows=96, users=5)
    _, context = start_from(tmp_path, rows)
    whole, cut = personal().fit(rows, rows, context), personal(block_users=2).fit(rows, rows, context)
    assert len(list(shards_of(whole.bank.index))) == 1 < len(list(shards_of(cut.bank.index)))
    one, other = whole.bank.take(rows.users), cut.bank.take(rows.users)
    for name, tensor in one.items():
        np.testing.assert_allclose(tensor, other[name], atol=1e-5)
    index = cut.bank.index.to_pandas().set_index("user_id")
    assert sorted(index.index) == rows.users
    assert index.loc["u1", "train_rows"] == (rows.user_ids == "u1").sum()


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=60), st.integers(1, 9))
def test_blocks_hold_everybody_once_and_are_balanced(tokens, size):
    users = [f"user {i:02d}" for i in range(len(tokens))]
    made = blocks(users, np.asarray(tokens), size)
    assert sorted(user for block in made for user in block) == users
    assert len(made) == -(-len(users) // size) and all(0 < len(block) <= size for block in made)
    assert made == blocks(users, np.asarray(tokens), size)
    if size >= len(users):
        return
    equal = blocks(users, np.full(len(users), 7), size)
    assert max(map(len, equal)) - min(map(len, equal)) <= 1


class Heard:
    def __init__(self):
        self.lines = []

    def __call__(self, line):
        self.lines.append(line)


def shards_in(folder):
    return {file.name: file.read_bytes() for file in folder.rglob("shard-*.safetensors")}


def test_a_fit_that_died_goes_on_with_the_same_bits_and_a_damaged_shard_is_named_and_trained_again(tmp_path):
    rows = crowd(rows=96, users=6)
    _, context = start_from(tmp_path, rows)
    config = personal(block_users=2)
    config.fit(rows, rows, context)
    work = RunFolder(tmp_path).unfinished
    undisturbed = shards_in(work)
    assert len(undisturbed) == 6  # of each block, before and after it learned from validation rows
    shutil.rmtree(work)

    half = config.begin(rows, rows, context)
    half.train(0)  # ... and then it died, in the middle of the next block
    (half.folder / ".shard.99").write_bytes(b"half a shard")
    kept = {file.name: file.stat().st_mtime_ns for file in half.folder.glob("shard-*")}
    config.fit(rows, rows, context)
    assert shards_in(work) == undisturbed
    assert {name: (half.folder / name).stat().st_mtime_ns for name in kept} == kept  # not trained again

    (half.folder / "index.parquet").unlink()
    for damage in (lambda whole: whole[:-5], lambda whole: whole[:-5] + b"xxxxx"):
        victim = half.folder / sorted(undisturbed)[1]
        victim.write_bytes(damage(victim.read_bytes()))
        heard = Heard()
        again = config.fit(rows, rows, Context("tiny-bert", 1, say=heard, run_folder=tmp_path))
        assert len(heard.lines) == 1 and victim.name in heard.lines[0] and "checksum" in heard.lines[0]
        assert shards_in(work) == undisturbed
        assert len(again.bank.index) == 6


def test_a_damaged_bank_is_refused_and_never_read(tmp_path):
    rows = crowd()
    _, context = start_from(tmp_path, rows)
    fitted = personal().fit(rows, rows, context)
    saved = tmp_path / "saved"
    saved.mkdir()
    save_fitted(fitted, saved)
    texts, users = list(rows.texts), list(rows.user_ids)
    shard = next((saved / "bank").glob("shard-*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:200])
    with pytest.raises(BankError, match=r"shard-.*truncated or altered"):
        load_fitted(saved, "tiny-bert").score(texts, users)
    shard.unlink()
    with pytest.raises(BankError, match=r"shard-.*missing"):
        load_fitted(saved, "tiny-bert").score_all(texts, users[:3])
    shard.write_bytes(whole)
    index = saved / "bank" / "index.parquet"
    table = pq.read_table(index)
    pq.write_table(table.slice(1), index)
    with pytest.raises(BankError, match=r"index\.parquet: altered"):
        load_fitted(saved, "tiny-bert")
    index.unlink()
    with pytest.raises(BankError, match="no readable bank"):
        Bank(saved / "bank")


def test_shards_are_named_after_their_bytes_and_hold_no_names(tmp_path):
    rows = crowd()
    _, context = start_from(tmp_path, rows)
    bank = personal().fit(rows, rows, context).bank
    (digest,) = shards_of(bank.index)
    tensors = read_shard(shard_file(bank.folder, digest), digest)
    assert len(tensors["head.bias"]) == len(bank.users)
    content = shard_file(bank.folder, digest).read_bytes()
    assert not any(f'"{user}"'.encode() in content for user in rows.users)


def test_the_control_runs_on_the_trunk_that_is_there(tmp_path):
    rows = crowd()
    _, context = start_from(tmp_path, rows)
    personal().fit(rows, rows, context)
    trunks = {file: file.stat().st_mtime_ns for file in RunFolder(tmp_path).unfinished.glob("trunk-*/values.npy")}
    assert len(trunks) == 1
    shuffled = rows.replace_users(list(np.random.default_rng(0).permutation(rows.user_ids)))
    personal(shuffle_users=True).fit(shuffled, shuffled, context)
    assert {
        file: file.stat().st_mtime_ns for file in RunFolder(tmp_path).unfinished.glob("trunk-*/values.npy")
    } == trunks


def test_what_it_cannot_start_from_is_refused(tmp_path):
    rows = crowd()
    start_from(tmp_path, rows)
    prior = tmp_path / "methods" / "prior"
    prior.mkdir()
    save_fitted(config_class("prior")().fit(rows, rows, Context("none")), prior)
    context = Context("tiny-bert", run_folder=tmp_path)
    with pytest.raises(MethodError, match="prior is a prior; cls-u stands on cls or cls-p"):
        personal("prior").fit(rows, rows, context)
    with pytest.raises(MethodError, match="no readable fitted method"):
        personal("clss").fit(rows, rows, context)
    with pytest.raises(MethodError, match="run_folder"):
        personal().fit(rows, rows, Context("tiny-bert"))


def experiment(**methods):
    return make_experiment(
        {"name": "x", "source": {"name": "simulated"}, "methods": methods, "evaluate": {"reference": "cls"}}
    )


def test_an_experiment_says_what_users_start_from():
    arms = {
        arm.name: arm
        for arm in experiment(cls={}, **{"cls-u": {"init_from": "cls", "controls": ["shuffled-users"]}}).arms
    }
    assert arms["cls-u"].after == arms["cls-u~shuffled-users"].after == "cls" and arms["cls"].after is None
    with pytest.raises(ExperimentError, match=r"methods\.cls-u\.init_from: .*Did you mean 'cls'"):
        _ = experiment(cls={}, **{"cls-u": {"init_from": "clss"}})
    with pytest.raises(ExperimentError, match=r"methods\.cls-u\.init_from"):
        _ = experiment(cls={}, prior={}, **{"cls-u": {"init_from": "prior"}})
    with pytest.raises(ExperimentError, match=r"methods\.cls-u\.bank: unknown key 'ranks'. Did you mean 'rank'"):
        _ = experiment(cls={}, **{"cls-u": {"bank": {"ranks": 3}}})
