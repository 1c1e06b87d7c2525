"""The simulated population: seeded, and what is to be recovered is known."""

import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from beholder.datasets import load, source_class
from beholder.datasets.goemotions import EMOTIONS
from beholder.datasets.profile.describe import describe
from beholder.util.errors import DataError


@pytest.fixture
def texts(tmp_path):
    """A small file of the form of goemotions_texts.parquet."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"text_id": [f"g{n}" for n in range(400)], "text": [f"sentence {n}" for n in range(400)]})
    labels = np.eye(28, dtype=np.int8)[rng.choice(28, 400)]
    file = tmp_path / "goemotions_texts.parquet"
    pd.concat([frame, pd.DataFrame(labels, columns=list(EMOTIONS))], axis=1).to_parquet(file)
    return file


def simulate(**settings):
    return load(source_class("simulated")(**{"texts": "templates", **settings})).annotations


def scores(annotations, column):
    return np.asarray(annotations.column(column))


def macro_f1(labels, scores):
    """The best macro-F1 over one threshold per label."""
    best = []
    for truth, score in zip(labels.T > 0.5, scores.T, strict=True):
        guesses = score[None] >= np.linspace(0.05, 0.95, 19)[:, None]
        hits = (guesses & truth).sum(1)
        best.append((2 * hits / np.maximum(1, guesses.sum(1) + truth.sum())).max())
    return float(np.mean(best))


def test_the_same_seed_gives_the_same_population_and_another_another():
    first, again, other = simulate(seed=1), simulate(seed=1), simulate(seed=2)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    np.testing.assert_array_equal(scores(first, "truth"), scores(again, "truth"))


def test_the_settings_say_how_much_there_is():
    annotations = simulate(users=7, rows_per_user=30, distinct_texts=100, labels=["joy", "anger"])
    facts = describe(annotations)
    assert (facts["rows"], facts["users"]) == (210, 7) and facts["rows_per_user"]["min"] == 30
    assert facts["texts"] <= 100 and annotations.task.labels == ("joy", "anger")
    assert scores(annotations, "truth").shape == (210, 2)


def test_without_a_personal_effect_everybody_is_the_mean_reader():
    annotations = simulate(effect=0)
    np.testing.assert_allclose(scores(annotations, "truth"), scores(annotations, "truth_global"), atol=1e-12)
    assert scores(annotations, "truth").std() > 0.1  # and yet texts differ


def test_knowing_the_reader_pays_more_the_larger_the_effect():
    gains = []
    for effect in (0.0, 1.0, 2.0):
        annotations = simulate(effect=effect)
        labels = annotations.labels
        gains.append(
            macro_f1(labels, scores(annotations, "truth")) - macro_f1(labels, scores(annotations, "truth_global"))
        )
    assert gains[0] == pytest.approx(0, abs=1e-9)
    assert 0.05 < gains[1] < gains[2]


def test_readers_have_an_offset_and_a_part_that_depends_on_the_text():
    """Within a reader, the log odds ratio to the mean reader varies by topic but is not all of it."""
    annotations = simulate(users=30, noise=0)
    truth, mean = scores(annotations, "truth")[:, 0], scores(annotations, "truth_global")[:, 0]
    shift = np.log(truth / (1 - truth)) - np.log(mean / (1 - mean))
    by_reader = pd.Series(shift).groupby(annotations.user_ids.astype(str))
    assert by_reader.mean().std() > 0.5  # offsets
    assert by_reader.std().mean() > 0.3  # text-dependent


def test_judgements_are_drawn_with_the_stated_probability():
    annotations = simulate(users=200, rows_per_user=250)
    truth, labels = scores(annotations, "truth").ravel(), annotations.labels.ravel()
    place = np.digitize(truth, np.linspace(0, 1, 11))
    for bin_ in np.unique(place):
        inside = place == bin_
        tolerance = 4 * np.sqrt(0.25 / inside.sum())
        assert abs(labels[inside].mean() - truth[inside].mean()) < tolerance


def test_the_mean_reader_is_the_mean_over_readers():
    annotations = simulate(users=40, rows_per_user=50, distinct_texts=50)  # everybody judges every text
    frame = pd.DataFrame({"text": annotations.text_ids, "truth": scores(annotations, "truth")[:, 0]})
    mean = frame.groupby("text")["truth"].transform("mean")
    np.testing.assert_allclose(mean, scores(annotations, "truth_global")[:, 0], atol=1e-9)


def test_noise_limits_how_sure_anybody_can_be():
    truth = scores(simulate(noise=0.4), "truth")
    assert truth.min() >= 0.2 and truth.max() <= 0.8


def test_real_texts_are_used_where_they_are(texts, monkeypatch, tmp_path):
    settings = {"users": 5, "rows_per_user": 20, "distinct_texts": 100}
    annotations = simulate(texts="goemotions", path=texts, **settings)
    assert annotations.text_ids[0].startswith("g")
    # the aggregated label is the global signal
    frame = pd.read_parquet(texts).set_index("text_id")
    has_joy = frame.loc[list(annotations.text_ids), "joy"].to_numpy() > 0
    mean = scores(annotations, "truth_global")[:, annotations.task.labels.index("joy")]
    assert mean[has_joy].min() > mean[~has_joy].max()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BEHOLDER_DATA", str(texts.parent))
    found = load(source_class("simulated")(**settings))
    assert "GoEmotions" in found.origin
    monkeypatch.setenv("BEHOLDER_DATA", str(tmp_path / "home"))
    made = load(source_class("simulated")(**settings))
    assert "templates" in made.origin and made.annotations.text_ids[0].startswith("template")


def test_wrong_settings_are_refused(texts):
    with pytest.raises(ValidationError, match="nobody judges a text twice"):
        source_class("simulated")(rows_per_user=11, distinct_texts=10)
    with pytest.raises(ValidationError, match="templates need no file"):
        source_class("simulated")(texts="templates", path=texts)
    with pytest.raises(DataError, match=r"unknown label 'joi'. Did you mean 'joy'"):
        simulate(labels=["joi"])
    with pytest.raises(DataError, match="the templates make 42000 sentences"):
        simulate(distinct_texts=10**6)
    with pytest.raises(DataError, match="it holds 400 texts"):
        simulate(texts="goemotions", path=texts, distinct_texts=401)


def test_a_hundred_thousand_rows_take_seconds():
    start = time.perf_counter()
    assert len(simulate(users=1000, rows_per_user=100, distinct_texts=20_000)) == 100_000
    assert time.perf_counter() - start < 10


def test_no_heavy_import_comes_with_the_sources():
    heavy = "('pandas', 'datasets', 'ray', 'mlflow', 'torch')"
    code = f"import sys, beholder.datasets; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
