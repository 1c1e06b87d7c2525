"""Make `files.tar.gz` with the code of commit 8dc423b. See README.md for how to run it.

Only `arithmetic`, `machine` and `predicted` are used with later code too: by tests/registry/test_files_of_8dc423b.py.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import sqlite3
import sys
import tarfile
from pathlib import Path
from typing import Any

HOME = Path("/tmp/beholder-8dc423b")
"""Home folder of the old code. The test replaces this path in MLflow's database."""
LEFT_OUT = ("figures", "figures-of-users", "scratch", "report.html", "report-nameless.html")
TEXTS = (
    "Honestly, the match makes me so happy.",
    "this soup is an outrage, and the cake is rather nice!",
    "My boss terrifies me; the meeting does not.",
    "ok",
    "Un café très agréable, mais le train… \U0001f682",
    "The hotel keeps me awake with dread. " * 6,
)
PEOPLE = {
    "name": "simulated",
    "texts": "templates",
    "labels": ["anger", "joy"],
    "users": 5,
    "rows_per_user": 45,
    "distinct_texts": 60,
    "effect": 4.0,
    "noise": 0.0,
}
ADAPTERS = {"top_layers": 1, "epochs": 10, "learning_rate": 0.02, "block_users": 3}


def experiments(tables: Path) -> list[dict[str, Any]]:
    """Runs that use all methods of 8dc423b, both kinds of task and several tasks at once."""
    common = {"evaluate": {"reference": "cls", "bootstrap": 50}, "cluster": {"workers": 0}}
    fast = {"epochs": 1, "max_tokens": 48}
    return [
        {
            "name": "classifiers",
            "source": PEOPLE,
            "base": "tiny-bert",
            "methods": {
                "prior": {},
                "user-prior": {},
                "cls": {"epochs": 4, "learning_rate": 0.005, "max_tokens": 48},
                "cls-p": {**fast, "controls": ["shuffled-users"]},
                "cls-p-added": {**fast, "method": "cls-p", "user_token": "added"},
                "cls-u": {"from": "cls", "bank": ADAPTERS, "controls": ["shuffled-users"], "curve": [5, 20]},
                "cls-u-head": {"method": "cls-u", "from": "cls", "bank": {"epochs": 1}},
                "cls-u-gate": {"method": "cls-u", "from": "cls-p", "bank": {"head": "gate", "epochs": 1}},
                "cls-u-bias": {"method": "cls-u", "from": "cls", "bank": {"head": "bias", "epochs": 1, "caution": 0}},
            },
            "register": {"name": "classifiers"},
            **common,
        },
        {
            "name": "full",
            "source": PEOPLE,
            "base": "tiny-bert",
            "seed": 7,
            "methods": {
                "cls": {**fast, "lora": None, "learning_rate": 0.001},
                "cls-u": {"from": "cls", "bank": ADAPTERS},
            },
            "register": {"name": "full"},
            **common,
        },
        {
            "name": "writers",
            "source": PEOPLE,
            "base": "tiny-llama",
            "methods": {
                "lm": {"epochs": 1},
                "lm-p": {"extends": "lm"},
                "lm-u": {"from": "lm", "bank": {**ADAPTERS, "epochs": 3, "caution": 0}, "controls": ["shuffled-users"]},
            },
            "forgetting": {"source": {**PEOPLE, "seed": 3}, "rows": 20},
            "register": {"name": "writers"},
            **common,
            "evaluate": {"reference": "lm", "bootstrap": 50},
        },
        {
            "name": "prompts",
            "source": {**PEOPLE, "rows_per_user": 24, "distinct_texts": 30},
            "base": "tiny-llama",
            "methods": {
                "query": {"prompt": {"shots": 2}},
                "query-p": {"prompt": {"placement": "after", "blocks": ["id", "profile", "statistics", "examples"]}},
            },
            **common,
            "evaluate": {"reference": "query", "bootstrap": 50},
        },
        {
            "name": "tasks",
            "source": {
                "name": "several",
                "sources": {
                    "one": {"name": "table", "path": str(tables / "new.csv"), "labels": ["anger", "joy"]},
                    "two": {"name": "table", "path": str(tables / "fear.csv"), "labels": ["fear"]},
                },
            },
            "base": "tiny-bert",
            "methods": {
                "prior": {},
                "cls": fast,
                "cls-one": {"extends": "cls", "tasks": ["one"]},
                "cls-u": {"from": "cls", "bank": ADAPTERS},
            },
            **common,
        },
        {
            "name": "classes",
            "source": {
                "name": "table",
                "path": str(tables / "classes.csv"),
                "kind": "multiclass",
                "label_column": "label",
            },
            "split": {"by": "new-users", "new_users": 0.4, "enrol": 10},
            "base": "tiny-bert",
            "methods": {
                "prior": {},
                "user-prior": {},
                "cls": fast,
                "cls-u": {"from": "cls", "bank": {**ADAPTERS, "caution": 0}},
            },
            "limits": {"rows": 200},
            **common,
        },
    ]


def write_tables(folder: Path) -> None:
    """A table of one class a judgement; new judgements of two readers, for a refresh; and one of another label."""
    words = ("the match", "this soup", "my job", "the hotel", "the mayor")
    classes = [["text", "user_id", "label"]]
    judged, fear = [["text", "user_id", "anger", "joy"]], [["text", "user_id", "fear"]]
    for day in range(40):
        word = words[day % 5]
        for user in range(8):
            kind = ("yes", "no", "unsure")[(day + user * (day % 5)) % 3]
            classes.append([f"{word} is {'good' if day % 3 else 'bad'} on day {day}", f"u{user}", kind])
        for number in (1, 2):
            text = f"New day {day}: {word} {'makes me furious' if day % 2 else 'cheers me up'}."
            judged.append([text, f"reader{number}", str(day % 2), str(1 - day % 2)])
            fear.append([f"Night {day}: {word} makes me nervous.", f"reader{number}", str(int(day % 3 == number))])
    for name, rows in (("classes", classes), ("new", judged), ("fear", fear)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)


def arithmetic() -> str:
    """Digest of float32 results here. Machines with equal digests and libraries score equally to the bit."""
    import torch
    from torch.nn import functional as f

    def wave(*shape: int) -> torch.Tensor:
        count = int(torch.tensor(shape).prod())
        return torch.sin(torch.arange(count, dtype=torch.float64) * 0.7).float().reshape(shape)

    digest = hashlib.sha256()
    for rows in (1, 2, 3, 7, 16, 33):
        for columns, out in ((32, 32), (32, 64), (64, 32), (32, 2), (8, 32), (32, 8), (32, 260)):
            x = f.linear(wave(rows, columns), wave(out, columns), wave(out))
            found = [x, f.layer_norm(x, (out,)), x.softmax(-1), x.sigmoid(), f.gelu(x), f.silu(x), x.tanh(), x.rsqrt()]
            heads = wave(rows, 4, 17, 8)
            found += [f.scaled_dot_product_attention(heads, heads, heads), x.mean(0), x.logsumexp(-1)]
            for each in found:
                digest.update(each.contiguous().numpy().tobytes())
    return digest.hexdigest()


def machine() -> dict[str, str]:
    """What scores' last bits depend on besides beholder. One thread: sums are then in one order."""
    import torch
    import transformers

    torch.set_num_threads(1)
    return {"torch": torch.__version__, "transformers": transformers.__version__, "arithmetic": arithmetic()}


def pairs(users: list[str]) -> tuple[list[str], list[str]]:
    """Every text for every user."""
    return [text for text in TEXTS for _ in users], users * len(TEXTS)


def predicted(bundle: Any, users: list[str]) -> dict[str, Any]:
    """What an open bundle predicts: `scores`, `decisions` and `routes` of `pairs`."""
    found = bundle.predict(*pairs(users))
    return {"scores": found.scores, "decisions": found.decisions, "routes": found.routes}


def _fit_all() -> dict[str, Path]:
    from beholder import pipeline
    from beholder.experiment import make_experiment

    return {each["name"]: pipeline.run(make_experiment(each)).run_folder for each in experiments(HOME)}


def _refresh_and_enrol(file: Path) -> None:
    """Version 2 of `classifiers`, a candidate; and a newcomer's judgements and adapter on version 1."""
    from beholder.annotations import Task
    from beholder.enrolment import train_user
    from beholder.feedback import Feedback
    from beholder.refresh import refresh

    from beholder.registry import registry

    refresh("classifiers", file)
    bundle = registry.open_version(registry.find("classifiers"))
    kept = Feedback()
    said = [
        (f"{text} It is day {day}.", {"anger": day % 3 == 0, "joy": True}) for day in range(4) for text in TEXTS[:5]
    ]
    kept.put("classifiers", "newcomer", said)
    rows = kept.annotations("classifiers", Task(bundle.task.labels, bundle.task.kind), "newcomer")
    kept.enrol("classifiers", bundle.foundation, "newcomer", train_user(bundle, rows))


def _reference(runs: dict[str, Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays by name, and everything else: what the old code predicts."""
    import mlflow.pyfunc
    import pandas as pd
    import pyarrow.parquet as pq
    from beholder.feedback import Feedback
    from beholder_serve.core import Core, Followed

    from beholder.methods import load_fitted
    from beholder.registry import registry

    arrays: dict[str, Any] = {}
    about: dict[str, Any] = {"machine": machine(), "runs": {}, "versions": {}, "served": {}}
    for name, folder in runs.items():
        results = json.loads((folder / "results.json").read_text())
        known = sorted(set(pq.read_table(folder / "annotations.parquet")["user_id"].to_pylist()))
        users = [known[0], known[-1], "a stranger"]
        arms = sorted(file.parent.name for file in (folder / "methods").glob("*/method.json"))
        about["runs"][name] = {"folder": folder.name, "users": users, "arms": arms, "base": results["base"]}
        for arm in arms:
            fitted = load_fitted(folder / "methods" / arm, results["base"])
            arrays[f"{name}/{arm}/scores"] = fitted.score(*pairs(users))
            arrays[f"{name}/{arm}/all"] = fitted.score_all(list(TEXTS), users)
            arrays[f"{name}/{arm}/thresholds"] = fitted.thresholds
            if hasattr(fitted, "bank"):
                for tensor, values in fitted.bank.take(known).items():
                    arrays[f"{name}/{arm}/bank/{tensor}"] = values.numpy()
        about["runs"][name]["known"] = known
    for model in registry.models():
        for version in registry.versions(model):
            key = f"{model}/{version.number}"
            bundle = registry.open_version(version)
            found = predicted(bundle, [*bundle.users[:3], "a stranger"])
            about["versions"][key] = {"users": bundle.users, "aliases": version.aliases, "routes": found.pop("routes")}
            arrays |= {f"{key}/{part}": values for part, values in found.items()}
            texts, users = pairs([*bundle.users[:3], "a stranger"])
            rows = pd.DataFrame({"user_id": users, "text": texts})
            loaded = mlflow.pyfunc.load_model(f"models:/{model}/{version.number}").predict(rows)
            arrays[f"{key}/mlflow"] = loaded.drop(columns="route").to_numpy(dtype="float32")
            core = Core(Followed(model=model, version=str(version.number)), Feedback())
            asked = [*bundle.users, "newcomer", "a stranger"]
            about["served"][key] = {
                "predict": [[user, core.predict([(user, TEXTS)])[0]["predictions"]] for user in asked],
                "perspectives": core.perspectives(TEXTS[0], None, 100),
                "newcomer": core.user("newcomer"),
            }
    return arrays, about


def _put_away(old: Path, archive: Path) -> None:
    """All files of the home folder and the experiment files of the commit, without what is drawn again."""
    for database in HOME.glob("*.db"):
        with sqlite3.connect(database) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if Path(info.name).name in LEFT_OUT or info.name.endswith((".lock", "-wal", "-shm")):
            return None
        info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
        return info

    with tarfile.open(archive, "w:gz", compresslevel=9) as tar:
        tar.add(HOME, "home", filter=plain)
        for file in sorted((old / "experiments").rglob("*.yaml")):
            tar.add(file, str(file.relative_to(old)), filter=plain)


def main(old: Path, archive: Path) -> None:
    """`old`: a checkout of 8dc423b, whose code is on PYTHONPATH. `archive`: replaced. Resumes."""
    import numpy as np

    import beholder

    assert Path(beholder.__file__).is_relative_to(old), f"put {old}'s platform and serve on PYTHONPATH"
    os.environ |= {"BEHOLDER_HOME": str(HOME), "MPLBACKEND": "Agg"}
    HOME.mkdir(exist_ok=True)
    os.chdir(HOME)  # MLflow notes where it was started
    write_tables(HOME)
    runs = _fit_all()
    _refresh_and_enrol(HOME / "new.csv")
    arrays, about = _reference(runs)
    np.savez_compressed(HOME / "reference.npz", **arrays)
    (HOME / "reference.json").write_text(json.dumps(about, indent=1) + "\n")
    _put_away(old, archive)
    shutil.rmtree(HOME)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(__file__).absolute().with_name("files.tar.gz"))
