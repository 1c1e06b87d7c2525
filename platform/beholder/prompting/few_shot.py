"""Whose judgements are shown as examples, and which: always rows of training, never the text to label."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from beholder.data.annotations import Annotations
from beholder.data.texts import normalise

Choose = Literal["random", "similar", "divisive"]


class FewShotExamples:
    """Few-shot examples from training rows: a user's own, or other people's.

    The paper's code drew them from the test rows of the same user; here the caller has training rows only.

    An example shows a whole answer, in which a label that is not named reads as a "no". Rows in which a label was not
    asked are therefore no examples (of a multiclass task, the class given decides the others).

    Attributes:
        left_out: how many training rows are no examples for this reason.
    """

    def __init__(self, train: Annotations, choose: Choose, shots: int, own: bool, seed: int) -> None:
        self.train, self.choose, self.shots, self.own = train, choose, shots, own
        whole = np.asarray(np.isfinite(train.labels).all(axis=1))
        if train.task.kind == "multiclass":
            whole = whole | (train.labels >= 0.5).any(axis=1)
        self.left_out = int((~whole).sum())
        self._order = np.random.default_rng(seed).permutation(len(train))
        self._order = self._order[whole[self._order]]
        if choose == "divisive":
            self._order = self._order[np.argsort(-self._distance()[self._order], kind="stable")]
        self._normal = [normalise(text) for text in train.distinct_texts[0]]
        self._similar = lru_cache(maxsize=256)(self._by_similarity)

    @cached_property
    def rows_of(self) -> dict[str, NDArray[np.int64]]:
        """Each user's training rows that may be examples, in the order in which they are chosen."""
        users, user = self.train.by_user
        return {str(name): self._order[user[self._order] == place] for place, name in enumerate(users)}

    def of(self, user: str, text: str) -> list[int]:
        """The rows of at most `shots` examples of as many texts, best first; none of them is of this text.

        `own`: of this user; else of anybody but this user.
        """
        if not self.shots:
            return []
        asked, (_, text_of) = normalise(text), self.train.distinct_texts
        chosen: dict[str, int] = {}
        for row in self._candidates(user, text):
            other = self._normal[text_of[row]]
            if other != asked and other not in chosen:
                chosen[other] = int(row)
                if len(chosen) == self.shots:
                    break
        return list(chosen.values())

    def _candidates(self, user: str, text: str) -> Iterator[int] | NDArray[np.int64]:
        mine = self.rows_of.get(user, np.empty(0, dtype=np.int64))
        if self.choose == "similar":
            order = self._similar(text)
            return order[np.isin(order, mine)] if self.own else order[self.train.user_ids[order] != user]
        return mine if self.own else (row for row in self._order if self.train.user_ids[row] != user)

    def _distance(self) -> NDArray[np.float64]:
        """How far each judgement is from the mean of all of its text: float64 [rows], summed over labels."""
        _, text = self.train.distinct_texts
        asked, labels = ~np.isnan(self.train.labels), np.nan_to_num(self.train.labels)
        sums = np.zeros((int(text.max()) + 1, labels.shape[1]))
        counts = np.zeros_like(sums)
        np.add.at(sums, text, labels)
        np.add.at(counts, text, asked)
        mean = sums / np.maximum(counts, 1)
        return (np.abs(labels - mean[text]) * asked).sum(axis=1)

    @cached_property
    def _words(self) -> tuple[Any, Any]:
        """TF-IDF of the distinct training texts: (vectoriser, sparse [texts, words])."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectoriser = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
        return vectoriser, vectoriser.fit_transform(self.train.distinct_texts[0])

    def _by_similarity(self, text: str) -> NDArray[np.int64]:
        """All training rows, those of the most similar text first (cosine of TF-IDF), else in the drawn order."""
        vectoriser, known = self._words
        similarity = (known @ vectoriser.transform([text]).T).toarray()[:, 0]  # [texts]
        return self._order[np.argsort(-similarity[self.train.distinct_texts[1][self._order]], kind="stable")]
