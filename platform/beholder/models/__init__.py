"""Pretrained models: where their weights are, and how they are loaded."""

from beholder.models.catalog import KNOWN_BASES, resolve
from beholder.models.info import BaseFacts, facts_of
from beholder.models.loading import Base, load_base

__all__ = ["KNOWN_BASES", "Base", "BaseFacts", "facts_of", "load_base", "resolve"]
