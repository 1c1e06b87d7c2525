"""A base that writes: its body, the projection onto its vocabulary, and how it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from beholder.bases.loading import Base, load_base
from beholder.errors import BaseModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class LanguageModel:
    """A base with its language-modelling head.

    Attributes:
        base: what `load_base` says of it; its `model` is the whole model, head and all.
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


def load_language_model(name: str) -> LanguageModel:
    """Load a base with its language-modelling head.

    Raises:
        BaseModelError: not found, or it is an encoder, which cannot write.
    """
    base = load_base(name, head=True)
    return LanguageModel(base, _output_scale(base))


def body_of(model: Any) -> nn.Module:
    """A model without the layer that makes logits, whether or not PEFT is around it."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    return inner.get_decoder()


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
