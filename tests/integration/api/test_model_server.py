"""A model server without Ray: mixed batches and their caches, version switches, enrolments and erasures."""

from __future__ import annotations

import gc
import time
import weakref

import numpy as np
import pytest
from databases import database
from house import MODEL, said, table_of

from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.lifecycle.enroll import train_user
from beholder.lifecycle.erase import admit_again, erase_everywhere
from beholder.lifecycle.refresh import refresh
from beholder.registry import versions as registry
from beholder.registry.blob_store import Store
from beholder.registry.feedback import Enrolment, Feedback
from beholder.util.errors import DataError, FeedbackError, MethodError, RegistryError
from beholder_serve.active_learning import most_informative
from beholder_serve.lru_cache import LRUCache
from beholder_serve.model_server import ModelServer, ServedModel
from beholder_serve.scoring import Scorer

__all__ = ["database"]


@pytest.fixture
def model_server(outcome):
    return ModelServer(ServedModel(model=MODEL))


def as_array(model_server: ModelServer, said: dict) -> np.ndarray:
    labels = model_server.describe()["labels"]
    return np.asarray([[row["scores"][label] for label in labels] for row in said["predictions"]], dtype=np.float32)


def test_a_mixed_batch_says_what_the_bundle_says(model_server, outcome):
    """Known users, strangers, one user several times, one text by several users; in one batch and one by one."""
    test = outcome.test
    texts, users = [*test.texts, test.texts[0], "never seen"], [*test.user_ids, "a stranger", test.user_ids[0]]
    bundle = registry.open_version(registry.find(MODEL))
    expected = bundle.predict(texts, users)
    assert {"cls", "cls-u"} == set(expected.routes)
    for _ in range(2):  # the second time from what is kept
        answers = model_server.predict([(user, [text]) for text, user in zip(texts, users, strict=True)])
        assert {answer["version"] for answer in answers} == {f"{MODEL} v1"}
        for row, answer in enumerate(answers):
            (prediction,) = answer["predictions"]
            np.testing.assert_allclose(as_array(model_server, answer)[0], expected.scores[row], atol=2e-6)
            assert list(prediction["decisions"].values()) == expected.decisions[row].tolist()
            assert prediction["route"] == expected.routes[row] and not prediction["fallback"]
    assert model_server.trunk_texts == len(set(texts))  # each text was read once, ever


def test_items_of_several_texts_come_back_in_order(model_server, outcome):
    user, texts = str(outcome.test.user_ids[0]), [str(text) for text in outcome.test.texts[:5]]
    (first, second) = model_server.predict([(user, texts), ("a stranger", texts[::-1])])
    assert [len(each["predictions"]) for each in (first, second)] == [5, 5]
    bundle = registry.open_version(registry.find(MODEL))
    np.testing.assert_allclose(as_array(model_server, first), bundle.predict(texts, [user] * 5).scores, atol=2e-6)
    np.testing.assert_allclose(as_array(model_server, second), bundle.predict(texts[::-1], ["x"] * 5).scores, atol=2e-6)


def test_perspectives_are_each_readers_predictions(model_server, outcome):
    text = "you are a very stupid robot"
    everybody = model_server.perspectives(text, None, 1_000)
    bundle = registry.open_version(registry.find(MODEL))
    assert everybody["readers_total"] == 6 == len(everybody["readers"])
    for reader in everybody["readers"]:
        expected = bundle.predict([text], [reader["user_id"]])
        np.testing.assert_allclose(reader["scores"], expected.scores[0], atol=2e-6)
        assert reader["decisions"] == expected.decisions[0].tolist() and reader["route"] == expected.routes[0]
    distances = [reader["distance"] for reader in everybody["readers"]]
    assert distances == sorted(distances, reverse=True)
    scores = np.asarray([reader["scores"] for reader in everybody["readers"]])
    for told in everybody["spread"]:
        mine = scores[:, everybody["labels"].index(told["label"])]
        assert told["mean"] == pytest.approx(mine.mean(), abs=1e-5)
        assert told["deviation"] == pytest.approx(mine.std(), abs=1e-5)
        assert sum(told["histogram"]) == 6 and told["deciles"][0] == pytest.approx(mine.min(), abs=1e-5)
    division = [told["division"] for told in everybody["spread"]]
    assert division == sorted(division, reverse=True)
    some = model_server.perspectives(text, [everybody["readers"][0]["user_id"], "a stranger", "a stranger"], 1_000)
    assert some["readers_total"] == 2 and {reader["route"] for reader in some["readers"]} >= {"cls"}
    few = model_server.perspectives(text, None, 2)
    assert few["readers_total"] == 6 and [r["user_id"] for r in few["readers"]] == [
        r["user_id"] for r in everybody["readers"][:2]
    ]


def test_whose_row_cannot_be_read_gets_the_global_model_and_is_told(outcome):
    bundle = registry.open_version(registry.find(MODEL))
    scorer = Scorer(bundle, "v1", rows_mb=0)
    user = sorted(bundle.on_personal)[0]
    expected = bundle.shared.score(["hello there"], ["x"])
    shard = bundle.personal.bank._places[user][0]
    hidden = [other for other in bundle.on_personal if bundle.personal.bank._places.get(other, ("",))[0] == shard]
    broken = registry.open_version(registry.find(MODEL))
    digests = Store()

    def shard_file(digest):
        if digest == shard:
            raise RegistryError("objects/... is missing.")
        return digests.get(digest)

    broken.personal.bank.shard_file = shard_file
    scorer = Scorer(broken, "v1")
    others = sorted(bundle.on_personal - set(hidden))
    answers = scorer.predict(["hello there"] * (1 + len(others)), [user, *others])
    assert answers.fallback.tolist() == [True] + [False] * len(others)
    assert answers.routes == ["cls"] + ["cls-u"] * len(others)
    np.testing.assert_allclose(answers.scores[0], expected[0], atol=2e-6)
    everybody = scorer.predict_users("hello there", [user, *others])
    assert everybody.fallback.tolist() == answers.fallback.tolist() and everybody.routes == answers.routes
    np.testing.assert_allclose(everybody.scores, answers.scores, atol=2e-6)


def test_an_alias_is_followed_and_a_bad_version_refused(model_server, outcome, tmp_path):
    assert model_server.version == f"{MODEL} v1" and not model_server.poll()
    everybody = Annotations.read_parquet(outcome.run_folder / "annotations.parquet")
    table_of(everybody, everybody.users[:2], tmp_path / "new.parquet")
    said("refresh", MODEL, "--annotations", tmp_path / "new.parquet")
    registry.promote(MODEL, 2, force=True)
    manifest = Store().manifest(registry.bundle_of(registry.find(MODEL)))
    name = next(name for name in manifest["files"] if name.endswith("index.parquet"))
    file = Store().get(manifest["files"][name]["sha256"])
    whole = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        assert not model_server.poll() and model_server.version == f"{MODEL} v1"
        assert "altered" in next(iter(model_server.refused.values()))[0]
        assert model_server.predict([("x", ["still here"])])[0]["version"] == f"{MODEL} v1"
    finally:
        file.write_bytes(whole)
    model_server.refused.clear()  # a minute later
    gc.collect()
    gc.disable()
    try:
        old = weakref.ref(model_server._scorer.bundle)
        assert model_server.poll() and model_server.version == f"{MODEL} v2"
        assert old() is None  # its memory is free at once, not when cycles happen to be collected
    finally:
        gc.enable()
    answer = model_server.predict([(everybody.users[0], ["and now"])])[0]
    assert answer["version"] == f"{MODEL} v2"
    bundle = registry.open_version(registry.find(MODEL, "2"))
    np.testing.assert_allclose(
        as_array(model_server, answer), bundle.predict(["and now"], [everybody.users[0]]).scores, atol=2e-6
    )
    said("registry", "rollback", MODEL)
    assert model_server.poll() and model_server.version == f"{MODEL} v1"


def judged(outcome, who: str, count: int = 20) -> Annotations:
    """The judgements of the most particular of all readers, as a newcomer's."""
    everybody = Annotations.read_parquet(outcome.run_folder / "annotations.parquet")
    mine = np.flatnonzero(everybody.user_ids == who)
    first = {str(everybody.texts[row]): row for row in mine[::-1]}
    rows = everybody.select(np.asarray(sorted(first.values())[:count]))
    return Annotations.from_columns(
        rows.task, text=list(rows.texts), user_id=["a newcomer"] * len(rows), labels=rows.labels
    )


def test_a_newcomer_is_trained_served_and_erased(model_server, outcome):
    feedback = model_server.feedback
    labels = outcome.test.task.labels
    who = max(outcome.test.users, key=lambda user: registry.user_row(registry.find(MODEL), user)["expected"])
    rows = judged(outcome, who)
    judgements = [
        (text, {label: bool(given) for label, given in zip(labels, row, strict=True)})
        for text, row in zip(rows.texts, rows.labels, strict=True)
    ]
    assert feedback.put(MODEL, "a newcomer", judgements[:5]) == 5
    assert feedback.put(MODEL, "a newcomer", judgements) == 20  # again: the same texts
    kept = feedback.annotations(MODEL, outcome.test.task, "a newcomer")
    assert sorted(kept.texts) == sorted(rows.texts)
    bundle = registry.open_version(registry.find(MODEL))
    enrolment = train_user(bundle, kept)
    assert enrolment.facts["route"] == "personal" and enrolment.facts["valid_rows"] == 20  # all, by cross-fitting
    again = train_user(bundle, kept)
    assert again.tensors == enrolment.tensors  # to the same bits
    few = [
        train_user(bundle, kept.select(range(count))) for count in (5, 6, 7)
    ]  # all of them count, none is kept aside
    assert all(each.facts["route"] == "personal" and each.tensors for each in few)
    asked = ("a newcomer", [str(text) for text in outcome.test.texts[:8]])
    before = model_server.predict([asked])[0]
    assert {row["route"] for row in before["predictions"]} == {"cls"}
    feedback.enrol(MODEL, bundle.backbone_digest, "a newcomer", enrolment)
    model_server.poll()
    after = model_server.predict([asked])[0]
    assert {row["route"] for row in after["predictions"]} == {"cls-u"}
    assert np.abs(as_array(model_server, after) - as_array(model_server, before)).max() > 0.01
    assert model_server.user("a newcomer")["enrolled"] and model_server.describe()["enrolled"] == 1
    everybody = model_server.perspectives(asked[1][0], None, 100)
    mine = next(reader for reader in everybody["readers"] if reader["user_id"] == "a newcomer")
    np.testing.assert_allclose(mine["scores"], as_array(model_server, after)[0], atol=2e-6)
    # Another engine serves them, too, from its start.
    other = ModelServer(ServedModel(model=MODEL))
    np.testing.assert_allclose(as_array(other, other.predict([asked])[0]), as_array(model_server, after), atol=2e-6)

    record = erase_everywhere("a newcomer")
    assert admit_again("a newcomer")
    assert record["judgements"] == 20
    model_server.poll()
    gone = model_server.predict([asked])[0]
    np.testing.assert_allclose(as_array(model_server, gone), as_array(model_server, before), atol=2e-6)
    assert not model_server.user("a newcomer")["known"] and feedback.count(MODEL, "a newcomer") == 0


def test_polling_does_not_read_all_enrolments_until_one_changes(model_server, monkeypatch):
    read = []
    monkeypatch.setattr(model_server.feedback, "enrolled", lambda *of: read.append(of) or Feedback().enrolled(*of))
    for _ in range(5):
        model_server.poll()
    assert read == []
    elsewhere, backbone_digest = Feedback(), registry.open_version(registry.find(MODEL)).backbone_digest
    nothing = Enrolment(b"", {"route": "global", "expected": 0.0, "train_rows": 5, "valid_rows": 5, "gain": 0.0})
    elsewhere.enrol(MODEL, backbone_digest, "somebody", nothing)
    model_server.poll()
    model_server.poll()
    assert len(read) == 1 and model_server.describe()["enrolled"] == 1
    elsewhere.erase("somebody")
    model_server.poll()
    model_server.poll()
    assert len(read) == 2 and model_server.describe()["enrolled"] == 0
    monkeypatch.setattr("beholder_serve.model_server.RELOAD_S", 0.0)  # a restored copy may have the same count
    model_server.poll()
    assert len(read) == 3
    assert elsewhere.admit_again("somebody")


def test_a_refresh_takes_in_what_users_told_and_takes_their_place(model_server, outcome):
    labels = outcome.test.task.labels
    feedback, backbone_digest = model_server.feedback, registry.open_version(registry.find(MODEL)).backbone_digest
    rows = judged(outcome, max(outcome.test.users), 24)
    told = [
        (f"{text} indeed", {label: bool(given) for label, given in zip(labels, row, strict=True)})
        for text, row in zip(rows.texts, rows.labels, strict=True)
    ]
    with pytest.raises(DataError, match="has received no judgements"):
        refresh(MODEL, None)
    feedback.put(MODEL, "a newcomer", told)
    kept = feedback.annotations(MODEL, outcome.test.task, "a newcomer")
    feedback.enrol(MODEL, backbone_digest, "a newcomer", train_user(registry.open_version(registry.find(MODEL)), kept))
    model_server.poll()
    assert model_server.user("a newcomer")["enrolled"]
    time.sleep(1.1)  # bundles are dated to the second
    found = said("refresh", MODEL, "--feedback")
    assert found["users"] == 1
    before = registry.find(MODEL).number
    registry.promote(MODEL, found["version"], force=True)
    assert model_server.poll() and registry.open_version(registry.find(MODEL)).backbone_digest == backbone_digest
    mine = model_server.user("a newcomer")
    assert mine["known"] and not mine["enrolled"] and model_server.describe()["enrolled"] == 0
    assert registry.find(MODEL).number != before
    registry.rollback(MODEL)
    model_server.poll()
    assert model_server.user("a newcomer")["enrolled"]  # this version does not know them
    erase_everywhere("a newcomer")
    assert admit_again("a newcomer")
    model_server.poll()
    assert not model_server.user("a newcomer")["known"]


def test_an_erased_reader_is_answered_by_the_global_model(model_server, outcome):
    bundle = registry.open_version(registry.find(MODEL))
    user = sorted(bundle.on_personal)[-1]
    assert model_server.predict([(user, ["hello"])])[0]["predictions"][0]["route"] == "cls-u"
    before = model_server._scorer.bundle
    others = sorted(bundle.on_personal - {user})
    asked = [(other, ["hello", "you are a fool"]) for other in others]
    expected = ModelServer(ServedModel(model=MODEL)).predict(asked)  # which has read no text in other company before
    erase_everywhere(user)
    assert model_server.poll()  # the same version, without them
    after = model_server._scorer.bundle
    assert after is not before and after.shared is before.shared  # the base is not read again
    assert after.personal.model is before.personal.model and user not in after.personal.bank
    assert model_server.predict(asked) == expected  # to the bit
    answer = model_server.predict([(user, ["hello"])])[0]
    assert answer["predictions"][0]["route"] == "cls" and not answer["predictions"][0]["fallback"]
    assert user not in [reader["user_id"] for reader in model_server.perspectives("hello", None, 100)["readers"]]


def test_too_few_judgements_are_refused(outcome):
    bundle = registry.open_version(registry.find(MODEL))
    with pytest.raises(MethodError, match="3 judgements: too few"):
        train_user(
            bundle, judged(outcome, Annotations.read_parquet(outcome.run_folder / "annotations.parquet").users[0], 3)
        )


def test_the_texts_to_judge_first(model_server):
    told = model_server.texts(10)
    assert len(told["texts"]) == 10 == len(set(told["texts"])) and "house" in told["source"]
    assert model_server.texts(3)["texts"] == told["texts"][:3]


def test_the_most_informative_texts_differ_from_one_another():
    """Two groups of texts divide readers in two ways, the second less: one of each comes before two of the first."""
    random = np.random.default_rng(0)
    first, second = random.normal(size=(2, 1, 40, 1))
    texts = np.concatenate([0.3 * first.repeat(5, axis=0), 0.25 * second.repeat(5, axis=0), np.zeros((5, 40, 1))])
    chosen = most_informative(texts.astype(np.float32), 4)
    assert {each // 5 for each in chosen[:2]} == {0, 1} and len(set(chosen)) == 4
    assert not {each // 5 for each in chosen} - {0, 1}
    assert most_informative(np.zeros((2, 3, 1), np.float32), 5) in ([0, 1], [1, 0])


def test_a_cache_stays_within_its_bytes_and_keeps_the_most_recently_used():
    kept: LRUCache[int, bytes] = LRUCache(100, len)
    for number in range(50):
        kept.put(number, bytes(10))
        kept.get(0)
    assert kept.bytes_used == 100 and len(kept) == 10 and kept.get(0) is not None and kept.get(1) is None
    kept.put(0, bytes(30))
    assert kept.bytes_used <= 100
    kept.put(99, bytes(101))  # larger than the cache
    assert kept.get(99) is None
    kept.put(0, bytes(101))
    assert kept.get(0) is None  # and not the value before
    kept.put(0, bytes(1))
    kept.drop(0)
    kept.drop(-1)
    assert kept.get(0) is None


def test_feedback_in_any_database(database):
    """What is said last counts; an enrolment takes the place of the one before; erased is erased."""
    feedback = Feedback(database)
    assert feedback.put("m", "u", [("a", {"x": True}), ("b", {"x": False}), ("A ", {"x": False, "y": True})]) == 2
    assert feedback.put("m", "v", [("a", {"y": True})]) == 1
    other = Feedback(database)  # as another process has it
    rows = other.annotations("m", Task(("x", "y")))
    assert sorted(zip(rows.user_ids, rows.texts, strict=True)) == [("u", "A "), ("u", "b"), ("v", "a")]
    assert np.isnan(rows.labels).sum() == 2
    assert other.annotations("m", Task(("z",))) is None and other.annotations("n", Task(("x",))) is None
    for content in (b"one", b"two"):
        feedback.enrol("m", "f", "u", Enrolment(content, {"route": "personal", "gain": 0.5}))
    assert other.enrolment("m", "f", "u") == Enrolment(b"two", {"route": "personal", "gain": 0.5})
    assert set(other.enrolled("m", "f")) == {"u"} and other.enrolled("m", "another") == {}
    assert other.erase("u") == 2 and other.erase("u") == 0
    assert feedback.count("m", "u") == 0 and feedback.count("m", "v") == 1 and feedback.enrolled("m", "f") == {}
    with feedback._engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE judgements")
    with pytest.raises(FeedbackError) as refused:
        feedback.put("m", "secret person", [("secret text", {"x": True})])
    assert "secret" not in str(refused.value) and "Nothing of this request was kept" in str(refused.value)


def test_a_database_that_is_not_there_is_one_line():
    for url in ("postgresql+psycopg://nobody:secret@127.0.0.1:9/x", "sqlite:////proc/nothing/x.db", "nonsense"):
        with pytest.raises(FeedbackError, match="Check BEHOLDER_FEEDBACK") as refused:
            Feedback(url)
        assert "secret" not in str(refused.value) and len(str(refused.value).splitlines()) == 1


def test_feedback_outlives_the_process_and_says_what_is_wrong(tmp_path):
    url = f"sqlite:///{tmp_path / 'kept.db'}"
    Feedback(url).put("m", "u", [("Hello  there", {"rude": True}), ("hello there", {"rude": False})])
    assert Feedback(url).count("m", "u") == 1  # texts that count as the same are one
    assert Feedback(url).count("other", "u") == 0
    assert Feedback(url).erase("u") == 1
    left = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"hello there" not in left.lower() and b"rude" not in left
