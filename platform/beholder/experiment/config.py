"""The experiment file: which data, which split, which base, which methods, and what to do with the winner.

Each room owns the config objects of its things; this file only composes them, and reports where a file is wrong.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, PrivateAttr, field_validator

from beholder.cluster.config import Cluster
from beholder.data.controls import ACROSS, named
from beholder.data.splits import SPLITS, ByPeople, ByText, SplitConfig
from beholder.data.subsample import Subsample
from beholder.datasets import SOURCES, SourceConfig, source_class
from beholder.evaluation.config import Evaluate
from beholder.evaluation.results import ROUTED
from beholder.execution.forgetting import Forgetting
from beholder.experiment.renamed_keys import with_new_keys, with_new_name, with_old_keys
from beholder.experiment.yaml_file import read_yaml
from beholder.methods import METHODS, MethodConfig, config_class
from beholder.models.hosted import Endpoint
from beholder.models.model_ref import ModelRef
from beholder.registry.config import Name, Register
from beholder.search.space import SearchSettings, Space, apply, space_of
from beholder.util.atomic import digest_of
from beholder.util.errors import ExperimentError, MethodError, unknown
from beholder.util.strict_model import Section, build

"""The name of an arm."""
ArmName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,80}$")]


OF_ARMS = ("controls", "curve", "extends")
"""Keys of every arm, whatever its method."""


@dataclass(frozen=True)
class Arm:
    """One method with its settings under a name of its own; a control points at the arm it is the control of.

    A point of a learning curve (`curve_of`) is an arm fitted on fewer rows of each user, and nothing else.
    """

    name: str
    config: MethodConfig
    control_of: str | None = None
    curve_of: str | None = None

    @property
    def method(self) -> str:
        """The method's name."""
        return self.config.model_dump()["method"]

    @property
    def after(self) -> str | None:
        """The arm whose fitted method this one starts from."""
        return self.config.start


class Experiment(Section):
    """Everything one run needs to know. `methods` as written; `arms` resolved."""

    name: Name
    source: SourceConfig
    split: SplitConfig = ByText()
    base: str | Endpoint = "minilm-l6"
    seed: int = 42
    methods: dict[ArmName, dict[str, Any]]
    evaluate: Evaluate
    register_: Register | None = Field(default=None, alias="register")
    subsample: Subsample = Subsample()
    cluster: Cluster = Cluster()
    forgetting: Forgetting | None = None
    search: dict[ArmName, SearchSettings] = Field(default_factory=dict)
    _old_keys: str = PrivateAttr("")

    @field_validator("methods", mode="before")
    @classmethod
    def _empty_settings(cls, methods: Any) -> Any:
        if isinstance(methods, dict):
            return {name: settings or {} for name, settings in methods.items()}
        return methods

    @property
    def notes(self) -> list[str]:
        """What the file has of earlier versions, a line each: old names of keys, settings without effect."""
        return [*([self._old_keys] if self._old_keys else []), *self.evaluate.notes]

    @property
    def arms(self) -> list[Arm]:
        """Methods with what they extend filled in, each followed by its controls."""
        arms: list[Arm] = []
        for name, written in self.methods.items():
            if name == ROUTED:
                raise ExperimentError(
                    f"methods.{name}: this is the name of the pair that is served. Give the arm another name."
                )
            settings = _extended(name, self.methods, ())
            config = _method_config(name, settings)
            arms.append(Arm(name, config))
            try:
                controls = named(written.get("controls") or [])
            except MethodError as error:
                raise ExperimentError(f"methods.{name}.controls: {error}") from error
            for control in controls:
                if "shuffle_users" not in type(config).model_fields:
                    raise ExperimentError(
                        f"methods.{name}.controls: {control} is for methods with a setting shuffle_users (-p, -e, -u), "
                        f"and {settings['method']!r} has none. Remove it."
                    )
                shuffled = config.model_copy(update={"shuffle_users": control == ACROSS or control})
                arms.append(Arm(f"{name}~{control}", shuffled, control_of=name))
        for arm in arms:
            _check_start(arm, {each.name: each for each in arms})
            _check_tasks(arm, self.source)
        if self.evaluate.reference not in {arm.name for arm in arms}:
            known = [arm.name for arm in arms]
            raise ExperimentError(f"evaluate.reference: {unknown('arm', self.evaluate.reference, known)}")
        return arms

    @property
    def curves(self) -> dict[str, dict[int, Arm]]:
        """Arm -> rows of each user -> the arm fitted on no more than these, where a method asks for a `curve`."""
        found: dict[str, dict[int, Arm]] = {}
        configs = {arm.name: arm.config for arm in self.arms}
        for name, written in self.methods.items():
            rows = written.get("curve") or []
            if not rows:
                continue
            bank = configs[name].adapters
            if bank is None:
                raise ExperimentError(
                    f"methods.{name}.curve: only methods with an adapter per user (-u) can be fitted on fewer rows "
                    "of each in little time. Remove it."
                )
            if not isinstance(rows, list) or not all(isinstance(each, int) and each > 0 for each in rows):
                raise ExperimentError(
                    f"methods.{name}.curve: expected numbers of rows, as in [5, 10, 20], got {rows!r}."
                )
            found[name] = {
                most: Arm(
                    f"{name}~{most}-rows",
                    configs[name].model_copy(update={"bank": bank.model_copy(update={"rows_per_user": most})}),
                    curve_of=name,
                )
                for most in sorted(set(rows))
            }
        return found

    @property
    def digest(self) -> str:
        """SHA-256 of all settings of a run: the same file with the same overrides is the same run, wherever it runs.

        What is measured of forgetting changes nothing that is fitted, and has keys of its own.
        """
        written = with_old_keys(
            self.model_dump(mode="json", by_alias=True, exclude={"search", "forgetting", "cluster"})
        )
        for name in ("folds", "seeds"):
            if written["evaluate"][name] == 1:  # digests of earlier versions stay valid
                del written["evaluate"][name]
        return digest_of(written)

    def searched(self, name: str) -> tuple[SearchSettings, Space]:
        """How an arm is searched: as in `search`, or by default."""
        arms = {arm.name: arm for arm in self.arms if arm.control_of is None}
        if name not in arms:
            raise ExperimentError(f"search: {unknown('arm', name, arms)}")
        settings = self.search.get(name, SearchSettings())
        hosted = self.base_model.endpoint is not None
        return settings, space_of(name, arms[name].config, settings.space, hosted=hosted)

    @property
    def base_model(self) -> ModelRef:
        """The base."""
        return ModelRef.of(self.base)

    @property
    def of_one_split(self) -> Experiment:
        """The same without folds, each method trained once."""
        return self.model_copy(update={"evaluate": self.evaluate.model_copy(update={"folds": 1, "seeds": 1})})

    @property
    def again(self) -> range:
        """The seeds of all trainings but the first."""
        return range(self.seed + 1, self.seed + self.evaluate.seeds)

    def tuned(self, arm: str, settings: dict[str, Any]) -> Experiment:
        """The same experiment with an arm's dotted settings put in, under a name of its own, and nothing to search."""
        written = self.model_dump(mode="json", by_alias=True, exclude={"search"})
        inherited = _extended(arm, self.methods, ())
        for setting in settings:
            section = setting.partition(".")[0]
            if isinstance(inherited.get(section), dict):  # what is written in an arm replaces the whole of it
                written["methods"][arm][section] = inherited[section]
        written["methods"][arm] = apply(written["methods"][arm], settings)
        return make_experiment({**written, "name": f"{self.name[:75]}-tuned"})


def load_experiment(file: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Experiment:
    """Read and check an experiment file.

    Args:
        file: YAML.
        overrides: `dotted.key=value`, the value read as YAML, as in `methods.cls.epochs=2`; or dotted key -> value, as
            in `{"methods.cls.epochs": 2}`.

    Raises:
        ExperimentError: missing, not YAML, a key is written twice, or not an experiment; names the place and the
            nearest known key.
    """
    file = Path(file)
    return make_experiment(read_yaml(file), str(file), overrides)


def make_experiment(
    written: dict[str, Any], where: str = "experiment", overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Experiment:
    """Check an experiment given as plain dicts, which stay as they are. See `load_experiment`."""
    written, renamed = _with_overrides(written, where, overrides)
    for key, tag, kinds in (("source", "name", list(SOURCES)), ("split", "by", list(SPLITS))):
        section = written.get(key)
        if section is None:
            continue
        if not isinstance(section, dict) or tag not in section:
            raise ExperimentError(f"{where}: {key}: expected a {tag}, one of {', '.join(kinds)}.")
        if section[tag] not in kinds:
            raise ExperimentError(f"{where}: {key}.{tag}: {unknown(key, str(section[tag]), kinds)}")
    # The tagged sections are built first: their own class gives better messages than a union of all of them.
    built = dict(written)
    if "source" in written:
        built["source"] = build(source_class(written["source"]["name"]), written["source"], f"{where}: source")
    if written.get("split") is not None:
        built["split"] = build(SPLITS[written["split"]["by"]], written["split"], f"{where}: split")
    if isinstance(written.get("base"), dict):
        built["base"] = build(Endpoint, written["base"], f"{where}: base")
    elif not isinstance(written.get("base", ""), str):
        raise ExperimentError(
            f"{where}: base: expected a name, a folder, a hub id or {{endpoint: URL, model: NAME}}, "
            f"got {written['base']!r}."
        )
    if written.get("forgetting") is not None:
        built["forgetting"] = _forgetting(written["forgetting"], f"{where}: forgetting")
    experiment = build(Experiment, built, where)
    if renamed:
        experiment._old_keys = f"note: {where}: {', '.join(renamed)}. Old keys are accepted in this release only."
    try:
        arms = experiment.arms  # resolving them is the check
        _ = experiment.curves
        if experiment.forgetting and experiment.evaluate.folds > 1:
            raise ExperimentError("forgetting: it is measured on one model, not on folds. Leave one of the two out.")
        if isinstance(experiment.split, ByPeople) and experiment.evaluate.seeds > 1:
            raise ExperimentError(
                "evaluate.seeds: under a split by people methods are trained once. Leave seeds out, or split by text."
            )
        if experiment.forgetting and not any(arm.config.trains for arm in arms):
            raise ExperimentError("forgetting: no method of this file trains a base. Leave it out, or add lm or cls.")
        for arm in experiment.search:
            experiment.searched(arm)
    except ExperimentError as error:
        raise ExperimentError(f"{where}: {error}") from error
    return experiment


def _with_overrides(
    written: Mapping[str, Any], where: str, overrides: Sequence[str] | Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """A copy with the overrides put in, under the present names of keys, and what was renamed."""
    changed, renamed = with_new_keys(copy.deepcopy(dict(written)), where)
    if isinstance(overrides, Mapping):
        settings = [(key, value, key) for key, value in overrides.items()]
    else:
        settings = [_parsed(override) for override in overrides]
    known = {field.alias or key for key, field in Experiment.model_fields.items()}
    for key, value, place in settings:
        name, notices = with_new_name(key)
        if name.partition(".")[0] not in known:
            hint = "" if "." in name else f" A setting of an arm is methods.ARM.{name}."
            raise ExperimentError(f"{place}: {unknown('key', name.partition('.')[0], known)}{hint}")
        _put(changed, name, value, place)
        changed, more = with_new_keys(changed, place)
        renamed += notices + more
    return changed, list(dict.fromkeys(renamed))


def _parsed(override: str) -> tuple[str, Any, str]:
    """The dotted key, the value and the place for messages of `--set KEY=VALUE`."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ExperimentError(f"--set {override}: expected dotted.key=value.")
    try:
        return key, yaml.safe_load(value), f"--set {override}"
    except yaml.YAMLError as error:
        raise ExperimentError(f"--set {override}: the value is not YAML.") from error


def _put(written: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a dotted key, making the sections on the way to it."""
    *path, last = key.split(".")
    place: Any = written
    for part in path:
        if part in place and place[part] is None:
            place[part] = {}
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise ExperimentError(f"{where}: {part!r} holds a value, not keys.")
    place[last] = value


def _forgetting(written: Any, where: str) -> Forgetting:
    source = written.get("source") if isinstance(written, dict) else None
    if not isinstance(source, dict) or "name" not in source:
        raise ExperimentError(f"{where}.source: expected a name, one of {', '.join(SOURCES)}.")
    if source["name"] not in SOURCES:
        raise ExperimentError(f"{where}.source.name: {unknown('source', str(source['name']), SOURCES)}")
    return build(
        Forgetting, {**written, "source": build(source_class(source["name"]), source, f"{where}.source")}, where
    )


def _extended(name: str, methods: dict[str, dict[str, Any]], seen: tuple[str, ...]) -> dict[str, Any]:
    written = {key: value for key, value in methods[name].items() if key not in OF_ARMS or key == "extends"}
    parent = written.pop("extends", None)
    inherited: dict[str, Any] = {}
    if parent is not None:
        if parent not in methods:
            raise ExperimentError(f"methods.{name}.extends: {unknown('arm', str(parent), methods)}")
        if parent in (name, *seen):
            raise ExperimentError(f"methods.{name}.extends: {' -> '.join([*seen, name, parent])} goes in a circle.")
        inherited = _extended(parent, methods, (*seen, name))
    own_method = {"method": name} if name in METHODS else {}
    return {**inherited, **own_method, **written}


def _check_start(arm: Arm, arms: dict[str, Arm]) -> None:
    """Whether what an arm starts from is there, and is a model that was trained."""
    if arm.after is None:
        return
    trained = [name for name, each in arms.items() if each.config.trains and each.control_of is None]
    if arm.after not in trained:
        known = unknown("trained arm", arm.after, trained) if trained else "there is no cls or cls-p in this file."
        raise ExperimentError(f"methods.{arm.name}.init_from: {known}")
    kinds, method = arm.config.starts_from, arms[arm.after].method
    if kinds is not None and method not in kinds:
        raise ExperimentError(
            f"methods.{arm.name}.init_from: {arm.after} is a {method}; {arm.method} starts from a {' or '.join(kinds)}."
        )


def _check_tasks(arm: Arm, source: Any) -> None:
    """Whether the source has the tasks an arm learns from."""
    known = list(getattr(source, "sources", {}))
    for task in arm.config.only_tasks or ():
        if task not in known:
            why = unknown("task", task, known) if known else "this source has one task only. Leave tasks out."
            raise ExperimentError(f"methods.{arm.name}.tasks: {why}")


def _method_config(name: str, settings: dict[str, Any]) -> MethodConfig:
    method = settings.get("method")
    if method is None:
        raise ExperimentError(
            f"methods.{name}: {unknown('method', name, METHODS)} Or name its method with method: NAME."
        )
    if method not in METHODS:
        raise ExperimentError(f"methods.{name}.method: {unknown('method', str(method), METHODS)}")
    return build(config_class(method), settings, f"methods.{name}", also=OF_ARMS)
