"""Pretrained models: where their weights are, and how they are loaded."""

from beholder.bases.catalog import KNOWN_BASES, resolve
from beholder.bases.facts import BaseFacts, facts_of
from beholder.bases.loading import Base, load_base

__all__ = ["KNOWN_BASES", "Base", "BaseFacts", "facts_of", "load_base", "resolve"]
