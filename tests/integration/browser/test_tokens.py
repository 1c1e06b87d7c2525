"""The playground of a server that requires tokens."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect
from served import token_server
from watched import Watched, ask, sound

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_server_that_requires_a_token_prompts_for_it(chromium, tmp_path_factory):
    with token_server(tmp_path_factory.mktemp("guarded")) as (url, token):
        made = Watched(chromium)
        page = made.page
        page.goto(url)
        expect(page.locator("#token")).to_be_visible()
        expect(page.locator("#token-input")).to_be_focused()
        assert sound(page) == []
        page.fill("#token-input", "not a token")
        page.click("#token-form button")
        expect(page.locator("#token-problem")).to_contain_text("Not a valid token")
        page.fill("#token-input", token)
        page.click("#token-form button")
        expect(page.locator("#model")).to_contain_text("house v1")
        expect(page.locator("#token")).to_be_hidden()
        ask(page)
        expect(page.locator("#labels figure")).to_have_count(4)
        made.context.close()
