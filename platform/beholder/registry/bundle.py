"""A bundle: everything needed to serve one version, in one folder, immutable and checksummed.

```
beholder.json   format, task, base and its checksums, routes, split hash, evaluation, code version, files' checksums
global/         the global method: settings (JSON), adapter (PEFT), head (safetensors)
personal/       the method for users it is better for, where there is one; of users' adapters: bank/ and from/ in it
users.parquet   who gets which, and why (see `routing.USERS`), where there is a personal method
*.parquet       what it remembers for the next refresh, see `memory`
```
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from beholder import __version__
from beholder.adapters.shards import Bank
from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.evaluation.metrics import decide
from beholder.methods import Fitted, load_fitted
from beholder.methods.user_adapters import FittedBank
from beholder.models import resolve
from beholder.models.loading import tokenizer_checksum, weights_checksum
from beholder.models.model_ref import AnyBase, ModelRef
from beholder.registry.manifest import Manifest
from beholder.registry.memory import TAKEN_IN, TOLD, read_taken_in
from beholder.registry.routing import USERS, Choice
from beholder.util.atomic import beside, link, sha256_of
from beholder.util.errors import RegistryError

FORMAT = 2
"""Written where a task has scales; else 1, which earlier versions read."""
MANIFEST = "beholder.json"
USERS_FILE = "users.parquet"
PARTS = ("global", "personal")


@dataclass(frozen=True)
class Predictions:
    """Predictions of users' judgements, and the arms that made them.

    Attributes:
        scores: float32 [rows, labels] in 0..1.
        decisions: bool [rows, labels].
        routes: the arm that answered each row.
    """

    scores: NDArray[np.float32]
    decisions: NDArray[np.bool_]
    routes: list[str]


class Bundle:
    """An opened bundle, ready to predict.

    Attributes:
        manifest, task: what it is of.
        shared: the global method.
        personal: the method for users it is better for, where there is one.
        on_personal: those users.
        taken_in: user -> stamp of the enrolment whose judgements this version learned from; None where that was not
            recorded yet.
        file: where a file of the bundle is, by its name.
    """

    taken_in: Mapping[str, str] | None = None
    file: Callable[[str], Path]

    def __init__(self, manifest: Manifest, shared: Fitted, personal: Fitted | None, users: pa.Table | None) -> None:
        self.manifest = manifest
        self.task = manifest.task
        self.shared = shared
        self.personal = personal
        self._users = USERS.empty_table() if users is None else users
        self._places = {user: place for place, user in enumerate(self._users["user_id"].to_pylist())}
        self.on_personal = frozenset(self._users.filter(pc.field("route") == "personal")["user_id"].to_pylist())

    def leave_out(self, people: Collection[str]) -> None:
        """Serve some people as if they were unknown."""
        if people:
            self._users = self._users.filter(~pc.field("user_id").isin(sorted(people)))
            self._places = {user: place for place, user in enumerate(self._users["user_id"].to_pylist())}
            self.on_personal -= frozenset(people)

    @property
    def users(self) -> list[str]:
        """Everybody the personal method was trained on, whatever serves them."""
        return list(self._places)

    def told(self) -> Annotations | None:
        """What earlier refreshes learned from tables; None where there is nothing. Read on first use."""
        return Annotations.read_parquet(self.file(TOLD)) if TOLD in self.manifest.files else None

    @property
    def base(self) -> ModelRef:
        """What both stand on."""
        return self.manifest.base

    @property
    def backbone_digest(self) -> str:
        """See `Manifest.backbone_digest`."""
        return self.manifest.backbone_digest

    def user_row(self, user: str) -> dict[str, Any]:
        """How it serves a user: `routing.USERS` without the id; the global route for somebody it does not know."""
        place = self._places.get(user)
        if place is None:
            return {"known": False, "route": "global"}
        return {"known": True, **self._users.slice(place, 1).drop_columns(["user_id"]).to_pylist()[0]}

    def predict(self, texts: Sequence[str], users: Sequence[str]) -> Predictions:
        """Score and decide each (text, user) row by the method that serves the user."""
        rows = len(texts)
        scores = np.zeros((rows, len(self.task.labels)), dtype=np.float32)
        decisions = np.zeros(scores.shape, dtype=np.bool_)
        routes = [""] * rows
        known = np.asarray([self.personal is not None and user in self.on_personal for user in users], dtype=bool)
        for part, mine in (("global", ~known), ("personal", known)):
            index = np.flatnonzero(mine).tolist()
            fitted = self.shared if part == "global" else self.personal
            if not index or fitted is None:
                continue
            scores[index] = fitted.score([texts[i] for i in index], [users[i] for i in index])
            decisions[index] = self.decide(scores[index], fitted)
            arm = self.manifest.arms[part]
            for i in index:
                routes[i] = arm
        return Predictions(scores, decisions, routes)

    def decide(self, scores: NDArray[np.float32], fitted: Fitted) -> NDArray[np.bool_]:
        """Decisions from scores: bool [rows, labels], by one threshold a label, whichever method gave the scores.

        Bundles written before that decide by the thresholds of the method (`fitted`).
        """
        common = self.manifest.thresholds
        thresholds = fitted.thresholds if common is None else np.asarray(common, dtype=np.float32)
        return decide(scores, thresholds, self.task.kind)

    def export(self, user: str, folder: Path) -> None:
        """Write one user's model as an ordinary PEFT adapter.

        Args:
            user: who.
            folder: made; must not be there yet, or be empty. It appears whole or not at all.

        Raises:
            RegistryError: this version has no adapters, or something is in the folder already.
            BankError: it has none for this user.
        """
        if not isinstance(self.personal, FittedBank):
            raise RegistryError("this version has no adapters: on validation, none was better than the global model.")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RegistryError(f"{folder}: there is something already. Name another place with --to.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as temporary:
            made = Path(temporary) / "adapter"
            made.mkdir()
            self.personal.export(made, user)
            os.replace(made, folder)


def write_bundle(
    folder: Path,
    choice: Choice,
    fitted_folders: Mapping[str, Path],
    base: AnyBase,
    facts: Mapping[str, Any],
    users: pa.Table | None = None,
    tables: Mapping[str, pa.Table] | None = None,
) -> Path:
    """Put a bundle together from fitted methods on disk.

    Args:
        folder: where; replaced whole.
        choice: the arms it holds.
        fitted_folders: arm -> folder written by `methods.save_fitted`.
        base: the base's name, or the endpoint: then neither weights nor a key are needed to write it.
        facts: further entries of the manifest (routes, split hash, evaluation, ...).
        users: see `routing.USERS`; wanted where `choice` has a personal arm.
        tables: further tables by file name, see `memory`.
    """
    temporary = beside(folder)
    temporary.mkdir(parents=True)
    methods: dict[str, dict[str, str]] = {}
    task: dict[str, Any] = {}
    for part, arm in zip(PARTS, (choice.global_arm, choice.personal_arm), strict=True):
        if arm is None:
            continue
        shutil.copytree(
            fitted_folders[arm], temporary / part, ignore=shutil.ignore_patterns("done.json"), copy_function=_copied
        )
        described = json.loads((temporary / part / "method.json").read_text())
        task = Task.from_json(described).to_json()
        methods[part] = {"arm": arm, "method": described["method"]}
    for name, table in {**({} if users is None else {USERS_FILE: users}), **(tables or {})}.items():
        pq.write_table(table, temporary / name, compression="zstd")
    manifest = {
        "format": FORMAT if task.get("scales") else 1,
        "task": task,
        "base": _described(ModelRef.of(base)),
        "methods": methods,
        "code_version": __version__,
        **facts,
        "files": {
            str(file.relative_to(temporary)): {"sha256": sha256_of(file), "bytes": file.stat().st_size}
            for file in sorted(temporary.rglob("*"))
            if file.is_file()
        },
    }
    (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    return folder


def _copied(source: str, target: str) -> None:
    link(Path(source), Path(target))


def _described(base: ModelRef) -> dict[str, Any]:
    """A base's entry in the manifest. Of an endpoint, only how it is called; never the key."""
    if base.endpoint:
        return {"name": base.name, "checksum": base.endpoint.checksum, "endpoint": base.to_json()}
    folder = resolve(base.local)
    return {
        "name": base.name,
        "checksum": weights_checksum(folder),
        "tokenizer_checksum": tokenizer_checksum(folder),
    }


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle in a folder, checked for its format version only."""
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise RegistryError(
            f"{file}: no readable bundle ({type(error).__name__}). Publish the version again."
        ) from error
    return checked_format(manifest, str(file))


def checked_format(manifest: Any, where: str) -> Manifest:
    """A manifest that this version of beholder can read.

    Raises:
        RegistryError: it is no manifest, or of a newer format.
    """
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise RegistryError(f"{where}: not a bundle's manifest. Publish the version again.")
    if manifest["format"] > FORMAT:
        raise RegistryError(
            f"{where}: format {manifest['format']} is newer than this version reads ({FORMAT}). Upgrade beholder."
        )
    return Manifest(manifest)


def verify(folder: Path) -> Manifest:
    """Compare every file with its checksum; returns the manifest.

    Raises:
        RegistryError: names the first file that is missing, altered or extra.
    """
    manifest = read_manifest(folder)
    remedy = "Publish the version again, or roll back to another."
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise RegistryError(f"{file}: missing from the bundle. {remedy}")
        if file.stat().st_size != expected["bytes"] or sha256_of(file) != expected["sha256"]:
            raise RegistryError(f"{file}: altered since it was published (checksum differs). {remedy}")
    extra = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    extra -= {MANIFEST, *manifest.files}
    if extra:
        raise RegistryError(f"{folder / min(extra)}: does not belong to the bundle. Remove it. {remedy}")
    return manifest


def open_bundle(folder: Path, device: str = "cpu") -> Bundle:
    """Verify a bundle in a folder and load its methods onto the base it names. See `load_bundle` for the errors."""
    return load_bundle(folder, verify(folder), device)


def load_bundle(
    folder: Path,
    manifest: Manifest,
    device: str = "cpu",
    shard: Callable[[str], Path] | None = None,
    file: Callable[[str], Path] | None = None,
    like: Bundle | None = None,
) -> Bundle:
    """Load a bundle's methods onto the base it names.

    Args:
        folder: its files, already compared with their checksums.
        manifest: its manifest.
        device: where to.
        shard: where a bank's shard is, by its SHA-256; by default beside the bank's index. Called, and the shard's
            bytes checked, when one of its users is first scored.
        file: where a file of the bundle is that is read later, by its name; by default in the folder.
        like: one that is open. Where the new one has its users' adapters on the very same model, as after a refresh or
            an erasure, that model serves both, and only the adapters are read.

    Raises:
        RegistryError: damaged, or the base here is not the one it was trained on.
        BaseModelError: the base is not here at all.
    """
    base = manifest.base
    here = _described(base)
    if (here.get("checksum"), here.get("tokenizer_checksum")) != manifest.base_checksums:
        raise RegistryError(
            f"{folder}: trained on another base {base.name!r} than the one here (checksums differ). "
            "Install the same base, or publish a version trained on this one."
        )
    same = like.personal if like is not None and manifest.stands_on_the_same(like.manifest) else None
    if isinstance(same, FittedBank):
        personal: Fitted | None = same.with_bank(Bank(folder / "personal" / "bank", same.prior.without_rows()))
    else:
        like = None
        personal = load_fitted(folder / "personal", base, device) if "personal" in manifest.arms else None
    if isinstance(personal, FittedBank) and shard is not None:
        personal.bank.shard_file = shard
    if like is not None:
        shared = like.shared
    elif isinstance(personal, FittedBank) and personal.init_from == manifest.arms["global"]:
        shared = personal.shared  # one copy of the base serves both
    else:
        shared = load_fitted(folder / "global", base, device)
    users = pq.read_table(folder / USERS_FILE) if personal is not None else None
    bundle = Bundle(manifest, shared, personal, users)
    bundle.file = file or (lambda name: folder / name)
    if TAKEN_IN in manifest.files or "refreshed" not in manifest:
        bundle.taken_in = read_taken_in(folder / TAKEN_IN)
    return bundle
