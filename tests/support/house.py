"""A small world for tests of the registry: readers so different that their own adapters win; one process, no Ray."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from typer.testing import CliRunner

from beholder.cli.main import app
from beholder.data.annotations import Annotations

MODEL = "house"


def settings(users: int = 6, **more) -> dict:
    """What `make_experiment` takes."""
    return {
        "name": "house",
        "source": {
            "name": "simulated",
            "texts": "templates",
            "users": users,
            "rows_per_user": 60,
            "distinct_texts": 90,
            "effect": 4.0,
            "noise": 0.0,
        },
        "base": "tiny-bert",
        "methods": {
            "cls": {"epochs": 1, "max_tokens": 48},
            "cls-u": {
                "init_from": "cls",
                "bank": {
                    "top_layers": 1,
                    "epochs": 10,
                    "step_size": 0.3,
                    "prior": {"rank": 2, "steps": 10},
                    "block_users": 4,
                },
            },
        },
        "evaluate": {"reference": "cls"},
        "register": {"name": MODEL},
        "cluster": {"workers": 0},
        **more,
    }


def said(*arguments) -> dict | list:
    """What a command prints with --json."""
    done = CliRunner().invoke(app, [str(each) for each in (*arguments, "--json")])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def table_of(rows: Annotations, users: list[str], file: Path) -> None:
    """Judgements of some users about texts nobody has seen, as a table."""
    mine = np.flatnonzero(np.isin(rows.user_ids.astype(str), users))
    columns = {
        "text": [f"{text} again" for text in rows.texts[mine]],
        "user_id": list(rows.user_ids[mine]),
        **{label: rows.labels[mine, place].astype(int) for place, label in enumerate(rows.task.labels)},
    }
    pq.write_table(pa.table(columns), file)


def content(file: Path) -> bytes:
    """A file's bytes, Parquet with its values as text."""
    found = file.read_bytes()
    if found[:4] == b"PAR1":
        found += json.dumps(pq.read_table(file).to_pydict(), default=str).encode()
    return found
