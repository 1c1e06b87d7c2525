"""What fine-tuning costs a base elsewhere: the same before and after where nothing was learned."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from crowd import crowd

from beholder.execution.arm import ArmJob
from beholder.execution.forgetting import Forgetting, as_language_model, asked, general_text, measure, plan, summary
from beholder.methods import config_class, save_fitted
from beholder.models import facts_of
from beholder.models.language_model import load_language_model
from beholder.models.perplexity import perplexity
from beholder.models.tiny import ARCHITECTURES
from beholder.training.context import Context
from beholder.util.errors import BeholderError
from beholder.util.strict_model import build

pytestmark = pytest.mark.long

WRITERS = [architecture for architecture in ARCHITECTURES if architecture != "bert"]
ELSEWHERE = {"name": "simulated", "texts": "templates", "users": 4, "rows_per_user": 40, "distinct_texts": 60}
SHORT = general_text()[0][:300]


def settings(**more) -> Forgetting:
    return build(Forgetting, {"source": ELSEWHERE, "rows": 12, "window": 200, **more}, "forgetting")


def arm(name: str, method: str, key: str = "key", control_of: str | None = None) -> ArmJob:
    return ArmJob(name, {"method": method, **({"init_from": "lm"} if method == "lm-u" else {})}, control_of, key)


def planned(base: str, arms: list[ArmJob], **more):
    return plan(settings(**more), facts_of(base), "the base", arms, seed=3)


def fit(method: str, base: str, learning_rate: float):
    small = {"epochs": 1, "batch_size": 32, "learning_rate": learning_rate, "lora": {"targets": "all-linear"}}
    if method.startswith("cls"):
        small["max_tokens"] = 24
    return config_class(method)(**small).fit(crowd(32), crowd(16, seed=1), Context(base=base, seed=1))


def said(base: str, window: int) -> tuple[float, int]:
    """-log p and number of the tokens scored, by transformers' own loss on windows of the same tokens."""
    language = load_language_model(base)
    language.model.config.decoder_start_token_id = 0  # padding, as T5 has it
    tokens = language.base.tokenizer(SHORT, add_special_tokens=False)["input_ids"]
    total, count = 0.0, 0
    for start in range(0, len(tokens), window):
        ids = torch.tensor([tokens[start : start + window]])
        half = ids.shape[1] // 2
        called = (
            {"input_ids": ids[:, :half], "labels": ids[:, half:]}
            if language.encodes
            else dict.fromkeys(("input_ids", "labels"), ids)
        )
        scored = ids.shape[1] - (half if language.encodes else 1)
        with torch.no_grad():
            total += float(language.model(**called).loss) * scored
        count += scored
    return total, count


@pytest.mark.parametrize("architecture", WRITERS)
@pytest.mark.parametrize("window", [64, 70])
def test_perplexity_is_that_of_transformers_own_loss(architecture, window):
    found = perplexity(load_language_model(f"tiny-{architecture}"), SHORT, window)
    total, count = said(f"tiny-{architecture}", window)
    assert found.tokens == count
    assert math.log(found.value) == pytest.approx(total / count, abs=1e-5)


@pytest.mark.parametrize("architecture", WRITERS)
@pytest.mark.parametrize("method", ["cls", "lm"])
def test_who_learned_nothing_forgot_nothing_and_who_learned_much_did(method, architecture):
    base, rows = f"tiny-{architecture}", planned(f"tiny-{architecture}", []).rows
    context = Context(base=base, seed=1)
    before = load_language_model(base)
    surprise, answers = perplexity(before, SHORT, 64), asked(before, rows, context)

    idle = as_language_model(fit(method, base, 1e-30), context)
    assert perplexity(idle, SHORT, 64) == surprise
    assert asked(idle, rows, context) == answers

    changed = perplexity(as_language_model(fit(method, base, 0.1), context), SHORT, 64)
    assert changed.tokens == surprise.tokens and abs(math.log(changed.value / surprise.value)) > 1e-3


def test_the_trained_body_is_what_is_read():
    """A body that was exchanged, and not one beside it: of all weights, those of another model make its perplexity."""
    one, other = load_language_model("tiny-llama"), load_language_model("tiny-llama")
    torch.manual_seed(0)
    for parameter in other.body.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    other.head.load_state_dict(one.head.state_dict())
    one.put_body(other.body)
    assert perplexity(one, SHORT, 64) == perplexity(other, SHORT, 64)
    assert perplexity(one, SHORT, 64) != perplexity(load_language_model("tiny-llama"), SHORT, 64)


def test_a_run_measures_the_base_once_and_every_arm_that_trained_it(tmp_path):
    """And again only what has changed: one arm fitted anew, or all of it where the section changes."""
    arms = [
        arm("prior", "prior"),
        arm("lm", "lm"),
        arm("lm-p~shuffled-users", "lm-p", control_of="lm-p"),
        arm("lm-u", "lm-u"),
    ]
    made = planned("tiny-llama", arms)
    assert [job.arm for job in made.jobs] == ["", "lm"]
    assert made.pending(tmp_path, ()) == made.jobs
    made.write(tmp_path)
    folder = tmp_path / "methods" / "lm"
    folder.mkdir(parents=True)
    save_fitted(fit("lm", "tiny-llama", 0.1), folder)
    assert summary(tmp_path) is None  # nothing is measured yet
    for job in made.jobs:
        measure(job, tmp_path, Context(base="tiny-llama", seed=1))
    assert made.pending(tmp_path, ()) == ()

    found = summary(tmp_path)
    assert found is not None and json.loads(json.dumps(found)) == found
    assert found["text"]["version"] == 1 and found["text"]["window"] == 200 and found["text"]["tokens"] > 3_000
    assert found["source"] == "simulated" and found["rows"] == {"valid": 12, "test": 12}
    assert found["before"].keys() == {"perplexity", "macro_f1"} and set(found["arms"]) == {"lm"}
    assert found["arms"]["lm"]["perplexity"] != found["before"]["perplexity"]
    language = load_language_model("tiny-llama")
    assert found["before"]["perplexity"] == perplexity(language, general_text()[0], 200).value

    assert [job.arm for job in made.pending(tmp_path, {"lm"})] == ["lm"]
    assert [job.arm for job in planned("tiny-llama", [arm("lm", "lm", "another")]).pending(tmp_path, ())] == ["lm"]
    for change in ({"rows": 11}, {"window": 100}, {"source": {**ELSEWHERE, "users": 3}}):
        changed = planned("tiny-llama", arms, **change)
        assert changed.pending(tmp_path, ()) == changed.jobs
    changed.write(tmp_path)
    assert summary(tmp_path) is None  # what was measured of other rows is not shown for these


def test_texts_that_calibrate_are_not_those_that_count():
    rows = planned("tiny-llama", [], rows=60).rows
    assert len(rows["valid"]) == len(rows["test"]) == 60
    assert not set(rows["valid"].texts) & set(rows["test"].texts)
    again = planned("tiny-llama", [], rows=60).rows
    assert np.array_equal(again["test"].texts, rows["test"].texts)


def test_nothing_measured_is_no_summary(tmp_path):
    assert summary(tmp_path) is None


@pytest.mark.parametrize(
    ("base", "more", "message"),
    [
        ("tiny-bert", {}, "forgetting: base 'tiny-bert' is an encoder, a base that cannot write"),
        (
            "tiny-llama",
            {"source": {"name": "table", "path": "/nowhere/a.csv", "labels": ["a"]}},
            "forgetting: .*no such",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_fitted(base, more, message):
    with pytest.raises(BeholderError, match=message):
        planned(base, [], **more)


def test_the_general_text_is_of_the_stated_length():
    assert 500 <= len(general_text()[0].split()) <= 700
