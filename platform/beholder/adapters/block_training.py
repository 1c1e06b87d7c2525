"""A bank being fitted block by block, each by any process, in this run or in one that resumes it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from filelock import FileLock
from numpy.typing import NDArray
from pydantic import Field

from beholder import __version__
from beholder.adapters.bank import BankModel, BankShape
from beholder.adapters.choose import Judges, in_words, learn_prior
from beholder.adapters.estimate import PriorSettings
from beholder.adapters.fit import BankFit, BankTraining, TrainingExamples, fit_bank, mean_losses
from beholder.adapters.prior import Prior, load_prior, save_prior
from beholder.adapters.shards import (
    INDEX,
    SHARD_USERS,
    Bank,
    completed,
    read_shard,
    shard_file,
    shards_of,
    write_index,
    write_shard,
)
from beholder.adapters.trait_values import merged, require_columns, traits_of
from beholder.adapters.traits import Traits, strangers, trait_lines
from beholder.adapters.trunk_cache import TrunkOutputs
from beholder.data.annotations import Annotations
from beholder.data.rows_of_users import RowsByUser, blocks
from beholder.training.context import Context, Progress
from beholder.training.user_adam import Tensors
from beholder.util.atomic import atomic_write, digest_of
from beholder.util.errors import BankError, MethodError
from beholder.util.run_folder import RunFolder

_SECONDS = b"beholder_seconds"
CHOICE_ROWS = 12_000
"""States of the training rows of those people on whom a prior is chosen, about."""
LEAST_CHOOSING = 16
"""Smallest number of people on whom a prior is chosen, or all people where there are fewer."""


class BankSettings(BankShape, BankTraining):
    """What each user has of their own, and how it is trained.

    Args:
        prior: how what users have in common is learned.
        refit: after everything was chosen on validation rows, learn each user from these, too. Scores and thresholds
            that are reported of validation rows are those from before.
        block_users: users trained at once, and in one shard.
        trunk_memory_mb: the trunk's states of all texts are held in memory up to this size, and memory-mapped above it.
        rows_per_user: at most this many training rows of each user, drawn seeded, and a quarter of it for validation:
            what a learning curve is made of. More rows hold all those that fewer do.
    """

    prior: PriorSettings = PriorSettings()
    refit: bool = True
    block_users: int = Field(default=SHARD_USERS, ge=1, le=SHARD_USERS)
    trunk_memory_mb: int = Field(default=1_024, ge=0)
    rows_per_user: int | None = Field(default=None, ge=1)


class Backbone(Protocol):
    """A fitted model that users are trained on top of, and the rows of a fit as it sees them.

    Attributes:
        shared: the fitted model.
        model: the same in two parts, with the shapes of what is a user's own.
        checksum: of what was fitted.
        trunk_key: hash of all that the trunk's outputs depend on.
        tokens: int64 [inputs], tokens of each distinct input.
        index: `train`, `valid` and `both`, one after the other -> int64 [rows], the input of each row.
    """

    @property
    def shared(self) -> Any: ...

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

    def outputs(self, memory_mb: int, folder: Path | None) -> TrunkOutputs:
        """The trunk's states of every input. See `trunk_cache.run_once`."""
        ...

    def examples(
        self, outputs: TrunkOutputs, part: str, rows: NDArray[np.int64], users: int, user: NDArray[np.int64]
    ) -> TrainingExamples:
        """Rows to learn from or to be held against.

        Args:
            outputs: of all inputs.
            part: `train`, `valid` or `both`.
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
        trunk_folder, prior_folder: where `outputs` and `prior` are kept.
        seconds: what training all blocks took, wherever that was; known once it is finished.
    """

    def __init__(
        self,
        settings: BankSettings,
        backbone: Backbone,
        train: Annotations,
        valid: Annotations,
        context: Context,
        prior: Prior | None = None,
        traits: Mapping[str, Traits] | None = None,
    ) -> None:
        """Prepare; nothing is trained yet.

        Args:
            settings: see there.
            backbone: what users are trained on top of.
            train, valid: rows to learn from, and to choose by.
            context: its run folder takes what is worked with.
            prior: one that was learned before, as for users who come later; by default it is learned from these rows.
            traits: of users, beside those that stand in context columns of `train`.

        Raises:
            MethodError: a trait is no context column, or has several values for one person.
        """
        if context.run_folder is None:
            raise MethodError("a bank is fitted in a folder: give the context a run_folder.")
        self.settings, self.backbone, self.context = settings, backbone, context
        self.model = backbone.model
        most = settings.rows_per_user
        self._rows = {"train": RowsByUser.of(train, context.seed, most)}
        self._rows["valid"] = RowsByUser.of(valid, context.seed, most and -(-most // 4))
        self._rows["both"] = self._rows["train"].joined(self._rows["valid"], len(train))
        users, user = train.by_user
        tokens = np.bincount(user, backbone.tokens[backbone.index["train"]], len(users)).astype(np.int64)
        self.blocks = blocks(users, tokens, settings.block_users)
        inputs = [
            backbone.checksum,
            settings.model_dump(mode="json"),
            context.seed,
            train.fingerprint,
            valid.fingerprint,
        ]
        inputs.append(prior and prior.checksum)
        if prior is None:
            require_columns(train, settings.prior.traits)
        columns = settings.prior.traits if prior is None else tuple(prior.traits)
        self.traits = merged(traits or {}, traits_of([train], columns))
        if columns:
            inputs.append([sorted(each.items()) for each in self._traits_of(users)])
        if prior is not None and (line := strangers(prior.traits, self._traits_of(users))):
            context.say(line)
        self.key = digest_of([*inputs, __version__])
        work = RunFolder(context.run_folder).unfinished
        self.seconds = 0.0
        self.folder = work / f"bank-{self.key[:16]}"
        self.trunk_folder = work / f"trunk-{backbone.trunk_key[:16]}"
        self.prior_folder = work / f"prior-{self.key[:16]}"
        self._given = prior is not None
        if prior is not None:
            self.prior = prior
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MethodError(f"{self.folder}: cannot be made ({error.strerror}).") from error

    @cached_property
    def outputs(self) -> TrunkOutputs:
        """The trunk's states of every distinct input: computed once, kept for all banks on the same model."""
        return self.backbone.outputs(self.settings.trunk_memory_mb, self.trunk_folder)

    @cached_property
    def prior(self) -> Prior:
        """What is learned of users in general: once, by one process while others wait, and read back after that."""
        self.prior_folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.prior_folder.with_name(f".{self.prior_folder.name}.lock")):
            try:
                return load_prior(self.prior_folder, self.model.shapes)
            except BankError:
                learned = self._learn_prior()
                save_prior(learned, self.prior_folder)
                return learned

    def _learn_prior(self) -> Prior:
        names = self._drawn
        positions = max(1.0, float(self.outputs.lengths.mean())) if len(self.outputs.lengths) else 1.0
        started = time.perf_counter()
        rows = self._rows["train"].count(names)
        first = int(np.searchsorted(np.cumsum(rows), CHOICE_ROWS / positions, side="right"))
        chooses = names[: max(first, LEAST_CHOOSING)]
        columns = self.settings.prior.traits
        for line in trait_lines(self._traits_of(names), columns):
            self.context.say(line)
        prior = learn_prior(
            self.model.shapes,
            self._examples("train", names),
            Judges(
                chooses,
                self._examples("train", chooses),
                self._examples("valid", chooses),
                self._traits_of(chooses),
            ),
            self.settings.prior,
            self.settings,
            seed=self.context.seed,
            device=self.context.device,
            traits=self._traits_of(names),
            quick=bool(self.model.shape.top_layers),
            progress=lambda done, total: self.context.progress(done, total, "prior", "steps"),
        )
        seconds = time.perf_counter() - started
        self.context.say(f"prior of the users' adapters: {in_words(prior)} ({seconds:.0f} s)")
        return replace(prior, facts={**prior.facts, "seconds": round(seconds, 2)})

    def _traits_of(self, users: Sequence[str]) -> list[Traits]:
        return [self.traits.get(user, {}) for user in users]

    @cached_property
    def _drawn(self) -> list[str]:
        """The people the prior is learned from, sorted; nobody where it was given."""
        if self._given:
            return []
        users = sorted(user for block in self.blocks for user in block)
        drawn = np.random.default_rng([self.context.seed, 3]).permutation(len(users))[: self.settings.prior.users]
        return [users[each] for each in sorted(drawn.tolist())]

    def _prior_rows(self, users: Sequence[str]) -> NDArray[np.int64]:
        """Rows of each of these users that the prior is learned from: int64 [users]."""
        drawn = frozenset(self._drawn)
        return np.where([user in drawn for user in users], self._rows["train"].count(users), 0)

    def done(self, number: int) -> bool:
        """Whether a block was trained before, and its shard is as it was written.

        A block whose shard is missing or damaged is reported by name, and is not done.
        """
        try:
            held = [file for file in (self.held_file(number),) if file.is_file()]
            parts = [pq.read_table(file) for file in (self.block_file(number), *held)]
            for digest in dict.fromkeys(digest for part in parts for digest in shards_of(part)):
                read_shard(shard_file(self.folder, digest), digest)
        except (FileNotFoundError, pa.ArrowInvalid):
            return False
        except BankError as error:
            self.context.say(str(error))
            return False
        return True

    def train(self, number: int, progress: Progress | None = None) -> None:
        """Train a block and write its shard and its part of the index, unless that is done.

        Calls `progress` (where None, the context's) with the number of users done, counting an epoch as a part of each.
        """
        progress = progress or self.context.progress
        users = self.blocks[number]
        if self.done(number):
            progress(len(users), len(users), "", "users")
            return
        started = time.perf_counter()
        prior, valid = self.prior, self._examples("valid", users)
        around = prior.means_of(self._traits_of(users))

        def estimates(part: str, first: int, of: int) -> BankFit:
            return fit_bank(
                prior,
                users,
                self._examples(part, users),
                self.settings,
                seed=self.context.seed,
                device=self.context.device,
                around=around,
                progress=lambda done, total: progress(
                    len(users) * (first * total + done) // (of * total), len(users), "", "users"
                ),
            )

        again = self.settings.refit and bool(valid.rows.any())
        before = estimates("train", 0, 1 + again)
        losses = [mean_losses(valid, tensors) for tensors in (before.tensors, self._zeros(len(users)))]
        rows = self._rows["train"].count(users), self._rows["valid"].count(users)
        if again:
            part = self._part(users, rows, before, losses)
            with atomic_write(self.held_file(number)) as temporary:
                pq.write_table(part, temporary)
        part = self._part(users, rows, estimates("both", 1, 2) if again else before, losses)
        seconds = time.perf_counter() - started
        with atomic_write(self.block_file(number)) as temporary:
            pq.write_table(part.replace_schema_metadata({_SECONDS: str(seconds)}), temporary)
        progress(len(users), len(users), "", "users")

    def finish(self) -> tuple[Bank, Bank]:
        """The bank over all blocks, which must be done; and what it was before it learned from validation rows."""
        files = [self.block_file(number) for number in range(len(self.blocks))]
        held = [self.held_file(number) for number in range(len(self.blocks))]
        parts = [pq.read_table(file) for file in files]
        self.seconds = sum(float((part.schema.metadata or {})[_SECONDS]) for part in parts)
        bank = self._bank(self.folder, [part.replace_schema_metadata(None) for part in parts])
        if not any(file.is_file() for file in held):
            return bank, bank
        (self.folder / "before").mkdir(exist_ok=True)
        earlier = [was if was.is_file() else file for was, file in zip(held, files, strict=True)]
        parts = [pq.read_table(file).replace_schema_metadata(None) for file in earlier]
        before = self._bank(self.folder / "before", parts)
        before.shard_file = bank.shard_file
        return bank, before

    def _bank(self, folder: Path, parts: list[pa.Table]) -> Bank:
        write_index(folder, pa.concat_tables([completed(part) for part in parts]), self.model.shapes)
        return Bank(folder, self.prior.without_rows())

    def _zeros(self, users: int) -> Tensors:
        """Tensors with which every user is the global model."""
        device = self.context.device
        return {name: torch.zeros(users, *shape, device=device) for name, shape in self.model.shapes.items()}

    def _part(
        self,
        users: list[str],
        rows: tuple[NDArray[np.int64], NDArray[np.int64]],
        fit: BankFit,
        losses: list[NDArray[np.float64]],
    ) -> pa.Table:
        own = rows[0] + (rows[1] if self.settings.refit else 0) > 0
        mine = torch.from_numpy(np.flatnonzero(own))
        digest = (
            write_shard(self.folder, {name: tensor[mine.to(tensor.device)] for name, tensor in fit.tensors.items()})
            if own.any()
            else ""
        )
        columns = {
            "user_id": users,
            "shard": [digest if each else None for each in own],
            "row": [int(row) if each else None for each, row in zip(own, np.cumsum(own) - 1, strict=True)],
            "train_rows": rows[0],
            "valid_rows": rows[1],
            "epoch": np.where(own, self.prior.epochs, 0),
            "loss": pa.array(losses[0], from_pandas=True),
            "shared_loss": pa.array(losses[1], from_pandas=True),
            "status": ["own" if each else "shared" for each in own],
            "prior_rows": self._prior_rows(users),
        }
        return pa.table(columns, schema=INDEX)

    def _examples(self, part: str, users: list[str]) -> TrainingExamples:
        user, mine = self._rows[part].find(users)
        return self.backbone.examples(self.outputs, part, mine, len(users), user)

    def block_file(self, number: int) -> Path:
        """A block's part of the index; where it exists, the block is done."""
        return self.folder / f"block-{number:05d}.parquet"

    def held_file(self, number: int) -> Path:
        """A block's part of the index from before validation rows were learned from; written before `block_file`."""
        return self.folder / f"held-{number:05d}.parquet"

    def files(self, number: int) -> list[Path]:
        """Everything that a finished block wrote; nothing of one that is not finished."""
        held = [file for file in (self.held_file(number),) if file.is_file()]
        try:
            digests = [digest for file in (*held, self.block_file(number)) for digest in shards_of(pq.read_table(file))]
        except (FileNotFoundError, pa.ArrowInvalid):
            return []
        shards = [shard_file(self.folder, digest) for digest in dict.fromkeys(digests)]
        return [*shards, *held, self.block_file(number)]
