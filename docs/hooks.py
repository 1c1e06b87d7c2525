"""What the site is built with: sections of the READMEs where pages ask for them, and two references made from the code.

`{{ FILE # Heading }}` on a line of its own becomes that section of a file of the project, heading included; without a
heading the whole file. `{{ commands }}` and `{{ configuration }}` become what the code says of these. What is said once
is said in one place.
"""

from __future__ import annotations

import inspect
import re
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).parents[1]
INCLUDE = re.compile(r"^\{\{ (?P<file>[\w./-]+)(?: # (?P<heading>.+?))? \}\}$", re.M)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")
PAGES = {  # what READMEs link to -> the page that holds it
    "experiments/benchmarks/README.md": "benchmarks.md",
    "infra/README.md": "how-to/cluster.md",
    "compose/README.md": "how-to/cluster.md",
    "docker/README.md": "how-to/cluster.md",
    "kuberay/README.md": "how-to/cluster.md",
    "monitoring/README.md": "how-to/cluster.md",
    "platform/README.md": "how-to/own-method.md",
    "platform/README.md#bundles": "reference/formats.md#bundles",
    "docs/how-to/own-table.md": "how-to/own-table.md",
    "docs/how-to/newcomers.md": "how-to/newcomers.md",
    "docs/concepts.md": "concepts.md",
    "docs/promises.md": "promises.md",
    "#a-hosted-model": "how-to/hosted.md",
    "#an-adapter-per-user": "how-to/adapters.md",
    "#every-arm-of-the-paper": "how-to/prompting.md",
    "#serving": "how-to/serve.md",
    "#the-registry": "how-to/registry.md",
    "#what-is-forgotten": "how-to/prompting.md",
}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put in what a page asks for, and turn links between READMEs into links between pages."""
    here = page.file.src_uri
    for name, made in (("commands", commands), ("configuration", configuration)):
        if f"{{{{ {name} }}}}" in markdown:
            markdown = markdown.replace(f"{{{{ {name} }}}}", made())
    return INCLUDE.sub(lambda match: _relinked(included(match["file"], match["heading"]), here), markdown)


def included(file: str, heading: str | None = None) -> str:
    """A section of a file of the project, down to the next heading of its level; or all of it."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if heading is None:
        return text
    found = re.search(rf"^(#+) {re.escape(heading)}$\n(.*?)(?=^#{{1,6}} |\Z)", text, re.M | re.S)
    if found is None:
        raise ValueError(f"{file}: no heading {heading!r}")
    level = len(found[1])
    rest = text[found.start() :]
    end = re.search(rf"^#{{1,{level}}} ", _without_fences(rest)[len(found[1]) :], re.M)
    return rest[: end.start() + len(found[1])] if end else rest


def _without_fences(text: str) -> str:
    """The same length, with what stands in code fences blanked: a comment there is no heading."""
    return re.sub(r"^```.*?^```", lambda match: re.sub(r"[^\n]", " ", match[0]), text, flags=re.M | re.S)


def _relinked(text: str, here: str) -> str:
    up = "../" * here.count("/")

    def page(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        target = target.removeprefix("../")
        for key in (target + anchor, target or anchor):
            if key in PAGES:
                found = PAGES[key]
                keep = anchor if target and "#" not in found and found == "benchmarks.md" else ""
                return f"]({up}{found}{keep})"
        return match[0]

    return LINK.sub(page, text)


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
        "adapter per user, `curve: [5, 10, 20]` (fit it on so many judgements of each user, too).",
    ]
    seen: set[type] = {Experiment}
    for field in ("limits", "evaluate", "register_", "cluster"):
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
        said = explained.get(name, field.description or "")
        lines.append(
            f"| `{field.alias or name}` | {_cell(_type(field.annotation))} | {_cell(default)} | {_cell(said)} |"
        )
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:])


def _docstring(model: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """What a class says of itself, and of each of its arguments, those of its parents among them."""
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

    def tell(command: Any, path: str, level: int) -> None:
        context = click.Context(command, info_name=path)
        if getattr(command, "commands", None):
            if level > 1:
                pages.append(f"{'#' * level} {path}\n\n{inspect.cleandoc(command.help or '')}")
            for name, each in sorted(command.commands.items()):
                tell(each, f"{path} {name}", min(level + 1, 3))
            return
        text, _, example = inspect.cleandoc(command.help or "").partition("Example: ")
        usage = " ".join(command.collect_usage_pieces(context))
        parts = [f"{'#' * level} {path}", text.strip(), f"```\n{path} {usage}\n```"]
        rows = [record for each in command.get_params(context) if (record := each.get_help_record(context))]
        if rows:
            cells = [f"| `{name}` | {_cell(' '.join((said or '').split()))} |" for name, said in rows]
            parts.append("\n".join(["| | |", "| --- | --- |", *cells]))
        if example:
            parts.append(f"Example:\n\n```\n{example.strip()}\n```")
        pages.append("\n\n".join(parts))

    tell(get_command(app), "beholder", 1)
    return "\n\n".join(pages) + "\n"
