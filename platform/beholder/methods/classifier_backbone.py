"""What a bank is built on where the global model is a classifier."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from beholder.adapters.bank import BankModel
from beholder.adapters.classifier_examples import ClassifierExamples
from beholder.adapters.trunk_cache import TrunkOutputs, run_once
from beholder.data.annotations import Annotations
from beholder.methods.cls import FittedClassifier, Inputs
from beholder.models.tokenization import length_cut, tokens_at_once
from beholder.training.losses import row_losses


def trunk_of(
    shared: FittedClassifier, model: BankModel, inputs: Inputs, rows: NDArray[np.int64], afresh: bool = False
) -> tuple[Tensor, NDArray[np.int64]]:
    """Hidden states of some inputs, [rows, positions, width], and how many each has: see `BankModel.trunk`.

    With the head alone that is the pooled text, which is computed once for all methods on one classifier.
    """
    if model.shape.top_layers:
        return model.trunk(*inputs.batch(rows))
    return shared.features(inputs, rows, afresh)[:, None], np.ones(len(rows), dtype=np.int64)


class ClassifierBackbone:
    """A fitted `cls` or `cls-p` under a bank. See `block_training.Backbone`."""

    def __init__(
        self, shared: FittedClassifier, model: BankModel, train: Annotations, valid: Annotations | None = None
    ) -> None:
        valid = train.select([]) if valid is None else valid
        self.shared, self.model = shared, model
        self._labels = {"train": train.labels, "valid": valid.labels}
        self._labels["both"] = np.concatenate([train.labels, valid.labels])
        self._inputs, index = shared.distinct([*train.texts, *valid.texts], [*train.user_ids, *valid.user_ids])
        self.index = {"train": index[: len(train)], "valid": index[len(train) :], "both": index}

    @cached_property
    def checksum(self) -> str:
        """Of the classifier."""
        return self.shared.checksum

    @property
    def tokens(self) -> NDArray[np.int64]:
        """int64 [inputs]"""
        return self._inputs.lengths

    @cached_property
    def trunk_key(self) -> str:
        """Of classifier, cut and inputs."""
        digest = hashlib.sha256(f"{self.checksum} {self.model.shape.top_layers} {self.shared.device}".encode())
        for tokens in self._inputs.encoded.tokens:
            digest.update(np.asarray([len(tokens), *tokens], dtype=np.int32).tobytes())
        if self._inputs.slots is not None:
            digest.update(self._inputs.slots.tobytes())
        return digest.hexdigest()

    def outputs(self, memory_mb: int, folder: Path | None) -> TrunkOutputs:
        """Hidden states of every text, or the pooled text where the head alone is a user's own."""
        lengths = (
            self._inputs.positions if self.model.shape.top_layers else np.ones(len(self._inputs.lengths), np.int64)
        )
        return run_once(
            lengths,
            list(length_cut(self._inputs.lengths, tokens_at_once(self.shared.device))),
            self.model.width,
            lambda rows: trunk_of(self.shared, self.model, self._inputs, rows, afresh=True),
            memory_mb=memory_mb,
            folder=folder,
        )

    def examples(
        self, outputs: TrunkOutputs, part: str, rows: NDArray[np.int64], users: int, user: NDArray[np.int64]
    ) -> ClassifierExamples:
        """Rows of (user, text, labels)."""
        labels = self._labels[part][rows]
        return ClassifierExamples(
            self.model,
            outputs,
            users,
            user,
            self.index[part][rows],
            np.nan_to_num(labels),
            (~np.isnan(labels)).astype(np.float32),
            lambda logits, targets, weights: row_losses(logits, targets, weights, self.shared.task.kind),
            self.shared.device,
            exclusive=self.shared.task.kind == "multiclass",
        )
