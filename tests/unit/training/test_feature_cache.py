"""Features of texts in memory: the same numbers, each computed once, and no more of them than there is room for."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from crowd import crowd
from fits import embedded, personal, start_from
from hypothesis import given
from hypothesis import strategies as st

from beholder.models.classifier import Classifier
from beholder.models.tokenization import Encoded
from beholder.training.feature_cache import FeatureCache


@pytest.fixture
def counted(monkeypatch):
    """How many inputs the base read."""
    read, of = [], Classifier.features

    def features(self, tokens, mask, user=None):
        read.append(len(tokens))
        return of(self, tokens, mask, user)

    monkeypatch.setattr(Classifier, "features", features)
    return read


@pytest.mark.parametrize("method", ["cls+", "cls-e", "cls-u"])
def test_what_stands_on_one_classifier_reads_each_text_once_and_says_the_same(method, tmp_path, counted):
    rows = crowd()
    _, context = start_from(tmp_path, rows)
    config = personal() if method == "cls-u" else embedded(method, epochs=3)
    texts, users = [*rows.texts, "never seen"], [*rows.user_ids, "nobody"]
    alone = config.fit(rows, rows, context)
    expected = alone.score(texts, users)
    counted.clear()
    together = replace(context, features=FeatureCache())
    for _ in range(2):
        fitted = config.fit(rows, rows, replace(together, run_folder=context.run_folder))
        np.testing.assert_allclose(fitted.score(texts, users), expected, atol=1e-6)
        np.testing.assert_allclose(fitted.thresholds, alone.thresholds, atol=1e-6)
    assert sum(counted) <= len({*texts})


def test_a_classifier_that_was_fitted_and_the_same_loaded_share(tmp_path, counted):
    rows = crowd()
    cache = FeatureCache()
    fitted, context = start_from(tmp_path, rows)
    fitted.share_features(cache)
    texts, users = list(rows.texts), list(rows.user_ids)
    before = fitted.score(texts, users)
    loaded = embedded("cls+", epochs=1).fit(rows, rows, replace(context, features=cache)).shared
    counted.clear()
    np.testing.assert_array_equal(loaded.score(texts, users), before)
    assert not counted


def test_a_model_with_vectors_of_users_is_read_as_before(tmp_path, counted):
    rows = crowd()
    fitted, _ = start_from(tmp_path, rows, "tiny-bert", "cls-p", user_token="added")
    texts, users = list(rows.texts[:10]), list(rows.user_ids[:10])
    before = fitted.score(texts, users)
    fitted.share_features(FeatureCache())
    counted.clear()
    for _ in range(2):
        np.testing.assert_array_equal(fitted.score(texts, users), before)
    assert sum(counted) == 2 * len({*zip(texts, users, strict=True)})


@given(
    asked=st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 30), min_size=1)), max_size=30),
    room=st.integers(0, 40),
)
def test_answers_do_not_depend_on_what_is_kept_and_the_room_is_kept(asked, room):
    width = 4
    inputs = Encoded([[place, place + 1] for place in range(31)], np.full(31, 2), 0)
    cache = FeatureCache(megabytes=room * width * 4 / 1e6)

    def features(classifier, rows):
        return torch.as_tensor(rows, dtype=torch.float32)[:, None].repeat(1, width) + ord(classifier)

    for classifier, rows in asked:
        computed = []

        def compute(some, classifier=classifier, computed=computed):
            computed.extend(some.tolist())
            return features(classifier, some)

        found = cache.rows(classifier, inputs, np.asarray(rows), compute)
        assert torch.equal(found, features(classifier, rows))
        assert len(computed) == len(set(computed)) and set(computed) <= set(rows)
        assert sum(len(kept) for kept in cache._kept.values()) <= room


def test_what_a_bank_is_trained_on_is_the_same_to_the_bit_whatever_was_read_before(tmp_path):
    rows = crowd()
    _, context = start_from(tmp_path, rows)

    def outputs(cache: FeatureCache) -> np.ndarray:
        fitting = personal().begin(rows, rows, replace(context, features=cache))
        shutil.rmtree(fitting.trunk_folder, ignore_errors=True)
        return np.array(fitting.outputs.values)

    before = outputs(FeatureCache())
    read = FeatureCache()
    shared = embedded("cls+", epochs=1).fit(rows.select(range(40)), rows, replace(context, features=read)).shared
    shared.score(list(rows.texts[:7]), list(rows.user_ids[:7]))
    np.testing.assert_array_equal(outputs(read), before)
