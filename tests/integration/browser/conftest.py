"""One Chromium for all tests here."""

from __future__ import annotations

import pytest
from needs import program
from playwright.sync_api import sync_playwright


@pytest.fixture(scope="session")
def chromium():
    found = program("Chromium", "chromium", "chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()
