"""Manifests as they lie in a store: JSON, sealed with the SHA-256 of all the rest of it."""

from __future__ import annotations

import json
from typing import Any

from beholder.util.atomic import digest_of

SEAL = "sha256"
"""Key of a manifest that holds its seal."""


def seal_of(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest without its seal."""
    return digest_of(manifest)


def sealed(manifest: dict[str, Any]) -> bytes:
    """What is written."""
    return (json.dumps({**manifest, SEAL: seal_of(manifest)}, indent=2) + "\n").encode()


def opened(data: bytes) -> dict[str, Any]:
    """The manifest that was written. Raises ValueError: it is none, or was altered since."""
    try:
        manifest = json.loads(data)
        seal = manifest.pop(SEAL)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError("not a manifest") from error
    if seal != seal_of(manifest):
        raise ValueError("altered since it was written")
    return dict(manifest)


def seal_in(data: bytes) -> str:
    """The seal that a manifest has; nothing where it is none."""
    try:
        return str(json.loads(data)[SEAL])
    except (ValueError, KeyError, TypeError):
        return ""
