"""Every method, on every architecture, by the same verbs; and the equality that lets rows share work."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from crowd import KINDS, TEXTS, crowd

from beholder.data.annotations import Annotations
from beholder.data.controls import shuffle_users
from beholder.data.task import Task
from beholder.evaluation.metrics import decide, macro_f1
from beholder.methods import config_class, erase_saved, load_fitted, save_fitted
from beholder.models import load_base
from beholder.models.classifier import Classifier
from beholder.models.info import facts_of
from beholder.models.tiny import ARCHITECTURES
from beholder.models.tokenization import encode, length_cut
from beholder.training.batches import training_batches
from beholder.training.context import Context
from beholder.training.losses import group, judgements, loss
from beholder.util.errors import BaseModelError, BeholderError, MethodError

pytestmark = pytest.mark.long


def settings(method: str, **more) -> dict:
    small = {"epochs": 1, "batch_size": 16, "lora": {"rank": 2, "targets": "all-linear"}}
    asked = {"max_tokens": 300, "prompt": {"wording": "brief"}}
    network = {"epochs": 3, "hidden": 8}
    of = {"cls": {**small, "max_tokens": 32}, "lm": {**small, **asked}, "query": asked}
    of |= {"cls+": network, "cls-e": {**network, "dim": 4}}
    return {**of.get(method, of.get(method.split("-")[0], {})), **more}


def started(folder, method: str, rows: Annotations, base: str) -> Context:
    """A context, in whose run folder there is the fitted method that this one starts from."""
    context = Context(base=base, seed=1, run_folder=folder)
    start = getattr(config_class(method)(), "init_from", None)
    if start is not None:
        (folder / "methods" / start).mkdir(parents=True)
        shared = config_class(start)(**settings(start)).fit(rows, rows, context)
        save_fitted(shared, folder / "methods" / start)
    return context


WRITERS = [architecture for architecture in ARCHITECTURES if architecture != "bert"]
TOLD = {"wording": "brief", "shots": 1, "blocks": ("id", "statistics", "examples"), "placement": "after"}
CASES = [
    *[(name, "tiny-bert", {}) for name in ("prior", "user-prior")],
    *[("cls", f"tiny-{architecture}", {}) for architecture in ARCHITECTURES],
    *[("cls-p", f"tiny-{architecture}", {"user_token": "added"}) for architecture in ARCHITECTURES],
    ("cls-p", "tiny-bert", {"user_token": "text"}),
    ("cls-p", "tiny-llama", {"user_token": "text"}),
    *[("cls-e", f"tiny-{architecture}", {}) for architecture in ARCHITECTURES],
    ("cls+", "tiny-bert", {}),
    ("cls+", "tiny-t5", {}),
    ("cls", "tiny-bert", {"lora": None}),
    ("cls", "tiny-llama", {"lora": {"targets": ("q_proj",)}}),
    *[(method, f"tiny-{architecture}", {}) for method in ("query", "lm") for architecture in WRITERS],
    *[(f"{method}-p", f"tiny-{each}", {"prompt": TOLD}) for method in ("query", "lm") for each in WRITERS],
    ("query", "tiny-phi", {"decode": "constrained"}),
    ("query-p", "tiny-t5", {"decode": "constrained", "prompt": {"wording": "brief", "blocks": ()}}),
    ("lm", "tiny-llama", {"lora": None}),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("method", "base", "more"), CASES)
def test_every_method_fits_scores_saves_and_loads(method, base, more, kind, tmp_path):
    prompted = method.startswith(("query", "lm"))
    rows = crowd(rows=20 if prompted else 64, kind=kind)
    config = config_class(method)(**settings(method, **more))
    if prompted and kind == "continuous":
        with pytest.raises(BeholderError, match=r"the points of one ordinal scale, and not scales such as rude"):
            config.check(facts_of(base), rows.task)
        return
    if prompted and kind in ("soft", "shares"):
        return  # what is written is a label that is given or not
    fitted = config.fit(rows, rows, started(tmp_path / "run", method, rows, base))
    texts, users = [*rows.texts[:12], "never seen"], [*rows.user_ids[:12], "nobody"]
    scores = fitted.score(texts, users)
    assert scores.dtype == np.float32 and scores.shape == (13, 3)
    assert np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1
    assert fitted.task == rows.task
    if kind in ("multiclass", "shares") and "prior" not in method:
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert fitted.knows("u1") == config.personal
    assert not fitted.knows("nobody")
    assert fitted.known == (sorted(rows.users) if config.personal else [])
    save_fitted(fitted, tmp_path)
    again = load_fitted(tmp_path, base)
    assert again.task == rows.task
    # what query calibrates on is as near to nothing as random models know
    np.testing.assert_allclose(again.score(texts, users), scores, atol=1e-4 if prompted else 1e-6)
    np.testing.assert_allclose(again.thresholds, fitted.thresholds)
    assert not list(tmp_path.rglob("*.bin")) and not list(tmp_path.rglob("*.pkl"))
    assert erase_saved(tmp_path, "u1") or not config.personal
    assert not erase_saved(tmp_path, "u1") and not load_fitted(tmp_path, base).knows("u1")


@pytest.mark.parametrize("method", ["query", "query-p", "lm", "lm-p"])
def test_an_encoder_cannot_be_asked(method):
    config = config_class(method)()
    for refuse in (
        lambda: config.check(facts_of("tiny-bert"), crowd().task),
        lambda: config.fit(crowd(), crowd(), Context(base="tiny-bert")),
    ):
        with pytest.raises(BeholderError, match=r"encoder, a base that cannot write.* Use cls") as caught:
            refuse()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["cls", "cls-p"])
def test_the_seed_decides(method):
    rows = crowd()
    config = config_class(method)(**settings(method))

    def scores(seed):
        return config.fit(rows, rows, Context(base="tiny-bert", seed=seed)).score(list(rows.texts), list(rows.user_ids))

    np.testing.assert_array_equal(scores(3), scores(3))
    assert np.abs(scores(3) - scores(4)).max() > 1e-6


@pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
@pytest.mark.parametrize("architecture", ["bert", "llama", "t5"])
def test_grouped_training_has_the_gradient_of_one_row_per_judgement(architecture, kind):
    rows = crowd(rows=96, kind=kind)
    base = load_base(f"tiny-{architecture}")
    torch.manual_seed(0)
    network = Classifier(base, 3).eval()

    def gradients(index, targets, weights):
        network.zero_grad()
        inputs = encode(base.tokenizer, list(rows.texts[index]), 32)
        ids, mask = inputs.batch(np.arange(len(index)))
        weight = torch.from_numpy(weights)
        (loss(network(ids, mask), torch.from_numpy(targets), weight, kind) / judgements(weight, kind)).backward()
        return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    grouped = group(rows, by_user=False)
    assert len(grouped.rows) < len(rows) / 1.5
    together = gradients(grouped.rows, grouped.targets, grouped.weights)
    asked = (~np.isnan(rows.labels)).astype(np.float32)
    apart = gradients(np.arange(len(rows)), np.nan_to_num(rows.labels), asked)
    assert together.keys() == apart.keys() and len(together) > 5
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, apart[name], atol=1e-6, rtol=1e-4)
    assert max(float(gradient.abs().max()) for gradient in apart.values()) > 1e-4


def test_grouping_by_user_keeps_users_apart():
    rows = crowd()
    assert len(group(rows, by_user=True).rows) == len(rows)


@pytest.mark.parametrize("base", ["tiny-bert", "tiny-llama", "tiny-t5"])
def test_a_score_does_not_depend_on_who_else_is_asked(base):
    rows = crowd()
    fitted = config_class("cls-p")(**settings("cls-p")).fit(rows, rows, Context(base=base))
    texts, users = list(rows.texts[:12]), list(rows.user_ids[:12])
    together = fitted.score([*texts, "a much longer text than all the others"], [*users, "u0"])[:12]
    alone = np.concatenate([fitted.score([text], [user]) for text, user in zip(texts, users, strict=True)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("user_token", ["text", "added"])
def test_cls_p_learns_who_reads(user_token):
    """Users who always disagree: no model that ignores the user can be right for both."""
    texts = [f"{text} {i}" for i in range(12) for text in TEXTS]
    labels = np.tile([[1.0], [0.0]], (len(texts), 1))
    rows = Annotations.from_columns(
        Task(("rude",)), text=np.repeat(texts, 2).tolist(), user_id=["strict", "mild"] * len(texts), labels=labels
    )
    lora = {"rank": 8, "dropout": 0.0, "targets": "all-linear"}
    more = {
        "epochs": 12,
        "patience": 12,
        "learning_rate": 1e-2,
        "user_token": user_token,
        "max_tokens": 40,
        "lora": lora,
    }
    fitted = config_class("cls-p")(**settings("cls-p", **more)).fit(rows, rows, Context(base="tiny-bert"))
    scores = fitted.score(list(rows.texts), list(rows.user_ids))
    assert macro_f1(decide(scores, fitted.thresholds, "multilabel"), rows.labels) > 0.95


def test_lm_p_learns_to_write_and_who_reads():
    """A loud text is rude, but never to the mild one: what is right depends on the text and on who reads."""
    texts = [f"{word} {number}" for number in range(6) for word in ("GO AWAY", "well, well")]
    labels = [[float(user == "strict" and text[0] == "G")] for text in texts for user in ("strict", "mild")]
    rows = Annotations.from_columns(
        Task(("rude",)),
        text=np.repeat(texts, 2).tolist(),
        user_id=["strict", "mild"] * len(texts),
        labels=np.asarray(labels),
    )
    more = {"epochs": 16, "patience": 16, "batch_size": 2, "learning_rate": 1e-2, "lora": None}
    prompt = {"wording": "brief", "blocks": ("id",), "placement": "after"}

    def learned(method):
        fitted = config_class(method)(**settings(method, **more, prompt=prompt)).fit(rows, rows, Context("tiny-llama"))
        scores = fitted.score(list(rows.texts), list(rows.user_ids))
        value = macro_f1(decide(scores, fitted.thresholds, "multilabel"), rows.labels)
        return value, fitted.training.history[-1]["loss"]

    told, untold = learned("lm-p"), learned("lm")
    assert told[0] > 0.95 and told[1] < 0.1
    # who is not told who reads knows the quiet texts, and half of the loud ones: 2 / 3, and a bit for each of them
    assert 0.6 < untold[0] < 0.75 and untold[1] > 0.5 * np.log(2) - 0.05


def test_user_prior_is_the_posterior_mean_and_shrinks_small_users():
    labels = np.asarray([[1.0], [1.0], [1.0], [0.0], [0.0], [0.0], [0.0], [0.0]])
    rows = Annotations.from_columns(
        Task(("rude",)), text=list(TEXTS), user_id=["a", "a", "a", "b", "b", "b", "b", "b"], labels=labels
    )
    fitted = config_class("user-prior")(strength=4).fit(rows, rows, Context(base="none"))
    overall = 3 / 8
    expected = [(3 + 4 * overall) / (3 + 4), (0 + 4 * overall) / (5 + 4), overall]
    np.testing.assert_allclose(fitted.score(["x"] * 3, ["a", "b", "stranger"])[:, 0], expected, rtol=1e-6)


def test_shuffled_users_keep_texts_labels_and_counts_but_not_who():
    rows = crowd(rows=200)
    shuffled = shuffle_users(rows, seed=0)
    assert list(shuffled.texts) == list(rows.texts)
    np.testing.assert_array_equal(shuffled.labels, rows.labels)
    assert sorted(shuffled.user_ids) == sorted(rows.user_ids)
    assert np.mean(shuffled.user_ids == rows.user_ids) < 0.5
    assert list(shuffle_users(rows, seed=0).user_ids) == list(shuffled.user_ids)


def judged(seed=0, users=12, texts=80, each=6) -> Annotations:
    """Users with a level of their own, each text judged by some of them, ten texts by one only."""
    rng = np.random.default_rng(seed)
    level = np.linspace(0.05, 0.95, users)
    pairs = [(f"text {t}", u) for t in range(texts) for u in rng.permutation(users)[: 1 if t < 10 else each]]
    labels = (rng.random(len(pairs)) < level[[u for _, u in pairs]]).astype(float)[:, None]
    return Annotations.from_columns(
        Task(("rude",)), text=[text for text, _ in pairs], user_id=[f"u{u:02d}" for _, u in pairs], labels=labels
    )


def test_shuffled_within_text_users_keep_their_texts_and_lose_their_view():
    rows = judged()
    found = shuffle_users(rows, 0, control="shuffled-within-text")
    judges = {}
    for name, some in (("before", rows), ("after", found)):
        judges[name] = sorted(zip(some.texts, some.user_ids, strict=True))
    often = {text for text in rows.texts if (rows.texts == text).sum() > 1}
    assert [each for each in judges["before"] if each[0] in often] == [e for e in judges["after"] if e[0] in often]
    assert sorted(found.user_ids) == sorted(rows.user_ids) and judges["before"] != judges["after"]
    np.testing.assert_array_equal(found.labels, rows.labels)

    def spread(some):
        means = [some.labels[some.user_ids == user].mean() for user in some.users]
        return float(np.std(means))

    assert spread(rows) > 0.2 > 2 * spread(found)  # one in six stays where it was
    alone = rows.select(np.flatnonzero([text not in often for text in rows.texts]))
    moved = shuffle_users(alone, 0, control="shuffled-within-text")
    assert list(moved.user_ids) != list(alone.user_ids) and sorted(moved.user_ids) == sorted(alone.user_ids)


@pytest.mark.parametrize("control", ["shuffled-users", "shuffled-within-text"])
def test_permutations_of_a_control_differ_and_are_drawn_again_alike(control):
    rows = judged()
    drawn = [list(shuffle_users(rows, 3, control=f"{control}{end}").user_ids) for end in ("", "-2", "-3", "-3")]
    assert drawn[2] == drawn[3] and len({tuple(each) for each in drawn}) == 3
    assert drawn[0] == list(shuffle_users(rows, 3, control=control).user_ids)
    assert control != "shuffled-users" or drawn[0] == list(shuffle_users(rows, 3, control=True).user_ids)


def test_batches_hold_every_row_once_and_waste_little():
    lengths = np.random.default_rng(0).integers(3, 60, 1000)
    batches = training_batches(lengths, np.arange(1000), 32, np.random.default_rng(0))
    assert sorted(np.concatenate(batches)) == list(range(1000))
    assert sum(lengths[rows].max() * len(rows) for rows in batches) < 1.1 * lengths.sum()
    scoring = list(length_cut(lengths, token_budget=256))
    assert sorted(np.concatenate(scoring)) == list(range(1000))
    assert all(lengths[rows].max() * len(rows) <= 256 for rows in scoring)


def test_told_the_user_or_not_a_method_sees_the_same_judgements_in_the_same_steps():
    rows = crowd(rows=400, users=6)

    def steps(by_user):
        grouped = group(rows, by_user)
        lengths = np.asarray([len(text) for text in rows.texts[grouped.rows]])
        batches = training_batches(lengths, grouped.text, 8, np.random.default_rng(5))
        return [(set(rows.texts[grouped.rows[batch]]), float(grouped.weights[batch].sum())) for batch in batches]

    assert steps(by_user=True) == steps(by_user=False)


def test_another_base_is_refused(tmp_path):
    rows = crowd()
    fitted = config_class("cls")(**settings("cls")).fit(rows, rows, Context(base="tiny-bert"))
    save_fitted(fitted, tmp_path)
    with pytest.raises(MethodError, match="other weights"):
        load_fitted(tmp_path, "tiny-llama")


def test_damaged_weights_and_newer_formats_are_refused(tmp_path):
    rows = crowd()
    save_fitted(config_class("cls")(**settings("cls")).fit(rows, rows, Context(base="tiny-bert")), tmp_path)
    head = tmp_path / "head.safetensors"
    whole = head.read_bytes()
    head.write_bytes(whole[:-10])
    with pytest.raises(MethodError, match="damaged"):
        load_fitted(tmp_path, "tiny-bert")
    head.write_bytes(whole)
    described = json.loads((tmp_path / "method.json").read_text())
    (tmp_path / "method.json").write_text(json.dumps({**described, "format": 99}))
    with pytest.raises(MethodError, match="newer"):
        load_fitted(tmp_path, "tiny-bert")


def test_names_nobody_knows_are_refused_with_what_was_meant(tmp_path):
    with pytest.raises(MethodError, match="Did you mean 'user-prior'"):
        config_class("user-priors")
    with pytest.raises(BaseModelError, match="Did you mean 'minilm-l6'"):
        load_base("minilm")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaseModelError, match=r"no config\.json"):
        load_base(str(tmp_path / "empty"))
    with pytest.raises(BaseModelError, match="beholder models pull someone/model"):
        load_base("someone/model")
    with pytest.raises(MethodError, match="targets does not fit"):
        rows = crowd()
        config_class("cls")(**settings("cls", lora={"targets": ("nowhere",)})).fit(rows, rows, Context("tiny-bert"))


def test_a_local_folder_is_a_base_like_any_other(tmp_path):
    base = load_base("tiny-mistral")
    base.model.save_pretrained(tmp_path / "mine")
    base.tokenizer.save_pretrained(tmp_path / "mine")
    loaded = load_base(str(tmp_path / "mine"))
    assert loaded.architecture == "decoder" and loaded.width == base.width
