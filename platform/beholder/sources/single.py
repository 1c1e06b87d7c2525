"""The sources that hold one task each, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, Field

from beholder.sources import babe, brighter, convabuse, goemotions, hatexplain, rottger, simulated, table, unhealthy
from beholder.sources.babe import Babe
from beholder.sources.brighter import Brighter
from beholder.sources.convabuse import ConvAbuse
from beholder.sources.door import BadRows, Loaded
from beholder.sources.goemotions import GoEmotions
from beholder.sources.hatexplain import HateXplain
from beholder.sources.rottger import Rottger
from beholder.sources.simulated import Simulated
from beholder.sources.table import Table
from beholder.sources.unhealthy import Unhealthy

SingleConfig = Annotated[
    ConvAbuse | Brighter | Rottger | Babe | HateXplain | GoEmotions | Unhealthy | Table | Simulated,
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
    "table": (Table, table.load),
    "simulated": (Simulated, simulated.load),
}
