"""What cannot work is refused before anything is fitted, in one line that says where and what next."""

from __future__ import annotations

import pytest
import torch
import yaml
from experiments import SHIPPED
from needs import reason

from beholder.datasets import DataNotFound
from beholder.experiment.config import load_experiment, make_experiment
from beholder.methods import METHODS, config_class
from beholder.models import precision as forms
from beholder.prompting.wording import FOLDER
from beholder.util.errors import BaseModelError, BeholderError, DataError
from beholder.workflows import run as pipeline

pytestmark = pytest.mark.long

SOURCE = {"name": "simulated", "texts": "templates", "users": 4, "rows_per_user": 40, "distinct_texts": 60}


def asked(**more) -> dict:
    methods = {"prior": {}, "query": {}, "lm": {}, **more.pop("methods", {})}
    return {"name": "trial", "source": SOURCE, "base": "tiny-llama", "methods": methods, **more} | {
        "evaluate": {"reference": "prior"}
    }


def refused(settings: dict) -> str:
    with pytest.raises(BeholderError) as found:
        pipeline.prepare(make_experiment(settings))
    assert "\n" not in str(found.value)
    return str(found.value)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_file_that_ships_goes_with_its_data_where_that_is_here(file):
    overrides = ["base=tiny-llama"] if isinstance(load_experiment(file).base, str) else []
    try:
        assert pipeline.prepare(load_experiment(file, overrides)).jobs
    except DataError as error:  # of your-own-table, and where the data set has to be fetched
        assert isinstance(error, DataNotFound) or "no such file" in str(error)
        assert "\n" not in str(error)


def scaled(tmp_path, answers):
    """Judgements of 90 texts by three people, on a scale from 1 to 5."""
    rows = [f"text number {text},u{text % 3},{answers[text % len(answers)]}" for text in range(90)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,user,polite", *rows]) + "\n")
    labels = {"polite": {"kind": "ordinal", "range": [1, 5]}}
    source = {"name": "table", "path": str(tmp_path / "rows.csv"), "user": "user", "labels": labels}
    return {**asked(methods={}), "methods": {"prior": {}}, "source": source}


def test_points_of_a_scale_may_be_without_answers_and_a_label_may_not(tmp_path):
    assert pipeline.prepare(make_experiment(scaled(tmp_path, (2, 3, 4)))).jobs
    assert 'scale "polite" has one answer only' in refused(scaled(tmp_path, (3,)))
    table = scaled(tmp_path, (0,))
    table["source"]["labels"] = {"polite": {}}
    assert 'label "polite" has no positive among the' in refused(table)


@pytest.mark.skipif(torch.cuda.is_available(), reason=reason("a machine without a GPU"))
@pytest.mark.parametrize("file", [file for file in SHIPPED if file.parent.name == "paper"], ids=lambda file: file.stem)
def test_the_papers_models_are_refused_without_a_gpu(file):
    with pytest.raises(BaseModelError, match=r"@nf4': 4-bit weights need a GPU, and there is none here. Use .*@bf16"):
        pipeline.prepare(load_experiment(file))


def test_what_works_passes():
    prepared = pipeline.prepare(make_experiment(asked()))
    assert [job.name for job in prepared.jobs] == ["prior", "query", "lm"]


def test_settings_that_lost_their_meaning_are_accepted_and_said():
    old = {"evaluate": {"reference": "prior", "bootstrap": 1000, "seed": 3}}
    new, given = (make_experiment({**asked(), **more}) for more in ({}, old))
    assert given.digest == new.digest and not any("evaluate." in line for line in pipeline.prepare(new).notes)
    said = [line for line in pipeline.prepare(given).notes if "evaluate." in line]
    assert len(said) == 2 and all("has none now. Remove it." in line for line in said)


@pytest.mark.parametrize("method", ["query", "query-p", "lm", "lm-p"])
def test_an_encoder_cannot_write(method):
    only = {**asked(base="tiny-bert"), "methods": {"prior": {}, method: {}}}
    said = refused(only)
    assert said.startswith(f"methods.{method}: base 'tiny-bert' is an encoder, a base that cannot write.")
    assert "Use cls" in said and "decoder, encoder-decoder" in said


@pytest.mark.parametrize("method", ["query", "lm"])
def test_prompts_need_room_for_a_text(method):
    said = refused(asked(methods={method: {"max_tokens": 120}}))
    assert said.startswith(f"methods.{method}: max_tokens: 120 leaves no room for a text: the instruction takes ")
    assert "Raise it" in said


def test_a_base_that_reads_too_little_is_named(tmp_path):
    from beholder.models import load_base

    base = load_base("tiny-llama", head=True)
    base.model.config.max_position_embeddings = 100
    base.model.save_pretrained(tmp_path / "short")
    base.tokenizer.save_pretrained(tmp_path / "short")
    said = refused(asked(base=str(tmp_path / "short")))
    assert "methods.query: max_tokens: 100 leaves no room" in said and "reads no more: use another" in said


def test_wordings_that_cannot_be_used(tmp_path):
    said = refused(asked(methods={"query": {"prompt": {"wording": "plane"}}}))
    assert "methods.query.prompt.wording" in said and "unknown wording 'plane'. Did you mean 'plain'?" in said
    words = yaml.safe_load((FOLDER / "plain.yaml").read_text())
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in words.items() if key != "answer"}))
    said = refused(asked(methods={"lm": {"prompt": {"wording": str(file)}}}))
    assert f"{file}.answer: this key is required" in said
    file.write_text(yaml.safe_dump({**words, "text": "Text:"}))
    said = refused(asked(methods={"lm": {"prompt": {"wording": str(file)}}}))
    assert f"{file}.text: expected {{text}} in the words" in said


def test_forms_nobody_has():
    said = refused(asked(base="tiny-llama@nf5"))
    assert said.startswith("base 'tiny-llama@nf5': unknown form 'nf5'. Did you mean 'nf4'?")
    if not torch.cuda.is_available():
        assert "base 'tiny-llama@nf4': 4-bit weights need a GPU" in refused(asked(base="tiny-llama@nf4"))
    pipeline.prepare(make_experiment(asked(base="tiny-llama@bf16")))


def test_a_form_that_this_machine_has_to_emulate_is_said_beforehand(monkeypatch):
    monkeypatch.setattr(forms, "computes_bfloat16", lambda: False)
    said = [pipeline.prepare(make_experiment(asked(base=base))).notes for base in ("tiny-llama@bf16", "tiny-llama")]
    assert [len(notes) for notes in said] == [2, 1]
    assert said[0][1] == (
        "base 'tiny-llama@bf16': this CPU has no bfloat16 arithmetic and emulates it, about 100 times slower. "
        "Use tiny-llama."
    )
    monkeypatch.setattr(forms, "computes_bfloat16", lambda: True)
    assert len(pipeline.prepare(make_experiment(asked(base="tiny-llama@bf16"))).notes) == 1


def test_methods_say_which_bases_they_work_with():
    assert {name: config_class(name).bases for name in METHODS if name.startswith("lm")} == dict.fromkeys(
        ["lm", "lm-p", "lm-u"], ("decoder", "encoder-decoder")
    )
    assert "endpoint" in config_class("query-p").bases and "encoder" in config_class("cls-u").bases
    assert config_class("prior").bases == ()


def test_beholder_methods_lists_all_twelve():
    import json

    from typer.testing import CliRunner

    from beholder.cli.main import app

    listed = json.loads(CliRunner().invoke(app, ["methods", "--json"]).stdout)
    assert [row["method"] for row in listed] == list(METHODS) and len(listed) == 12
    personal = {row["method"] for row in listed if row["personal"]}
    assert personal == {"user-prior", *(name for name in METHODS if name.endswith(("-p", "-e", "-u")))}
    shown = CliRunner().invoke(app, ["methods"]).stdout
    assert all(name in shown for name in METHODS)
