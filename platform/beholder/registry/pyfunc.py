"""A version as an ordinary MLflow model: `mlflow.pyfunc.load_model("models:/NAME@champion").predict(frame)`.

What lies in MLflow is small and holds nothing of any user: where the bundle is. So a user who is erased from the store
is gone from every version, and MLflow has nothing to erase.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder import __version__
from beholder.registry.blob_store import Store
from beholder.registry.bundle import Bundle
from beholder.registry.bundle_store import open_stored
from beholder.util.errors import RegistryError

if TYPE_CHECKING:
    import pandas as pd

POINTER = "bundle.json"


def write_model(folder: Path, bundle: str, store: Store) -> None:
    """Write a model folder of MLflow's that stands for a stored bundle. `folder` must not be there yet."""
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    pointer = folder.with_name(f"{folder.name}.{POINTER}")
    pointer.mkdir(parents=True)
    (pointer / POINTER).write_text(json.dumps({"store": store.uri, "bundle": bundle}) + "\n")
    columns = [ColSpec("string", "user_id"), ColSpec("string", "text")]
    mlflow.pyfunc.save_model(
        path=str(folder),
        loader_module=__name__,
        data_path=str(pointer),
        signature=ModelSignature(inputs=Schema(columns)),  # type: ignore[arg-type]
        input_example=pd.DataFrame({"user_id": ["a reader"], "text": ["A text to judge."]}),
        pip_requirements=[f"beholder=={__version__}"],
    )


def read_pointer(folder: Path) -> tuple[Store, str]:
    """The store and the bundle that a model folder stands for. `BEHOLDER_STORE` is where a store is that was moved.

    Raises:
        RegistryError: it names none.
    """
    try:
        said = json.loads((folder / POINTER).read_text())
        return Store(os.environ.get("BEHOLDER_STORE") or str(said["store"])), str(said["bundle"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RegistryError(
            f"{folder / POINTER}: names no bundle ({type(error).__name__}). Publish it again."
        ) from error


class PyfuncModel:
    """What MLflow calls."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """What each user would say of each text.

        Args:
            rows: columns `user_id` and `text`.

        Returns:
            As many rows: `score.LABEL` in 0..1 and `given.LABEL` for each label, and the `route` that answered.
        """
        import pandas as pd

        predicted = self.bundle.predict(rows["text"].astype(str).tolist(), rows["user_id"].astype(str).tolist())
        labels = self.bundle.task.labels
        scores = {f"score.{label}": predicted.scores[:, place] for place, label in enumerate(labels)}
        given = {f"given.{label}": predicted.decisions[:, place] for place, label in enumerate(labels)}
        return pd.DataFrame({**scores, **given, "route": predicted.routes}, index=rows.index)


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> PyfuncModel:
    """MLflow's way in."""
    store, bundle = read_pointer(Path(path))
    return PyfuncModel(open_stored(bundle, store))
