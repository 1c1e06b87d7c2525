"""The import path that Serve config files contain: `beholder_serve.app:deployed`."""

from beholder_serve.deployment import deployed

__all__ = ["deployed"]
