"""beholder: one base model, every reader's view.

People disagree about whether a text is angry, hateful or polite, and they disagree consistently. beholder learns each
person's view, measures honestly whether that pays, registers what won and serves it.

```python
import beholder as bh

data = bh.load_dataset("simulated")
train, valid, test = bh.split(data, by="text", seed=42)
model = bh.fit("cls-u", train, valid, base="tiny-bert")
print(bh.evaluate({"cls-u": model}, test))
```

What is listed in `__all__` is public. Each name is imported on first access, so that `import beholder` takes
no time, and neither PyTorch nor Ray nor MLflow is loaded before it is needed.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beholder.data.annotations import Annotations
    from beholder.data.split_annotations import split
    from beholder.data.task import Task
    from beholder.experiment.config import load_experiment
    from beholder.methods.listing import methods
    from beholder.workflows.evaluate import evaluate
    from beholder.workflows.fit import fit
    from beholder.workflows.model import Model
    from beholder.workflows.python_api import compare, load_dataset, load_model, run

__version__ = "0.1.0"

__all__ = [
    "Annotations",
    "Model",
    "Task",
    "__version__",
    "compare",
    "evaluate",
    "fit",
    "load_dataset",
    "load_experiment",
    "load_model",
    "methods",
    "run",
    "split",
]

_HOMES = {
    "Annotations": "beholder.data.annotations",
    "Model": "beholder.workflows.model",
    "Task": "beholder.data.annotations",
    "compare": "beholder.workflows.python_api",
    "evaluate": "beholder.workflows.evaluate",
    "fit": "beholder.workflows.fit",
    "load_dataset": "beholder.workflows.python_api",
    "load_experiment": "beholder.experiment.config",
    "load_model": "beholder.workflows.python_api",
    "run": "beholder.workflows.python_api",
    "split": "beholder.data.split_annotations",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first access (PEP 562)."""
    if name == "methods":  # the package of that name, which can be called
        return importlib.import_module("beholder.methods")
    if name not in _HOMES:
        from beholder.util.errors import unknown

        raise AttributeError(f"module 'beholder': {unknown('name', name, __all__)}")
    found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
