"""Tombstones: who was erased, so that nothing that was under way then, or comes from a copy, brings them back.

A tombstone is a keyed hash of an id (HMAC-SHA-256, RFC 2104; pseudonymisation with a secret: ENISA 2019, 5.2): it can
be compared with an id, and does not identify anyone. Every place that holds people has its own tombstones, and its own
key apart from them: each store (`registry.blob_store`), and the database of users' judgements (`registry.feedback`).
They stay until the person is admitted again (`lifecycle.erase.admit_again`).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

KEY_BYTES = 32


def new_key() -> bytes:
    """A key that nobody else has."""
    return secrets.token_bytes(KEY_BYTES)


def tombstone(key: bytes, user: str) -> str:
    """The keyed hash of an id: 64 hexadecimal digits."""
    return hmac.new(key, user.encode(), hashlib.sha256).hexdigest()


def erased_people(count: int) -> str:
    """How many, in words, for messages: their ids are left out."""
    return "1 person was erased" if count == 1 else f"{count:,} people were erased"
