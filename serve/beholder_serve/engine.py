"""The model side of serving: mixed-user batches on one copy of the base."""

from __future__ import annotations

import asyncio
import os

import numpy as np
from ray import serve

Item = tuple[str, tuple[str, ...]]
"""A user and their texts."""


@serve.deployment(max_ongoing_requests=128, health_check_period_s=5)
class Engine:
    """Holds a bundle and answers batches in which every request may be another user's."""

    def __init__(self, store: str, bundle: str) -> None:
        import torch

        from beholder.registry.store import Store
        from beholder.registry.stored import open_stored

        torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))
        self._bundle = open_stored(bundle, Store(store))

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.005)
    async def predict(self, items: list[Item]) -> list[list[dict[str, object]]]:
        """Predictions of each item's texts, in order: plain values, ready for JSON."""
        users = [user for user, texts in items for _ in texts]
        texts = [text for _, texts in items for text in texts]
        predicted = await asyncio.to_thread(self._bundle.predict, texts, users)
        labels = self._bundle.task.labels
        rows = [
            {
                "scores": dict(zip(labels, scores, strict=True)),
                "decisions": dict(zip(labels, decisions, strict=True)),
                "route": route,
            }
            for scores, decisions, route in zip(
                predicted.scores.tolist(), predicted.decisions.tolist(), predicted.routes, strict=True
            )
        ]
        ends = np.cumsum([len(texts) for _, texts in items])
        return [rows[end - len(texts) : end] for end, (_, texts) in zip(ends, items, strict=True)]
