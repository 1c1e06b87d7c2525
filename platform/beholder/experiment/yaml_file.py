"""An experiment file as plain values: YAML whose keys differ, and whose relative paths are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from beholder.util.errors import ExperimentError


class _OneOfEach(yaml.SafeLoader):
    """Refuses a key that is written twice: the first of the two would be ignored."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys differ."""
        self.flatten_mapping(node)
        seen: list[Any] = []
        for key, _ in node.value:
            written = self.construct_object(key, deep=True)
            if written in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {written!r} is written twice; remove one of the two", key.start_mark
                )
            seen.append(written)
        return super().construct_mapping(node, deep)


def read_yaml(file: Path) -> dict[str, Any]:
    """The keys and values of an experiment file.

    A relative `path` under `source` (or under one of several sources) is of the current folder; where there is no such
    file, of the folder of the experiment file.

    Raises:
        ExperimentError: missing, not YAML, a key is written twice, or no keys and values at the top.
    """
    try:
        written = yaml.load(file.read_text(encoding="utf-8"), _OneOfEach)
    except FileNotFoundError as error:
        raise ExperimentError(f"{file}: no such experiment file. Those that ship are under experiments/.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{file}: cannot be read as UTF-8 text ({type(error).__name__}).") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise ExperimentError(f"{file}{place}: not YAML: {getattr(error, 'problem', None) or error}.") from error
    if not isinstance(written, dict):
        raise ExperimentError(
            f"{file}: expected keys and values at the top, got {type(written).__name__}. "
            "From a table, make an experiment file with: beholder init TABLE"
        )
    return {**written, "source": _found(written["source"], file.parent)} if "source" in written else written


def _found(source: Any, folder: Path) -> Any:
    """A source whose relative path is that of a file beside the experiment, where there is none in this folder."""
    if not isinstance(source, dict):
        return source
    found = {key: _found(value, folder) for key, value in source.items()} if "sources" in source else dict(source)
    if isinstance(source.get("sources"), dict):
        found["sources"] = {name: _found(each, folder) for name, each in source["sources"].items()}
    path = source.get("path")
    if isinstance(path, str) and not Path(path).expanduser().is_absolute() and not Path(path).exists():
        beside = folder / path
        if beside.exists():
            found["path"] = str(beside.absolute())
    return found
