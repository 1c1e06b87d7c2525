"""Report and comparison in a real Chromium: nothing overflows, nothing is missing, screen readers are served."""

from __future__ import annotations

import pytest
from house import settings
from watched import Watched, sound
from worlds import home_with_a_run

from beholder.evaluation.compare import compare
from beholder.report.comparison import write_comparison
from beholder.report.page import NAMED, NAMELESS

pytestmark = pytest.mark.browser

CUT = """[...document.querySelectorAll('figure')].flatMap(figure => {
    const svg = figure.querySelector('svg'), frame = svg.getBoundingClientRect();
    return [...svg.querySelectorAll('g[id^=text_]')].map(text => text.getBoundingClientRect())
        .filter(at => at.width && (at.left < frame.left - 1 || at.right > frame.right + 1 || at.top < frame.top - 1
            || at.bottom > frame.bottom + 1)).map(() => figure.getAttribute('aria-label'));
})"""
"""Titles of figures in which a word reaches over the edge."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    with home_with_a_run(folder, settings(users=14)) as outcome:
        run = outcome.run_folder
    return [run / NAMED, run / NAMELESS, write_comparison(folder / "compared.html", compare([run]))]


@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_are_drawn_and_accessible(chromium, pages, width):
    for file in pages:
        watched = Watched(chromium, viewport={"width": width, "height": 900})
        page = watched.page
        page.goto(f"file://{file}")
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width, file.name
        drawn = page.evaluate(
            "[...document.querySelectorAll('figure svg')].map(svg => svg.getBoundingClientRect())"
            ".map(box => [box.width, box.height])"
        )
        assert drawn and all(wide > 250 and high > 80 for wide, high in drawn), (file.name, drawn)
        assert page.evaluate(CUT) == [], file.name
        assert sound(page) == []
        assert watched.problems == []
        watched.context.close()
