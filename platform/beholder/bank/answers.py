"""A frozen language model read by many users at once: what each would write, token by token.

Inputs are trees: a prompt and the beginnings of answers to it (`bases.reading`). The trunk reads a tree once for all
users; with the head alone a user's own, only the states that predict answer tokens are kept of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from beholder.bank.fit import Batch
from beholder.bank.layers import Tensors, head_change
from beholder.bank.model import BankModel, BankShape
from beholder.bank.outputs import TrunkOutputs
from beholder.bases.language import LanguageModel
from beholder.bases.reading import Pack, Tree, trees_called
from beholder.bases.tokens import length_cut
from beholder.errors import BankError


class AnswerNetwork(nn.Module):
    """A language model's body, and a head for the tokens answers are made of."""

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.model, self.head = body, head


class AnswerBankModel(BankModel):
    """`BankModel` for language models: logits of answer tokens at the places of a tree where one is predicted.

    Raises:
        BankError: layers of an encoder-decoder are asked for; there, the head alone can be a user's own.
    """

    def __init__(self, language: LanguageModel, head: nn.Linear, shape: BankShape) -> None:
        if language.encodes and shape.top_layers:
            raise BankError(
                f"bank.top_layers: {shape.top_layers}: of an encoder-decoder that writes, the head alone can be a "
                "user's own. Use 0."
            )
        self.language = language
        super().__init__(AnswerNetwork(language.body, head), shape)  # type: ignore[arg-type]

    def positions(self, packs: Sequence[Pack]) -> NDArray[np.int64]:
        """How many states the trunk gives of each input: int64 [inputs]."""
        if self.shape.top_layers:
            return np.asarray([pack.size for pack in packs], dtype=np.int64)
        return np.asarray([places(pack) for pack in packs], dtype=np.int64)

    @torch.no_grad()
    def read(self, packs: Sequence[Pack]) -> tuple[Tensor, NDArray[np.int64]]:
        """The trunk's states of some inputs: [inputs, positions, width], padded with zeros, and how many count."""
        counts = self.positions(packs)
        trees = [pack for pack in packs if isinstance(pack, Tree)]
        if len(trees) < len(packs):
            said = [pack.hidden(self.language) for pack in packs]
            return nn.utils.rnn.pad_sequence(said, batch_first=True), counts
        called = trees_called(trees, self.network.model)
        if self._trunk is not None:
            return self._trunk({**called, "use_cache": False}), counts  # type: ignore[dict-item]
        hidden = self.network.model(**called, use_cache=False).last_hidden_state
        return self._at(hidden, [tree.predicts for tree in trees]), counts

    def answer_logits(
        self, values: Tensor, trees: Sequence[Pack], places: Sequence[NDArray[np.int64]], tensors: Tensors, user: Tensor
    ) -> Tensor:
        """What each row's user would write at some places of its input: [rows, most places, answer tokens].

        Args:
            values: the trunk's states of each row's input, [rows, positions, width].
            trees: each row's input.
            places: int64 [places] of each row, counted as `Asked.place` counts.
            tensors, user: see `BankModel.logits`.
        """
        if self._tail is None:
            hidden = self._at(values, places)
        else:
            self._reader.tensors, self._reader.user = tensors, user
            called = trees_called(trees, self.network.model)  # type: ignore[arg-type]
            depth = called["position_ids"]
            hidden = self._tail(values[:, : depth.shape[1]], called["attention_mask"], depth)
            hidden = self._at(
                hidden,
                [tree.predicts[mine] for tree, mine in zip(trees, places, strict=True)],  # type: ignore[union-attr]
            )
        features = hidden.to(self.network.head.weight.dtype)
        return self.network.head(features) + head_change(features, self.network.head, tensors, user)

    def _at(self, hidden: Tensor, places: Sequence[NDArray[np.int64]]) -> Tensor:
        """The states at each row's places: [rows, positions, width] -> [rows, most places, width]."""
        index = np.zeros((len(places), max(map(len, places))), dtype=np.int64)
        for row, mine in enumerate(places):
            index[row, : len(mine)] = mine
        here = torch.from_numpy(index).to(hidden.device)
        return hidden.gather(1, here[..., None].expand(-1, -1, hidden.shape[2]))


def places(pack: Pack) -> int:
    """How many places of an input predict an answer token."""
    return int(pack.asked.place.max()) + 1


@dataclass(frozen=True)
class AnswerRows:
    """Rows of (user, input, answer), ordered by user; see `fit.Examples`.

    Attributes:
        model, outputs: the shared model, and what its trunk says of every input.
        inputs: the inputs themselves.
        users: how many there are.
        user: int64 [rows], positions among the users, rising.
        input: int64 [rows], positions among the inputs.
        place, token: int64 [rows, longest answer], which place of the input predicts each token of the answer, and that
            token's position among the answer tokens; -1 where an answer is shorter.
        device: where.
    """

    model: AnswerBankModel
    outputs: TrunkOutputs
    inputs: Sequence[Pack]
    users: int
    user: NDArray[np.int64]
    input: NDArray[np.int64]
    place: NDArray[np.int64]
    token: NDArray[np.int64]
    device: str = "cpu"

    @property
    def rows(self) -> NDArray[np.int64]:
        """int64 [users]"""
        return np.bincount(self.user, minlength=self.users).astype(np.int64)

    @property
    def asked(self) -> NDArray[np.float64]:
        """float64 [users]: answer tokens of all rows of each."""
        return np.bincount(self.user, (self.token >= 0).sum(axis=1), self.users).astype(np.float64)

    def terms(self, batch: Batch) -> NDArray[np.float32]:
        """Answer tokens in each user's rows of a batch: float32 [users]."""
        return ((self.token[batch] >= 0) & (batch >= 0)[..., None]).sum(axis=(1, 2)).astype(np.float32)

    def losses(self, tensors: Tensors, batch: Batch) -> Iterator[tuple[Tensor, Tensor, NDArray[np.int64]]]:
        """See `fit.Examples`: -log p of each answer among all that could be written, summed over its tokens."""
        where, column = np.nonzero(batch >= 0)
        flat = batch[where, column]
        if not self.model.shape.top_layers:
            # [users, rows, longest answer]: every user's states side by side, so that heads are one product.
            at = self.outputs.starts[self.input[batch]][..., None] + np.maximum(self.place[batch], 0)
            features = torch.from_numpy(self.outputs.values[at]).to(self.device)
            everyone = torch.arange(len(batch), device=self.device)
            logits = self.model.head_logits(features.flatten(1, 2), tensors, everyone).unflatten(1, at.shape[1:])
            user = torch.from_numpy(where).to(self.device)
            yield self._of(logits[user, torch.from_numpy(column).to(self.device)], flat), user, flat
            return
        for piece in length_cut(self.outputs.lengths[self.input[flat]], self.model.piece):
            mine = np.sort(piece)
            row, user = flat[mine], torch.from_numpy(where[mine]).to(self.device)
            values, _ = self.outputs.batch(self.input[row], self.device)
            logits = self.model.answer_logits(
                values,
                [self.inputs[each] for each in self.input[row]],
                list(np.maximum(self.place[row], 0)),
                tensors,
                user,
            )
            yield self._of(logits, row), user, row

    def _of(self, logits: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Losses of rows, from their logits [some, longest answer, answer tokens]."""
        token = torch.from_numpy(self.token[rows]).to(self.device)
        each = functional.cross_entropy(logits.flatten(0, 1), token.clamp(min=0).flatten(), reduction="none")
        return (each.view_as(token) * (token >= 0)).sum(dim=1)
