"""A bank being fitted block by block, each by whichever process, now or in a run that goes on later."""

from __future__ import annotations

import hashlib
import heapq
import json
import time
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pydantic import Field

from beholder import __version__
from beholder.annotations import Annotations
from beholder.bank.fit import BankFit, BankTraining, Examples, fit_bank
from beholder.bank.model import BankModel, BankShape
from beholder.bank.outputs import TrunkOutputs
from beholder.bank.shards import INDEX, SHARD_USERS, Bank, read_shard, shard_file, shards_of, write_index, write_shard
from beholder.errors import BankError, MethodError
from beholder.files import whole
from beholder.methods.method import Context, Progress

_SECONDS = b"beholder_seconds"


class BankSettings(BankShape, BankTraining):
    """What each user has of their own, and how it is trained.

    Args:
        block_users: users trained at once, and in one shard.
        trunk_memory_mb: what the trunk says of all texts is held in memory up to this size, and memory-mapped above it.
        rows_per_user: at most so many training rows of each user, drawn seeded, and a quarter as many for validation:
            what a learning curve is made of. More rows hold all those that fewer do.
    """

    block_users: int = Field(default=SHARD_USERS, ge=1, le=SHARD_USERS)
    trunk_memory_mb: int = Field(default=1_024, ge=0)
    rows_per_user: int | None = Field(default=None, ge=1)


class Ground(Protocol):
    """A fitted model that users are trained on top of, and the rows of a fit as it sees them.

    Attributes:
        model: in two parts, with the shapes of what is a user's own.
        checksum: of what was fitted.
        trunk_key: hash of all that the trunk's outputs depend on.
        tokens: int64 [inputs], tokens of each distinct input.
        index: `train` and `valid` -> int64 [rows], the input of each row.
    """

    @property
    def model(self) -> BankModel: ...

    @property
    def checksum(self) -> str: ...

    @property
    def trunk_key(self) -> str: ...

    @property
    def tokens(self) -> NDArray[np.int64]: ...

    @property
    def index(self) -> dict[str, NDArray[np.int64]]: ...

    def outputs(self, memory_mb: int, folder: Path) -> TrunkOutputs:
        """What the trunk says of every input. See `outputs.run_once`."""
        ...

    def examples(
        self, outputs: TrunkOutputs, part: str, rows: NDArray[np.int64], users: int, user: NDArray[np.int64]
    ) -> Examples:
        """Rows to learn from or to be held against.

        Args:
            outputs: of all inputs.
            part: `train` or `valid`.
            rows: int64 [rows], positions in that part, ordered by user.
            users: how many users there are.
            user: int64 [rows], the user of each row, rising.
        """
        ...


class BankFitting:
    """Who is trained in which block, and what they learn from.

    Attributes:
        blocks: users of each, sorted.
        folder: where finished blocks are kept, named after a hash of everything they depend on.
        trunk_folder: where `outputs` are kept.
        seconds: what training all blocks took, wherever that was; known once it is finished.
    """

    def __init__(
        self, settings: BankSettings, ground: Ground, train: Annotations, valid: Annotations, context: Context
    ) -> None:
        if context.run_folder is None:
            raise MethodError("a bank is fitted in a folder: give the context a run_folder.")
        self.settings, self.ground, self.context = settings, ground, context
        self.model = ground.model
        most = settings.rows_per_user
        self._rows = {
            "train": _Rows(train, context.seed, most),
            "valid": _Rows(valid, context.seed, most and -(-most // 4)),
        }
        users, user = train.by_user
        tokens = np.bincount(user, ground.tokens[ground.index["train"]], len(users)).astype(np.int64)
        self.blocks = blocks(users, tokens, settings.block_users)
        inputs = [ground.checksum, settings.model_dump(mode="json"), context.seed, train.fingerprint, valid.fingerprint]
        self.key = hashlib.sha256(json.dumps([*inputs, __version__], sort_keys=True).encode()).hexdigest()
        work = working_folder(context.run_folder)
        self.seconds = 0.0
        self.folder = work / f"bank-{self.key[:16]}"
        self.trunk_folder = work / f"trunk-{ground.trunk_key[:16]}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MethodError(f"{self.folder}: cannot be made ({error.strerror}).") from error

    @cached_property
    def outputs(self) -> TrunkOutputs:
        """What the trunk says of every distinct input: run once, kept for whoever fits a bank on the same model."""
        return self.ground.outputs(self.settings.trunk_memory_mb, self.trunk_folder)

    def done(self, number: int) -> bool:
        """Whether a block was trained before, and its shard is as it was written.

        A block whose shard is missing or damaged is said so by name, and is not done.
        """
        try:
            part = pq.read_table(self.block_file(number))
            for digest in shards_of(part):
                read_shard(shard_file(self.folder, digest), digest)
        except (FileNotFoundError, pa.ArrowInvalid):
            return False
        except BankError as error:
            self.context.say(str(error))
            return False
        return True

    def train(self, number: int, progress: Progress | None = None) -> None:
        """Train a block and write its shard and its part of the index, unless that is done.

        Tells `progress` (where None, the context's) how many users are done, counting an epoch as a part of each.
        """
        progress = progress or self.context.progress
        users = self.blocks[number]
        if self.done(number):
            progress(len(users), len(users), "", "users")
            return
        started = time.perf_counter()
        train, valid = self._examples("train", users), self._examples("valid", users)
        fit = fit_bank(
            self.model.shapes,
            users,
            train,
            valid,
            self.settings,
            seed=self.context.seed,
            device=self.context.device,
            progress=lambda done, total: progress(len(users) * done // total, len(users), "", "users"),
        )
        part = self._part(users, train.rows, valid.rows, fit)
        seconds = time.perf_counter() - started
        with whole(self.block_file(number)) as temporary:
            pq.write_table(part.replace_schema_metadata({_SECONDS: str(seconds)}), temporary)
        progress(len(users), len(users), "", "users")

    def finish(self) -> Bank:
        """The bank over all blocks, which must be done."""
        parts = [pq.read_table(self.block_file(number)) for number in range(len(self.blocks))]
        self.seconds = sum(float((part.schema.metadata or {})[_SECONDS]) for part in parts)
        write_index(
            self.folder, pa.concat_tables([part.replace_schema_metadata(None) for part in parts]), self.model.shapes
        )
        return Bank(self.folder)

    def _part(self, users: list[str], train: NDArray[np.int64], valid: NDArray[np.int64], fit: BankFit) -> pa.Table:
        own = fit.epoch > 0
        rows = torch.from_numpy(np.flatnonzero(own))
        digest = (
            write_shard(self.folder, {name: tensor[rows.to(tensor.device)] for name, tensor in fit.tensors.items()})
            if own.any()
            else ""
        )
        columns = {
            "user_id": users,
            "shard": [digest if mine else None for mine in own],
            "row": [int(row) if mine else None for mine, row in zip(own, np.cumsum(own) - 1, strict=True)],
            "train_rows": train,
            "valid_rows": valid,
            "epoch": fit.epoch,
            "loss": pa.array(fit.loss, from_pandas=True),
            "shared_loss": pa.array(fit.shared_loss, from_pandas=True),
            "status": ["own" if mine else "shared" for mine in own],
        }
        return pa.table(columns, schema=INDEX)

    def _examples(self, part: str, users: list[str]) -> Examples:
        user, mine = self._rows[part].of(users)
        return self.ground.examples(self.outputs, part, mine, len(users), user)

    def block_file(self, number: int) -> Path:
        """A block's part of the index: it says that the block is done."""
        return self.folder / f"block-{number:05d}.parquet"

    def files(self, number: int) -> list[Path]:
        """Everything that a finished block wrote; nothing of one that is not finished."""
        try:
            shards = shards_of(pq.read_table(self.block_file(number)))
        except (FileNotFoundError, pa.ArrowInvalid):
            return []
        return [*(shard_file(self.folder, digest) for digest in shards), self.block_file(number)]


class _Rows:
    """Annotations, found by user: all of each, or so many, drawn seeded."""

    def __init__(self, annotations: Annotations, seed: int, most: int | None) -> None:
        names, user = annotations.by_user
        self._place = {name: place for place, name in enumerate(names)}
        self._order = np.argsort(user, kind="stable")
        self._sorted = user[self._order]
        if most is not None:
            drawn = np.random.default_rng(seed).permutation(len(user))
            drawn = drawn[np.argsort(user[drawn], kind="stable")]  # user by user, in a drawn order within each
            place = np.arange(len(drawn)) - np.searchsorted(user[drawn], user[drawn])
            kept = np.zeros(len(user), dtype=bool)
            kept[drawn[place < most]] = True
            inside = kept[self._order]
            self._order, self._sorted = self._order[inside], self._sorted[inside]

    def of(self, users: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(position among `users` of each row, the rows), user by user."""
        places = [self._place.get(user, -1) for user in users]  # -1: without a row in this part
        ends = [np.searchsorted(self._sorted, places, side=side) for side in ("left", "right")]
        rows = [self._order[first:last] for first, last in zip(*ends, strict=True)]
        user = np.repeat(np.arange(len(users)), [len(mine) for mine in rows])
        return user, np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)


def blocks(users: list[str], tokens: NDArray[np.int64], size: int) -> list[list[str]]:
    """Users in blocks of at most `size`, balanced by tokens, each sorted: the same users give the same blocks.

    Args:
        users: names, each once.
        tokens: int64 [users], how much there is of each.
        size: users in a block.
    """
    count = -(-len(users) // size)
    made: list[list[str]] = [[] for _ in range(count)]
    loads = [(0, number) for number in range(count)]  # (tokens, block), a heap of blocks with room
    for place in np.lexsort((np.asarray(users), -tokens)):
        load, number = heapq.heappop(loads)
        made[number].append(users[place])
        if len(made[number]) < size:
            heapq.heappush(loads, (load + int(tokens[place]), number))
    return [sorted(block) for block in made]


def working_folder(run_folder: Path) -> Path:
    """Where a run keeps what lets a fit that died go on; removed when all its arms are fitted."""
    return run_folder / "unfinished"
