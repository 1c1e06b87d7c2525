"""Ways to predict, all with the same verbs: fit, score, save, load. `beholder.methods()` lists them."""

import sys
from types import ModuleType

from beholder.methods.base import (
    METHODS,
    Fitted,
    MethodConfig,
    config_class,
    erase_saved,
    is_personal,
    load_fitted,
    save_fitted,
)
from beholder.methods.listing import methods
from beholder.util.tables import RowTable

__all__ = [
    "METHODS",
    "Fitted",
    "MethodConfig",
    "config_class",
    "erase_saved",
    "is_personal",
    "load_fitted",
    "methods",
    "save_fitted",
]


class _Room(ModuleType):
    """This package, which can be called: importing it makes it the attribute `methods` of `beholder`, where the public
    function of that name would be.
    """

    def __call__(self, name: str | None = None) -> RowTable:
        """See `listing.methods`."""
        return methods(name)


sys.modules[__name__].__class__ = _Room
