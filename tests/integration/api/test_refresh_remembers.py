"""What a refresh learned is not forgotten by the next, and nobody's enrolment ends by a refresh of others."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bundles import grep
from house import MODEL, settings
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner
from worlds import home_with_a_run

from beholder.cli.main import app
from beholder.data.annotations import Annotations
from beholder.data.splits import ByText
from beholder.data.task import Task
from beholder.lifecycle.earlier import with_earlier
from beholder.lifecycle.enroll import train_user
from beholder.lifecycle.erase import erase_everywhere
from beholder.lifecycle.refresh import refresh
from beholder.registry import versions as registry
from beholder.registry.blob_store import Store
from beholder.registry.manifest import Manifest
from beholder.registry.memory import read_texts, read_told, texts_table
from beholder.workflows.run import Silent
from beholder_serve.model_server import ModelServer, ServedModel


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "home"
    folder.mkdir()
    with home_with_a_run(folder, settings(users=8)) as outcome:
        yield folder, outcome


@pytest.fixture
def world(made, monkeypatch):
    """The home, and the run's rows. Each test has readers of its own, who are in the champion that others left."""
    monkeypatch.setenv("BEHOLDER_HOME", str(made[0]))
    return made[0], Annotations.read_parquet(made[1].run_folder / "annotations.parquet")


def table(rows: Annotations, user: str, name: str, folder) -> tuple:
    """A file of one user's judgements about texts nobody has seen, and how many."""
    mine = np.flatnonzero(rows.user_ids == user)
    columns = {
        "text": [f"{text} {name}" for text in rows.texts[mine]],
        "user_id": [user] * len(mine),
        **{label: rows.labels[mine, place].astype(int) for place, label in enumerate(rows.task.labels)},
    }
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder / f"{name}.parquet", len(mine)


def refreshed(file) -> dict:
    found = refresh(MODEL, file)
    registry.promote(MODEL, found["version"], force=True)
    return found


def tell(model_server: ModelServer, rows: Annotations, user: str, like: str, count: int = 24) -> None:
    mine = np.flatnonzero(rows.user_ids == like)[:count]
    labels = rows.task.labels
    told = [
        (f"{text} indeed", {label: bool(value) for label, value in zip(labels, given_, strict=True)})
        for text, given_ in zip(rows.texts[mine], rows.labels[mine], strict=True)
    ]
    model_server.feedback.put(MODEL, user, told)


def enrol(model_server: ModelServer, user: str) -> None:
    bundle = registry.open_version(registry.find(MODEL))
    kept = model_server.feedback.annotations(MODEL, bundle.task, user)
    model_server.feedback.enrol(MODEL, bundle.backbone_digest, user, train_user(bundle, kept))
    model_server.poll()


def test_two_refreshes_in_a_row_add_up(world, tmp_path):
    """On this machine, and on one where the run is not kept; and a person erased is gone from what was kept."""
    home, rows = world
    user = rows.users[0]
    monday, count = table(rows, user, "monday", tmp_path)
    first = refreshed(monday)
    tuesday, _ = table(rows, user, "tuesday", tmp_path)
    second = refreshed(tuesday)
    of_run = int(((rows.user_ids == user) & (part_of(rows) != "test")).sum())
    learned = [sum(found["rows"].values()) for found in (first, second)]
    kept = [count - found["kept_for_testing"] for found in (first, second)]
    assert learned == [of_run + kept[0], of_run + kept[0] + kept[1]]
    row = registry.user_row(registry.find(MODEL), user)
    assert row["train_rows"] == second["rows"]["train"]
    wednesday, _ = table(rows, user, "wednesday", tmp_path)
    (home / "runs").rename(tmp_path / "runs")
    try:
        third = refreshed(wednesday)
        assert sum(third["rows"].values()) == sum(kept) + count - third["kept_for_testing"]
        again = refreshed(monday)  # said again is said once
        assert sum(again["rows"].values()) == sum(third["rows"].values())
    finally:
        (tmp_path / "runs").rename(home / "runs")
    erase_everywhere(user)
    told = read_told(Store().manifest(registry.bundle_of(registry.find(MODEL))), Store())
    assert told is not None and len(told) == 0
    assert not grep(home, b"monday", f'{user}"'.encode())


def part_of(rows: Annotations) -> np.ndarray:
    return np.asarray(rows.column("part"), dtype=object)


def shown(user: str) -> dict:
    """The champion's row of a user, as the command prints it."""
    done = CliRunner().invoke(app, ["registry", "show", MODEL, "--user", user, "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    return row


def judged_once(text: str, rows: Annotations) -> Annotations:
    return Annotations.from_columns(rows.task, text=[text], user_id=["somebody new"], labels=rows.labels[:1])


def test_the_command_it_prints_is_one_that_works(world, tmp_path):
    """Without a row to choose by nobody knows whether a candidate is better: that has to be forced, and is said."""
    _, rows = world
    text = next(f"thing {n}" for n in range(99) if ByText(key=2).assign(judged_once(f"thing {n}", rows))[0] == "train")
    judged = pa.table({"text": [text], "user_id": ["somebody new"], **{label: [1] for label in rows.task.labels}})
    pq.write_table(judged, tmp_path / "one.parquet")
    done = CliRunner().invoke(app, ["refresh", MODEL, "--annotations", str(tmp_path / "one.parquet")])
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert "1 user trained again" in said and "1 new judgement of 1 user" in said + " ".join(done.stderr.split())
    assert "to serve it, though nobody knows whether it is better" in said
    command = said.partition("beholder registry promote ")[2].split()
    asked = CliRunner().invoke(app, ["registry", "promote", *command])
    assert asked.exit_code == 0, (said, asked.output)
    registry.rollback(MODEL)


def test_an_enrolment_outlives_a_refresh_of_others_and_ends_when_it_is_taken_in(world, tmp_path):
    _, rows = world
    user, other = rows.users[1], rows.users[2]
    model_server = ModelServer(ServedModel(model=MODEL))
    tell(model_server, rows, user, other)
    enrol(model_server, user)
    assert model_server.user(user)["enrolled"] and shown(user)["enrolled"]
    refreshed(table(rows, other, "monday", tmp_path)[0])
    assert model_server.poll() and model_server.user(user)["enrolled"]  # nothing of theirs was learned from
    backbone_digest = registry.open_version(registry.find(MODEL)).backbone_digest
    stamp = model_server.feedback.enrolled(MODEL, backbone_digest)[user]
    found = refreshed(None)
    assert found["users"] >= 1 and model_server.poll()
    assert (
        not model_server.user(user)["enrolled"]
        and model_server.feedback.enrolled(MODEL, backbone_digest)[user] == stamp
    )
    assert shown(user)["enrolled"] is False is shown(other)["enrolled"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHOLDER_FEEDBACK", "sqlite:////proc/nothing/x.db")
        assert shown(user)["enrolled"] is None  # nobody knows
    tell(model_server, rows, user, user)
    enrol(model_server, user)  # and again, on this version
    assert model_server.user(user)["enrolled"]
    refreshed(table(rows, other, "tuesday", tmp_path)[0])
    assert model_server.poll() and model_server.user(user)["enrolled"]
    registry.rollback(MODEL)
    assert model_server.poll() and model_server.user(user)["enrolled"]


def test_whoever_enrols_while_a_refresh_trains_stays_enrolled(world):
    _, rows = world
    model_server = ModelServer(ServedModel(model=MODEL))
    tell(model_server, rows, rows.users[3], rows.users[4])
    tell(model_server, rows, "late", rows.users[5])

    class EnrolsWhenItTrains(Silent):
        done = False

        def step(self, *arguments, **more) -> None:
            if not self.done:
                self.done = True
                enrol(model_server, "late")

    found = refresh(MODEL, None, EnrolsWhenItTrains())
    registry.promote(MODEL, found["version"], force=True)
    assert model_server.poll() and found["users"] >= 2
    assert registry.user_row(registry.find(MODEL), "late")["known"] and model_server.user("late")["enrolled"]


def test_a_table_of_somebody_who_told_the_served_model_something_too_is_learned_with_it(world, tmp_path):
    _, rows = world
    model_server = ModelServer(ServedModel(model=MODEL))
    tell(model_server, rows, "nell", rows.users[2])
    enrol(model_server, "nell")
    mine = rows.select(np.flatnonzero(rows.user_ids == rows.users[2])).replace_users(["nell"] * 60)
    file, count = table(mine, "nell", "monday", tmp_path)
    found = refreshed(file)
    told = model_server.feedback.annotations(MODEL, rows.task, "nell")
    assert count - found["kept_for_testing"] < sum(found["rows"].values()) <= count + len(told)
    assert model_server.poll() and not model_server.user("nell")["enrolled"]


@pytest.mark.slow
def test_texts_that_another_split_keeps_for_testing_are_left_alone(tmp_path, monkeypatch):
    """As of new users: the run's texts are in the parts that the run had them in, wherever a hash would put them."""
    with home_with_a_run(tmp_path, settings(users=8, split={"by": "new-users", "new_users": 0.25})) as outcome:
        rows = Annotations.read_parquet(outcome.run_folder / "annotations.parquet")
        part = part_of(rows)
        tested = set(rows.text_keys[part == "test"])
        version = registry.find(MODEL)
        manifest = registry.store_of(version).manifest(registry.bundle_of(version))
        texts = read_texts(manifest, registry.store_of(version))
        assert {key for key, where in texts.items() if where == "test"} == tested
        shutil.rmtree(outcome.run_folder)
        mine = rows.select(np.flatnonzero(rows.user_ids == rows.users[0])).replace_users(["nell"] * 60)
        everything = Annotations.from_columns(
            rows.task,
            text=list(rows.distinct_texts[0]),
            user_id=["nell"] * len(rows.distinct_texts[0]),
            labels=np.tile(mine.labels[:1], (len(rows.distinct_texts[0]), 1)),
        )
        file = tmp_path / "all.parquet"
        columns = {label: everything.labels[:, place].astype(int) for place, label in enumerate(rows.task.labels)}
        pq.write_table(
            pa.table({"text": list(everything.texts), "user_id": ["nell"] * len(everything), **columns}), file
        )
        found = refresh(MODEL, file)
        assert found["kept_for_testing"] >= len(tested)
        told = read_told(
            registry.store_of(version).manifest(registry.bundle_of(registry.find(MODEL, "candidate"))), Store()
        )
        assert told is not None and len(told) == len(everything)
        learned = with_earlier(everything, manifest, Silent(), (), texts)[0]
        assert {name: len(part) for name, part in learned.items()} == found["rows"]
        assert not tested & {key for part in learned.values() for key in part.text_keys}


def test_near_copies_of_texts_that_were_tested_are_left_alone_where_the_split_takes_them_for_one(tmp_path, monkeypatch):
    monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path))
    words = np.random.default_rng(0)
    texts = [" ".join("".join(words.choice(list("abcdefghij"), 6)) for _ in range(12)) for _ in range(60)]
    task, labels = Task(("yes",), "multilabel"), np.ones((60, 1), np.float32)
    split = ByText(near_copies=0.6)
    rows = split.prepared(Annotations.from_columns(task, text=texts, user_id=["old"] * 60, labels=labels))
    part = split.assign(rows)
    rows = rows.with_column("part", part.tolist())
    (tmp_path / "runs" / "it").mkdir(parents=True)
    rows.write_parquet(tmp_path / "runs" / "it" / "annotations.parquet")
    copies = [f"{text} indeed" for text in texts]  # nobody's hash
    new = Annotations.from_columns(task, text=copies, user_id=["new"] * 60, labels=labels)
    manifest = Manifest({"run": "it", "split": split.model_dump()})
    found, left = with_earlier(new, manifest, Silent())
    tested = {copy for copy, name in zip(copies, part, strict=True) if name == "test"}
    assert left == len(tested) > 3
    assert not tested & set(found["train"].texts) and not tested & set(found["valid"].texts)
    assert len(found["train"]) == int((part == "train").sum())

    by_hash = manifest.but(split=split.model_dump() | {"near_copies": None})
    assert tested & set(with_earlier(new, by_hash, Silent())[0]["train"].texts)  # why it matters
    said = Saying()
    with_earlier(new, manifest.but(run="gone"), said)
    assert any("near copies of texts that were tested are not looked for" in line for line in said.lines)


class Saying(Silent):
    """Records progress lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 3), st.sampled_from(["train", "valid", "test"])),
        min_size=1,
        unique_by=lambda row: row[:2],
    ),
    st.sampled_from(["column", "new-users", "people", "paper"]),
)
def test_no_row_of_a_text_that_was_tested_is_learned_from(judged, by):
    """Whatever rows a split put where: a text with a test row is for testing, of whomever."""
    task = Task(("rude",))
    text, user, part = zip(*judged, strict=True)
    run = Annotations.from_columns(
        task,
        text=[f"text {each}" for each in text],
        user_id=[f"u{each}" for each in user],
        labels=np.ones((len(judged), 1), np.float32),
    )
    texts = dict(zip(*texts_table(run, np.asarray(part, dtype=object)).to_pydict().values(), strict=True))
    new = Annotations.from_columns(
        task, text=[f"Text {each}!" for each in range(10)], user_id=["new"] * 10, labels=np.ones((10, 1), np.float32)
    )
    found, left = with_earlier(new, Manifest({"run": "not here", "split": {"by": by}}), Silent(), (), texts)
    tested = {each for each, where in zip(text, part, strict=True) if where == "test"}
    learned = {text for name in ("train", "valid") for text in found[name].texts}
    assert not {f"Text {each}!" for each in tested} & learned
    for each, where in zip(text, part, strict=True):
        if where == "train" and not {(each, "test"), (each, "valid")} & set(zip(text, part, strict=True)):
            assert f"Text {each}!" in set(found["train"].texts)
    assert left + sum(map(len, found.values())) == 10
