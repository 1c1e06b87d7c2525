"""A token revoked on one machine is refused by the servers of all that share the database."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
import sqlalchemy as sa
from databases import database

from beholder.registry.feedback import Feedback
from beholder.util.errors import FeedbackError
from beholder_serve.auth import AuthError, KeyRing

__all__ = ["database"]
HOUR = timedelta(hours=1)


def machine(folder, keys: KeyRing, url: str) -> KeyRing:
    """A server that has the keys alone, as a pod with a mounted secret has."""
    folder.mkdir()
    (folder / "keys.json").write_bytes((keys.folder / "keys.json").read_bytes())
    return KeyRing(folder, Feedback(url))


def until_refused(ring: KeyRing, token: str) -> float:
    began = time.monotonic()
    while time.monotonic() - began < 20:
        try:
            ring.verify(token)
        except AuthError as error:
            assert "was revoked" in str(error)
            return time.monotonic() - began
        time.sleep(0.05)
    raise AssertionError("it was never refused")


def test_a_token_revoked_on_one_machine_is_refused_on_the_others(database, tmp_path):
    admin = KeyRing(tmp_path / "admin", Feedback(database))
    token, other = (admin.issue(user, ["predict:self"], HOUR) for user in ("ada", "bob"))
    pod = machine(tmp_path / "pod", admin, database)
    assert pod.verify(token).subject == "ada"
    assert admin.revoke(token) == admin._claims(token)["jti"]
    assert until_refused(pod, token) < 10 and pod.verify(other).subject == "bob"
    assert until_refused(machine(tmp_path / "late", admin, database), token) < 0.5  # one that starts later
    with pytest.raises(AuthError, match="was revoked"):
        KeyRing(admin.folder).verify(token)  # and on this machine without the database


def test_what_has_expired_is_not_kept(database, tmp_path):
    feedback = Feedback(database)
    feedback.revoke("old", time.time() - 5)
    feedback.revoke("new", time.time() + 60)
    assert feedback.revoked() == {"new"}
    feedback.revoke("new", time.time() + 120)
    with feedback._engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM revocations").scalar() == 1


def test_while_the_database_is_away_the_last_that_is_known_counts(tmp_path, caplog):
    url = f"sqlite:///{tmp_path / 'kept.db'}"
    admin = KeyRing(tmp_path / "admin", Feedback(url))
    token, other, third = (admin.issue(user, ["predict:self"], HOUR) for user in ("ada", "bob", "cleo"))
    pod = machine(tmp_path / "pod", admin, url)
    admin.revoke(token)
    until_refused(pod, token)
    with sa.create_engine(url).begin() as connection:
        connection.exec_driver_sql("DROP TABLE revocations")
    with pytest.raises(FeedbackError):
        admin.revoke(other)
    assert admin.verify(other).subject == "bob"  # it was not said to be revoked, and is not
    time.sleep(1.2)
    for _ in range(20):
        assert pod.verify(third).subject == "cleo"
        with pytest.raises(AuthError, match="was revoked"):
            pod.verify(token)
        time.sleep(0.02)
    assert any("cannot read which tokens were revoked on other machines" in line for line in caplog.messages)
