"""A frozen language model read by many users at once: what each would write, token by token.

Inputs are trees: a prompt and the beginnings of answers to it (`models.prefix_tree`). The trunk reads a tree once for
all users; with the head alone a user's own, only the states that predict answer tokens are kept of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from beholder.adapters.bank import BankModel, BankShape
from beholder.adapters.fit import Batch
from beholder.adapters.layers import head_delta, init_tensors
from beholder.adapters.trunk_cache import TrunkOutputs
from beholder.models.language_model import LanguageModel
from beholder.models.prefix_tree import Pack, PrefixTree, trees_called
from beholder.models.tokenization import length_cut
from beholder.training.user_adam import Tensors
from beholder.util.errors import BankError


class AnswerNetwork(nn.Module):
    """A language model's body, and a head for the tokens answers are made of."""

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.model, self.head = body, head


class AnswerBankModel(BankModel):
    """`BankModel` for language models: logits of answer tokens at the places of a tree where one is predicted.

    Raises:
        BankError: layers of an encoder-decoder; there, only the head can be a user's own.
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
        trees = [pack for pack in packs if isinstance(pack, PrefixTree)]
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
        features = self._states(values, trees, places, tensors, user).to(self.network.head.weight.dtype)
        return self.network.head(features) + head_delta(features, self.network.head, tensors, user)

    @torch.no_grad()
    def last_states(self, values: Tensor, trees: Sequence[Pack]) -> Tensor:
        """The global model's states at all places of some inputs: [inputs, most places, width]."""
        everywhere = [np.arange(places(tree)) for tree in trees]
        nobody = init_tensors(self.shapes, 1, 0, str(values.device))
        of_nobody = torch.zeros(len(trees), dtype=torch.int64, device=values.device)
        return self._states(values, trees, everywhere, nobody, of_nobody)

    def _states(
        self, values: Tensor, trees: Sequence[Pack], places: Sequence[NDArray[np.int64]], tensors: Tensors, user: Tensor
    ) -> Tensor:
        """[rows, most places, width]"""
        if self._tail is None:
            return self._at(values, places)
        self._reader.tensors, self._reader.user = tensors, user
        called = trees_called(trees, self.network.model)  # type: ignore[arg-type]
        depth = called["position_ids"]
        hidden = self._tail(values[:, : depth.shape[1]], called["attention_mask"], depth)
        return self._at(
            hidden,
            [tree.predicts[mine] for tree, mine in zip(trees, places, strict=True)],  # type: ignore[union-attr]
        )

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


class Decided(Protocol):
    """What a judgement decides of an answer, where not every label was asked. See `prompting.chain_loss`.

    Attributes:
        count: how many tokens of the judgement's answer decide something that was asked.
    """

    @property
    def count(self) -> int: ...

    def losses(self, predicted: Tensor) -> Tensor:
        """[rows, places, answer tokens], log-probabilities at the places of each row -> the loss of each row."""
        ...


PARTIAL_ROWS = 512
"""Rows of which a part was asked that are read at once by the heads alone."""


@dataclass(frozen=True)
class AnswerRows:
    """Rows of (user, input, answer), ordered by user; see `fit.TrainingExamples`.

    Attributes:
        model, outputs: the global model, and its trunk's states of every input.
        inputs: the inputs themselves.
        users: how many there are.
        user: int64 [rows], positions among the users, rising.
        input: int64 [rows], positions among the inputs.
        place, token: int64 [rows, longest answer], which place of the input predicts each token of the answer, and that
            token's position among the answer tokens; -1 where an answer is shorter, and all along where the row is one
            of `partial`.
        partial: row -> what it decides, and the places of its input that this depends on, int64 [places]; for rows in
            which not every label was asked. None is decided, and there are no places, where nothing was asked.
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
    partial: Mapping[int, tuple[Decided | None, NDArray[np.int64]]] = field(default_factory=dict)
    device: str = "cpu"

    @property
    def rows(self) -> NDArray[np.int64]:
        """int64 [users]"""
        return np.bincount(self.user, minlength=self.users).astype(np.int64)

    @property
    def asked(self) -> NDArray[np.float64]:
        """float64 [users]: answer tokens of all rows of each that decide what was asked."""
        return np.bincount(self.user, self._counts, self.users).astype(np.float64)

    def terms(self, batch: Batch) -> NDArray[np.float32]:
        """The same of each user's rows of a batch: float32 [users]."""
        return (self._counts[batch] * (batch >= 0)).sum(axis=1).astype(np.float32)

    @cached_property
    def heads(self) -> AnswerRows | None:
        """See `fit.TrainingExamples`: the global model's states that predict answer tokens."""
        if not self.model.shape.top_layers:
            return None
        shape = self.model.shape.model_copy(update={"top_layers": 0})
        model = AnswerBankModel(self.model.language, self.model.network.head, shape)
        starts = np.concatenate([[0], np.cumsum(model.positions(self.inputs))]).astype(np.int64)
        values = np.empty((int(starts[-1]), self.model.width), np.float32)
        for some in length_cut(self.outputs.lengths, self.model.piece):
            states, _ = self.outputs.batch(some, self.device)
            said = self.model.last_states(states, [self.inputs[each] for each in some]).float().cpu().numpy()
            for place, each in enumerate(some):
                values[starts[each] : starts[each + 1]] = said[place, : starts[each + 1] - starts[each]]
        return replace(self, model=model, outputs=TrunkOutputs(values, starts))

    @property
    def readings(self) -> None:
        """See `fit.TrainingExamples`: not done; answers are written token by token."""
        return None

    def factor_losses(
        self, directions: Tensors, factors: Tensor | None, bias: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor] | None:
        """See `fit.TrainingExamples`: not done; a prompt is read at many positions."""
        return None

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        """Answer tokens of each row that decide what was asked: int64 [rows]."""
        counts = (self.token >= 0).sum(axis=1)
        for row, (decided, _) in self.partial.items():
            counts[row] = 0 if decided is None else decided.count
        return counts

    def losses(self, tensors: Tensors, batch: Batch) -> Iterator[tuple[Tensor, Tensor, NDArray[np.int64]]]:
        """See `fit.TrainingExamples`: -log p of each answer among all that could be written, summed over its tokens.

        Of rows in which not every label was asked, that of what was (`Decided`).
        """
        if self.partial:
            some = np.isin(batch, list(self.partial))
            yield from self._partial_losses(tensors, batch, some)
            batch = np.where(some, -1, batch)
        where, column = np.nonzero(batch >= 0)
        flat = batch[where, column]
        if not len(flat):
            return
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
            logits = self._logits_at(row, list(np.maximum(self.place[row], 0)), tensors, user)
            yield self._of(logits, row), user, row

    def _partial_losses(
        self, tensors: Tensors, batch: Batch, some: NDArray[np.bool_]
    ) -> Iterator[tuple[Tensor, Tensor, NDArray[np.int64]]]:
        """The same of some of a batch's rows, those that decide the same side by side."""
        where, column = np.nonzero(some)
        flat = batch[where, column]
        alike: dict[Decided | None, list[int]] = {}
        for place, row in enumerate(flat.tolist()):
            alike.setdefault(self.partial[row][0], []).append(place)
        for decided, mine in alike.items():
            if decided is None:
                user = torch.from_numpy(where[mine]).to(self.device)
                nothing = next(iter(tensors.values())).flatten(1)[user, 0].float() * 0
                yield nothing, user, flat[mine]
                continue
            for piece in self._pieces(flat[mine]):
                here = np.asarray(mine)[np.sort(piece)]
                row, user = flat[here], torch.from_numpy(where[here]).to(self.device)
                logits = self._logits_at(row, [self.partial[each][1] for each in row.tolist()], tensors, user)
                yield decided.losses(functional.log_softmax(logits.float(), dim=-1)).float(), user, row

    def _pieces(self, rows: NDArray[np.int64]) -> Sequence[NDArray[np.int64]]:
        """Positions among some rows, cut into what is read at once."""
        if self.model.shape.top_layers:
            return list(length_cut(self.outputs.lengths[self.input[rows]], self.model.piece))
        return np.array_split(np.arange(len(rows)), -(-len(rows) // PARTIAL_ROWS))

    def _logits_at(
        self, rows: NDArray[np.int64], places: Sequence[NDArray[np.int64]], tensors: Tensors, user: Tensor
    ) -> Tensor:
        """[rows, places, answer tokens]"""
        values, _ = self.outputs.batch(self.input[rows], self.device)
        return self.model.answer_logits(
            values, [self.inputs[each] for each in self.input[rows]], list(places), tensors, user
        )

    def _of(self, logits: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Losses of rows, from their logits [some, longest answer, answer tokens]."""
        token = torch.from_numpy(self.token[rows]).to(self.device)
        each = functional.cross_entropy(logits.flatten(0, 1), token.clamp(min=0).flatten(), reduction="none")
        return (each.view_as(token) * (token >= 0)).sum(dim=1)
