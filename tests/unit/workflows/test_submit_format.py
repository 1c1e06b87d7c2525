"""Predictions in the files of the LeWiDi tasks: both tracks, of the scores of a run, of its arms and of a model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from lewidi_files import NLI, POINTS, item, small, write
from typer.testing import CliRunner

from beholder.cli.main import app
from beholder.datasets import load
from beholder.evaluation.arm_scores import ArmScores, Judgements
from beholder.evaluation.results import evaluate
from beholder.evaluation.scores_io import write_scores
from beholder.experiment.config import make_experiment
from beholder.methods import config_class, save_fitted
from beholder.training.context import Context
from beholder.util.errors import DataError
from beholder.util.run_folder import RunFolder
from beholder.workflows.model import MethodModel
from beholder.workflows.submit_format import submission

ARMS = ("prior", "user-prior")


def run_of(home, folder, data, methods=ARMS, **source):
    """What a run leaves: settings, scores of validation and test rows, fitted arms, results."""
    experiment = make_experiment(
        {
            "name": "lewidi",
            "source": {"name": "lewidi", "path": str(folder), "data": data, **source},
            "split": {"by": "column"},
            "base": "tiny-bert",
            "methods": {name: {} for name in methods},
            "evaluate": {"reference": "prior"},
        }
    )
    rows = load(experiment.source).annotations
    split = np.asarray(rows.column("split"))
    parts = {part: rows.select(np.flatnonzero(split == part)) for part in ("train", "valid", "test")}
    at = RunFolder(home / "runs" / "lewidi-1")
    arms = []
    for name in methods:
        fitted = config_class(name)().fit(parts["train"], parts["valid"], Context("tiny-bert", 42))
        at.method(name).mkdir(parents=True)
        save_fitted(fitted, at.method(name))
        scores = [fitted.score(list(parts[part].texts), list(parts[part].user_ids)) for part in ("valid", "test")]
        arms.append(ArmScores(name, name, fitted.thresholds, scores[0], scores[1], 1.0))
        write_scores(at.scores(name), arms[-1], parts["valid"], parts["test"])
    found = evaluate(arms, Judgements.of(parts["valid"]), Judgements.of(parts["test"]), rows.task, "prior")
    at.experiment.write_text(json.dumps({"digest": "d", **experiment.model_dump(mode="json", by_alias=True)}))
    at.evaluation.write_text(json.dumps({"reference": "prior", "arms": list(methods)}))
    at.results.write_text(json.dumps({"base": "b", "data": {}, "split": {"hash": "h"}, **found.to_json()}))
    return at.path


def lines_of(made):
    return {id_: json.loads(values) for id_, values in (line.split("\t") for line in made.lines)}


def leaning(folder, data, answers, **parts):
    """Two annotators who give the same answers to twenty training items each: their prior is that answer."""
    train = {str(number): item(data, number, list(answers)) for number in range(100, 120)}
    return small(folder, data, train=train, **parts)


def test_the_soft_track_of_a_binary_set_is_the_mean_over_annotators(home, tmp_path):
    """Frequencies with a prior of strength 10 around 1/2: (20 + 5) / 30 and (0 + 5) / 30, whose mean is 1/2."""
    run_of(home, leaning(tmp_path, "MP", ["0", "1"]), "MP")
    made = submission("lewidi-1", "soft", arm="user-prior")
    assert made.lines == ("31\t[0.5, 0.5]",) and made.predicted == 0
    three = {"31": item("MP", 31, ["0", "0", "1"], ["Ann1", "Ann3", "Ann2"])}
    leaning(tmp_path, "MP", ["0", "1"], test=three)  # Ann3 is unknown: 1/2
    made = submission("lewidi-1", "soft", arm="user-prior")
    assert lines_of(made) == {"31": [0.5, 0.5]} and made.predicted == 3


def test_the_perspectivist_track_has_each_annotators_answer_in_the_items_order(home, tmp_path):
    test = {id_: item("MP", 31, ["0", "1"], names) for id_, names in
            (("31", ["Ann2", "Ann1"]), ("30", ["Ann1", "Ann2"]))}  # fmt: skip
    run_of(home, leaning(tmp_path, "MP", ["0", "1"], test=test), "MP")
    assert submission("lewidi-1", "perspectivist", arm="user-prior").lines == ("31\t[1, 0]", "30\t[0, 1]")


@pytest.mark.parametrize(("data", "answers"), [("CSC", ["2", "6"]), ("Par", ["-5", "4"])])
def test_scales_have_a_share_of_every_value_and_whole_answers(data, answers, home, tmp_path):
    run_of(home, leaning(tmp_path, data, answers), data)
    shares = lines_of(submission("lewidi-1", "soft"))["31"]
    assert len(shares) == len(POINTS[data]) and sum(shares) == pytest.approx(1)
    assert [POINTS[data][place] for place, share in enumerate(shares) if share > 0] == answers
    assert lines_of(submission("lewidi-1", "perspectivist", arm="user-prior"))["31"] == [int(each) for each in answers]


def test_files_published_after_the_competition_have_no_share_of_zero(home, tmp_path):
    folder = leaning(tmp_path, "CSC", ["2", "6"])
    for file in folder.glob("CSC_*.json"):
        items = json.loads(file.read_text())
        for each in items.values():
            each["soft_label"].pop("0")
        file.write_text(json.dumps(items))
    run_of(home, folder, "CSC")
    assert len(lines_of(submission("lewidi-1", "soft"))["31"]) == 6


def test_a_set_with_several_labels_has_a_list_for_each(home, tmp_path):
    run_of(home, leaning(tmp_path, "VariErrNLI", ["contradiction", "contradiction,neutral"]), "VariErrNLI")
    soft = lines_of(submission("lewidi-1", "soft", arm="user-prior"))["31"]
    assert [len(each) for each in soft] == [2] * len(NLI) and soft[0] == [0, 1] and soft[2] == [0.5, 0.5]
    answers = lines_of(submission("lewidi-1", "perspectivist", arm="user-prior"))["31"]
    assert answers == [[1, 1], [0, 0], [0, 1]]


def test_a_set_of_2023_has_label_and_shares_and_no_perspectivist_track(home, tmp_path):
    run_of(home, leaning(tmp_path, "HS-Brexit", ["1", "1"]), "HS-Brexit")
    assert submission("lewidi-1", "soft").lines == ("1\t0.0\t1.0",)
    with pytest.raises(DataError, match="HS-Brexit: the task of 2023 had no perspectivist track"):
        submission("lewidi-1", "perspectivist")


def test_items_without_annotations_are_predicted_by_the_fitted_arm(home, tmp_path):
    clear = {"31": item("MP", 31, None), "32": item("MP", 32, None, ["Ann2", "Ann9"])}
    folder = leaning(tmp_path, "MP", ["0", "1"], test=None, test_clear=clear)
    train = json.loads((folder / "MP_train.json").read_text())
    train |= {str(number): item("MP", number, ["0", "1"]) for number in range(200, 260)}
    write(folder, "MP", {"train": train})
    run_of(home, folder, "MP", test_on="dev")
    made = submission("lewidi-1", "perspectivist", arm="user-prior")
    assert made.lines[0] == "31\t[0, 1]" and made.predicted == 4 and made.items.name == "MP_test_clear.json"
    assert list(lines_of(made)) == ["31", "32"]
    of_dev = submission("lewidi-1", "perspectivist", arm="user-prior", part="dev")
    assert of_dev.lines == ("21\t[0, 1]",) and of_dev.predicted == 0


def test_the_arm_is_the_best_on_validation_rows(home, tmp_path):
    run_of(home, leaning(tmp_path, "MP", ["0", "1"]), "MP")
    assert submission("lewidi-1", "soft").arm == "user-prior"


def test_most_frequent_is_what_user_prior_predicts(home, tmp_path):
    """The task's baseline: each annotator's most frequent answer. Known here: Ann1 errs on one of two items."""
    test = {"31": item("MP", 31, ["0", "1"]), "32": item("MP", 32, ["1", "1"])}
    run = run_of(home, leaning(tmp_path, "MP", ["0", "1"], test=test), "MP")
    assert submission("lewidi-1", "perspectivist", arm="user-prior").lines == ("31\t[0, 1]", "32\t[0, 1]")
    found = json.loads(RunFolder(run).results.read_text())["methods"]["user-prior"]["distributions"]
    assert found["texts"] == 2 and found["error_rate"]["value"] == pytest.approx((0 + 1 / 2) / 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arm": "cls"}, "unknown arm 'cls'"),
        ({"data": "CSC"}, "it learned MP, not CSC"),
        ({"part": "dev", "path": "nowhere"}, "nowhere: no such file or folder"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message, home, tmp_path):
    run_of(home, leaning(tmp_path, "MP", ["0", "1"]), "MP")
    if "path" in settings:
        settings = {**settings, "path": tmp_path / settings["path"]}
    with pytest.raises(DataError, match=message):
        submission("lewidi-1", "soft", **settings)


def test_a_damaged_item_is_refused(home, tmp_path):
    folder = leaning(tmp_path, "MP", ["0", "1"])
    run_of(home, folder, "MP")
    write(folder, "MP", {"test": {"31": item("MP", 31, ["0", "1"], annotators="")}})
    with pytest.raises(DataError, match=r'MP_test.json, item "31", field "annotators": names nobody'):
        submission("lewidi-1", "soft")


def test_a_run_of_other_data_is_refused(home, tmp_path):
    run = run_of(home, leaning(tmp_path, "MP", ["0", "1"]), "MP")
    written = json.loads(RunFolder(run).experiment.read_text())
    RunFolder(run).experiment.write_text(json.dumps({**written, "source": {"name": "simulated"}}))
    with pytest.raises(DataError, match="its data are simulated, not lewidi"):
        submission("lewidi-1", "soft")


def test_a_saved_model_predicts_the_items_of_a_folder(home, tmp_path):
    folder = leaning(tmp_path / "files", "MP", ["0", "1"])
    run_of(home, folder, "MP")
    rows = load(make_experiment({
        "name": "x", "source": {"name": "lewidi", "path": str(folder), "data": "MP"}, "base": "tiny-bert",
        "methods": {"prior": {}}, "evaluate": {"reference": "prior"},
    }).source).annotations  # fmt: skip
    config = config_class("user-prior")()
    fitted = config.fit(rows, rows, Context("tiny-bert", 42))
    from beholder.models.model_ref import ModelRef

    saved = str(MethodModel(fitted, ModelRef.of("tiny-bert"), config).save(tmp_path / "saved"))
    made = submission(saved, "perspectivist", path=folder, data="MP")
    assert made.lines == ("31\t[0, 1]",) and made.arm == "user-prior"
    for wrong, message in (({}, "Give --path"), ({"path": folder, "data": "CSC"}, "which CSC does not ask for"),
                           ({"path": folder, "data": "MPP"}, "unknown set 'MPP'"),
                           ({"path": folder, "data": "MP", "arm": "cls"}, "a model has no arms")):  # fmt: skip
        with pytest.raises(DataError, match=message):
            submission(saved, "soft", **wrong)


def test_the_command_writes_the_file_and_refuses_in_one_line(home, tmp_path):
    run_of(home, leaning(tmp_path, "MP", ["0", "1"]), "MP")
    out = tmp_path / "made" / "MP_test_pe.tsv"
    words = ["submit-format", "lewidi-1", "--track", "perspectivist", "--out", str(out), "--arm", "user-prior"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0 and out.read_text() == "31\t[0, 1]\n"
    assert json.loads(done.stdout)["items"] == 1
    assert "1 items of" in CliRunner().invoke(app, words).stdout
    refused = CliRunner().invoke(app, [*words[:-1], "lm"])
    assert refused.exit_code == 2 and refused.stderr.count("\n") == 1 and "unknown arm 'lm'" in refused.stderr
