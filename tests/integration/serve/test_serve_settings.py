"""How a server is started: with settings that reach the ingress, or not at all."""

from __future__ import annotations

import httpx
import pytest
import yaml
from house import MODEL
from project import ROOT
from pydantic import ValidationError
from ray.serve._private.build_app import build_app
from ray.serve.deployment import deployment_to_schema
from ray.serve.schema import ServeDeploySchema
from served import published
from servers import free_port

from beholder.cluster.runtime import on_ray
from beholder.util.errors import ServeError
from beholder.util.paths import home
from beholder_serve import app as serve_config
from beholder_serve import deployment
from beholder_serve.api import ApiSettings
from beholder_serve.deployment import serving

pytestmark = [pytest.mark.serve, pytest.mark.slow]
INFRA = ROOT / "infra"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A home folder in which the model of `house` is the champion, and a Ray that stays up."""
    with published(tmp_path_factory.mktemp("home")) as readers, on_ray():
        yield home(), readers


@pytest.fixture(autouse=True)
def at_home(world, monkeypatch):
    monkeypatch.setenv("BEHOLDER_HOME", str(world[0]))


def test_a_missing_model_is_one_line(world):
    with pytest.raises(ServeError, match="did not start"), serving({"model": "nothing"}, "127.0.0.1", free_port()):
        pass


def test_settings_go_over_to_the_ingress(world):
    port = free_port()
    settings = ApiSettings(origins=("https://ours.example",), sticky=True)
    with serving({"model": MODEL}, "127.0.0.1", port, settings):
        asked = {"origin": "https://ours.example", "access-control-request-method": "POST"}
        answer = httpx.options(f"http://127.0.0.1:{port}/v1/predict", headers=asked)
        assert answer.headers["access-control-allow-origin"] == "https://ours.example"
        body = {"user_id": world[1][0], "text": "sticky"}
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/predict", json=body, timeout=30)
        assert answer.status_code == 200


def test_the_serve_config_for_kubernetes_names_what_is_there():
    """Ray's own schema accepts it, and its application is the one that the command line serves."""
    service = yaml.safe_load((INFRA / "kuberay" / "service.yaml").read_text())
    config = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    (app,) = config.applications
    module, _, name = app.import_path.partition(":")
    assert (module, name, app.name, app.route_prefix) == (
        serve_config.__name__,
        "deployed",
        deployment.APPLICATION,
        "/",
    )
    built = build_app(serve_config.deployed(deployment.Deployed(**app.args)), name=app.name)
    ours = build_app(
        deployment.application(
            {"model": app.args["model"], "version": "champion"},
            ApiSettings(tokens=True),
            {"min_replicas": app.args["min_replicas"], "max_replicas": app.args["max_replicas"]},
        ),
        name=app.name,
    )
    described = [[deployment_to_schema(each).model_dump() for each in made.deployments] for made in (built, ours)]
    assert described[0] == described[1] and {each["name"] for each in described[0]} == {
        "Ingress",
        "Engine",
        "BackgroundWorker",
    }
    assert config.http_options.port == 8000 and config.http_options.request_timeout_s == 60
    with pytest.raises(ValidationError, match="modell"):
        deployment.Deployed(**{**app.args, "modell": "x"})
