"""What Python callers start with: known data sets and tables, experiments and runs, registered models, all by name."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beholder.cluster.runtime import apply_settings
from beholder.data.annotations import Annotations
from beholder.data.conversions import in_python, label_columns, require_classes
from beholder.data.validation import BadRows
from beholder.datasets import SOURCES, DataNotFound, load, source_class
from beholder.datasets.hub import is_hub_name
from beholder.datasets.io import FORMATS as TABLES
from beholder.datasets.places import is_pattern
from beholder.datasets.table import Table
from beholder.evaluation.compare import Comparison
from beholder.evaluation.compare import compare as compare_folders
from beholder.experiment.config import Experiment, load_experiment, make_experiment
from beholder.methods import is_personal
from beholder.util.errors import DataError, ExperimentError, RegistryError, unknown
from beholder.util.strict_model import build
from beholder.workflows.find_runs import find_run, runs_split_alike
from beholder.workflows.model import BundleModel, Model, open_folder
from beholder.workflows.progress import bars
from beholder.workflows.run import Outcome
from beholder.workflows.run import run as run_experiment

REGISTERED = re.compile(r"models:/(?P<model>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<version>[^@/]+))?")


def load_dataset(name_or_path: str | Path, *, on_bad_rows: BadRows = "refuse", **settings: Any) -> Annotations:
    """Load annotations: a known data set by name, or a table of your own by its path.

    People who were erased from the store are left out, as in a run.

    Args:
        name_or_path: `simulated`, `convabuse`, `brighter`, ... (see `beholder data`); or a table: a file (.csv, .tsv,
            .parquet, .jsonl, .json, .xlsx, ...), a pattern for several of them, `hf://owner/name[:split]`, or a folder
            that `datasets.Dataset.save_to_disk` wrote.
        on_bad_rows: `refuse` stops at the first bad row; `skip` leaves bad rows out, and writes them with the reason to
            a file beside the table, which a warning names.
        settings: of the data set, as in an experiment file under `source`. Of a table: `text=`, `user=`, and `labels=`:
            a list of columns of 0 and 1, or label -> rule, or the one column that holds the class. Of the export of an
            annotation tool: `format=`, as in `load_dataset("export.jsonl", format="prodigy")`, and no columns.

    Raises:
        DataNotFound: a known data set is not on this machine; names the places searched and how to get it.
        DataError: an unknown name, or a row or column is refused; names it, and what to do.
        ExperimentError: an unknown or wrong setting.
    """
    from beholder.registry.blob_store import Store
    from beholder.registry.maintenance import without_erased

    config = _source(name_or_path, settings)
    try:
        loaded = load(config, on_bad_rows)
    except DataNotFound as error:
        raise DataNotFound(in_python(str(error))) from None
    except DataError as error:
        raise DataError(in_python(str(error))) from None
    if isinstance(config, Table) and config.label_column and not config.classes:
        require_classes(loaded.annotations.task, config.label_column, str(config.path))
    for line in loaded.lines:
        warnings.warn(in_python(line), stacklevel=2)
    if loaded.refused:
        kept = ", ".join(map(str, loaded.refused_files))
        warnings.warn(f"{loaded.refused:,} bad rows left out, kept in {kept}", stacklevel=2)
    rows = without_erased(loaded.annotations, Store())
    if not len(rows):
        raise DataError(f"{loaded.origin}: everybody in it was erased. Give judgements of other people.")
    return rows


def _source(name_or_path: str | Path, settings: dict[str, Any]) -> Any:
    """The settings of a known data set, or of a table."""
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    if name not in SOURCES and (
        path.suffix.lower() in TABLES or path.exists() or is_pattern(path) or is_hub_name(name)
    ):
        if "path" in settings:
            raise DataError(f'load_dataset("{name}"): the path is given already. Leave out path=.')
        name, settings = "table", {**settings, "path": name if is_hub_name(name) else path}
    elif name not in SOURCES:
        raise DataError(f"{unknown('data set', name, SOURCES)} Or give the path of a table ({', '.join(TABLES)}).")
    if name == "table" and isinstance(settings.get("labels"), str):
        settings = {**settings, **label_columns(settings["labels"], settings.get("classes"))}
        del settings["labels"]
    return build(source_class(name), {"name": name, **settings}, f'load_dataset("{name_or_path}")')


def load_model(name_or_folder: str | Path, *, device: str = "cpu") -> Model:
    """Open a registered model, a bundle, or a model that was saved, to predict with it.

    Args:
        name_or_folder: `models:/NAME@champion` (or another alias), `models:/NAME/VERSION`, `models:/NAME` for its
            champion; the folder of a bundle; or one that `model.save(folder)` wrote.
        device: where to compute.

    Raises:
        RegistryError: there is no such model, version or folder, or it is damaged.
        BaseModelError: the base it stands on is not here.
    """
    from beholder.registry import versions

    apply_settings()
    name = str(name_or_folder)
    if not name.startswith("models:"):
        folder = Path(name_or_folder).expanduser()
        if not folder.is_dir():
            raise RegistryError(f"{folder}: no such folder. A registered model is named like models:/NAME@champion.")
        return open_folder(folder, device)
    asked = REGISTERED.fullmatch(name)
    if asked is None:
        raise RegistryError(f"{name}: expected models:/NAME@ALIAS or models:/NAME/VERSION.")
    version = versions.find(asked["model"], asked["alias"] or asked["version"] or versions.CHAMPION)
    return BundleModel(versions.open_version(version, device), f"{version.model} v{version.number}")


def run(
    experiment: str | Path | Mapping[str, Any] | Experiment,
    *,
    on_bad_rows: BadRows = "refuse",
    fresh: bool = False,
    progress: bool = True,
    **overrides: Any,
) -> Outcome:
    """Run an experiment from data to registered version, as `beholder run` does.

    Args:
        experiment: an experiment file, the same as a dict, or what `load_experiment` returned.
        on_bad_rows: `refuse` stops at the first bad row of a table; `skip` writes bad rows to a file beside it.
        fresh: fit every method again, even those finished before with the same inputs.
        progress: draw bars in a terminal or a notebook.
        overrides: settings put in the place of the file's, dotted where they are nested: `base="tiny-bert"`,
            `**{"methods.cls.epochs": 2}`.

    Raises:
        ExperimentError: the experiment is not valid; names the place and the nearest known key.
        BeholderError: see `workflows.run.run`.
    """
    apply_settings()
    if isinstance(experiment, Experiment):
        if overrides:
            raise ExperimentError("overrides change a file or a dict. Give them to load_experiment.")
        checked = experiment
    elif isinstance(experiment, Mapping):
        checked = make_experiment(dict(experiment), overrides=overrides)
    else:
        checked = load_experiment(experiment, overrides)
    with bars(progress) as shown:
        return run_experiment(checked, shown, on_bad_rows=on_bad_rows, fresh=fresh)


def compare(
    runs: str | Path | Outcome | Sequence[str | Path | Outcome] = (), *, reference: str | None = None
) -> Comparison:
    """Hold the methods of several runs against one of them, on the test rows they share, corrected for their number.

    Args:
        runs: folders, names, or beginnings of names of runs, or what `run` returned; none: the newest run, and all
            others that were split alike.
        reference: a method of the first run, or `RUN:METHOD`; by default the first run's own.

    Raises:
        DataError: a run is not there, or they were tested on other rows.
    """
    given = [runs] if isinstance(runs, str | Path | Outcome) else list(runs)
    folders = [each.run_folder if isinstance(each, Outcome) else find_run(str(each)) for each in given]
    if not given:
        folders, _ = runs_split_alike()
    return compare_folders(list(dict.fromkeys(folders)), reference, is_personal)
