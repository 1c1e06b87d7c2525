"""Small bundles of users whose ids, and weights, are found where they are looked for."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from crowd import crowd

from beholder.methods import config_class, save_fitted
from beholder.registry.bundle import write_bundle
from beholder.registry.routing import USERS, Choice
from beholder.training.context import Context

SMALL = {"epochs": 1, "batch_size": 16, "max_tokens": 48, "lora": {"rank": 2, "targets": "all-linear"}}
NAMES = {"u0": "ada@example.org", "u1": "bob-7731", "u2": "cleo-9924", "u3": "dirk-5550"}
ADA, BOB = NAMES["u0"], NAMES["u1"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Run folder with `cls`, `cls-p` and `cls-u` fitted on users whose ids are found when they are looked for."""
    folder = tmp_path_factory.mktemp("run")
    plain = crowd()
    rows = type(plain).from_columns(
        plain.task, text=list(plain.texts), user_id=[NAMES[user] for user in plain.user_ids], labels=plain.labels
    )
    context = Context(base="tiny-bert", seed=1, run_folder=folder)
    bank = {"epochs": 3, "batch_size": 4, "prior": {"rank": 2, "steps": 5}}
    arms = {
        "cls": config_class("cls")(**SMALL),
        "cls-p": config_class("cls-p")(**SMALL, user_token="added"),
        "cls-u": config_class("cls-u")(init_from="cls", bank=bank),
        "user-prior": config_class("user-prior")(),
    }
    for name, config in arms.items():
        (folder / "methods" / name).mkdir(parents=True)
        save_fitted(config.fit(rows, rows, context), folder / "methods" / name)
    return folder, rows


def bundle_of(fitted, folder: Path, personal: str = "cls-u", **facts) -> Path:
    """A bundle's folder; everybody is routed to the personal arm."""
    run, rows = fitted
    names = rows.users
    columns = [names, [9] * len(names), [2] * len(names), [0.1] * len(names), [0.1] * len(names)]
    users = pa.table([*columns, ["personal"] * len(names)], names=USERS.names).cast(USERS)
    folders = {name: run / "methods" / name for name in ("cls", personal)}
    return write_bundle(folder, Choice("cls", personal), folders, "tiny-bert", facts, users)


def grep(root: Path, *needles: bytes) -> list[str]:
    """Files below a folder with any of these bytes in them, Parquet by its values."""
    import pyarrow.parquet as pq

    found = []
    for file in root.rglob("*"):
        if not file.is_file():
            continue
        content = file.read_bytes()
        if content[:4] == b"PAR1":
            content += json.dumps(pq.read_table(file).to_pydict(), default=str).encode()
        found += [str(file) for needle in needles if needle in content]
    return found


def weights_of(bundle, user: str) -> list[bytes]:
    """The bytes of what is a user's own in a bundle."""
    fitted = bundle.personal
    if hasattr(fitted, "bank"):
        return [tensor[0].numpy().tobytes() for tensor in fitted.bank.take([user]).values() if tensor.any()]
    if hasattr(fitted, "by_user"):
        return []  # rates stand as text beside the id
    return [fitted.network.users.weight.detach()[fitted.users[user]].numpy().tobytes()]
