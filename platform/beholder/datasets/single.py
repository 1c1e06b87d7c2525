"""The sources that hold one task each, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, Field

from beholder.data.validation import BadRows, Loaded
from beholder.datasets import (
    babe,
    brighter,
    convabuse,
    goemotions,
    hatexplain,
    lewidi,
    rottger,
    simulated,
    table,
    unhealthy,
)
from beholder.datasets.babe import Babe
from beholder.datasets.brighter import Brighter
from beholder.datasets.convabuse import ConvAbuse
from beholder.datasets.goemotions import GoEmotions
from beholder.datasets.hatexplain import HateXplain
from beholder.datasets.lewidi import Lewidi
from beholder.datasets.rottger import Rottger
from beholder.datasets.simulated import Simulated
from beholder.datasets.table import Table
from beholder.datasets.unhealthy import Unhealthy

SingleConfig = Annotated[
    ConvAbuse | Brighter | Rottger | Babe | HateXplain | GoEmotions | Unhealthy | Lewidi | Table | Simulated,
    Field(discriminator="name"),
]

SINGLE: dict[str, tuple[type[BaseModel], Callable[[Any, BadRows], Loaded]]] = {
    "convabuse": (ConvAbuse, convabuse.load),
    "brighter": (Brighter, brighter.load),
    "rottger": (Rottger, rottger.load),
    "babe": (Babe, babe.load),
    "hatexplain": (HateXplain, hatexplain.load),
    "goemotions": (GoEmotions, goemotions.load),
    "unhealthy": (Unhealthy, unhealthy.load),
    "lewidi": (Lewidi, lewidi.load),
    "table": (Table, table.load),
    "simulated": (Simulated, simulated.load),
}
