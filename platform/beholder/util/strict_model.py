"""Reading configuration: a pydantic error becomes one line: where, what was meant, and what to do."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from beholder.util.errors import ExperimentError, unknown

Config = TypeVar("Config", bound=BaseModel)


class Section(BaseModel):
    """A section of an experiment file: unknown keys are refused, and it is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    added: ClassVar[tuple[str, ...]] = ()
    """Fields that earlier versions did not have: not written where they have their default, so that digests stay."""

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written = write(self)
        for name in self.added:
            if getattr(self, name) == type(self).model_fields[name].get_default():
                written.pop(name, None)
        return written


def build(kind: type[Config], written: Any, where: str, also: Sequence[str] = ()) -> Config:
    """Validate `written` as `kind`.

    Args:
        kind: a pydantic model.
        written: the file's contents, plain dicts and lists.
        where: the dotted place in the file, for messages; may end in the file's name.
        also: keys that are accepted at this place beside those of `kind`, and were read before; for messages.

    Raises:
        ExperimentError: an unknown key (with the nearest known one), a wrong value, or a missing key.
    """
    if not isinstance(written, dict):
        raise ExperimentError(f"{where}: expected keys and values, got {written!r}.")
    try:
        return kind.model_validate(written)
    except ValidationError as error:
        # A misspelt key is also one that is missing: the message about the unknown key is the more useful.
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        path = [str(part) for part in first["loc"]]
        if first["type"] == "extra_forbidden":
            known = [*_fields_at(kind, path[:-1]), *(() if path[:-1] else also)]
            raise ExperimentError(f"{'.'.join([where, *path[:-1]])}: {unknown('key', path[-1], known)}") from error
        place = ".".join([where, *path])
        if first["type"] == "missing":
            raise ExperimentError(f"{place}: this key is required.") from error
        message = first["msg"].removeprefix("Value error, ").removesuffix(".")
        shown = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"
        raise ExperimentError(f"{place}: {message[0].lower()}{message[1:]}{shown}.") from error


def _fields_at(kind: type[BaseModel], path: list[str]) -> list[str]:
    """The keys known at a place inside a model, following fields of model type."""
    models: list[type[BaseModel]] = [kind]
    for part in path:
        inner = [
            model
            for outer in models
            if part in outer.model_fields
            for model in models_in(outer.model_fields[part].annotation)
        ]
        models = inner or models
    return sorted({field.alias or name for model in models for name, field in model.model_fields.items()})


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models among the types of a field."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in models_in(part)]
