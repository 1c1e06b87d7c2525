"""A run with a split by people, from the file to the page, and again from saved scores alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from beholder.cli.console import console, print_gains
from beholder.cli.main import app
from beholder.data.annotations import Annotations
from beholder.evaluation.run_results import RunResults
from beholder.evaluation.saved_run import recompute
from beholder.experiment.config import make_experiment
from beholder.lifecycle.erase import erase_everywhere
from beholder.report.page import NAMED, NAMELESS
from beholder.workflows import run as pipeline

pytestmark = pytest.mark.slow
STEPS = [0, 2, 10]


def written(**more) -> dict:
    return {
        "name": "newcomers",
        "source": {
            "name": "simulated",
            "texts": "templates",
            "users": 100,
            "rows_per_user": 40,
            "distinct_texts": 150,
            "effect": 2.0,
        },
        "split": {"by": "people", "adapt": STEPS},
        "base": "tiny-bert",
        "methods": {"prior": {}, "user-prior": {}},
        "evaluate": {"reference": "prior"},
        "cluster": {"workers": 0},
        **more,
    }


def said(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_a_run_by_people_from_the_file_to_the_page(home, tmp_path):
    file = tmp_path / "newcomers.yaml"
    file.write_text(yaml.safe_dump(written()))
    counted = json.loads(said("validate", file, "--json"))["people"]
    found = json.loads(said("run", file, "--json"))
    folder = next((home / "runs").glob("newcomers-*"))
    curve = found["newcomers"]["user-prior"]
    assert [point["k"] for point in curve] == STEPS and curve[0]["people"] == counted["tested"]
    assert [point["people_with_k"] for point in curve] == [counted["with_k"][str(k)] for k in STEPS]
    assert curve[0]["gain_over_global"]["value"] == pytest.approx(0, abs=1e-9)
    assert curve[-1]["gain_over_zero"]["low"] > 0
    assert len(found["seen_unseen"]) == 4 and sum(found["split"]["rows"].values()) == found["data"]["rows"]
    assert found["methods"]["user-prior"]["macro_f1"] == pytest.approx(curve[-1]["macro_f1"])

    page = (folder / NAMELESS).read_text()
    assert "What a newcomer gains from their first judgements" in page
    assert "Seen and unseen people and texts" in page and "new people, unseen texts" in page
    assert (folder / "figures" / "newcomers.png").read_bytes()[:4] == b"\x89PNG"

    assert json.loads(json.dumps(recompute(folder).to_json()["newcomers"])) == found["newcomers"]
    with console.capture() as shown:
        print_gains(RunResults.from_json(found))
    assert "newcomers: " in shown.get() and "below k = 0" in shown.get() and "unseen texts" in shown.get()

    rows = Annotations.read_parquet(folder / "annotations.parquet")
    gone = str(rows.user_ids[np.asarray(rows.column("part")) == "test"][0])
    erase_everywhere(gone)
    left = recompute(folder).newcomers
    assert left and left.curves["user-prior"][0].people == counted["tested"] - 1
    assert gone not in (folder / NAMED).read_text()


def test_what_is_measured_is_part_of_what_a_finished_arm_is_known_by():
    def keys(**split):
        settings = written(split={"by": "people", **split})
        return [job.key for job in pipeline.prepare(make_experiment(settings)).jobs]

    assert keys(adapt=[0, 2]) == keys(adapt=[0, 2]) != keys(adapt=[0, 5])


def test_seen_texts_are_measured_where_the_file_says_so():
    prepared = pipeline.prepare(make_experiment(written(split={"by": "people", "texts": "seen"})))
    assert prepared.split.leaked == 1 and "seen_people" not in prepared.split.parts
