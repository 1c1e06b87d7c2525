"""How a server is started: with settings that reach the ingress, or not at all."""

from __future__ import annotations

import httpx
import pytest
from house import MODEL
from served import free_port, published

from beholder.cluster.local import on_ray
from beholder.errors import ServeError
from beholder.home import home
from beholder_serve.api import Settings
from beholder_serve.app import serving

pytestmark = pytest.mark.serve


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A home folder in which the model of `house` is the champion, and a Ray that stays up."""
    with published(tmp_path_factory.mktemp("home")) as readers, on_ray():
        yield home(), readers


@pytest.fixture(autouse=True)
def at_home(world, monkeypatch):
    monkeypatch.setenv("BEHOLDER_HOME", str(world[0]))


def test_a_model_that_is_not_there_is_one_line(world):
    with pytest.raises(ServeError, match="did not come up"), serving({"model": "nothing"}, "127.0.0.1", free_port()):
        pass


def test_settings_go_over_to_the_ingress(world):
    port = free_port()
    settings = Settings(origins=("https://ours.example",), sticky=True)
    with serving({"model": MODEL}, "127.0.0.1", port, settings):
        asked = {"origin": "https://ours.example", "access-control-request-method": "POST"}
        answer = httpx.options(f"http://127.0.0.1:{port}/v1/predict", headers=asked)
        assert answer.headers["access-control-allow-origin"] == "https://ours.example"
        body = {"user_id": world[1][0], "text": "sticky"}
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/predict", json=body, timeout=30)
        assert answer.status_code == 200
