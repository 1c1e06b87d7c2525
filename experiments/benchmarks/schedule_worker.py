"""A writer of `schedules.py`: carries out one request a line in the home folder it names, one line back."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

MODEL, BUCKET = "crowd", "schedules"
TERM_S, GRACE_S = 1.5, 8.0
"""Of leases, and of what `gc` leaves alone: short, so that both come into play."""
TEXTS = ["you are kind", "you are a fool", "hello there", "what a day"]
REFRESHED, ERASED, BYSTANDERS = ("reader0", "reader1"), ("reader2", "reader3"), ("reader4", "reader5", "reader6")
NEWCOMERS = ("nell@example.org", "olaf@example.org")
WEIGHTS = {"publish": 2, "promote": 2, "refresh": 3, "erase": 3, "enrol": 2, "gc": 1, "read": 3}
EXPERIMENT = {
    "name": "crowd",
    "source": {
        "name": "simulated",
        "texts": "templates",
        "users": 7,
        "rows_per_user": 60,
        "distinct_texts": 90,
        "effect": 4.0,
        "noise": 0.0,
    },
    "base": "tiny-bert",
    "methods": {
        "cls": {"epochs": 1, "max_tokens": 48},
        "cls-u": {"init_from": "cls", "bank": {"epochs": 10, "step_size": 0.3, "prior": {"rank": 2, "steps": 10}}},
    },
    "evaluate": {"reference": "cls"},
    "register": {"name": MODEL},
    "cluster": {"workers": 0},
}


def work() -> None:
    """What a worker does: lines in, lines out."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed is no answer
    import torch

    from beholder.registry import objects
    from beholder.util.errors import BeholderError

    torch.set_num_threads(1)
    objects.TERM_S = TERM_S
    for line in sys.stdin:
        asked = json.loads(line)
        os.environ.update(asked["places"])
        try:
            answer = {"ok": True, "said": STEPS[asked["what"]](asked)}
        except BeholderError as error:
            answer = {"ok": False, "refused": str(error)[:300]}
        except Exception:
            answer = {"ok": False, "crash": traceback.format_exc().strip()[-700:]}
        out.write(json.dumps(answer) + "\n")
        out.flush()


def make(asked: dict[str, Any]) -> dict[str, Any]:
    """The run all schedules begin with, and what its bundle says and holds of everybody."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from beholder.data.annotations import Annotations
    from beholder.experiment.config import make_experiment
    from beholder.methods.user_adapters import FittedBank
    from beholder.registry import versions as registry
    from beholder.workflows import run as pipeline

    outcome = pipeline.run(make_experiment(EXPERIMENT))
    bundle = registry.open_version(registry.find(MODEL))
    assert isinstance(bundle.personal, FittedBank)
    bank = bundle.personal.bank
    rows = Annotations.read_parquet(outcome.run_folder / "annotations.parquet")
    tables = {}
    for user in REFRESHED:
        mine = np.flatnonzero(rows.user_ids == user)[:30]
        columns = {label: rows.labels[mine, place].astype(int) for place, label in enumerate(rows.task.labels)}
        tables[user] = str(outcome.run_folder.parents[1] / f"{user}.parquet")
        table = {"text": [f"{text} again" for text in rows.texts[mine]], "user_id": [user] * len(mine), **columns}
        pq.write_table(pa.table(table), tables[user])
    told = np.flatnonzero(rows.user_ids == BYSTANDERS[0])[:12]
    return {
        "run": outcome.run_folder.name,
        "run_id": registry.find(MODEL).run_id,
        "tags": dict(registry.find(MODEL).tags),
        "tables": tables,
        "told": [[f"{rows.texts[row]} indeed", [bool(value) for value in rows.labels[row]]] for row in told],
        "labels": list(rows.task.labels),
        "scores": scores_of(bundle),
        "weights": {
            user: [tensor[0].numpy().tobytes().hex() for tensor in bank.take([user]).values()] for user in ERASED
        },
    }


def scores_of(bundle: Any) -> dict[str, str]:
    """The bytes of each bystander's scores by a bundle."""
    return {
        user: bundle.predict(TEXTS, [user] * len(TEXTS)).scores.astype(np.float32).tobytes().hex()
        for user in BYSTANDERS
    }


def publish(asked: dict[str, Any]) -> int:
    """Publish the run's bundle."""
    from beholder.registry import versions as registry
    from beholder.util.paths import home

    facts = asked["facts"]
    tags = {name: value for name, value in facts["tags"].items() if not name.startswith("bundle")}
    run = home() / "runs" / facts["run"]
    return registry.publish(MODEL, run / "bundle", facts["run_id"], tags, "").number


def begin(asked: dict[str, Any]) -> int:
    """The first version, in the store of this schedule."""
    from beholder.registry import versions as registry

    number = publish(asked)
    registry.promote(MODEL, number, force=True)
    return number


def promote(asked: dict[str, Any]) -> int:
    """Make the newest version that opens the champion."""
    from beholder.registry import versions as registry

    newest = registry.versions(MODEL)[0]
    registry.open_version(newest)
    registry.promote(MODEL, newest.number, force=True)
    return newest.number


def refresh(asked: dict[str, Any]) -> int:
    """Train one user on a table."""
    from beholder.lifecycle.refresh import refresh as refreshed

    return int(refreshed(MODEL, Path(asked["facts"]["tables"][asked["argument"]]))["version"])


def erase(asked: dict[str, Any]) -> bool:
    """Erase somebody, everywhere."""
    from beholder.lifecycle.erase import erase_everywhere

    return bool(erase_everywhere(asked["argument"]))


def enrol(asked: dict[str, Any]) -> bool:
    """Take a newcomer's judgements, train them on the champion, and keep what comes out."""
    from beholder.lifecycle.enroll import train_user
    from beholder.registry import versions as registry
    from beholder.registry.feedback import Feedback

    user, labels, feedback = asked["argument"], asked["facts"]["labels"], Feedback()
    told = [(text, dict(zip(labels, given, strict=True))) for text, given in asked["facts"]["told"]]
    feedback.put(MODEL, user, told)
    bundle = registry.open_version(registry.find(MODEL))
    rows = feedback.annotations(MODEL, bundle.task, user)
    assert rows is None or len(rows)
    if rows is not None:
        feedback.enrol(MODEL, bundle.backbone_digest, user, train_user(bundle, rows))
    return rows is not None


def gc(asked: dict[str, Any]) -> int:
    """Delete what nobody needs and is old enough."""
    from beholder.registry import maintenance as upkeep
    from beholder.registry import repair
    from beholder.registry import versions as registry
    from beholder.registry.blob_store import Store
    from beholder.tracking.client import identity

    store = Store()
    repair.delete_unnamed(store, registry.bundles_named(store), identity(), GRACE_S)
    return upkeep.gc(store, GRACE_S)


def read(asked: dict[str, Any]) -> list[str]:
    """Open the champion and score bystanders; a switch or an erasure in between is looked past, as engines do."""
    from beholder.registry import versions as registry
    from beholder.util.errors import BeholderError

    said = None
    for left in reversed(range(4)):
        try:
            said = scores_of(registry.open_version(registry.find(MODEL)))
            break
        except BeholderError:
            if not left:
                raise
            time.sleep(0.3)
    assert said == asked["facts"]["scores"], "a bystander's scores changed"
    return list(BYSTANDERS)


def look(asked: dict[str, Any]) -> dict[str, list[str]]:
    """Problems of the store and of any version, and bystanders whose scores changed."""
    from beholder.registry import maintenance as upkeep
    from beholder.registry import versions as registry
    from beholder.registry.blob_store import Store
    from beholder.util.errors import BeholderError

    store = Store()
    lost, changed = list(upkeep.verify(store).problems), []
    for version in registry.versions(MODEL):
        if version.number == 1:  # of the run that all schedules begin with, in another store
            continue
        try:
            said = scores_of(registry.open_version(version))
        except BeholderError as error:
            lost.append(f"v{version.number}: {error}")
            continue
        changed += [f"v{version.number}: {user}" for user in BYSTANDERS if said[user] != asked["facts"]["scores"][user]]
    return {"lost": lost, "changed": changed}


STEPS = {step.__name__: step for step in (make, begin, publish, promote, refresh, erase, enrol, gc, read, look)}

if __name__ == "__main__":
    work()
