"""What is stored outside stays as it is: digests and manifests, byte for byte, as literals."""

from __future__ import annotations

import hashlib
import json

from crowd import crowd

from beholder.execution.arm import ArmJob
from beholder.experiment.config import make_experiment
from beholder.methods import config_class, save_fitted
from beholder.models.hosted import Endpoint
from beholder.prompting.wording import Wording
from beholder.registry import bundle as bundles
from beholder.registry.bundle import MANIFEST, read_manifest, verify, write_bundle
from beholder.registry.manifest import Manifest
from beholder.registry.routing import Choice
from beholder.registry.seal import opened, seal_of, sealed
from beholder.training.context import Context
from beholder.workflows import prepare as preparing
from beholder.workflows.cross_fitting import refitted

ENDPOINT = {"endpoint": "http://127.0.0.1:9/v1", "model": "m", "max_tokens": 9}
WRITTEN = {
    "name": "forms",
    "source": {"name": "simulated", "users": 4, "texts": "templates"},
    "split": {"by": "text"},
    "base": ENDPOINT,
    "methods": {"prior": {}, "user-prior": {}, "query": {}, "query-p": {}},
    "evaluate": {"reference": "prior"},
}
MANY = {
    "format": 1,
    "task": {"labels": ["rude", "fünf"], "kind": "multilabel"},
    "base": {"name": "tiny-bert", "checksum": "c", "tokenizer_checksum": "t"},
    "methods": {"global": {"arm": "cls", "method": "cls"}, "personal": {"arm": "cls-u", "method": "cls-u"}},
    "code_version": "0.0",
    "experiment": "forms",
    "split_hash": "aa",
    "data_fingerprint": "bb",
    "seed": 42,
    "run": "forms-12345678",
    "split": {"by": "text", "seed": 1},
    "folds": 3,
    "routes": {"rule": "r", "population": {"mean": 0.5, "between": 0.0, "within": 1e-05}, "users": {"on_personal": 2}},
    "thresholds": [0.5, 0.25],
    "evaluation": {"macro_f1": 0.5, "valid_macro_f1": None, "gain": {"points": 1.0}},
    "files": {
        "global/method.json": {"sha256": "11", "bytes": 3},
        "personal/personal.json": {"sha256": "22", "bytes": 4},
        "users.parquet": {"sha256": "33", "bytes": 5},
    },
    "tracking": "abc",
    "refreshed": {"from": 1},
}


def test_digests_of_settings():
    experiment = make_experiment(WRITTEN)
    assert experiment.digest[:16] == "b4174ff6fbbb1a34"
    endpoint = Endpoint.model_validate(ENDPOINT)
    assert endpoint.checksum[:16] == "626b4a5692217df8"
    words = Wording.model_validate(
        {
            "version": 3,
            "instruction": "i",
            "labels": "{labels}",
            "none": "none",
            "text": "{text}",
            "answer": "a",
            "id": "{number}",
            "statistics": "{rates}",
            "profile": "{facts}",
            "examples": {"own": "o", "others": "p", "each": "{text} {labels}"},
        }
    )
    assert words.digest[:16] == "551be22d8a9dc914"


def test_keys_of_jobs(monkeypatch, tmp_path):
    monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path))
    monkeypatch.setattr(preparing, "__version__", "0.0")
    prepared = preparing.prepare(make_experiment(WRITTEN))
    assert {job.name: job.key[:16] for job in prepared.jobs} == {
        "prior": "a68a9e35c0e94af9",
        "user-prior": "17d8114b544be6fe",
        "query": "460e4872d9a54a72",
        "query-p": "863b74e2d76e651e",
    }
    job = ArmJob("cls", {"method": "cls"}, None, "k")
    assert refitted([job], {"cls"}, 1, tmp_path)[0].key[:16] == "c871e953ee244bc8"


def test_manifests_and_their_seals():
    assert Manifest(MANY).backbone_digest[:16] == "8eba2e8311eee866"
    assert seal_of(MANY)[:16] == "25fc551b3fe0a962"
    assert hashlib.sha256(sealed(MANY)).hexdigest()[:16] == "f72a03a22e180b92"
    assert opened(sealed(MANY)) == MANY
    manifest = Manifest(opened(sealed(MANY)))
    assert sealed(manifest.but(seed=42)) == sealed(MANY) and seal_of(manifest.but(seed=43)) != seal_of(MANY)
    assert manifest.arms == {"global": "cls", "personal": "cls-u"} and manifest.digests == {"11", "22", "33"}
    assert manifest.base.local == "tiny-bert" and manifest.base_checksums == ("c", "t")
    assert manifest.task.labels == ("rude", "fünf") and manifest.population.mean == 0.5 and manifest.folds == 3
    shards = manifest.files | {"personal/bank/shard-1": {"sha256": "44", "bytes": 6}}
    assert manifest.stands_on_the_same(manifest.but(files=shards))
    assert not manifest.stands_on_the_same(manifest.but(methods={}))


def test_a_bundle_has_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "__version__", "0.0")
    rows = crowd()
    fitted = config_class("prior")().fit(rows, rows, Context(base=""))
    (tmp_path / "prior").mkdir()
    save_fitted(fitted, tmp_path / "prior")
    facts = {"experiment": "forms", "seed": 1, "run": "forms-1", "thresholds": None}
    folder = tmp_path / "bundle"
    endpoint = Endpoint.model_validate(ENDPOINT)
    write_bundle(folder, Choice("prior", None), {"prior": tmp_path / "prior"}, endpoint, facts)
    text = (folder / MANIFEST).read_text()
    assert json.loads(text)["base"]["checksum"] == endpoint.checksum
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "dc1dce838fe26423"
    assert verify(folder) == read_manifest(folder)
