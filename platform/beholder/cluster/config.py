"""Where arms are fitted: `cluster` of an experiment file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from beholder.util.strict_model import Section


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
