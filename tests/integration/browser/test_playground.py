"""The playground in Chromium on a real server: every path through it, by mouse and keyboard, light and dark."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect
from served import playground_server
from watched import Watched, ask, sound

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with playground_server(tmp_path_factory.mktemp("home")) as found:
        yield found


@pytest.fixture
def watched(chromium, server):
    """The page as opened; at the end there must be no errors and no requests to other hosts."""
    made = Watched(chromium)
    made.page.goto(server[0])
    expect(made.page.locator("#model")).to_contain_text("house v1")
    yield made
    assert made.problems == []
    assert made.hosts == {server[0].removeprefix("http://")}
    made.context.close()


@pytest.fixture
def page(watched) -> Page:
    return watched.page


def test_a_text_is_predicted_for_all_readers(page, server):
    readers = server[1]
    expect(page.locator("#summary")).to_contain_text("No prediction yet")
    ask(page)
    figures = page.locator("#labels figure")
    expect(figures).to_have_count(4)
    for place in range(4):
        expect(figures.nth(place).locator(".dot")).to_have_count(len(readers))
        expect(figures.nth(place).locator(".all")).to_have_count(1)
        expect(figures.nth(place).locator("figcaption p")).to_contain_text(f"of {len(readers)} readers would give it")
    dot = figures.first.locator(".dot").first
    dot.hover()
    expect(page.locator("#tip")).to_contain_text("reader")
    name = page.locator("#tip").inner_text().split(":")[0]
    assert name in readers and name in dot.get_attribute("aria-label")
    page.click("#numbers summary")
    expect(page.locator("#table tbody tr")).to_have_count(len(readers))
    assert {row.split("\t")[0] for row in page.locator("#table tbody").inner_text().splitlines()} == set(readers)


def test_two_readers_compared(page, server):
    ask(page)
    dots = page.locator("#labels figure").first.locator(".dot")
    dots.nth(0).click()
    dots.nth(3).click()
    expect(page.locator(".dumbbell")).to_have_count(4)
    expect(page.locator("#difference")).to_contain_text("They would")
    differences = [float(each) for each in page.locator(".dumbbell > :last-child").all_inner_texts()]
    assert differences == sorted(differences, reverse=True)
    page.fill("#one", server[1][0])
    page.fill("#other", server[1][0])
    page.click("#pair button")
    expect(page.locator("#difference")).to_contain_text("two different readers")


def test_becoming_a_reader_and_going_again(page, server):
    ask(page)
    page.fill("#name", "a visitor")
    page.click("#begin button")
    expect(page.locator("#progress-words")).to_contain_text("Text 1 of 20")
    expect(page.locator("#train")).to_be_disabled()
    expect(page.locator("#next")).to_have_text("None of these")
    for number in range(20):
        expect(page.locator("#progress-words")).to_contain_text(f"Text {number + 1} of 20, {number} judged")
        if number % 2:
            page.locator(".choice").first.click()
            expect(page.locator("#next")).to_have_text("Next")
        page.click("#next")
    expect(page.locator("#judged")).to_contain_text("no more texts")
    page.click("#back")
    expect(page.locator(".choice input").first).to_be_checked()  # the judgement is remembered
    page.click("#skip")
    page.click("#train")
    expect(page.locator("#outcome")).to_contain_text("Cross-validated on your", timeout=60_000)
    expect(page.locator("#labels .dot.me")).to_have_count(4)
    expect(page.locator("#labels .me-name").first).to_have_text("you")
    expect(page.locator("#labels figure").first.locator(".dot")).to_have_count(len(server[1]) + 1)
    page.click("#forget")
    expect(page.locator("#sure")).to_be_visible()
    page.click("#keep")
    expect(page.locator("#labels .dot.me")).to_have_count(4)
    page.click("#forget")
    page.click("#delete")
    expect(page.locator("#outcome")).to_contain_text("erased", timeout=30_000)
    expect(page.locator("#labels .dot.me")).to_have_count(0)
    expect(page.locator("#begin")).to_be_visible()


def test_the_name_of_a_reader_is_refused(page, server):
    page.fill("#name", server[1][0])
    page.click("#begin button")
    expect(page.locator("#outcome")).to_contain_text("is already a reader")


def test_by_keyboard_alone(page):
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.focus("#text")
    page.keyboard.press("Control+A")
    page.keyboard.type("what a lovely day")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#labels figure")).to_have_count(4)
    first = page.locator("#labels figure").first.locator(".dot")
    page.keyboard.press("Tab")  # the button
    page.keyboard.press("Tab")
    expect(first.first).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(first.nth(1)).to_be_focused()
    expect(page.locator("#tip")).to_be_visible()
    page.keyboard.press("Enter")
    expect(first.nth(1)).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator(".dumbbell")).to_have_count(4)
    page.keyboard.press("Tab")  # all dots of a label are one stop
    second = page.locator("#labels figure").nth(1).locator(".dot")
    expect(second.first).to_be_focused()
    page.focus("#name")
    page.keyboard.type("keys")
    page.keyboard.press("Enter")
    expect(page.locator("#judged")).to_be_focused()
    page.keyboard.press("2")
    expect(page.locator(".choice input").nth(1)).to_be_checked()
    page.keyboard.press("Enter")
    expect(page.locator("#progress-words")).to_contain_text("Text 2 of 20, 1 judged")
    page.click("#forget")
    page.click("#delete")
    expect(page.locator("#outcome")).to_contain_text("erased", timeout=30_000)


STRANGE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


def test_what_strangers_write_is_only_text(page):
    ask(page, STRANGE)
    page.fill("#name", "<b>bold</b>" + STRANGE[:40])
    page.click("#begin button")
    expect(page.locator("#progress-words")).to_contain_text("Text 1 of")
    for number in range(5):
        expect(page.locator("#progress-words")).to_contain_text(f"Text {number + 1} of 20")
        page.click("#next")
    page.click("#train")
    expect(page.locator("#outcome")).to_contain_text("Cross-validated on your", timeout=60_000)
    page.locator(".dot.me").first.focus()
    expect(page.locator("#tip")).to_contain_text("<b>bold</b>")
    assert "taken" not in page.title() and page.locator("#main img, #main b").count() == 0
    page.click("#forget")
    page.click("#delete")
    expect(page.locator("#outcome")).to_contain_text("erased", timeout=30_000)


def test_the_page_reports_an_unreachable_server_and_recovers(chromium, server):
    made = Watched(chromium)
    page = made.page
    page.goto(server[0])
    expect(page.locator("#model")).to_contain_text("house v1")
    page.route("**/v1/perspectives", lambda route: route.abort())
    page.click("#ask-button")
    expect(page.locator("#problem-words")).to_contain_text("cannot be reached")
    page.unroute("**/v1/perspectives")
    refusal = '{"detail": "over this token\'s limit."}'
    page.route(
        "**/v1/perspectives", lambda route: route.fulfill(status=429, body=refusal, headers={"retry-after": "7"})
    )
    page.click("#retry")
    expect(page.locator("#problem-words")).to_contain_text("Try again in 7 s")
    assert sound(page) == []
    page.unroute("**/v1/perspectives")
    page.click("#retry")
    expect(page.locator("#labels figure")).to_have_count(4)
    expect(page.locator("#problem")).to_be_hidden()
    made.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_it_reads_well_everywhere(chromium, server, scheme, width):
    made = Watched(chromium, viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce")
    page = made.page
    page.goto(server[0])
    expect(page.locator("#model")).to_contain_text("house v1")
    assert page.locator("html").get_attribute("data-theme") == scheme

    def fine() -> None:
        assert sound(page) == []
        # By way of the page's own handle: the policy forbids code in strings.
        sizes = page.locator("html").evaluate("page => [page.scrollWidth, page.clientWidth]")
        assert sizes[0] <= sizes[1], sizes

    fine()
    ask(page, "an unbreakable " + "w" * 120)
    page.locator(".dot").first.click()
    page.locator(".dot").nth(2).click()
    expect(page.locator(".dumbbell")).to_have_count(4)
    page.click("#numbers summary")
    fine()
    page.fill("#name", f"{scheme} {width}")
    page.click("#begin button")
    expect(page.locator(".choice")).to_have_count(4)
    fine()
    for button in page.locator("button:visible").all():
        assert button.bounding_box()["height"] >= 44
    page.click("#forget")
    expect(page.locator("#sure")).to_be_visible()
    fine()
    page.click("#delete")
    expect(page.locator("#outcome")).to_contain_text("erased", timeout=30_000)
    page.click("#theme")
    assert page.locator("html").get_attribute("data-theme") != scheme
    page.reload()
    assert page.locator("html").get_attribute("data-theme") != scheme  # it is remembered
    assert made.problems == []
    made.context.close()
