"""Which base is meant: a model whose weights are here, or an endpoint, which can only be prompted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beholder.models.hosted import Endpoint
from beholder.util.errors import MethodError


@dataclass(frozen=True)
class ModelRef:
    """A reference to a base.

    Attributes:
        written: the name of the model, see `models.resolve`; or the endpoint.
    """

    written: str | Endpoint

    @classmethod
    def of(cls, base: AnyBase | Mapping[str, Any]) -> ModelRef:
        """From a name, an endpoint, or what `to_json` made of either."""
        if isinstance(base, ModelRef):
            return base
        return cls(base if isinstance(base, str | Endpoint) else Endpoint.model_validate(base))

    def to_json(self) -> str | dict[str, Any]:
        """Plain values."""
        return self.written if isinstance(self.written, str) else self.written.model_dump(mode="json")

    @property
    def name(self) -> str:
        """What the base is called in tables, tags and messages."""
        return self.written if isinstance(self.written, str) else self.written.identity

    @property
    def endpoint(self) -> Endpoint | None:
        """The endpoint; None of a base whose weights are here."""
        return None if isinstance(self.written, str) else self.written

    @property
    def local(self) -> str:
        """The name, for what needs the weights.

        Raises:
            MethodError: the base is an endpoint.
        """
        if isinstance(self.written, str):
            return self.written
        raise MethodError(
            f"base {self.written.model!r} is an endpoint, which can only be prompted. Use query or query-p with it."
        )


AnyBase = str | Endpoint | ModelRef
"""What callers may give as a base."""
