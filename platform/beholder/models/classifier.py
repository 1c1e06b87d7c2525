"""A base model, a way to pool its states of a text, and a head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from beholder.models.loading import Base


class Classifier(nn.Module):
    """Logits for each label from the pooled last hidden state of a base.

    Pooling is the mean over the text's tokens; for a decoder, whose last token alone has read everything, the last.
    With `user_slots`, an added token stands in front of the text whose embedding is the user's own (trained) vector.
    """

    def __init__(self, base: Base, labels: int, user_slots: int = 0) -> None:
        super().__init__()
        self.model: nn.Module = base.model
        self.takes_last = base.architecture == "decoder"
        self.head = nn.Linear(base.width, labels)
        nn.init.normal_(self.head.weight, std=0.02)
        self.users: nn.Embedding | None = None
        self.mean_user: Tensor | None
        self.register_buffer("mean_user", None)
        if user_slots:
            vocabulary: Any = base.model.get_input_embeddings().weight.float()  # [vocabulary, width]
            self.users = nn.Embedding(user_slots, base.width)
            with torch.no_grad():
                spread = float(vocabulary.std())
                self.users.weight.normal_(std=spread).add_(vocabulary.mean(dim=0))

    def keep_mean(self) -> None:
        """Done with training: strangers are read as the mean of all users' vectors as they are now.

        It stays what it is when somebody's vector is erased.
        """
        if self.users is not None:
            self.mean_user = self.users.weight.detach().mean(dim=0)

    def inputs(self, tokens: Tensor, mask: Tensor, user: Tensor | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """What the base is called with, and the mask of what it then reads: int64 [rows, tokens (+ 1)].

        tokens, mask: int64 [rows, tokens], padded on the right. user: int64 [rows], slots; slot -1 is a user nobody
        trained on and reads as the mean of all users (of those at the end of training: `keep_mean`).
        """
        if self.users is None:
            return {"input_ids": tokens, "attention_mask": mask}, mask
        assert user is not None
        words = self.model.get_input_embeddings()(tokens)  # type: ignore[operator]
        known = self.users(user.clamp(min=0))  # [rows, width]
        stranger = self.users.weight.mean(dim=0) if self.mean_user is None else self.mean_user
        reader = torch.where(user[:, None] < 0, stranger, known)
        embedded = torch.cat([reader[:, None].to(words.dtype), words], dim=1)  # [rows, 1 + tokens, width]
        mask = torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)
        return {"inputs_embeds": embedded, "attention_mask": mask}, mask

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """[rows, tokens, width] -> float32 [rows, width], whatever the base computes in."""
        hidden = hidden.float()
        if self.takes_last:
            last = mask.sum(dim=1) - 1  # [rows]
            return hidden[torch.arange(len(hidden), device=hidden.device), last]
        weight = mask[..., None].to(hidden.dtype)
        return (hidden * weight).sum(dim=1) / weight.sum(dim=1)

    def features(self, tokens: Tensor, mask: Tensor, user: Tensor | None = None) -> Tensor:
        """The pooled text: [rows, width]. See `inputs`."""
        called, mask = self.inputs(tokens, mask, user)
        return self.pool(self.model(**called).last_hidden_state, mask)

    def forward(self, tokens: Tensor, mask: Tensor, user: Tensor | None = None) -> Tensor:
        """Logits: [rows, labels]."""
        return self.head(self.features(tokens, mask, user))
