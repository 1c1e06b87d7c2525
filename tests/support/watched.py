"""A page in a real Chromium, and what went wrong on it."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect


class Watched:
    """A page, and what went wrong on it."""

    def __init__(self, browser, **more) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **more})
        self.page: Page = self.context.new_page()
        self.problems: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", lambda message: message.type == "error" and self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))


def ask(page: Page, text: str | None = None) -> None:
    if text is not None:
        page.fill("#text", text)
    page.click("#ask-button")
    expect(page.locator("#summary")).to_contain_text("eaders")


def sound(page: Page) -> list[tuple[str, list[str]]]:
    """What axe-core finds that is serious or worse."""
    found = Axe().run(page).response["violations"]
    return [
        (each["id"], [node["html"][:200] for node in each["nodes"]])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
