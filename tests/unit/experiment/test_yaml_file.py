"""An experiment file: keys that are written once, and paths that are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from beholder.experiment.config import load_experiment
from beholder.util.errors import ExperimentError

TEXT = """\
name: x
source: {name: table, path: mine.csv, labels: [rude]}
methods:
  prior: {}
evaluate: {reference: prior}
"""


def written(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (TEXT + "name: y\n", "line 6"),
        (TEXT.replace("labels: [rude]", "labels: [rude], labels: [funny]"), "line 2"),
        (TEXT.replace("  prior: {}\n", "  prior: {}\n  prior: {}\n"), "line 5"),
    ],
)
def test_a_key_that_is_written_twice_is_refused(text, place, tmp_path):
    with pytest.raises(ExperimentError, match=f"{place}: not YAML: key .* is written twice"):
        load_experiment(written(tmp_path / "x.yaml", text))


def test_merged_keys_are_written_once(tmp_path):
    text = TEXT.replace("  prior: {}\n", "  prior: &all {}\n  user-prior: {<<: *all}\n")
    assert [arm.name for arm in load_experiment(written(tmp_path / "x.yaml", text)).arms] == ["prior", "user-prior"]


def test_a_relative_path_is_of_this_folder_and_else_of_the_experiments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path / "deep" / "x.yaml", TEXT)
    assert load_experiment(file).source.path == Path("mine.csv")
    written(tmp_path / "deep" / "mine.csv", "text,user_id,rude\n")
    assert load_experiment(file).source.path == tmp_path / "deep" / "mine.csv"
    assert load_experiment("deep/x.yaml").source.path == tmp_path / "deep" / "mine.csv"
    written(tmp_path / "mine.csv", "text,user_id,rude\n")
    assert load_experiment(file).source.path == Path("mine.csv")


def test_paths_of_several_sources_as_well(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "deep" / "one.csv", "text,user_id,rude\n")
    source = "{name: several, sources: {a: {name: table, path: one.csv, labels: [rude]}, b: {name: simulated}}}"
    text = TEXT.replace("{name: table, path: mine.csv, labels: [rude]}", source)
    found = load_experiment(written(tmp_path / "deep" / "x.yaml", text)).source
    assert found.sources["a"].path == tmp_path / "deep" / "one.csv"
