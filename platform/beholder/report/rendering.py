"""From figures and templates to one HTML file."""

from __future__ import annotations

import io
import re
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder import __version__
from beholder.evaluation.intervals import in_unit, p_in_words
from beholder.util.atomic import atomic_write

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure

WIDTH = 4.8
"""Inches of a chart on a page: its letters stay readable on a phone."""


@dataclass(frozen=True)
class Chart:
    """A figure on a page; its title stands above it as text, and describes it to a screen reader."""

    title: str
    svg: str


def chart(figure: Figure) -> Chart:
    """Take the title off a figure, and draw the rest as SVG."""
    import matplotlib

    axes = figure.axes[0]
    title = axes.get_title(loc="left")
    axes.set_title("", loc="left")
    for each in figure.axes:
        for axis, letters in ((each.xaxis, 46), (each.yaxis, 38)):
            lines = axis.get_label_text().splitlines()
            axis.set_label_text("\n".join(part for line in lines for part in textwrap.wrap(line, letters)))
    width, height = figure.get_size_inches()
    figure.set_size_inches(WIDTH, max(1.6, height * (0.9 if width > WIDTH else 1.0)))
    drawn = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": title}):  # the same figure gives the same bytes
        figure.savefig(drawn, format="svg", dpi=150, metadata={"Date": None, "Creator": None})
    svg = drawn.getvalue()
    svg = svg[svg.index("<svg") :]
    return Chart(title, re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'role="img" aria-hidden="true"', svg, count=1))


def write_page(file: Path, template: str, **values: Any) -> Path:
    """Fill a template of this folder; the file appears whole or not at all."""
    page = _environment().get_template(template).render(version=__version__, **values)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return file


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).with_name("templates")
    made = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"nats": _nats, "signed_nats": _signed_nats}
    made.filters |= {
        "points": _points,
        "number": lambda value: "–" if value is None else in_unit(value),
        "gap": lambda value: "–" if value is None else f"{value:.1f}",
        "percent": _percent,
        "count": lambda value: f"{value:,}",
        "size": _size,
        "p": p_in_words,
    }
    return made


def _points(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f}"


def _nats(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _signed_nats(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _percent(value: float | None) -> str:
    """A fraction as percentage points, one decimal."""
    return "–" if value is None else f"{100 * value:.1f}"


def _size(value: int | None) -> str:
    if value is None:
        return "–"
    for unit, bytes_ in (("GB", 2**30), ("MB", 2**20), ("kB", 2**10)):
        if value >= bytes_:
            return f"{value / bytes_:.1f} {unit}"
    return f"{value} B"
