"""Wordings in MLflow's Prompt Registry, on a real SQLite store."""

from __future__ import annotations

import pytest

from beholder.prompting.wording import load_wording, wordings
from beholder.tracking.client import client, register_prompt
from beholder.util.errors import TrackingError

pytestmark = pytest.mark.cluster


def test_a_wording_is_registered_once_and_a_changed_one_as_the_next_version():
    words = load_wording("plain")
    tags = {"wording_version": str(words.version), "digest": words.digest}
    first = register_prompt("wording-plain", words.template, tags)
    assert first["prompt"] == "wording-plain" and first["prompt_version"] == "1"
    assert register_prompt("wording-plain", words.template, tags) == first
    changed = words.model_copy(update={"version": 2, "answer": "Labels:"})
    second = register_prompt("wording-plain", changed.template, {"wording_version": "2", "digest": changed.digest})
    assert second["prompt_version"] == "2"
    assert register_prompt("wording-plain", words.template, tags) == first

    kept = client().get_prompt_version("wording-plain", 1)
    assert kept.template == words.template and kept.tags["digest"] == words.digest
    assert kept.variables == {"labels", "number", "facts", "rates", "example_text", "example_labels", "text"}
    for name in wordings():  # whatever is said anywhere in a wording stands in its template
        shipped = load_wording(name)
        assert shipped.instruction in shipped.template and shipped.examples.own in shipped.template

    client().create_registered_model("taken")
    with pytest.raises(TrackingError, match=r"prompt 'taken' was not registered: .*existing model") as refused:
        register_prompt("taken", words.template, tags)
    assert "\n" not in str(refused.value)
