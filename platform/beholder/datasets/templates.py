"""Sentences made from slots, whose strength in each label and whose topic are known: for where no real texts are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

OPENINGS = (
    "",
    "Honestly, ",
    "I have to say, ",
    "Since you ask, ",
    "As always, ",
    "To be fair, ",
    "Look, ",
    "Right now, ",
)
TOPICS = {
    "sport": ("the match", "our team", "the referee", "the final", "the new coach", "that penalty"),
    "food": ("this soup", "the new bakery", "my lunch", "the cake", "this restaurant", "the coffee"),
    "politics": ("the election", "the new law", "the mayor", "that debate", "the tax plan", "the minister"),
    "work": ("my job", "the meeting", "our deadline", "my boss", "the new office", "the report"),
    "travel": ("the train", "our flight", "the hotel", "this road trip", "the border queue", "the city tour"),
}
# A phrase and its strength in one label: 1 is plain, less is a hint, more is beyond doubt.
PHRASES = {
    "anger": {
        "makes me furious": 1.4,
        "is an outrage": 1.2,
        "really annoys me": 0.8,
        "gets on my nerves": 0.6,
        "could be less irritating": 0.4,
    },
    "fear": {
        "terrifies me": 1.4,
        "keeps me awake with dread": 1.2,
        "scares me a bit": 0.8,
        "makes me nervous": 0.6,
        "leaves me somewhat uneasy": 0.4,
    },
    "joy": {
        "makes me so happy": 1.4,
        "is a pure delight": 1.2,
        "cheers me up": 0.8,
        "makes me smile": 0.6,
        "is rather nice": 0.4,
    },
    "sadness": {
        "breaks my heart": 1.4,
        "makes me cry": 1.2,
        "makes me sad": 0.8,
        "is a pity": 0.6,
        "leaves me a little low": 0.4,
    },
    "": {
        "is what we talked about": 0.0,
        "comes up every week": 0.0,
        "is the same as last year": 0.0,
        "was mentioned in the paper": 0.0,
        "starts at nine": 0.0,
    },
}
CLOSINGS = (
    ".",
    ", that is all.",
    ", and I told my friends so.",
    ", whatever they say.",
    "!",
    ", once again.",
    ", you know.",
)
LABELS = tuple(label for label in PHRASES if label)

_SUBJECTS = [(subject, topic) for topic, subjects in enumerate(TOPICS.values()) for subject in subjects]
_FEELINGS = [(phrase, label, strength) for label, phrases in PHRASES.items() for phrase, strength in phrases.items()]
_SHAPE = (len(OPENINGS), len(_SUBJECTS), len(_FEELINGS), len(CLOSINGS))
COUNT = int(np.prod(_SHAPE))
"""How many different sentences there are."""


def sentences(
    numbers: NDArray[np.integer], labels: Sequence[str]
) -> tuple[NDArray[np.object_], NDArray[np.float64], NDArray[np.int64]]:
    """Write out sentences by number.

    Args:
        numbers: int [sentences], each below `COUNT`; equal numbers make equal sentences.
        labels: names among `LABELS`.

    Returns:
        The sentences, str [sentences]; the strength of each label in each, float64 [sentences, labels]; and the topic
        of each, a position in `TOPICS`: int [sentences].
    """
    opening, subject, feeling, closing = np.unravel_index(numbers, _SHAPE)
    written = [
        _capital(f"{OPENINGS[o]}{_SUBJECTS[s][0]} {_FEELINGS[f][0]}{CLOSINGS[c]}")
        for o, s, f, c in zip(opening, subject, feeling, closing, strict=True)
    ]
    strength = np.asarray([[amount * (label == name) for name in labels] for _, label, amount in _FEELINGS])
    topic = np.asarray([topic for _, topic in _SUBJECTS], dtype=np.int64)
    return np.asarray(written, dtype=object), strength[feeling], topic[subject]


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
