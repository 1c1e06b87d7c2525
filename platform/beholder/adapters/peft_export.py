"""One user's model as an ordinary PEFT adapter, and back.

PEFT holds one adapter a model. A user's is the global model's LoRA and the user's own put side by side: ranks add up,
`[up, own up] @ [down; own down] = up @ down + own up @ own down`. The head, which a bare base lacks, lies beside it.

```
adapter_config.json, adapter_model.safetensors   for `PeftModel.from_pretrained(base, folder)`
head.safetensors     weight [labels, width], bias [labels]: of this user; and the change itself, under `own.`
beholder.json        base, labels, thresholds, pooling, prompt
README.md            how to use it, in a dozen lines
```
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beholder.adapters.bank import BankModel
from beholder.adapters.layers import own_head
from beholder.training.user_adam import Tensors
from beholder.util.errors import BankError

_PREFIX = "base_model.model."
_Lora = dict[str, tuple[Tensor, Tensor]]
"""Module -> (down [rank, in], up [out, rank], scaled)."""


def export_user(folder: Path, model: BankModel, tensors: Tensors, facts: Mapping[str, Any]) -> None:
    """Write one user's model into an existing folder.

    Args:
        folder: where.
        model: the shared one.
        tensors: of this one user: name -> [1, ...].
        facts: goes into `beholder.json`: base, labels, thresholds, prompt.

    Raises:
        BankError: neither the global model nor the user changes any projection, so that there is no adapter to write.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    parts = [_shared_lora(model), _own_lora(model, tensors)]
    changed = sorted({name for part in parts for name in part})
    if not changed:
        raise BankError(
            "neither the global model nor this user has a low-rank change, only a head, and PEFT has no format for "
            "that. Use bank.top_layers: 1 or more."
        )
    ranks = [max((len(down) for down, _ in part.values()), default=0) for part in parts]
    written: dict[str, Tensor] = {}
    for name in changed:
        downs, ups = zip(
            *(_padded(part, name, rank, parts) for part, rank in zip(parts, ranks, strict=True)), strict=True
        )
        written[f"{_PREFIX}{name}.lora_A.weight"] = torch.cat(downs).contiguous()
        written[f"{_PREFIX}{name}.lora_B.weight"] = torch.cat(ups, dim=1).contiguous()
    rank = sum(ranks)
    # Scales are in the weights: alpha / r = 1.
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=changed, inference_mode=True)
    config.base_model_name_or_path = str(facts.get("base", ""))
    config.save_pretrained(str(folder))
    save_file(written, str(folder / "adapter_model.safetensors"))

    weight, bias = own_head(model.network.head, tensors)
    own = {f"own.{name}": tensor[0].clone() for name, tensor in tensors.items() if name.startswith("head.")}
    save_file(
        {"weight": weight[0].detach().clone(), "bias": bias[0].detach().clone(), **own},
        str(folder / "head.safetensors"),
    )
    pooling = "last token" if model.network.takes_last else "mean over tokens"
    described = {"format": 1, "pooling": pooling, "ranks": {"shared": ranks[0], "own": ranks[1]}, **facts}
    (folder / "beholder.json").write_text(json.dumps(described, indent=2) + "\n")
    (folder / "README.md").write_text(_README)


def read_user(folder: Path, model: BankModel) -> Tensors:
    """The tensors of a user whom `export_user` wrote, on the same global model: name -> [1, ...].

    Raises:
        BankError: the folder does not hold such an export, or one of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        shared = int(json.loads((folder / "beholder.json").read_text())["ranks"]["shared"])
        adapter, head = (
            load_file(str(folder / "adapter_model.safetensors")),
            load_file(str(folder / "head.safetensors")),
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BankError(f"{folder}: no exported user ({type(error).__name__}). Export it again.") from error
    tensors: Tensors = {}
    for name, shape in model.shapes.items():
        module, _, last = name.rpartition(".")
        if last == "down":
            found = adapter.get(f"{_PREFIX}{module}.lora_A.weight", torch.empty(0, 0))[shared:]
        elif last == "up":
            found = adapter.get(f"{_PREFIX}{module}.lora_B.weight", torch.empty(0, 0))[:, shared:] / model.scale
        else:
            found = head.get(f"own.{name}", torch.empty(0))
        if tuple(found.shape) != shape:
            raise BankError(
                f"{folder}: {name} has shape {tuple(found.shape)}, not {shape}: exported from another bank."
            )
        tensors[name] = found[None]
    return tensors


def _shared_lora(model: BankModel) -> _Lora:
    """The global model's own LoRA, where it was trained with one."""
    found: _Lora = {}
    for name, module in model.network.model.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:  # type: ignore[operator]
            layer: Any = module
            down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            found[name.removeprefix(_PREFIX)] = (down.detach(), layer.scaling["default"] * up.detach())
    return found


def _own_lora(model: BankModel, tensors: Tensors) -> _Lora:
    modules = [name.removesuffix(".down") for name in model.shapes if name.endswith(".down")]
    return {name: (tensors[f"{name}.down"][0], model.scale * tensors[f"{name}.up"][0]) for name in modules}


def _padded(part: _Lora, name: str, rank: int, parts: list[_Lora]) -> tuple[Tensor, Tensor]:
    """A part's (down [rank, in], up [out, rank]) for a module, with zeros where it has none."""
    if name in part:
        down, up = part[name]
        return down.float(), up.float()
    down, up = next(other[name] for other in parts if name in other)
    return torch.zeros(rank, down.shape[1]), torch.zeros(up.shape[0], rank)


_README = """# One reader's model

An ordinary PEFT adapter on an ordinary base, and a head. `beholder.json` names the base, labels, thresholds and
pooling. What it has learned of this reader is personal data: keep it as such.

```python
import json
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

about = json.load(open("beholder.json"))
base = AutoModel.from_pretrained(BASE)  # the folder or id of about["base"]; of an encoder-decoder: .get_encoder()
model = PeftModel.from_pretrained(base, ".").eval()
head = load_file("head.safetensors")
inputs = AutoTokenizer.from_pretrained(BASE)(TEXT, return_tensors="pt", truncation=True, max_length=about["max_tokens"])
with torch.no_grad():
    hidden = model(**inputs).last_hidden_state[0]  # [tokens, width]
features = hidden[-1] if about["pooling"] == "last token" else hidden.mean(dim=0)
logits = head["weight"] @ features + head["bias"]  # [labels]
scores = torch.softmax(logits, 0) if about["kind"] == "multiclass" else torch.sigmoid(logits)
print(dict(zip(about["labels"], scores.tolist())))
```

TEXT is what the reader sees, put into `about["prompt"]` where that is more than `{text}`.
"""
