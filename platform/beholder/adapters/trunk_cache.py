"""The trunk's states of each distinct input: computed once, kept in memory or in a memory-mapped file."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from beholder.util.atomic import sha256_of
from beholder.util.errors import BankError

FORMAT = 1
RunTrunk = Callable[[NDArray[np.int64]], tuple[Tensor, NDArray[np.int64]]]
"""Input positions [rows] -> the trunk's states [rows, positions, width] and how many positions count [rows]."""


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

    def states(self, inputs: NDArray[np.int64]) -> list[Tensor]:
        """Hidden states of each input: [positions, width] each."""
        return [torch.from_numpy(self.values[self.starts[each] : self.starts[each + 1]]) for each in inputs]

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
    batches: Sequence[NDArray[np.int64]],
    width: int,
    run: RunTrunk,
    *,
    memory_mb: int,
    folder: Path | None = None,
) -> TrunkOutputs:
    """Run the trunk over every input once, ever: what was written to `folder` is read back the next time.

    Args:
        lengths: int64 [inputs], positions each input will have.
        batches: input positions, each input in exactly one batch. The same batches give the same bits.
        width: of a hidden state.
        run: the trunk.
        memory_mb: outputs up to this size are held in memory; larger ones are memory-mapped.
        folder: one of its own for these very inputs of this very trunk, so that it is named after a hash of both. It
            appears whole or not at all, is made by one process while others wait, and is made again where its checksum
            does not hold. None: nothing is kept; what memory does not hold is mapped over a file without a name.

    Raises:
        BankError: no room for what is written.
    """
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    shape = (int(starts[-1]), width)
    size_mb = 4 * shape[0] * shape[1] / 2**20
    if folder is None:
        if size_mb > memory_mb:
            _require_room(Path(tempfile.gettempdir()), size_mb)
            values = np.memmap(tempfile.TemporaryFile(), np.float32, "w+", shape=shape)  # noqa: SIM115
        else:
            values = np.empty(shape, np.float32)
        _fill(values, starts, batches, lengths, run)
        return TrunkOutputs(values, starts)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Who comes second waits and reads. A process that dies lets go of the lock.
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        values = _read(folder, shape)
        if values is None:
            _write(folder, shape, size_mb, lambda values: _fill(values, starts, batches, lengths, run))
            values = _read(folder, shape)
    if values is None:
        raise BankError(f"{folder}: the trunk's outputs cannot be read back. Check the disk, and run again.")
    return TrunkOutputs(values if size_mb > memory_mb else np.array(values), starts)


def _fill(
    values: NDArray[np.float32],
    starts: NDArray[np.int64],
    batches: Sequence[NDArray[np.int64]],
    lengths: NDArray[np.int64],
    run: RunTrunk,
) -> None:
    for rows in batches:
        outputs, counts = run(rows)
        if not np.array_equal(counts, lengths[rows]):
            raise BankError("the trunk gave another number of positions than its inputs have.")
        said = outputs.float().cpu().numpy()
        for place, row in enumerate(rows):
            values[starts[row] : starts[row + 1]] = said[place, : counts[place]]


def _read(folder: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """The values as a memory map; None where they are not there, or not as they were written."""
    try:
        described = json.loads((folder / "trunk.json").read_text())
        if described["format"] != FORMAT or described["sha256"] != sha256_of(folder / "values.npy"):
            return None
        values = np.load(folder / "values.npy", mmap_mode="r")
    except (OSError, ValueError, KeyError):
        return None
    return values if values.shape == shape and values.dtype == np.float32 else None


def _write(folder: Path, shape: tuple[int, int], size_mb: float, fill: Callable[[NDArray[np.float32]], None]) -> None:
    _require_room(folder.parent, size_mb)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".trunk-") as temporary:
        made = Path(temporary) / "trunk"
        made.mkdir()
        values = np.lib.format.open_memmap(made / "values.npy", mode="w+", dtype=np.float32, shape=shape)
        fill(values)
        values.flush()
        del values
        described = {"format": FORMAT, "sha256": sha256_of(made / "values.npy")}
        (made / "trunk.json").write_text(json.dumps(described) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(made, folder)


def _require_room(folder: Path, size_mb: float) -> None:
    if shutil.disk_usage(folder).free < size_mb * 2**20 * 1.1:
        raise BankError(
            f"the trunk's outputs take {size_mb:,.0f} MB, and {folder} has no room for them. "
            "Free some, or lower bank.top_layers."
        )
