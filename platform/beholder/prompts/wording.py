"""The words around a text."""

from __future__ import annotations


def with_user(text: str, number: int) -> str:
    """The text behind its reader's number, as plain digits (the paper's `-p` arms).

    The number is the user's position among the training users, never the id itself, which may be personal.
    """
    return f"user {number}: {text}"
