"""Ways to predict, all with the same verbs: fit, score, save, load."""

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

__all__ = [
    "METHODS",
    "Fitted",
    "MethodConfig",
    "config_class",
    "erase_saved",
    "is_personal",
    "load_fitted",
    "save_fitted",
]
