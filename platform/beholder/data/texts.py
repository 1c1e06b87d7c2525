"""When two texts count as one: by the same words, by the same judgement, and by nearly the same words."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from typing import cast

SEPARATOR = " [SEP] "
"""Between a context and the text that is judged, as templates of `source.text` write it, whatever a base's is."""
SHINGLE = 5
"""Letters of the pieces that near copies are compared by."""
PERMUTATIONS = 128
"""Of MinHash signatures: their estimate of a similarity is off by about 1 / sqrt(128) = 0.09."""
FEWEST_LETTERS = 20
"""Shorter texts are no near copies of anything: too few pieces to tell."""


def normalise(text: str) -> str:
    """The form under which two texts are the same one to judge: NFKC, case folded, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def text_key(text: str) -> str:
    """A short, stable id for a text that came without one (64 bits of SHA-256 of its normalised form)."""
    return _hash(normalise(text))


def trimmed(text: str) -> str:
    """The normalised form without punctuation at the ends: "Yes!!" and "yes" count as one text.

    A text of punctuation alone stays as it is. Punctuation is what Unicode calls so (categories P*).
    """
    form = normalise(text)
    start, end = 0, len(form)
    while start < end and _outside(form[start]):
        start += 1
    while end > start and _outside(form[end - 1]):
        end -= 1
    return form[start:end] or form


def unit_key(text: str) -> str:
    """Equal for texts that count as one where rows are split and intervals drawn (64 bits of SHA-256 of `trimmed`)."""
    return _hash(trimmed(text))


def near_copies(texts: Sequence[str], similarity: float) -> list[str]:
    """The `unit_key` of each text, the same for all texts that are near copies of each other.

    Texts are compared by the sets of their pieces of five letters: similar are two whose sets have a Jaccard similarity
    of at least `similarity`. Candidates come from locality-sensitive hashing of MinHash signatures (Broder 1997,
    SEQUENCES; Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, ch. 3), and each is then compared exactly. A
    copy of a copy is of the same group.

    Args:
        texts: distinct or not.
        similarity: in 0..1.
    """
    from datasketch import MinHash, MinHashLSH
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    forms = sorted({trimmed(text) for text in texts})
    pieces = {place: _pieces(form) for place, form in enumerate(forms) if len(form) >= FEWEST_LETTERS}
    signatures = dict(zip(pieces, MinHash.generator(pieces.values(), num_perm=PERMUTATIONS, seed=1), strict=True))
    # a looser sieve than asked, as signatures are estimates; what it lets through is compared exactly
    sieve = MinHashLSH(threshold=max(0.1, similarity - 0.15), num_perm=PERMUTATIONS)
    alike: list[tuple[int, int]] = []
    for place, signature in signatures.items():
        for other in cast(list[int], sieve.query(signature)):
            one, two = pieces[place], pieces[other]
            if len(one & two) >= similarity * len(one | two):
                alike.append((place, other))
        sieve.insert(place, signature)
    ones, others = ([pair[side] for pair in alike] for side in (0, 1))
    pairs = coo_array(([1] * len(alike), (ones, others)), shape=(len(forms), len(forms)))
    _, group = connected_components(pairs, directed=False)
    first = {each: form for each, form in zip(group[::-1].tolist(), forms[::-1], strict=True)}  # of each group
    key_of = {form: _hash(first[each]) for form, each in zip(forms, group.tolist(), strict=True)}
    return [key_of[trimmed(text)] for text in texts]


def _pieces(form: str) -> set[bytes]:
    return {form[place : place + SHINGLE].encode() for place in range(len(form) - SHINGLE + 1)}


def _outside(letter: str) -> bool:
    return letter == " " or unicodedata.category(letter).startswith("P")


def _hash(form: str) -> str:
    return hashlib.sha256(form.encode()).hexdigest()[:16]
