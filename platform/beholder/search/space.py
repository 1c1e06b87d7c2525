"""What a search may change in a method's settings, and which settings it tries first.

A space is data: dotted settings, each with a list of choices or a range. `SPACES` holds one for every method that has
something to search; an experiment file may say another under `search`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from beholder.methods.base import RENAMED, MethodConfig, config_class
from beholder.util.errors import ExperimentError
from beholder.util.strict_model import Section, build

Objective = Literal["macro_f1", "seconds", "parameters"]


class SearchSettings(Section):
    """How to search an arm's settings.

    Args:
        trials: how many settings to try in all, those of an interrupted search among them.
        concurrency: how many at once; by default `cluster.workers`.
        objective: `macro_f1` on validation, alone or with a cost: `seconds` of fitting (as measured: they depend on the
            machine and on what else runs), or `parameters` trained (of each user, where each has their own).
        space: dotted setting -> list of choices, or `{low, high, log, step}`. Replaces the method's own space.
    """

    trials: int = Field(default=20, ge=1)
    concurrency: int | None = Field(default=None, ge=1)
    objective: tuple[Objective, ...] = ("macro_f1",)
    space: dict[str, Any] | None = None

    @field_validator("objective", mode="before")
    @classmethod
    def _one_or_two(cls, written: Any) -> Any:
        named = [written] if isinstance(written, str) else written
        if not isinstance(named, list | tuple) or list(named) not in (
            ["macro_f1"],
            ["macro_f1", "seconds"],
            ["macro_f1", "parameters"],
        ):
            raise ValueError("expected macro_f1, [macro_f1, seconds] or [macro_f1, parameters]")
        return tuple(named)


class Range(Section):
    """Numbers from `low` to `high`, both included; `log`: as many between 1 and 10 as between 10 and 100."""

    low: float
    high: float
    log: bool = False
    step: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _makes_sense(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low: {self.low:g} must be under high: {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"with log, low: {self.low:g} must be over 0")
        if self.log and self.step is not None:
            raise ValueError("log and step do not go together")
        return self


@dataclass(frozen=True)
class Choices:
    """Some values of a setting, as the method's config holds them."""

    values: tuple[Any, ...]

    @property
    def names(self) -> dict[str | int | float | bool | None, Any]:
        """Values by what stands for them in a store that holds plain values only: lists as JSON."""
        return {json.dumps(value) if isinstance(value, list | dict) else value: value for value in self.values}


@dataclass(frozen=True)
class Numbers:
    """A range of a setting. `whole`: of integers."""

    low: float
    high: float
    log: bool
    step: float | None
    whole: bool


TrialSettings = dict[str, Any]
"""Dotted setting -> value."""


@dataclass(frozen=True)
class Space:
    """A space that fits an arm's config and holds the arm's own settings.

    Attributes:
        dimensions: by dotted setting; one that another switches off is never before that one.
        points: what to try first, a value for every dimension. The first are the arm's own settings.
        fixed: the settings outside the space that switch dimensions off.
    """

    dimensions: dict[str, Choices | Numbers]
    points: tuple[TrialSettings, ...]
    fixed: TrialSettings

    def used(self, setting: str, drawn: Mapping[str, Any]) -> bool:
        """Whether a setting matters, given those drawn before it."""
        switch = SWITCHES.get(setting)
        if switch is None:
            return True
        return bool(drawn[switch] if switch in drawn else self.fixed.get(switch, True))

    def of(self, point: Mapping[str, Any]) -> TrialSettings:
        """The settings of a point that matter."""
        drawn: TrialSettings = {}
        for setting in self.dimensions:
            if self.used(setting, drawn):
                drawn[setting] = point[setting]
        return drawn


_LORA: dict[str, Any] = {
    "lora.rank": [2, 4, 8, 16],
    "lora.alpha": [8, 16, 32, 64],
    "lora.targets": ["auto", "all-linear"],
}
# LoRA wants about ten times the learning rate of full fine-tuning (Schulman et al. 2025): up to 5e-3.
_CLASSIFY: dict[str, Any] = {
    **_LORA,
    "learning_rate": {"low": 2e-4, "high": 5e-3, "log": True},
    "batch_size": [16, 32, 64],
    "epochs": [2, 4, 8],
}
_GENERATE: dict[str, Any] = {**_CLASSIFY, "batch_size": [4, 8, 16, 32], "epochs": [1, 2, 4]}
# A bank is searched with the head alone, and with the layers that the arm has in its file. With the head alone the
# trunk is the whole model and gives one vector a text: a trial on convabuse with MiniLM takes 8 s on 2 cores. With the
# top layer every judgement goes through it in every epoch: 100 to 126 s, for the same macro-F1 within a point. Who has
# the time, or a GPU, writes `bank.top_layers: [0, 1, 2]` under `search`.
_BANK: dict[str, Any] = {
    "bank.top_layers": [0],
    "bank.rank": [2, 4, 8],
    "bank.alpha": [4, 8, 16],
    "bank.targets": ["auto", "all-linear"],
    "bank.head": ["bias", "gate", "full"],
    "bank.prior.rank": [0, 4, 8, 16],
    "bank.prior.penalty": {"low": 3, "high": 300, "log": True},
    "bank.step_size": {"low": 0.03, "high": 0.3, "log": True},
    "bank.epochs": [10, 30],
}
_NETWORK: dict[str, Any] = {
    "hidden": [50, 100, 200],
    "dropout": [0.0, 0.2, 0.4],
    "learning_rate": {"low": 5e-4, "high": 1e-2, "log": True},
}
_QUERY: dict[str, Any] = {
    "decode": ["likelihood", "constrained"],
    "prompt.wording": ["plain", "brief", "paper"],
    "prompt.shots": [0, 1, 2, 4, 8],
    "prompt.choose": ["random", "similar", "divisive"],
}

SPACES: dict[str, dict[str, Any]] = {
    "cls": _CLASSIFY,
    "cls-p": {**_CLASSIFY, "user_token": ["text", "added"]},
    "cls+": _NETWORK,
    "cls-e": {**_NETWORK, "dim": [10, 25, 50, 100], "user_decay": {"low": 0.1, "high": 30, "log": True}},
    "cls-u": _BANK,
    "lm": _GENERATE,
    "lm-p": _GENERATE,
    "lm-u": _BANK,
    "query": _QUERY,
    "query-p": {
        **_QUERY,
        "prompt.blocks": [["id"], ["examples"], ["id", "examples"], ["id", "statistics", "examples"]],
        "prompt.placement": ["before", "after"],
    },
}
"""Method -> dotted setting -> choices or range."""

PRIORS: dict[str, list[TrialSettings]] = {
    "cls": [{"learning_rate": 2e-3, "epochs": 4}, {"lora.rank": 2, "lora.alpha": 32, "lora.targets": "all-linear"}],
    "cls-p": [{"learning_rate": 2e-3, "epochs": 4}, {"user_token": "added"}],
    "cls+": [{"dropout": 0.2}],
    "cls-e": [{"user_decay": 10.0}, {"dropout": 0.2, "dim": 25}],
    "cls-u": [
        {"bank.head": "full", "bank.prior.rank": 4},
        {"bank.head": "full", "bank.prior.rank": 16, "bank.prior.penalty": 100.0},
        {"bank.head": "bias", "bank.prior.rank": 0},
    ],
    "lm": [
        {"learning_rate": 3e-3, "batch_size": 8, "epochs": 4},
        {"lora.rank": 2, "lora.alpha": 32, "lora.targets": "all-linear"},
    ],
    "lm-p": [
        {"learning_rate": 3e-3, "batch_size": 8, "epochs": 4},
        {"lora.rank": 2, "lora.alpha": 32, "lora.targets": "all-linear"},
    ],
    "lm-u": [{"bank.prior.rank": 4}],
    "query": [{"decode": "likelihood", "prompt.shots": 4, "prompt.choose": "similar"}],
    "query-p": [
        {"decode": "likelihood", "prompt.shots": 4, "prompt.choose": "similar"},
        {"decode": "likelihood", "prompt.shots": 8, "prompt.choose": "divisive"},
    ],
}
"""What has done well elsewhere, or is the paper's: tried after the arm's own settings."""

SWITCHES = {
    "bank.rank": "bank.top_layers",
    "bank.alpha": "bank.top_layers",
    "bank.targets": "bank.top_layers",
    "prompt.choose": "prompt.shots",
}
"""Setting -> the one that, being 0 or empty, makes it mean nothing."""

_NOT_SEARCHED = ("method", "init_from", *RENAMED, "shuffle_users", "tasks")


def space_of(
    arm: str, config: MethodConfig, written: Mapping[str, Any] | None = None, *, hosted: bool = False
) -> Space:
    """What is searched for an arm.

    Args:
        arm: its name, for messages.
        config: its settings: they are always in the space, which is widened where they are outside.
        written: `search.ARM.space` of the experiment file; None takes the method's own space, without what the arm has
            switched off (`lora: null`).
        hosted: the base is an endpoint, which answers in its own way whatever `decode` is.

    Raises:
        ExperimentError: the method has no space, or a setting, choice or range does not fit it.
    """
    dumped = config.model_dump(mode="json", by_alias=True)
    method, where = dumped["method"], f"search.{arm}.space"
    own_space = written is None
    if written is None:
        if method not in SPACES:
            known = ", ".join(sorted(SPACES))
            raise ExperimentError(f"search.{arm}: {method} has nothing to search. There is for: {known}.")
        written = {name: each for name, each in SPACES[method].items() if _section(dumped, name) is not None}
        if hosted:
            written.pop("decode", None)
    if not written:
        raise ExperimentError(f"{where}: it is empty. Name settings to search, or leave it out.")
    order = sorted(written, key=lambda setting: setting in SWITCHES)  # what switches others off comes first
    dimensions = {setting: _dimension(where, method, dumped, setting, written[setting]) for setting in order}
    for setting in order:
        switch = SWITCHES.get(setting)
        if switch is None or _may_be_on(dimensions.get(switch), read(dumped, switch)):
            continue
        if not own_space:
            raise ExperimentError(
                f"{where}.{setting}: it means nothing while {switch} is {read(dumped, switch)!r}. Search {switch} "
                f"too, or set it in methods.{arm}."
            )
        del dimensions[setting]
    own = {setting: read(dumped, setting) for setting in dimensions}
    fixed = {
        switch: read(dumped, switch)
        for setting, switch in SWITCHES.items()
        if setting in dimensions and switch not in dimensions
    }
    space = Space(dimensions, (own,), fixed)
    priors = [
        {**own, **{setting: value for setting, value in prior.items() if _holds(dimensions.get(setting), value)}}
        for prior in PRIORS.get(method, [])
    ]
    points: list[TrialSettings] = []
    for point in [own, *priors]:
        if space.of(point) not in [space.of(each) for each in points]:
            points.append(point)
    return Space(dimensions, tuple(points), fixed)


def apply(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A dumped config with dotted settings put in; what was given stays as it is."""
    changed = dict(config)
    for setting, value in settings.items():
        *path, last = setting.split(".")
        place = changed
        for part in path:
            inner = place.get(part)
            place[part] = dict(inner) if isinstance(inner, dict) else {}
            place = place[part]
        place[last] = value
    return changed


def read(config: Mapping[str, Any], setting: str) -> Any:
    """A dotted setting of a dumped config; None where it, or what holds it, is not there."""
    place: Any = config
    for part in setting.split("."):
        place = place.get(part) if isinstance(place, Mapping) else None
    return place


def _section(config: Mapping[str, Any], setting: str) -> Any:
    section = setting.rpartition(".")[0]
    return read(config, section) if section else config


def _dimension(where: str, method: str, config: dict[str, Any], setting: str, written: Any) -> Choices | Numbers:
    place = f"{where}.{setting}"
    if setting in _NOT_SEARCHED:
        raise ExperimentError(f"{place}: this setting is not searched; make another arm of it. Remove it.")
    section = _section(config, setting)
    if section is None and _known(method, setting):
        name = setting.rpartition(".")[0]
        raise ExperimentError(f"{place}: {name} is null in this arm. Give it a value under methods, or remove this.")

    def as_held(value: Any) -> Any:
        """The value as the method's config holds it; refused where it does not fit."""
        made = build(config_class(method), apply(config, {setting: value}), where)
        return read(made.model_dump(mode="json", by_alias=True), setting)

    own = read(config, setting)
    if isinstance(written, list | tuple):
        if not written:
            raise ExperimentError(f"{place}: the list of choices is empty. Name at least one.")
        values: list[Any] = []
        for value in [*(as_held(each) for each in written), as_held(own)]:
            if value not in values:
                values.append(value)
        return Choices(tuple(values))
    if not isinstance(written, dict):
        raise ExperimentError(f"{place}: expected a list of choices or {{low, high, log, step}}, got {written!r}.")
    made = build(Range, written, place)
    whole = isinstance(own, int) and not isinstance(own, bool)
    low, high = (as_held(int(end) if whole and end.is_integer() else end) for end in (made.low, made.high))
    if isinstance(own, bool) or not all(isinstance(each, int | float) for each in (low, high, own)):
        raise ExperimentError(f"{place}: {own!r} is not a number, so it has no range. Give a list of choices.")
    low, high = min(low, own), max(high, own)
    if made.log and low <= 0:
        raise ExperimentError(f"{place}: the arm's own {own:g} cannot be on a log scale. Drop log, or give choices.")
    if made.step is not None and not _on_grid(own, low, made.step):
        raise ExperimentError(
            f"{place}: the arm's own {own:g} is not low: {low:g} and a number of steps of {made.step:g}. Change low or "
            "step, or give a list of choices."
        )
    return Numbers(low, high, made.log, made.step, whole)


def _may_be_on(dimension: Choices | Numbers | None, own: Any) -> bool:
    if isinstance(dimension, Choices):
        return any(dimension.values)
    return True if dimension is not None else bool(own)


def _known(method: str, setting: str) -> bool:
    """Whether a method has such a section at all; an unknown one is refused by its config, with what was meant."""
    first = setting.partition(".")[0]
    return first in config_class(method).model_fields


def _on_grid(value: float, low: float, step: float) -> bool:
    steps = (value - low) / step
    return abs(steps - round(steps)) < 1e-9


def _holds(dimension: Choices | Numbers | None, value: Any) -> bool:
    if isinstance(dimension, Choices):
        return value in dimension.values
    if dimension is None or not dimension.low <= value <= dimension.high:
        return False
    return dimension.step is None or _on_grid(value, dimension.low, dimension.step)
