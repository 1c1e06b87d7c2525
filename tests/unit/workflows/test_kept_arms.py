"""An arm is kept only while everything it depends on is as it was."""

from __future__ import annotations

import pytest
import yaml

from beholder.experiment.config import make_experiment
from beholder.prompting.wording import FOLDER
from beholder.workflows.prepare import prepare


@pytest.fixture
def table(tmp_path):
    """Writes the table, with people of these ages."""

    def write(ages=(20, 30, 40)) -> None:
        rows = [
            f"text number {text},user {user},{(text + user) % 2},{ages[user]}"
            for text in range(40)
            for user in range(3)
        ]
        (tmp_path / "rows.csv").write_text("\n".join(["text,user,angry,age", *rows]) + "\n")

    write()
    return write


def keys(tmp_path) -> dict[str, str]:
    wording = str(tmp_path / "wording.yaml")
    written = {
        "name": "keys",
        "source": {
            "name": "table",
            "path": str(tmp_path / "rows.csv"),
            "user": "user",
            "labels": ["angry"],
            "context": ["age"],
        },
        "base": "tiny-llama",
        "methods": {
            "prior": {},
            "query": {"prompt": {"wording": wording}},
            "plain": {"method": "query-p", "prompt": {"blocks": ["id"]}},
            "told": {"method": "query-p", "prompt": {"blocks": ["profile"]}},
        },
        "evaluate": {"reference": "prior"},
    }
    return {job.name: job.key for job in prepare(make_experiment(written)).jobs}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


@pytest.fixture(autouse=True)
def wording(tmp_path):
    file = tmp_path / "wording.yaml"
    file.write_text((FOLDER / "plain.yaml").read_text())
    return file


def test_other_values_of_a_column_that_a_profile_is_made_of(tmp_path, table):
    before = keys(tmp_path)
    assert changed(before, keys(tmp_path)) == set()
    table(ages=(20, 30, 70))
    assert changed(before, keys(tmp_path)) == {"told"}


def test_other_words_in_a_wording_file(tmp_path, table, wording):
    before = keys(tmp_path)
    wording.write_text("# a comment is no word\n" + wording.read_text())
    assert changed(before, keys(tmp_path)) == set()
    said = yaml.safe_load(wording.read_text())
    wording.write_text(yaml.safe_dump({**said, "version": said["version"] + 1}))
    assert changed(before, keys(tmp_path)) == {"query"}
