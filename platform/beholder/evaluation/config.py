"""How a run is evaluated: `evaluate` of an experiment file."""

from __future__ import annotations

from pydantic import Field

from beholder.util.strict_model import Section


class Evaluate(Section):
    """What gains are measured against.

    `folds`: with 1, the test rows of the split are tested. With more, texts are dealt into that many folds and every
    judgement is tested once; the models that are served are then fitted on all judgements.
    `seeds`: how often every method is trained, under `seed` of the experiment and those that follow it. Scores and
    gains are then means over trainings, and intervals hold the chance of training; what is served is the first.
    `worthwhile`: points of macro-F1 below which a gain is not worth having; the verdict states whether it can be more.
    `bootstrap`, `seed`: of files written when intervals were drawn; accepted, and without effect.
    """

    reference: str
    folds: int = Field(default=1, ge=1, le=50)
    seeds: int = Field(default=1, ge=1, le=20)
    worthwhile: float = Field(default=1.0, gt=0)
    bootstrap: int | None = Field(default=None, ge=10, exclude=True)
    seed: int | None = Field(default=None, exclude=True)

    @property
    def notes(self) -> list[str]:
        """A line for each setting of earlier versions that was given."""
        return [
            f"note: evaluate.{name} had a meaning when intervals were drawn at random, and has none now. Remove it."
            for name in ("bootstrap", "seed")
            if getattr(self, name) is not None
        ]
