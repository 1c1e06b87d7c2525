"""Texts dealt into folds: every judgement is tested once, and nobody who scores it has seen its text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.data.annotations import Annotations
from beholder.data.folds import deal, parts_of, scored, with_uses
from beholder.data.splits import PARTS, SPLITS, ByText
from beholder.data.task import Task
from beholder.evaluation.arm_scores import ArmScores
from beholder.evaluation.scores_io import read_scores, write_scores
from beholder.experiment.config import make_experiment
from beholder.util.errors import ExperimentError, SplitError


def judgements(texts: int, rows: int, seed: int = 0) -> Annotations:
    """Some texts far commoner than others, each written in several ways that count as the same."""
    rng = np.random.default_rng(seed)
    which = np.concatenate([np.arange(texts), (texts * rng.random(rows) ** 3).astype(int)])
    spelled = [f"{'Text' if rng.random() < 0.5 else ' text'} number  {each}" for each in which]
    return Annotations.from_columns(
        Task(("angry",)),
        text=spelled,
        text_id=[f"t{row}" for row in range(len(spelled))],
        user_id=[f"user-{each}" for each in rng.integers(0, 7, len(which))],
        labels=(rng.random((len(which), 1)) < 0.5).astype(float),
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(12, 60), st.integers(0, 150), st.integers(2, 6), st.integers(0, 5))
def test_every_row_is_tested_once_by_those_who_never_saw_its_text(texts, rows, folds, seed):
    made = judgements(texts, rows, seed)
    dealt = deal(made, ByText(seed=seed), folds)
    assert sorted(np.concatenate([fold["test"] for fold in dealt.splits]).tolist()) == list(range(len(made)))
    keys = made.text_keys
    sizes = []
    for fold in dealt.splits:
        assert sorted(np.concatenate(list(fold.parts.values())).tolist()) == list(range(len(made)))
        train, valid, test = (set(keys[fold[part]]) for part in PARTS)
        assert not train & test and not valid & test and not train & valid
        assert fold.leaked == 0
        assert len(valid) == max(1, round(0.1 * len(set(keys))))
        sizes.append(len(test))
    assert max(sizes) - min(sizes) <= 1


@given(st.permutations(range(60)))
@settings(deadline=None, max_examples=10)
def test_the_order_of_rows_does_not_matter(order):
    made = judgements(30, 30)
    again = made.select(np.asarray(order))
    one, other = deal(made, ByText(), 4), deal(again, ByText(), 4)
    assert one.hash == other.hash
    assert [one.uses[place] for place in order] == other.uses
    assert deal(made, ByText(seed=7), 4).hash != one.hash


def test_what_is_served_learns_from_all():
    made = judgements(40, 100)
    last = deal(made, ByText(fractions=(0.5, 0.3, 0.2)), 5).last
    assert sorted([*last["train"], *last["valid"]]) == list(range(len(made)))
    train, valid = (set(made.text_keys[last[part]]) for part in ("train", "valid"))
    assert not train & valid and len(valid) == 12


def test_a_run_keeps_what_each_fold_does_with_each_row(tmp_path):
    made = judgements(40, 100)
    dealt = deal(made, ByText(), 3)
    with_uses(made, dealt.last, dealt).write_parquet(tmp_path / "annotations.parquet")
    kept = Annotations.read_parquet(tmp_path / "annotations.parquet")
    for number, fold in enumerate(dealt.splits):
        for name, rows in parts_of(kept, number).items():
            assert rows.text_ids.tolist() == made.text_ids[fold[name]].tolist()
    assert parts_of(kept).keys() == {"train", "valid"}
    assert np.array_equal(scored(kept, "test"), np.concatenate([fold["test"] for fold in dealt.splits]))
    assert np.array_equal(scored(kept, "valid"), np.concatenate([fold["valid"] for fold in dealt.splits]))


def test_each_fold_is_decided_by_its_own_thresholds_and_a_file_keeps_them(tmp_path):
    made = judgements(20, 0)
    scores = np.full((20, 1), 0.5, dtype=np.float32)
    fold = np.arange(20) % 2
    thresholds = np.asarray([[0.4], [0.6]], dtype=np.float32)
    arm = ArmScores("cls", "cls", thresholds, scores, scores, 1.0, valid_fold=fold, test_fold=1 - fold)
    write_scores(tmp_path / "cls.parquet", arm, made, made)
    kept = read_scores(tmp_path / "cls.parquet").arm
    for each in (arm, kept):
        assert np.array_equal(each.valid_decisions("multilabel")[:, 0], fold == 0)
        assert np.array_equal(each.test_decisions("multilabel")[:, 0], fold == 1)


@pytest.mark.parametrize(
    ("texts", "by", "folds", "said"),
    [
        (4, {"by": "text"}, 5, "4 distinct texts, too few for 5 folds"),
        (2, {"by": "text"}, 2, "2 distinct texts, too few for 2 folds"),
        (40, {"by": "people"}, 5, "this experiment is split by people"),
        (40, {"by": "column"}, 5, "this experiment is split by column"),
    ],
)
def test_what_cannot_be_dealt_is_refused(texts, by, folds, said):
    with pytest.raises(SplitError, match=said) as refused:
        deal(judgements(texts, 20), SPLITS[by["by"]](**by), folds)
    assert "\n" not in str(refused.value)


def test_folds_are_a_setting_whose_absence_changes_nothing():
    written = {"name": "x", "source": {"name": "simulated"}, "methods": {"prior": {}}}
    one = make_experiment({**written, "evaluate": {"reference": "prior"}})
    same = make_experiment({**written, "evaluate": {"reference": "prior", "folds": 1}})
    five = make_experiment({**written, "evaluate": {"reference": "prior", "folds": 5}})
    assert one.digest == same.digest == five.of_one_split.digest != five.digest
    with pytest.raises(ExperimentError, match="folds"):
        make_experiment({**written, "evaluate": {"reference": "prior", "folds": 0}})
