"""Sections of an experiment file: limits, how it is evaluated, what it is registered as, where it is fitted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,80}$")]


class Section(BaseModel):
    """What an experiment file may hold at one place: nothing else, and it stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(Section):
    """Use less than there is, to try things out; drawn seeded.

    `rows`: at most so many annotations, whole texts. `rows_per_text`: first, at most so many of any one text: where a
    few texts recur hundreds of times, they would be most of a small sample.
    """

    rows: int | None = Field(default=None, ge=1)
    rows_per_text: int | None = Field(default=None, ge=1)


class Evaluate(Section):
    """What gains are measured against.

    `folds`: with 1, the test rows of the split are tested. With more, texts are dealt into that many folds and every
    judgement is tested once; the models that are served are then fitted on all judgements.
    `seeds`: how often every method is trained, under `seed` of the experiment and those that follow it. Scores and
    gains are then means over trainings, and intervals hold the chance of training; what is served is the first.
    `worthwhile`: points of macro-F1 below which a gain is not worth having; the verdict says whether there can be more.
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


class Register(Section):
    """Publish the best method under this model name. MLflow allows neither `/` nor `:` in it."""

    name: Name


class Cluster(Section):
    """On how many Ray Train workers, and what each of them has. Nothing of this changes what comes out.

    `workers`: processes that share the arms and the blocks of users; `[FEWEST, MOST]` takes nodes as they come and lets
    them go. `auto` is one, and with `folds` or `seeds` one for each, as long as there are cores, memory and GPUs for
    them: two trainings side by side on a core each end sooner than one after the other on both. With 0 workers arms are
    fitted in this very process: a small run starts 15 seconds sooner, and a debugger sees it. `use_gpu`: a GPU for
    each, `auto` where there is one; `gpus_per_worker`: how much of one, 0.25 puts four workers on a GPU.
    `cpus_per_worker`: an equal share of all there are, where left out. `data_parallel`: arms that train the base do so
    on all workers at once, each a share of every batch; that takes a number of workers.
    """

    workers: (
        Annotated[int, Field(ge=0)] | tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | Literal["auto"]
    ) = "auto"
    use_gpu: bool | Literal["auto"] = "auto"
    gpus_per_worker: float = Field(default=1.0, gt=0)
    cpus_per_worker: int | None = Field(default=None, ge=1)
    data_parallel: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> Cluster:
        if self.range[0] > self.range[1]:
            raise ValueError(f"workers: [FEWEST, MOST], got {list(self.range)}")
        return self

    @property
    def range(self) -> tuple[int, int]:
        """Workers at least and at most; with `auto` and nothing to fit side by side one."""
        if self.workers == "auto":
            return 1, 1
        return (self.workers, self.workers) if isinstance(self.workers, int) else self.workers
