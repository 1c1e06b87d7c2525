"""A bank on disk: users' tensors in content-addressed safetensors shards, and an index of who is where.

```
bank.json               format, shapes of one user's tensors, checksum of the index
index.parquet           one row a user: user_id, shard, row, and what their training came to (see INDEX)
shard-SHA256.safetensors  name -> [users of this shard, ...]; who they are stands in the index alone
```

A shard is named after its bytes: a refresh of ten users rewrites their shards and leaves all others as they are, and
a shard that was truncated or altered no longer fits its name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from beholder.adapters.layers import Shapes
from beholder.training.user_adam import Tensors
from beholder.util.atomic import atomic_write, beside, sha256_of
from beholder.util.errors import BankError

FORMAT = 1
SHARD_USERS = 512
"""Users in one shard, at most: also the block that is trained at once, so that memory is bounded by it."""

INDEX = pa.schema(
    [
        ("user_id", pa.string()),
        ("shard", pa.string()),  # SHA-256 of the shard; null for a user who has nothing of their own
        ("row", pa.int64()),  # place in the shard
        ("train_rows", pa.int64()),
        ("valid_rows", pa.int64()),
        ("epoch", pa.int64()),  # epochs trained; 0 = no rows, so that the user is the prior's mean, moderated
        ("loss", pa.float64()),  # mean loss on the user's validation rows, before these were learned from
        ("shared_loss", pa.float64()),  # ... and of the global model; null for users without validation rows
        ("status", pa.string()),  # "own", or "shared": without anything of their own
        ("prior_rows", pa.int64()),  # rows of theirs that the prior was learned from; null: not recorded
    ]
)


def completed(index: pa.Table) -> pa.Table:
    """An index with all columns of `INDEX`: `prior_rows` is null in one that was written before it was recorded."""
    for place, field in enumerate(INDEX):
        if field.name == "prior_rows" and field.name not in index.column_names:
            index = index.add_column(place, field, pa.nulls(len(index), field.type))
    return index


def write_shard(folder: Path, tensors: Tensors) -> str:
    """Write users' tensors into a shard; returns its SHA-256. The same tensors give the same bytes.

    Raises:
        BankError: more than `SHARD_USERS` users, or the folder cannot be written.
    """
    from safetensors.torch import save_file

    users = len(next(iter(tensors.values())))
    if users > SHARD_USERS:
        raise BankError(f"a shard holds at most {SHARD_USERS} users, but got {users}. Cut them into blocks.")
    temporary = beside(folder / "shard")
    try:
        save_file(
            {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)},
            str(temporary),
            metadata={"format": str(FORMAT)},  # one entry only: safetensors writes several in any order
        )
        digest = sha256_of(temporary)
        os.replace(temporary, shard_file(folder, digest))
    except OSError as error:
        raise BankError(f"{folder}: a shard could not be written ({error.strerror}). Free some space.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return digest


def shard_file(folder: Path, digest: str) -> Path:
    """Where a shard is, by its SHA-256."""
    return folder / f"shard-{digest}.safetensors"


def read_shard(file: Path, digest: str) -> Tensors:
    """A shard's tensors, memory-mapped, its bytes checked against their SHA-256.

    Raises:
        BankError: missing, truncated or altered; names the file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    remedy = "Its users must be trained again."
    if not file.is_file():
        raise BankError(f"{file}: this shard of the bank is missing. {remedy}")
    if sha256_of(file) != digest:
        raise BankError(f"{file}: truncated or altered since it was written (checksum differs). {remedy}")
    try:
        return load_file(str(file))
    except (SafetensorError, OSError, ValueError) as error:
        raise BankError(f"{file}: not a shard ({error}). {remedy}") from error


def write_index(folder: Path, index: pa.Table, shapes: Shapes) -> None:
    """Write `index.parquet` and, last, `bank.json`: with it the bank is whole."""
    with atomic_write(folder / "index.parquet") as temporary:
        pq.write_table(completed(index).cast(INDEX), temporary, compression="zstd")
    described = {
        "format": FORMAT,
        "shapes": {name: list(shape) for name, shape in sorted(shapes.items())},
        "index_sha256": sha256_of(folder / "index.parquet"),
    }
    with atomic_write(folder / "bank.json") as temporary:
        temporary.write_text(json.dumps(described, indent=2) + "\n")


def erase(folder: Path, user: str) -> bool:
    """Take a user out of a bank on disk: zeros in their shard, no row in the index. All others' bytes stay.

    Their shard gets another name, as its bytes change; the old file is removed last, so that a crash in between leaves
    the old bank or the new one, and at most a file that belongs to neither.

    Returns:
        Whether the user was in it.

    Raises:
        BankError: the bank is damaged, or the folder cannot be written.
    """
    bank = Bank(folder)
    found = bank.index.filter(pc.field("user_id") == user).to_pylist()
    if not found:
        return False
    (row,) = found
    index = bank.index.filter(pc.field("user_id") != user)
    old: str | None = row["shard"]
    if old is None:
        write_index(folder, index, bank.shapes)
        return True
    tensors = {name: tensor.clone() for name, tensor in read_shard(bank.shard_file(old), old).items()}
    for tensor in tensors.values():
        tensor[row["row"]] = 0
    new = write_shard(folder, tensors)
    write_index(folder, _renamed(index, {old: new}), bank.shapes)
    if new != old:
        bank.shard_file(old).unlink()
    return True


def _renamed(index: pa.Table, digests: Mapping[str, str]) -> pa.Table:
    """An index that names other shards."""
    moved = [digests.get(digest, digest) for digest in index["shard"].to_pylist()]
    return index.set_column(index.column_names.index("shard"), "shard", pa.array(moved, pa.string()))


def update(folder: Path, fresh: Bank, users: Collection[str] | None = None) -> int:
    """Put the users of another bank of the same shapes into a bank on disk, in the place of what it had of them.

    Users with a place in a shard keep it; newcomers get shards of their own. All others' shards stay as they are.
    `prior_rows` of users who were in it stay, too: a refresh learns no prior (see `record_prior_rows`).

    Args:
        folder: of the bank on disk.
        fresh: the other bank.
        users: only these of its users; None: all of them.

    Returns:
        How many shards were rewritten.

    Raises:
        BankError: the banks' shapes differ, one is damaged, or the folder cannot be written.
    """
    bank = Bank(folder)
    if bank.shapes != fresh.shapes:
        raise BankError(f"{folder}: its users' tensors have other shapes than the new ones. Run the experiment again.")
    theirs = {row["user_id"]: row for row in fresh.index.to_pylist() if users is None or row["user_id"] in users}
    there = pc.field("user_id").isin(list(theirs))
    had = bank.index.filter(there).to_pylist()
    places = {row["user_id"]: (row["shard"], row["row"]) for row in had if row["shard"] is not None}
    for row in had:
        theirs[row["user_id"]]["prior_rows"] = row["prior_rows"]
    touched: dict[str, list[str]] = {}
    for user, (digest, _) in places.items():
        touched.setdefault(digest, []).append(user)
    moved: dict[str, str] = {}
    for digest, some in touched.items():
        shard = {name: tensor.clone() for name, tensor in read_shard(bank.shard_file(digest), digest).items()}
        rows = [places[user][1] for user in some]
        for name, tensor in fresh.take(some).items():  # the prior's mean for those whom the global model serves now
            shard[name][rows] = tensor
        moved[digest] = write_shard(folder, shard)
        for user, row in zip(some, rows, strict=True):
            own = theirs[user]["status"] == "own"
            theirs[user] |= {"shard": moved[digest] if own else None, "row": row if own else None}
    newcomers = [user for user in fresh.users if user in theirs and user not in places]
    made = 0
    for first in range(0, len(newcomers), SHARD_USERS):
        some = newcomers[first : first + SHARD_USERS]
        digest = write_shard(folder, fresh.take(some))
        made += 1
        for row, user in enumerate(some):
            theirs[user] |= {"shard": digest, "row": row}
    others = _renamed(bank.index.filter(~there), moved)
    write_index(folder, pa.concat_tables([others, pa.Table.from_pylist(list(theirs.values()), INDEX)]), bank.shapes)
    for digest in set(moved) - set(moved.values()):
        bank.shard_file(digest).unlink()
    return len(moved) + made


def record_prior_rows(folder: Path, rows: Mapping[str, int]) -> None:
    """Record how many rows of each user a new prior was learned from; 0 for users who are not named."""
    bank = Bank(folder)
    place = INDEX.get_field_index("prior_rows")
    counted = pa.array([rows.get(user, 0) for user in bank.index["user_id"].to_pylist()], pa.int64())
    write_index(folder, bank.index.set_column(place, INDEX.field(place), counted), bank.shapes)


class Bank:
    """An opened bank. Shards are read, and checked, when one of their users is first read.

    Attributes:
        index: see `INDEX`.
        shapes: of one user's tensors.
        shard_file: where a shard is, by its SHA-256: beside the index, by default.
        mean: name -> [*shape], the tensors of users without rows (`Prior.without_rows`); zero where there is no prior.
    """

    def __init__(self, folder: Path, mean: Tensors | None = None) -> None:
        """Open what `write_index` wrote.

        Raises:
            BankError: missing, damaged, or written by a newer version.
        """
        self.folder = folder
        self.shard_file: Callable[[str], Path] = partial(shard_file, folder)
        try:
            described: dict[str, Any] = json.loads((folder / "bank.json").read_text())
            if described["format"] > FORMAT:
                raise BankError(
                    f"{folder}: format {described['format']} is newer than this version reads ({FORMAT}). "
                    "Upgrade beholder."
                )
            if sha256_of(folder / "index.parquet") != described["index_sha256"]:
                raise BankError(f"{folder / 'index.parquet'}: altered since it was written. Fit the bank again.")
            self.shapes: Shapes = {name: tuple(shape) for name, shape in described["shapes"].items()}
            self.index = completed(pq.read_table(folder / "index.parquet"))
            self.mean: Tensors = mean or {name: torch.zeros(shape) for name, shape in self.shapes.items()}
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise BankError(f"{folder}: no readable bank ({type(error).__name__}). Fit it again.") from error
        own = self.index.filter(pc.field("status") == "own")
        self._places: dict[str, tuple[str, int]] = dict(
            zip(
                own["user_id"].to_pylist(),
                zip(own["shard"].to_pylist(), own["row"].to_pylist(), strict=True),
                strict=True,
            )
        )
        self._shards: dict[str, Tensors] = {}

    def __contains__(self, user: str) -> bool:
        return user in self._places

    @property
    def users(self) -> list[str]:
        """Everybody who has something of their own, in the order of the index."""
        return list(self._places)

    def take(self, users: Sequence[str], device: str = "cpu") -> Tensors:
        """Tensors of some users: name -> [users, ...]. `mean` for those who have nothing of their own.

        Raises:
            BankError: one of their shards is missing or damaged.
        """
        taken = self._nobody(len(users))
        for digest, (places, rows) in self._by_shard(users).items():
            shard = self._shard(digest)
            for name, tensor in taken.items():
                tensor[places] = shard[name][rows]
        return {name: tensor.to(device) for name, tensor in taken.items()}

    def parts(self, users: Sequence[str], device: str = "cpu") -> Iterator[tuple[NDArray[np.int64], Tensors]]:
        """The same, shard by shard: (positions among `users`, tensors), not copied where a whole shard is read.

        Raises:
            BankError: one of their shards is missing or damaged.
        """
        others = np.ones(len(users), dtype=bool)
        for digest, (places, rows) in self._by_shard(users).items():
            others[places] = False
            shard = self._shard(digest)
            everyone = len(rows) == len(shard["head.bias"]) and np.array_equal(rows, np.arange(len(rows)))
            some = shard if everyone else {name: shard[name][rows] for name in self.shapes}
            yield places, {name: tensor.to(device) for name, tensor in some.items()}
        for places in np.array_split(np.flatnonzero(others), -(-int(others.sum()) // SHARD_USERS) or 1):
            if len(places):
                yield places, {name: tensor.to(device) for name, tensor in self._nobody(len(places)).items()}

    def _nobody(self, users: int) -> Tensors:
        return {name: self.mean[name].expand(users, *shape).clone() for name, shape in self.shapes.items()}

    def _shard(self, digest: str) -> Tensors:
        if digest not in self._shards:
            file = self.shard_file(digest)
            shard = read_shard(file, digest)
            for name, shape in self.shapes.items():
                if name not in shard or tuple(shard[name].shape[1:]) != shape:
                    raise BankError(f"{file}: holds no {name} of shape {shape}. Its users must be trained again.")
            self._shards[digest] = shard
        return self._shards[digest]

    def _by_shard(self, users: Sequence[str]) -> Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Digest -> (positions among `users`, rows of the shard)."""
        found: dict[str, tuple[list[int], list[int]]] = {}
        for position, user in enumerate(users):
            if user in self._places:
                digest, row = self._places[user]
                places, rows = found.setdefault(digest, ([], []))
                places.append(position)
                rows.append(row)
        return {digest: (np.asarray(places), np.asarray(rows)) for digest, (places, rows) in found.items()}


def shards_of(index: pa.Table) -> Iterable[str]:
    """The digests an index names, each once, in order."""
    return dict.fromkeys(digest for digest in index["shard"].to_pylist() if digest is not None)
