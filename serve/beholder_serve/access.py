"""Who may ask: bearer tokens (JWT, RFC 7519, signed with HMAC-SHA-256) of users and services, and how much.

A token is not stored. What is kept, in a folder that only its owner reads, are the keys tokens are signed with, the ids
of tokens, and which of them were revoked before they expired. A server that runs sees at once when either changes.
Revocations are in the database of judgements, too (`feedback`), where servers of other machines see them in a second.
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
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
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
"""What a token may be for: its own user's views, or anybody's; to judge and be trained, as its own user; everything."""
ISSUER = "beholder"
ALGORITHM = "HS256"
ISSUED = "issued.txt"
"""The ids of all tokens, a line each: they say nothing of whom a token is for."""
FORMAT = 1
LONGEST_TOKEN = 4_096
CLAIMS = ["iss", "aud", "sub", "scope", "iat", "exp", "jti"]
AGAIN = "Issue another with: beholder token issue"


class AccessError(BeholderError):
    """A token is not valid, or the keys cannot be read."""


@dataclass(frozen=True)
class Caller:
    """Who asks, and what they may.

    Attributes:
        subject: the user a token was issued to, or the name of a service.
        scopes: of `SCOPES`.
        token_id: of the token; empty where none is wanted.
    """

    subject: str
    scopes: frozenset[str]
    token_id: str

    @property
    def is_admin(self) -> bool:
        """Whether everything is allowed."""
        return "admin" in self.scopes

    def may_see_all(self) -> bool:
        """Whether anybody's view may be asked for."""
        return self.is_admin or "predict:any" in self.scopes

    def may_predict(self, user: str) -> bool:
        """Whether this user's view may be asked for."""
        return self.may_see_all() or ("predict:self" in self.scopes and user == self.subject)

    def may_annotate(self, user: str) -> bool:
        """Whether judgements of this user may be given, and the user trained."""
        return self.is_admin or ("annotate:self" in self.scopes and user == self.subject)

    def may_erase(self, user: str) -> bool:
        """Whether this user may be erased."""
        return self.may_annotate(user)


OPEN = Caller("", frozenset(SCOPES), "")
"""Everybody, where no tokens are wanted."""


class KeyRing:
    """The keys tokens are signed with, newest last, in a folder: `keys.json` and `revoked.json`.

    Several processes may use one folder. Nothing is written before the first token is issued.
    """

    def __init__(self, folder: Path | None = None, feedback: Feedback | None = None) -> None:
        """Open a folder, by default `access/` in the home folder, and the database of revocations, if one is given.

        Raises:
            FeedbackError: the database cannot be read.
        """
        self.folder = folder or home() / "access"
        self._read: dict[str, tuple[Any, Any]] = {}
        self._feedback = feedback
        self._elsewhere = _Elsewhere(feedback) if feedback else frozenset()

    def issue(self, subject: str, scopes: Sequence[str], lifetime: timedelta) -> str:
        """A token for a user or a service; the first one makes the first key.

        Raises:
            AccessError: a scope nobody knows, or the folder cannot be written.
        """
        for scope in scopes:
            if scope not in SCOPES:
                raise AccessError(unknown("scope", scope, SCOPES))
        if not scopes or not subject:
            raise AccessError("a token needs a subject and at least one scope.")
        with self._writing():
            keys = self._keys()
            if not keys:
                keys = [_new_key()]
                self._write("keys.json", {"format": FORMAT, "keys": keys})
            token_id = secrets.token_hex(12)  # a command line takes it as it is: it never begins with "-"
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
        """Sign with a new key from now on; returns its id. Without `keep_old`, all tokens issued so far are void."""
        with self._writing():
            keys = [*(self._keys() if keep_old else []), _new_key()]
            self._write("keys.json", {"format": FORMAT, "keys": keys})
        return keys[-1]["kid"]

    def revoke(self, token_or_id: str) -> str:
        """Make one token void before it expires; returns its id.

        Raises:
            AccessError: no such token was issued here: a mistyped id would leave the token valid.
            FeedbackError: the database cannot be written: the token is valid still.
        """
        token_id, until = token_or_id, time.time() + timedelta(days=3_650).total_seconds()
        if "." in token_or_id:
            claims = self._claims(token_or_id, expired=True)
            token_id, until = claims["jti"], claims["exp"]
        elif not self._was_issued(token_id):
            raise AccessError(
                f"{self.folder}: no token with this id was issued here. Look at the id again, or give the whole token "
                "(ids are kept since November 2026)."
            )
        if self._feedback is not None:
            self._feedback.revoke(token_id, until)
        with self._writing():
            kept = {each: end for each, end in self._revoked().items() if end > time.time()}
            self._write("revoked.json", {"format": FORMAT, "revoked": {**kept, token_id: until}})
        return token_id

    def _was_issued(self, token_id: str) -> bool:
        try:
            with (self.folder / ISSUED).open() as stream:
                return any(line.rstrip("\n") == token_id for line in stream)
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            raise AccessError(f"{self.folder / ISSUED}: cannot be read. Give the whole token.") from error

    def verify(self, token: str) -> Caller:
        """Who a token was issued to.

        Raises:
            AccessError: it is not one of ours, expired, or was revoked; or a file is damaged.
        """
        claims = self._claims(token)
        if claims["jti"] in self._revoked() or claims["jti"] in self._elsewhere:
            raise AccessError(f"this token was revoked. {AGAIN}")
        scopes = frozenset(str(claims["scope"]).split())
        if not scopes or not scopes <= set(SCOPES):
            raise AccessError(f"this token names no scopes, or some nobody knows. {AGAIN}")
        return Caller(str(claims["sub"]), scopes, str(claims["jti"]))

    def _claims(self, token: str, expired: bool = False) -> dict[str, Any]:
        not_ours = AccessError(f"not a valid token. {AGAIN}")
        if len(token) > LONGEST_TOKEN or not token.isascii():
            raise not_ours
        try:
            named = jwt.get_unverified_header(token).get("kid")
            secret = next((key["secret"] for key in self._keys() if key["kid"] == named), None)
            if secret is None:
                raise not_ours
            return jwt.decode(
                token,
                secret,
                algorithms=[ALGORITHM],
                audience=ISSUER,
                issuer=ISSUER,
                options={"require": CLAIMS, "verify_exp": not expired},
            )
        except jwt.ExpiredSignatureError:
            raise AccessError(f"this token has expired. {AGAIN}") from None
        except (jwt.PyJWTError, ValueError):
            raise not_ours from None

    def _keys(self) -> list[dict[str, str]]:
        return self._content("keys.json", "keys", [])

    def _revoked(self) -> dict[str, float]:
        return self._content("revoked.json", "revoked", {})

    def _content(self, name: str, entry: str, nothing: Any) -> Any:
        """An entry of a file; read again only when the file is another one."""
        file = self.folder / name
        try:
            found = file.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            known = self._read.get(name)
            if known is not None and known[0] == stamp:
                return known[1]
            said = json.loads(file.read_text())
            if said["format"] > FORMAT:
                raise AccessError(f"{file}: written by a newer version. Upgrade beholder.")
            self._read[name] = (stamp, said[entry])
        except FileNotFoundError:
            return nothing
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AccessError(
                f"{file}: cannot be read ({type(error).__name__}). Mend it, or remove it: then all tokens are void."
            ) from error
        return said[entry]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            with FileLock(self.folder / ".lock"):
                yield
        except OSError as error:
            raise AccessError(f"{self.folder}: cannot be written ({error.strerror}). Check its rights.") from error

    def _write(self, name: str, said: dict[str, Any]) -> None:
        """Whole, and never readable by others."""
        temporary = self.folder / f".{name}.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as stream:
            stream.write(json.dumps(said, indent=2) + "\n")
        os.replace(temporary, self.folder / name)


class _Elsewhere:
    """The tokens that were revoked on any machine, read again in the background when that was a second ago.

    Nobody waits for the database. Where it is away, the last that is known counts, and the log says so.
    """

    def __init__(self, feedback: Feedback, every_s: float = 1.0) -> None:
        self._feedback, self._every_s = feedback, every_s
        self._known, self._read = feedback.revoked(), time.monotonic()
        self._reading = threading.Lock()

    def __contains__(self, token_id: object) -> bool:
        if time.monotonic() - self._read > self._every_s and self._reading.acquire(blocking=False):
            threading.Thread(target=self._again, daemon=True).start()
        return token_id in self._known

    def _again(self) -> None:
        try:
            self._known = self._feedback.revoked()
        except BeholderError as error:
            log.warning("cannot see which tokens were revoked elsewhere: %s", error)
        finally:
            self._read = time.monotonic()
            self._reading.release()


def _new_key() -> dict[str, str]:
    return {"kid": secrets.token_hex(6), "secret": secrets.token_urlsafe(32)}


class RateLimit:
    """A token bucket for each token: `rate` requests a second on average, `burst` at once. For several threads."""

    MOST = 10_000
    """Buckets that are kept; whoever was not seen longest starts with a full one."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, float(burst), clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # id -> (left, when that was)
        self._lock = threading.Lock()

    def wait(self, token_id: str) -> float:
        """0 where a request is allowed, and it is counted; else seconds until it would be."""
        with self._lock:
            now = self._clock()
            left, when = self._buckets.pop(token_id, (self._burst, now))
            left = min(self._burst, left + (now - when) * self._rate)
            allowed = left >= 1
            self._buckets[token_id] = (left - allowed, now)
            if len(self._buckets) > self.MOST:
                self._buckets.popitem(last=False)
            return 0.0 if allowed else (1 - left) / self._rate


def require_tokens(host: str) -> bool:
    """Whether an address reaches beyond this machine, or may do so."""
    if host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True
