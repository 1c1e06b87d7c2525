"""Scales on the playground: predicted, judged, compared; and figures of very many readers, which stay low."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, expect
from scaled import READERS, crowded, scaled_server
from watched import Watched, ask, sound

from beholder_serve.client import Client, RefusedError

pytestmark = pytest.mark.browser

WIDTHS = pytest.mark.parametrize("width", [390, 1280])
HIGHEST = {390: 290, 1280: 230}
"""Pixels of a whole figure with its sentence, which is wrapped on a phone; the drawing itself has 175 at most."""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The home folder of the server of this process, and its address."""
    folder = tmp_path_factory.mktemp("home")
    with scaled_server(folder) as found:
        yield folder, found


@pytest.fixture
def url(served, monkeypatch) -> str:
    monkeypatch.setenv("BEHOLDER_HOME", str(served[0]))
    return served[1]


@pytest.fixture
def opened(chromium, url):
    """Opens the page; at the end there must be no errors."""
    made: list[Watched] = []

    def open_page(width: int, scheme: str = "light") -> Page:
        made.append(Watched(chromium, viewport={"width": width, "height": 900}, color_scheme=scheme))
        page = made[-1].page
        page.goto(url)
        expect(page.locator("#model")).to_contain_text("graded v1")
        return page

    yield open_page
    for each in made:
        assert each.problems == []
        each.context.close()


def fits(page: Page) -> None:
    """Nothing is wider than the page, and nothing serious for screen readers is wrong."""
    sizes = page.locator("html").evaluate("page => [page.scrollWidth, page.clientWidth]")
    assert sizes[0] <= sizes[1], sizes
    assert sound(page) == []


def heights(page: Page, of: str) -> list[float]:
    return [each.bounding_box()["height"] for each in page.locator(of).all()]


@WIDTHS
def test_answers_on_scales_are_shown_in_their_unit_and_not_as_labels(opened, width):
    page = opened(width)
    ask(page)
    expect(page.locator("#labels h2")).to_have_text(["mood", "warmth", "rude"])
    expect(page.locator("#summary")).to_contain_text(re.compile("Readers' answers on (mood|warmth) range from"))
    captions = page.locator("#labels figcaption p")
    expect(captions.nth(0)).to_contain_text("global model: ")
    expect(captions.nth(2)).to_contain_text(f"of {READERS} readers would give it")
    figures = page.locator("#labels figure")
    for place, marks in ((0, 1), (1, 1), (2, 0)):
        expect(figures.nth(place).locator(".dot")).to_have_count(READERS)
        expect(figures.nth(place).locator(".band")).to_have_count(marks)
    assert {"calm", "furious"} <= set(figures.nth(0).locator("text").all_text_contents())
    assert {"0", "50", "100"} <= set(figures.nth(1).locator("text").all_text_contents())
    figures.nth(1).locator(".dot").first.hover()
    expect(page.locator("#tip")).to_contain_text("reader")
    page.click("#numbers summary")
    expect(page.locator("#table th[scope=col]")).to_have_text(["reader", "rude", "mood", "warmth"])
    figures.nth(0).locator(".dot").nth(1).click()
    figures.nth(0).locator(".dot").nth(6).click()
    expect(page.locator(".dumbbell")).to_have_count(3)
    expect(page.locator("#difference")).to_contain_text("Of the scales, their answers differ most on")
    row = page.locator(".dumbbell", has_text="warmth")
    expect(row).to_contain_text("0 to 100")
    assert 0 < float(row.locator("> :last-child").inner_text()) <= 100
    assert ">=" not in page.locator("#main").inner_text()
    assert max(heights(page, "#labels figure")) <= HIGHEST[width]
    fits(page)


@WIDTHS
def test_a_newcomer_judges_by_scale_slider_and_label_and_is_shown(opened, width):
    page = opened(width, "dark" if width == 390 else "light")
    sent = []
    page.on("request", lambda request: request.method == "PUT" and sent.append(request.post_data_json))
    page.fill("#name", f"newcomer {width}")
    page.click("#begin button")
    expect(page.locator("#progress-words")).to_contain_text("Text 1 of 20", timeout=60_000)
    expect(page.locator("#keys")).to_have_text("Press 1 to 4 to answer mood, Enter to continue.")
    expect(page.locator("output")).to_have_text("no answer")
    fits(page)
    for number in range(6):
        expect(page.locator("#progress-words")).to_contain_text(f"Text {number + 1} of 20")
        page.keyboard.press("4")
        expect(page.get_by_role("radio", name="furious")).to_be_checked()
        if number == 0:
            page.get_by_role("slider", name="warmth").press("ArrowRight")
            expect(page.locator("output")).to_have_text("51")
            page.locator(".choice input").check()
        if number == 1:
            page.get_by_role("checkbox", name="no answer").uncheck()
            expect(page.locator("output")).to_have_text("50")
            page.get_by_role("radio", name="no answer").check()
        page.click("#next")
    expect(page.locator("#progress-words")).to_contain_text("6 judged")
    page.click("#back")
    expect(page.get_by_role("radio", name="furious")).to_be_checked()  # the judgement is remembered
    judged = [body["judgements"][0] for body in sent]
    assert judged[0]["scales"] == {"mood": 3, "warmth": 51} and judged[0]["labels"] == {"rude": True}
    assert judged[1]["scales"] == {"warmth": 50} and judged[1]["labels"] == {"rude": False}
    assert judged[2]["scales"] == {"mood": 3}
    page.click("#train")
    expect(page.locator("#outcome")).to_contain_text("Cross-validated on your", timeout=60_000)
    expect(page.locator("#labels .dot.me")).to_have_count(3)
    expect(page.locator("#labels .me-name")).to_have_text(["you"] * 3)
    fits(page)
    page.click("#forget")
    page.click("#delete")
    expect(page.locator("#outcome")).to_contain_text("erased", timeout=30_000)


def test_scales_without_any_label_need_an_answer(opened):
    """A model with scales only, one of them too long for radio buttons."""
    page = opened(390)
    points = [0.5 * each for each in range(21)]
    scales = [
        {"name": "hurt", "points": [-2, 0, 2], "kind": "ordinal"},
        {"name": "l", "points": points, "kind": "ordinal"},
    ]
    model = page.request.get(f"{page.url}v1/model").json()
    labels = [f"hurt>={each}" for each in (0, 2)] + [f"l>={each:g}" for each in points[1:]]
    page.route("**/v1/model", lambda route: route.fulfill(json={**model, "labels": labels, "scales": scales}))
    sent = []

    def stored(route) -> None:
        sent.append(route.request.post_data_json["judgements"][0])
        route.fulfill(json={"stored": 1, "total": 1})

    page.route("**/annotations", stored)
    page.reload()
    page.fill("#name", "scales only")
    page.click("#begin button")
    expect(page.locator("#label-set")).to_be_hidden()
    page.click("#next")
    expect(page.locator("#unanswered")).to_contain_text("Answer at least one scale")
    assert sent == []
    page.keyboard.press("1")  # points below 0 are counted
    expect(page.get_by_role("radio", name="-2")).to_be_checked()
    page.get_by_role("slider", name="l").press("End")
    expect(page.locator("output")).to_have_text("10")
    fits(page)
    page.click("#next")
    expect(page.locator("#progress-words")).to_contain_text("1 judged")
    assert sent == [{"text": sent[0]["text"], "labels": {}, "scales": {"hurt": -2, "l": 10}}]


def crowd_page(page: Page, readers: int, shape: str) -> dict:
    """The page as it shows the answer for very many readers."""
    answer = crowded(readers, shape)
    page.route(
        "**/v1/perspectives", lambda route: route.fulfill(body=json.dumps(answer), content_type="application/json")
    )
    ask(page)
    expect(page.locator("#labels figure")).to_have_count(3)
    return answer


@WIDTHS
@pytest.mark.parametrize("shape", ["even", "one", "narrow"])
@pytest.mark.parametrize("readers", [12, 262, 1_000, 5_000])
def test_figures_stay_low_however_many_readers(opened, width, readers, shape):
    page = opened(width)
    answer = crowd_page(page, readers, shape)
    assert max(heights(page, "#labels svg")) <= 175
    assert max(heights(page, "#labels figure")) <= HIGHEST[width]
    for place in range(3):
        figure = page.locator("#labels figure").nth(place)
        bars, dots = figure.locator(".bar"), figure.locator(".dot")
        if bars.count():
            counted = [int(each.split(": ")[1].split()[0].replace(",", "")) for each in labels_of(bars)]
            assert sum(counted) == readers  # nobody is left out
            assert 0 < dots.count() <= 40
            farthest = answer["readers"][0]["user_id"]
            assert any(each.startswith(f"{farthest}, ") for each in labels_of(dots))
        else:
            expect(dots).to_have_count(readers)
        assert figure.locator("[tabindex='0']").count() == 1  # one tab stop
        frame = figure.locator("svg").bounding_box()
        for box in figure.locator(".dot, .bar").evaluate_all(
            "all => all.map(each => each.getBoundingClientRect().toJSON())"
        ):
            assert box["left"] >= frame["x"] - 1 and box["right"] <= frame["x"] + frame["width"] + 1
            assert box["top"] >= 0 and box["bottom"] <= frame["y"] + frame["height"] + 1
    fits(page)


def labels_of(found) -> list[str]:
    return found.evaluate_all("all => all.map(each => each.getAttribute('aria-label'))")


def test_bars_and_dots_of_a_crowd_are_reached_by_keyboard(opened):
    page = opened(1280)
    answer = crowd_page(page, 5_000, "one")
    figure = page.locator("#labels figure").first
    page.focus("#ask-button")
    page.keyboard.press("Tab")
    expect(figure.locator(".stop").first).to_be_focused()
    expect(page.locator("#tip")).to_contain_text("readers")
    page.keyboard.press("End")
    expect(page.locator("#tip")).to_contain_text("cls-u")
    last = page.locator("#tip").inner_text().split(":")[0]
    page.keyboard.press("Enter")
    expect(page.locator("#one")).to_have_value(last)
    for chosen in page.locator("#labels figure .dot.chosen").all():
        assert chosen.get_attribute("aria-label").startswith(f"{last}, ")
    page.keyboard.press("Home")
    expect(figure.locator(".stop").first).to_be_focused()
    near = answer["readers"][-1]["user_id"]  # far from the first forty, and shown when chosen
    assert not any(each.startswith(f"{near}, ") for each in labels_of(figure.locator(".dot")))
    page.fill("#one", last)
    page.fill("#other", near)
    page.click("#pair button")
    expect(page.locator("#labels figure").first.locator(".dot.chosen")).to_have_count(2)
    expect(page.locator("#labels figure").first.locator(".over")).to_have_count(2)
    assert max(heights(page, "#labels svg")) <= 175


def test_the_client_judges_and_predicts_on_scales(url):
    with Client(url) as client:
        stored = client.annotate("typed", [("one", {"rude": True}), ("two", {}, {"mood": 2, "warmth": 12.5})])
        assert stored.stored == stored.total == 2
        (found,) = client.predict("reader3", "you are a robot").predictions
        assert set(found.scales) == {"mood", "warmth"}
        assert all(each.low <= each.median <= each.high for each in found.scales.values())
        with pytest.raises(RefusedError, match="not on the scale 'mood', 0 to 3"):
            client.annotate("typed", [("two", {}, {"mood": 2.5})])
