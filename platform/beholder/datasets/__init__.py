"""Where annotations come from: known data sets, the user's own table, a simulated population.

`load(config)` gives checked Annotations and one line that describes them. A new source is a file with a settings
class and a `load`, and a line in `single.SINGLE` and in `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, Field

from beholder.data.validation import BadRows, Loaded
from beholder.datasets import multitask as several
from beholder.datasets.locate import DataNotFound, find, locate
from beholder.datasets.multitask import Several
from beholder.datasets.single import SINGLE, SingleConfig
from beholder.util.errors import DataError, unknown

SourceConfig = Annotated[SingleConfig | Several, Field(discriminator="name")]

SOURCES: dict[str, str] = {
    "convabuse": "abuse of chatbots and how, 8 expert annotators, English, CC BY 4.0",
    "brighter": "six emotions, 58 annotators, 9 languages, CC BY 4.0",
    "rottger": "hateful or not, 20 annotators who all judged the same 200 texts, English, CC0",
    "babe": "biased news sentences, 809 workers and their traits, English, AGPL-3.0 (the sentences: publishers')",
    "hatexplain": "hateful, offensive or normal posts, 120 workers, English, MIT",
    "goemotions": "28 emotions in Reddit comments, 82 raters, English, CC BY 4.0",
    "unhealthy": "healthy or unhealthy comments and how, 588 workers, English, CC BY-NC-SA 4.0",
    "lewidi": "the sets of Learning With Disagreements 2023 and 2025, with official parts and traits of annotators",
    "table": "your own CSV, TSV, Parquet, JSON lines or saved `datasets` folder",
    "simulated": "readers with known biases, over real texts or templates",
    "several": "several of these at once, as tasks of one model",
}

_SOURCES: dict[str, tuple[type[BaseModel], Callable[[Any, BadRows], Loaded]]] = {
    **SINGLE,
    "several": (Several, several.load),
}

__all__ = [
    "SOURCES",
    "BadRows",
    "DataNotFound",
    "Loaded",
    "SourceConfig",
    "find",
    "load",
    "locate",
    "source_class",
]


def source_class(name: str) -> type[BaseModel]:
    """The settings class of a source.

    Raises:
        DataError: unknown name, with the nearest known one.
    """
    if name not in _SOURCES:
        raise DataError(unknown("source", name, _SOURCES))
    return _SOURCES[name][0]


def load(config: SourceConfig, on_bad_rows: BadRows = "refuse") -> Loaded:
    """Load the annotations of the source `config`.

    Args:
        config: settings of one source.
        on_bad_rows: `refuse` stops at the first bad row; `skip` leaves out bad rows, counts them and writes them
            with the reason to a file beside the input.

    Raises:
        DataNotFound: a known data set is in none of the usual places.
        DataError: the data are there and cannot be used; names the place and what to do.
    """
    return _SOURCES[config.name][1](config, on_bad_rows)
