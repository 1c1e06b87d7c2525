"""`experiments/lewidi.yaml` on small invented files of the exact form, from the files to both submissions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from experiments import EXPERIMENTS
from lewidi_files import NLI, item, write

from beholder.evaluation.saved_run import recompute
from beholder.experiment.config import load_experiment
from beholder.workflows import run as pipeline
from beholder.workflows.submit_format import submission

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
SHORT = [
    "base=tiny-bert",
    "cluster.workers=0",
    "methods.cls.epochs=1",
    "methods.cls+={init_from: cls, epochs: 3}",
    "methods.cls-e={init_from: cls, epochs: 3, controls: [shuffled-users]}",
    "methods.cls-u={init_from: cls, bank: {epochs: 2}, controls: [shuffled-users]}",
]
ANSWERS = {
    "HS-Brexit": ["0", "1"],
    "ConvAbuse": ["-2", "1"],
    "MP": ["0", "1"],
    "CSC": ["1", "2", "3", "4", "5", "6"],
    "Par": ["-5", "-1", "0", "4"],
    "VariErrNLI": [*NLI, "contradiction,neutral"],
}


def files(folder, data, people=8):
    """Four of eight people judge every item; the first half of them answers low, the other high."""
    random = np.random.default_rng(4)
    low, high = np.array_split(ANSWERS[data], 2)

    def items(first, count):
        made = {}
        for number in range(first, first + count):
            who = sorted(random.permutation(people)[:4].tolist())
            answers = [
                str(random.choice(low if (person < people / 2) == (random.random() < 0.8) else high)) for person in who
            ]
            made[str(number)] = item(data, number, answers, [f"Ann{person}" for person in who])
        return made

    traits = {str(person): {"Age": 20.0 + person, "Gender": "Female" if person % 2 else "Male"} for person in range(8)}
    parts = {"train": items(100, 60), "dev": items(200, 20), "test": items(300, 20)}
    return write(folder, data, parts, json.dumps(traits))


@pytest.mark.parametrize("data", list(ANSWERS))
def test_the_shipped_experiment_runs_to_a_submission(data, tmp_path, ray_once):
    folder = files(tmp_path / "lewidi", data)
    settings = [f"source.path={folder}", f"source.data={data}", *SHORT]
    outcome = pipeline.run(load_experiment(EXPERIMENTS / "lewidi.yaml", settings))
    arms = set(outcome.results.methods) - {"routed"}
    assert {"prior", "user-prior", "cls", "cls+", "cls-e", "cls-u"} <= arms
    for name in arms:
        found = outcome.results.methods[name].distributions
        assert found and found.texts == 20
        each = found.scales[next(iter(found.scales))].absolute_distance if found.scales else found.error_rate
        assert each and each.value is not None and 0 <= each.value <= 1
    again = recompute(outcome.run_folder).to_json()["methods"]["cls-u"]["distributions"]
    assert again == outcome.results.to_json()["methods"]["cls-u"]["distributions"]
    prior, own = (outcome.results.methods[name].distributions for name in ("prior", "user-prior"))
    if data not in ("CSC", "Par"):
        assert own.error_rate.value < prior.error_rate.value  # people differ in what they give most

    soft = submission(outcome.run_folder.name, "soft", arm="cls-u")
    assert len(soft.lines) == 20 and soft.predicted == 0
    if data in ("HS-Brexit", "ConvAbuse"):
        return
    answers = submission(outcome.run_folder.name, "perspectivist", arm="cls-u")
    assert [line.split("\t")[0] for line in answers.lines] == [str(number) for number in range(300, 320)]
    if data == "MP":  # what is submitted has the error rate that was reported
        items = json.loads((folder / "MP_test.json").read_text())
        wrong = [
            np.mean(
                np.asarray(json.loads(line.split("\t")[1])) != [int(each) for each in given["annotations"].values()]
            )
            for line, given in zip(answers.lines, items.values(), strict=True)
        ]
        assert np.mean(wrong) == pytest.approx(outcome.results.methods["cls-u"].distributions.error_rate.value)
