"""Authentication: bearer tokens (JWT, RFC 7519, signed with HMAC-SHA-256) of users and services, and their scopes.

Tokens are not stored. A folder that only its owner can read holds the signing keys, the ids of issued tokens, and which
of them were revoked before they expired; a running server reads changes at once. Revocations are also in the database
of judgements (`feedback`), from which servers on other machines read them within about a second.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
from filelock import FileLock

from beholder.registry.feedback import Feedback
from beholder.util.errors import BeholderError, unknown
from beholder.util.paths import home

log = logging.getLogger("beholder.access")
SCOPES = ("predict:self", "predict:any", "annotate:self", "admin")
"""Predictions for the token's own user; for any user; judgements, enrolment and erasure of its own user; everything."""
ISSUER = "beholder"
ALGORITHM = "HS256"
ISSUED = "issued.txt"
"""The ids of all issued tokens, one per line. An id does not identify the user."""
IF_REMOVED = {"keys.json": "all tokens become invalid", "revoked.json": "revoked tokens become valid again"}
FORMAT = 1
MAX_TOKEN_LENGTH = 4_096
CLAIMS = ["iss", "aud", "sub", "scope", "iat", "exp", "jti"]
ISSUE_ANOTHER = "Issue another with: beholder token issue"


class AuthError(BeholderError):
    """A token is invalid, or the keys cannot be read."""


@dataclass(frozen=True)
class Caller:
    """The client of a request, and what it may do.

    Attributes:
        subject: the user the token was issued to, or the name of a service.
        scopes: of `SCOPES`.
        token_id: empty if the server requires no tokens.
    """

    subject: str
    scopes: frozenset[str]
    token_id: str

    @property
    def is_admin(self) -> bool:
        """Whether the caller may do everything."""
        return "admin" in self.scopes

    def may_see_all(self) -> bool:
        """Whether the caller may get predictions for all users."""
        return self.is_admin or "predict:any" in self.scopes

    def may_predict(self, user: str) -> bool:
        """Whether the caller may get predictions for this user."""
        return self.may_see_all() or ("predict:self" in self.scopes and user == self.subject)

    def may_annotate(self, user: str) -> bool:
        """Whether the caller may submit judgements of this user, and enrol them."""
        return self.is_admin or ("annotate:self" in self.scopes and user == self.subject)

    def may_erase(self, user: str) -> bool:
        """Whether the caller may erase this user."""
        return self.may_annotate(user)


UNRESTRICTED = Caller("", frozenset(SCOPES), "")
"""Every client of a server that requires no tokens."""


class KeyRing:
    """Signing keys, newest last, and revocations, in a folder: `keys.json` and `revoked.json`.

    Several processes can share a folder. Nothing is written before the first token is issued.
    """

    def __init__(self, folder: Path | None = None, feedback: Feedback | None = None) -> None:
        """Open a folder, by default `access/` in the home folder, and optionally the database of revocations.

        Raises:
            FeedbackError: the database cannot be read.
        """
        self.folder = folder or home() / "access"
        self._read: dict[str, tuple[Any, Any]] = {}
        self._feedback = feedback
        self._shared_revocations = _SharedRevocations(feedback) if feedback else frozenset()

    def issue(self, subject: str, scopes: Sequence[str], lifetime: timedelta) -> str:
        """A token for a user or a service. Creates the first key if there is none.

        Raises:
            AuthError: a scope is unknown, or the folder cannot be written.
        """
        for scope in scopes:
            if scope not in SCOPES:
                raise AuthError(unknown("scope", scope, SCOPES))
        if not scopes or not subject:
            raise AuthError("a token needs a subject and at least one scope.")
        with self._writing():
            keys = self._keys()
            if not keys:
                keys = [_new_key()]
                self._write("keys.json", {"format": FORMAT, "keys": keys})
            token_id = secrets.token_hex(12)  # hexadecimal, so that it never begins with "-" on a command line
            handle = os.open(self.folder / ISSUED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(handle, "w") as stream:
                stream.write(f"{token_id}\n")
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": ISSUER,
            "sub": subject,
            "scope": " ".join(scopes),
            "iat": now,
            "exp": now + int(lifetime.total_seconds()),
            "jti": token_id,
        }
        return jwt.encode(claims, keys[-1]["secret"], ALGORITHM, {"kid": keys[-1]["kid"]})

    def rotate(self, keep_old: bool = True) -> str:
        """Sign with a new key from now on; returns its id. Without `keep_old`, all earlier tokens become invalid."""
        with self._writing():
            keys = [*(self._keys() if keep_old else []), _new_key()]
            self._write("keys.json", {"format": FORMAT, "keys": keys})
        return keys[-1]["kid"]

    def revoke(self, token_or_id: str) -> str:
        """Invalidate one token before it expires; returns its id.

        Raises:
            AuthError: no such token was issued here (a mistyped id would leave the token valid).
            FeedbackError: the database cannot be written; the token is still valid.
        """
        token_id, until = token_or_id, time.time() + timedelta(days=3_650).total_seconds()
        if "." in token_or_id:
            claims = self._claims(token_or_id, expired=True)
            token_id, until = claims["jti"], claims["exp"]
        elif not self._was_issued(token_id):
            raise AuthError(
                f"{self.folder}: no token with this id was issued here. Check the id, or pass the whole token "
                "(ids are recorded since November 2026)."
            )
        if self._feedback is not None:
            self._feedback.revoke(token_id, until)
        with self._writing():
            revoked = {each: end for each, end in self._revoked().items() if end > time.time()}
            self._write("revoked.json", {"format": FORMAT, "revoked": {**revoked, token_id: until}})
        return token_id

    def _was_issued(self, token_id: str) -> bool:
        try:
            with (self.folder / ISSUED).open() as stream:
                return any(line.rstrip("\n") == token_id for line in stream)
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            raise AuthError(f"{self.folder / ISSUED}: cannot be read. Pass the whole token.") from error

    def verify(self, token: str) -> Caller:
        """The caller a token was issued to.

        Raises:
            AuthError: the token is forged, expired or revoked, or a file is damaged.
        """
        claims = self._claims(token)
        if claims["jti"] in self._revoked() or claims["jti"] in self._shared_revocations:
            raise AuthError(f"this token was revoked. {ISSUE_ANOTHER}")
        scopes = frozenset(str(claims["scope"]).split())
        if not scopes or not scopes <= set(SCOPES):
            raise AuthError(f"this token has no scopes, or unknown ones. {ISSUE_ANOTHER}")
        return Caller(str(claims["sub"]), scopes, str(claims["jti"]))

    def _claims(self, token: str, expired: bool = False) -> dict[str, Any]:
        invalid = AuthError(f"not a valid token. {ISSUE_ANOTHER}")
        if len(token) > MAX_TOKEN_LENGTH or not token.isascii():
            raise invalid
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            secret = next((key["secret"] for key in self._keys() if key["kid"] == key_id), None)
            if secret is None:
                raise invalid
            return jwt.decode(
                token,
                secret,
                algorithms=[ALGORITHM],
                audience=ISSUER,
                issuer=ISSUER,
                options={"require": CLAIMS, "verify_exp": not expired},
            )
        except jwt.ExpiredSignatureError:
            raise AuthError(f"this token has expired. {ISSUE_ANOTHER}") from None
        except (jwt.PyJWTError, ValueError):
            raise invalid from None

    def _keys(self) -> list[dict[str, str]]:
        return self._content("keys.json", "keys", [])

    def _revoked(self) -> dict[str, float]:
        return self._content("revoked.json", "revoked", {})

    def _content(self, name: str, entry: str, default: Any) -> Any:
        """An entry of a file, which is read again only if it has changed."""
        file = self.folder / name
        try:
            found = file.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            known = self._read.get(name)
            if known is not None and known[0] == stamp:
                return known[1]
            content = json.loads(file.read_text())
            if content["format"] > FORMAT:
                raise AuthError(f"{file}: written by a newer version. Upgrade beholder.")
            self._read[name] = (stamp, content[entry])
        except FileNotFoundError:
            return default
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AuthError(
                f"{file}: cannot be read ({type(error).__name__}). Restore it, or remove it: then {IF_REMOVED[name]}."
            ) from error
        return content[entry]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            with FileLock(self.folder / ".lock"):
                yield
        except OSError as error:
            raise AuthError(f"{self.folder}: cannot be written ({error.strerror}). Check its permissions.") from error

    def _write(self, name: str, content: dict[str, Any]) -> None:
        """Write atomically; the file is never readable by others."""
        temporary = self.folder / f".{name}.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as stream:
            stream.write(json.dumps(content, indent=2) + "\n")
        os.replace(temporary, self.folder / name)


class _SharedRevocations:
    """Ids of tokens revoked on any machine, reloaded in the background once they are a second old.

    No request waits for the database. While it is unreachable the last known ids apply, and a warning is logged.
    """

    def __init__(self, feedback: Feedback, every_s: float = 1.0) -> None:
        self._feedback, self._every_s = feedback, every_s
        self._ids, self._read_at = feedback.revoked(), time.monotonic()
        self._reading = threading.Lock()

    def __contains__(self, token_id: object) -> bool:
        if time.monotonic() - self._read_at > self._every_s and self._reading.acquire(blocking=False):
            threading.Thread(target=self._reload, daemon=True).start()
        return token_id in self._ids

    def _reload(self) -> None:
        try:
            self._ids = self._feedback.revoked()
        except BeholderError as error:
            log.warning("cannot read which tokens were revoked on other machines: %s", error)
        finally:
            self._read_at = time.monotonic()
            self._reading.release()


def _new_key() -> dict[str, str]:
    return {"kid": secrets.token_hex(6), "secret": secrets.token_urlsafe(32)}


def needs_tokens(host: str) -> bool:
    """Whether an address is, or may be, reachable from other machines."""
    if host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True
