"""A base that writes: its body, the projection onto its vocabulary, and how it is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from beholder.models.loading import Base, load_base
from beholder.util.errors import BaseModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class LanguageModel:
    """A base with its language-modelling head.

    Attributes:
        base: from `load_base`; its `model` is the whole model, head and all.
        scale: logits are `scale` times what the output projection makes of the last hidden state.
    """

    base: Base
    scale: float

    @property
    def model(self) -> PreTrainedModel:
        """The whole model."""
        return self.base.model

    @property
    def encodes(self) -> bool:
        """Whether it is an encoder-decoder: the prompt is encoded, the answer decoded."""
        return self.base.architecture == "encoder-decoder"

    @property
    def body(self) -> nn.Module:
        """What makes hidden states of answers: the decoder without its head."""
        return body_of(self.model)

    @property
    def head(self) -> nn.Module:
        """The output projection: [.., width] -> [.., vocabulary]."""
        return self.model.get_output_embeddings()  # type: ignore[return-value]

    def logits(self, hidden: Tensor) -> Tensor:
        """[.., width] -> [.., vocabulary], as the whole model would say it."""
        return self.scale * self.head(hidden)

    def put_body(self, body: nn.Module) -> None:
        """Let another body of the same base write, under this output projection: what was trained as a classifier.

        Of an encoder-decoder a classifier is the encoder: that is exchanged, and the decoder stays as it is.

        Raises:
            BaseModelError: the model does not say where its body is.
        """
        model: Any = self.model
        if self.encodes:
            model.set_encoder(body)
        else:  # transformers' own `set_decoder` leaves a decoder-only model as it is (5.23)
            setattr(model, model.base_model_prefix, body)
        if (model.get_encoder() if self.encodes else body_of(model)) is not body:
            raise BaseModelError(f"base {self.base.name!r}: its body cannot be exchanged ({type(model).__name__}).")


def load_language_model(name: str) -> LanguageModel:
    """Load a base with its language-modelling head.

    Raises:
        BaseModelError: not found, or it is an encoder, which cannot write; or it cannot be read as `reading` reads.
    """
    base = load_base(name, head=True)
    if base.architecture == "decoder":
        _require_branches(base)
    return LanguageModel(base, _output_scale(base))


def body_of(model: Any) -> nn.Module:
    """A model without the layer that makes logits, whether or not PEFT is around it."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    return inner.get_decoder()


def added_mask(sees: Tensor, dtype: torch.dtype) -> Tensor:
    """bool -> what is added to the scores of attention: nothing where one sees, the lowest number where not.

    A bool mask will not do everywhere: code that knows none (Gemma 2, GPT-J) adds its ones and zeros.
    """
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, torch.finfo(dtype).min)


@torch.no_grad()
def _require_branches(base: Base) -> None:
    """Refuse a decoder whose tokens do not attend by mask and position alone: recurrent ones, ALiBi, convolutions."""
    body, device = body_of(base.model), base.model.device
    ids, depth = torch.tensor([[5, 6, 7, 8]], device=device), torch.tensor([[0, 1, 1, 2]], device=device)
    sees = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]], dtype=torch.bool, device=device)
    alone = body(input_ids=ids[:, [0, 2, 3]]).last_hidden_state[0, 1:].float()
    try:
        mask = added_mask(sees[None, None], next(body.parameters()).dtype)
        branch = body(input_ids=ids, position_ids=depth, attention_mask=mask).last_hidden_state[0, 2:].float()
        off = float((branch - alone).norm() / alone.norm())
    except (RuntimeError, ValueError, TypeError):
        off = math.inf
    if not off < (1e-4 if base.model.dtype == torch.float32 else 0.1):
        raise BaseModelError(
            f"base {base.name!r} ({base.model.config.model_type}): its tokens do not attend by mask and position "
            "alone, as reading what prompts share only once takes. Use it through an endpoint, for query and query-p."
        )


@torch.no_grad()
def _output_scale(base: Base) -> float:
    """Some models scale their logits: how, is measured; one whose logits are no projection is refused."""
    model: Any = base.model
    ids = torch.arange(4, device=model.device)[None] + 5
    if base.architecture == "encoder-decoder":
        said = model(input_ids=ids, decoder_input_ids=ids, output_hidden_states=True)
        hidden = model.get_decoder()(
            input_ids=ids, encoder_hidden_states=said.encoder_last_hidden_state
        ).last_hidden_state
    else:
        said = model(input_ids=ids)
        hidden = model.get_decoder()(input_ids=ids).last_hidden_state
    plain, logits = model.get_output_embeddings()(hidden).double(), said.logits.double()
    scale = float((plain * logits).sum() / (plain * plain).sum())
    if float((scale * plain - logits).abs().max()) > 1e-2 * float(logits.abs().max()):
        raise BaseModelError(
            f"base {base.name!r}: its logits are not a projection of its last hidden state. "
            "Use it through an endpoint, for query and query-p."
        )
    return 1.0 if abs(scale - 1) < 1e-3 else scale
