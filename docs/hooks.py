"""What the site adds to the Markdown of its pages: references generated from the code, and whole files of the project.

`{{ commands }}`, `{{ configuration }}` and `{{ modules }}`, each on a line of its own, become references generated from
the code. `{{ FILE }}` becomes a file of the project, for the few that have to stand elsewhere: CONTRIBUTING.md and
CHANGELOG.md, the READMEs of folders, templates.
"""

from __future__ import annotations

import ast
import inspect
import posixpath
import re
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).parents[1]
INCLUDE = re.compile(r"^\{\{ (?P<what>[\w./-]+) \}\}$", re.M)
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")
PAGES = {  # files of the project that pages include -> the page
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "experiments/benchmarks/README.md": "benchmarks.md",
    "infra/README.md": "how-to/cluster.md",
}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace what a page includes."""
    return INCLUDE.sub(lambda match: included(match["what"], page.file.src_uri), markdown)


def included(what: str, page: str) -> str:
    """A generated reference, or a file of the project.

    Args:
        what: `commands`, `configuration`, `modules`, or a path from the project's root.
        page: the page that includes it, by its path in `docs`: links of a Markdown file are made relative to it.
    """
    if what in GENERATED:
        return GENERATED[what]()
    text = (ROOT / what).read_text(encoding="utf-8").rstrip()
    if what.endswith(".py"):
        return f"```python\n{text}\n```"
    return LINK.sub(lambda match: _relinked(match, what, page), text)


def _relinked(link: re.Match[str], file: str, page: str) -> str:
    """A link between files as a link between pages; the words alone, where the site does not have its target."""
    words, target, anchor = link[1], posixpath.normpath(posixpath.join(posixpath.dirname(file), link[2])), link[3] or ""
    if not target.startswith("docs/") and target not in PAGES:
        return words
    found = PAGES.get(target, target.removeprefix("docs/"))
    return f"[{words}]({posixpath.relpath(found, posixpath.dirname(page) or '.')}{anchor})"


def modules() -> str:
    """Every module with the first sentence of its docstring, room by room."""
    sections: list[str] = []
    for package in ("platform/beholder", "serve/beholder_serve"):
        folders = sorted({file.parent for file in (ROOT / package).rglob("*.py")})
        for folder in folders:
            files = sorted(file for file in folder.glob("*.py") if file.stem != "__init__")
            name = folder.relative_to((ROOT / package).parent).as_posix().replace("/", ".")
            rows = [f"| `{file.stem}` | {_cell(_first_sentence(file))} |" for file in files]
            if rows:
                about = _first_sentence(folder / "__init__.py")
                sections.append("\n".join([f"## {name}\n", f"{about}\n", "| module | |", "| --- | --- |", *rows]))
    return "\n\n".join(sections) + "\n"


def _first_sentence(file: Path) -> str:
    words = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) if file.exists() else None
    return " ".join((words or "").partition("\n\n")[0].split())


def configuration() -> str:
    """Every key of an experiment file, from the pydantic models themselves."""
    from beholder.data.splits import SPLITS
    from beholder.datasets import SOURCES, source_class
    from beholder.execution.forgetting import Forgetting
    from beholder.experiment.config import Experiment
    from beholder.methods import METHODS, config_class
    from beholder.models.hosted import Endpoint
    from beholder.search.space import SearchSettings
    from beholder.util.strict_model import models_in

    pages = [
        _section("The file", Experiment),
        "Also, in a method: `extends` (take over another method's settings), `controls: [shuffled-users]` "
        "(or `[{shuffled-users: 3}, shuffled-within-text]`) and, with an "
        "adapter per user, `curve: [5, 10, 20]` (fit it on that many judgements of each user, too).",
    ]
    seen: set[type] = {Experiment}
    for field in ("subsample", "evaluate", "register_", "cluster"):
        for model in models_in(Experiment.model_fields[field].annotation):
            pages.append(_section(f"`{field.rstrip('_')}:`", model))
            seen.add(model)
    pages.append(_section("`base:` of a hosted model", Endpoint))
    pages.append(_section("`forgetting:`", Forgetting))
    pages.append(_section("`search:` of a method", SearchSettings))
    seen |= {Endpoint, Forgetting, SearchSettings}
    for name, model in SPLITS.items():
        pages.append(_section(f"`split: {{by: {name}}}`", model))
    inner: list[type[BaseModel]] = []
    for heading, registry, of in (("source", SOURCES, source_class), ("method", METHODS, config_class)):
        for name in registry:
            model = of(name)
            seen.add(model)
            pages.append(_section(f"`{heading}: {name}`", model))
            inner += [each for field in model.model_fields.values() for each in models_in(field.annotation)]
    while inner:
        model = inner.pop(0)
        if model in seen:
            continue
        seen.add(model)
        pages.append(_section(f"`{model.__name__}`", model))
        inner += [each for field in model.model_fields.values() for each in models_in(field.annotation)]
    return "\n\n".join(pages) + "\n"


def _section(title: str, model: type[BaseModel]) -> str:
    words, explained = _docstring(model)
    lines = [f"## {title}", words, "| key | type | default | |", "| --- | --- | --- | --- |"]
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else _default(field)
        text = explained.get(name, field.description or "")
        lines.append(
            f"| `{field.alias or name}` | {_cell(_type(field.annotation))} | {_cell(default)} | {_cell(text)} |"
        )
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:])


def _docstring(model: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """A class's description, and that of each of its arguments, inherited ones included."""
    explained: dict[str, str] = {}
    for each in reversed(model.__mro__):
        text = inspect.getdoc(each) if issubclass(each, BaseModel) and "__doc__" in vars(each) else None
        _, _, arguments = (text or "").partition("Args:\n")
        for found in re.finditer(r"^    ([\w, ]+): (.*?)(?=^    [\w, ]+: |\Z)", arguments, re.M | re.S):
            for name in found[1].split(", "):
                explained[name] = " ".join(found[2].split())
    return (inspect.getdoc(model) or "").partition("Args:\n")[0], explained


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or isinstance(value, BaseModel):
        return "see below" if isinstance(value, BaseModel) else ""
    return f"`{str(value).lower() if isinstance(value, bool) else 'none' if value is None else value}`"


def _type(annotation: Any) -> str:
    if annotation is None or annotation is type(None):
        return "none"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f"`{str(each).lower() if isinstance(each, bool) else each}`" for each in arguments)
    if origin is dict:
        return f"{_type(arguments[0])} → {_type(arguments[1])}"
    if origin in (list, tuple):
        shown = [_type(each) for each in arguments if each is not Ellipsis]
        return f"list of {shown[0]}" if len(shown) == 1 else f"[{', '.join(shown)}]"
    if origin is not None:
        return " or ".join(dict.fromkeys(_type(each) for each in arguments))
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return f"`{annotation.__name__}`"
    return {"str": "text", "float": "number", "int": "whole number", "bool": "yes or no", "Path": "path"}.get(
        getattr(annotation, "__name__", str(annotation)), str(annotation).replace("typing.", "")
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def commands() -> str:
    """Every command with its arguments and options, from the command line's own help."""
    import click
    from typer.main import get_command

    from beholder.cli.main import app

    pages: list[str] = []

    def describe(command: Any, path: str, level: int) -> None:
        context = click.Context(command, info_name=path)
        if getattr(command, "commands", None):
            if level > 1:
                pages.append(f"{'#' * level} {path}\n\n{inspect.cleandoc(command.help or '')}")
            for name, each in sorted(command.commands.items()):
                describe(each, f"{path} {name}", min(level + 1, 3))
            return
        text, _, example = inspect.cleandoc(command.help or "").partition("Example: ")
        usage = " ".join(command.collect_usage_pieces(context))
        parts = [f"{'#' * level} {path}", text.strip(), f"```\n{path} {usage}\n```"]
        rows = [record for each in command.get_params(context) if (record := each.get_help_record(context))]
        if rows:
            cells = [f"| `{name}` | {_cell(' '.join((text or '').split()))} |" for name, text in rows]
            parts.append("\n".join(["| | |", "| --- | --- |", *cells]))
        if example:
            parts.append(f"Example:\n\n```\n{example.strip()}\n```")
        pages.append("\n\n".join(parts))

    describe(get_command(app), "beholder", 1)
    return "\n\n".join(pages) + "\n"


GENERATED = {"commands": commands, "configuration": configuration, "modules": modules}
