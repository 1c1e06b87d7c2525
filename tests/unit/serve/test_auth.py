"""Access tokens: issued, verified, rotated, revoked, forged."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from datetime import timedelta

import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from beholder.cli.main import app
from beholder_serve.auth import SCOPES, AuthError, KeyRing, needs_tokens

HOUR = timedelta(hours=1)


@pytest.fixture
def ring(tmp_path):
    return KeyRing(tmp_path / "access")


def secret_of(ring: KeyRing) -> dict[str, str]:
    return json.loads((ring.folder / "keys.json").read_text())["keys"][-1]


def test_a_token_says_who_and_what_for(ring):
    caller = ring.verify(ring.issue("alice", ["predict:self", "annotate:self"], HOUR))
    assert caller.subject == "alice" and caller.scopes == {"predict:self", "annotate:self"}
    assert caller.may_predict("alice") and caller.may_annotate("alice") and caller.may_erase("alice")
    assert not caller.may_predict("bob") and not caller.may_annotate("bob") and not caller.may_erase("bob")
    assert not caller.may_see_all()
    reader = ring.verify(ring.issue("service", ["predict:any"], HOUR))
    assert reader.may_predict("bob") and reader.may_see_all() and not reader.may_annotate("service")
    admin = ring.verify(ring.issue("root", ["admin"], HOUR))
    assert admin.may_predict("bob") and admin.may_annotate("bob") and admin.may_erase("bob") and admin.may_see_all()


def test_keys_are_for_their_owner_only_and_tokens_are_not_kept(ring):
    token = ring.issue("alice", ["predict:self"], HOUR)
    assert stat.S_IMODE(ring.folder.stat().st_mode) == 0o700
    for file in ring.folder.glob("*.json"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert token not in file.read_text() and "alice" not in file.read_text()


def test_an_expired_token_is_refused(ring):
    with pytest.raises(AuthError, match=r"has expired.*beholder token issue"):
        ring.verify(ring.issue("alice", ["predict:self"], timedelta(seconds=-1)))


@pytest.mark.parametrize("change", ["alg none", "alg HS512", "no kid", "another kid", "another key"])
def test_a_forged_token_is_refused(ring, change):
    token = ring.issue("alice", ["predict:self"], HOUR)
    key, claims = secret_of(ring), jwt.decode(token, options={"verify_signature": False})
    forged = {
        "alg none": lambda: jwt.encode(claims, None, "none", {"kid": key["kid"]}),
        "alg HS512": lambda: jwt.encode(claims, key["secret"], "HS512", {"kid": key["kid"]}),
        "no kid": lambda: jwt.encode(claims, key["secret"], "HS256"),
        "another kid": lambda: jwt.encode(claims, key["secret"], "HS256", {"kid": "0" * 12}),
        "another key": lambda: jwt.encode(claims, "x" * 43, "HS256", {"kid": key["kid"]}),
    }[change]()
    with pytest.raises(AuthError, match="not a valid token"):
        ring.verify(forged)


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "scope", "iat", "exp", "jti"])
def test_a_claim_that_is_missing_or_another_is_refused(ring, claim):
    token = ring.issue("alice", ["predict:self"], HOUR)
    key, claims = secret_of(ring), jwt.decode(token, options={"verify_signature": False})
    without = {name: value for name, value in claims.items() if name != claim}
    for forged in (without, {**claims, claim: "another"} if claim in ("iss", "aud", "scope") else without):
        with pytest.raises(AuthError):
            ring.verify(jwt.encode(forged, key["secret"], "HS256", {"kid": key["kid"]}))


@pytest.mark.parametrize("garbage", ["", ".", "..", "a.b.c", "ä" * 20, "a" * 5_000, "\x00", "e30.e30.e30"])
def test_garbage_is_refused(ring, garbage):
    ring.issue("alice", ["predict:self"], HOUR)
    with pytest.raises(AuthError):
        ring.verify(garbage)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10_000), letter=st.sampled_from("abcXYZ0189-_."))
def test_a_token_with_another_letter_is_another_token_or_none(ring, place, letter):
    """The last letter of a signature has bits that mean nothing; with these changed it is the same token still."""
    token = ring.issue("alice", ["predict:self"], HOUR)
    place %= len(token)
    changed = token[:place] + letter + token[place + 1 :]
    try:
        caller = ring.verify(changed)
    except AuthError:
        return
    assert caller == ring.verify(token)


def test_a_new_key_signs_and_old_tokens_stay_or_go(ring):
    server = KeyRing(ring.folder)  # as another process has it
    old = ring.issue("alice", ["predict:self"], HOUR)
    assert server.verify(old).subject == "alice"
    ring.rotate()
    new = ring.issue("bob", ["predict:self"], HOUR)
    assert jwt.get_unverified_header(new)["kid"] != jwt.get_unverified_header(old)["kid"]
    assert server.verify(old).subject == "alice" and server.verify(new).subject == "bob"
    ring.rotate(keep_old=False)
    for token in (old, new):
        with pytest.raises(AuthError):
            server.verify(token)


def test_a_revoked_token_is_refused_at_once_by_id_or_whole(ring):
    server = KeyRing(ring.folder)
    one, other, third = (ring.issue(name, ["predict:self"], HOUR) for name in ("one", "other", "third"))
    ids = [server.verify(token).token_id for token in (one, other, third)]
    assert ring.revoke(one) == ids[0] and ring.revoke(ids[1]) == ids[1]
    for token in (one, other):
        with pytest.raises(AuthError, match="was revoked"):
            server.verify(token)
    assert server.verify(third).subject == "third"
    with pytest.raises(AuthError):
        ring.revoke("not.a.token")
    for mistyped in (f"{ids[2]}x", ids[2][:-1], ids[2].swapcase(), ""):
        with pytest.raises(AuthError, match="no token with this id was issued here"):
            KeyRing(ring.folder).revoke(mistyped)
    assert server.verify(third).subject == "third"
    assert (ring.folder / "issued.txt").stat().st_mode & 0o077 == 0
    soon = ring.issue("soon", ["predict:self"], timedelta(seconds=-1))
    ring.revoke(soon)  # expired anyhow; dropped when the list is next written
    ring.revoke(third)
    kept = json.loads((ring.folder / "revoked.json").read_text())["revoked"]
    assert set(kept) == set(ids)


def test_scopes_nobody_knows_are_not_given(ring):
    with pytest.raises(AuthError, match=r"unknown scope 'predict:slef'. Did you mean 'predict:self'"):
        ring.issue("alice", ["predict:slef"], HOUR)
    with pytest.raises(AuthError, match="at least one scope"):
        ring.issue("alice", [], HOUR)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1}', '{"format": 99, "keys": []}'])
def test_a_damaged_key_file_is_named(ring, content):
    token = ring.issue("alice", ["predict:self"], HOUR)
    (ring.folder / "keys.json").write_text(content)
    with pytest.raises(AuthError, match=r"keys\.json"):
        ring.verify(token)


ISSUE = """
import sys
from datetime import timedelta
from pathlib import Path
from beholder_serve.auth import KeyRing
print(KeyRing(Path(sys.argv[1])).issue("u", ["admin"], timedelta(hours=1)))
"""


def test_processes_that_issue_the_first_token_at_once_share_a_key(ring):
    command = [sys.executable, "-c", ISSUE, str(ring.folder)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    tokens = [process.communicate(timeout=60)[0].strip() for process in running]
    assert all(ring.verify(token).is_admin for token in tokens)
    assert len(json.loads((ring.folder / "keys.json").read_text())["keys"]) == 1


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("::1", False),
        ("localhost", False),
        ("0.0.0.0", True),
        ("::", True),
        ("192.168.1.1", True),
        ("example.org", True),
        ("", True),
    ],
)
def test_beyond_this_machine_tokens_are_wanted(host, wanted):
    assert needs_tokens(host) is wanted


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_the_command_issues_rotates_and_revokes(home):
    done = run("token", "issue", "--user", "alice", "--scopes", "predict:self, annotate:self", "--days", "2")
    assert done.exit_code == 0
    token = done.stdout.strip()
    assert "\n" not in token and KeyRing().verify(token).scopes == {"predict:self", "annotate:self"}
    assert "alice" not in done.stderr and KeyRing().verify(token).token_id in done.stderr
    left = jwt.decode(token, options={"verify_signature": False})["exp"] - time.time()
    assert left == pytest.approx(2 * 86_400, abs=60)
    told = json.loads(run("token", "issue", "--scopes", "predict:any", "--json").stdout)
    assert KeyRing().verify(told["token"]).subject == "service" and told["id"].isalnum()  # no option of a command line
    assert run("token", "revoke", told["id"]).exit_code == 0
    with pytest.raises(AuthError, match="revoked"):
        KeyRing().verify(told["token"])
    assert json.loads(run("token", "rotate", "--drop-old", "--json").stdout)["dropped_old"] is True
    with pytest.raises(AuthError):
        KeyRing().verify(token)
    for arguments, words in [
        (("--scopes", "predict:self"), "--user: left out"),
        (("--user", "a", "--scopes", "everything"), "unknown scope 'everything'"),
    ]:
        refused = run("token", "issue", *arguments)
        assert refused.exit_code == 2 and words in refused.stderr and len(refused.stderr.splitlines()) == 1


def test_there_are_the_scopes_the_design_names():
    assert SCOPES == ("predict:self", "predict:any", "annotate:self", "admin")
