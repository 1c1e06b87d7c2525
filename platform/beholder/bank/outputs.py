"""What the trunk says of each distinct input: computed once, kept in memory or in a memory-mapped file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beholder.errors import BankError

RunTrunk = Callable[[NDArray[np.int64]], tuple[Tensor, NDArray[np.int64]]]
"""Input positions [rows] -> what the trunk says [rows, positions, width] and how many positions count [rows]."""


@dataclass(frozen=True)
class TrunkOutputs:
    """Hidden states of many inputs, one after the other, without padding.

    Attributes:
        values: float32 [positions of all inputs, width]; memory-mapped where it would not fit the budget.
        starts: int64 [inputs + 1], where each input's positions start.
    """

    values: NDArray[np.float32]
    starts: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [inputs]: positions of each input; 1 where the trunk is the whole model and its output pooled."""
        return np.diff(self.starts)

    def batch(self, inputs: NDArray[np.int64], device: str = "cpu") -> tuple[Tensor, Tensor]:
        """Hidden states [rows, positions, width], padded on the right with zeros, and mask int64 [rows, positions]."""
        lengths = self.lengths[inputs]
        width = int(lengths.max())
        place = np.arange(width)[None, :]
        mask = place < lengths[:, None]  # [rows, positions]
        index = np.minimum(self.starts[inputs][:, None] + place, len(self.values) - 1)
        values = torch.from_numpy(self.values[index]).to(device)
        inside = torch.from_numpy(mask).to(device)
        return values * inside[..., None], inside.long()


def run_once(
    lengths: NDArray[np.int64],
    batches: list[NDArray[np.int64]],
    width: int,
    run: RunTrunk,
    *,
    memory_mb: int,
    folder: Path | None = None,
) -> TrunkOutputs:
    """Run the trunk over every input once.

    Args:
        lengths: int64 [inputs], positions each input will have.
        batches: input positions, each input in exactly one batch. The same batches give the same bits.
        width: of a hidden state.
        run: the trunk.
        memory_mb: outputs up to this size are kept in memory; larger ones go to a file in `folder`.
        folder: where that file is made; it is removed when nothing uses it any more.

    Raises:
        BankError: larger than `memory_mb` and no folder given, or no room there.
    """
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    shape = (int(starts[-1]), width)
    needed = 4 * shape[0] * shape[1]
    values = np.empty(shape, np.float32) if needed <= memory_mb * 2**20 else _mapped(shape, needed, memory_mb, folder)
    for rows in batches:
        outputs, counts = run(rows)
        if not np.array_equal(counts, lengths[rows]):
            raise BankError("the trunk gave another number of positions than its inputs have.")
        said = outputs.float().cpu().numpy()
        for place, row in enumerate(rows):
            values[starts[row] : starts[row + 1]] = said[place, : counts[place]]
    return TrunkOutputs(values, starts)


def _mapped(shape: tuple[int, int], needed: int, memory_mb: int, folder: Path | None) -> NDArray[np.float32]:
    size = f"the trunk's outputs take {needed / 2**20:,.0f} MB, over bank.trunk_memory_mb: {memory_mb}"
    if folder is None:
        raise BankError(f"{size}, and there is no folder to put them in. Raise it, or lower bank.top_layers.")
    folder.mkdir(parents=True, exist_ok=True)
    disk = os.statvfs(folder)
    if disk.f_bavail * disk.f_frsize < needed * 1.1:
        raise BankError(f"{size}, and {folder} has no room for them. Free some, or lower bank.top_layers.")
    file = folder / f"trunk-{os.getpid()}-{id(shape)}.f32"
    values = np.memmap(file, np.float32, "w+", shape=shape)
    file.unlink()  # the mapping keeps the bytes for as long as they are used, and a crash leaves nothing behind
    return values
