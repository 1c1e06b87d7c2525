"""How a base's weights are held: a suffix of its name, `NAME@bf16` or `NAME@nf4`; without one, in float32.

What is trained (adapters, heads, users' vectors) and the losses are float32 in every form.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

from beholder.util.errors import BaseModelError, unknown

Form = Literal["float32", "bf16", "nf4"]
FORMS: dict[str, str] = {
    "bf16": "bfloat16 weights: half the memory",
    "nf4": "4-bit weights (NF4, double quantisation) computed with in bfloat16: an eighth; on a GPU, with bitsandbytes",
}
ROUNDING: dict[Form, float] = {"float32": 1e-4, "bf16": 0.1, "nf4": 0.1}
"""How far apart the scores of one model may be whose rows were read in other batches: calibration of a base that knows
little stretches what bfloat16 rounds away."""


def split_form(name: str) -> tuple[str, Form]:
    """A base's name without its form, and the form.

    Raises:
        BaseModelError: what stands after `@` is no form.
    """
    bare, at, form = name.rpartition("@")
    if not at or "/" in form:  # a folder's name may hold an @
        return name, "float32"
    if form not in FORMS:
        raise BaseModelError(f"base {name!r}: {unknown('form', form, FORMS)} Without one, weights are float32.")
    return bare, form  # type: ignore[return-value]


def require_form(name: str) -> None:
    """Check that this machine can hold a base in the form in its name.

    Raises:
        BaseModelError: it cannot; names what is missing and the alternatives.
    """
    bare, form = split_form(name)
    if form != "nf4":
        return
    import torch

    if not torch.cuda.is_available():
        raise BaseModelError(
            f"base {name!r}: 4-bit weights need a GPU, and there is none here. Use {bare}@bf16, or run where one is."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BaseModelError(
            f"base {name!r}: 4-bit weights need bitsandbytes, which is not installed. "
            f"Run: pip install 'beholder[gpu]', or use {bare}@bf16."
        )


def computes_bfloat16() -> bool:
    """Whether this machine has bfloat16 arithmetic. A CPU without it emulates it, a hundred times slower (measured)."""
    import torch

    return torch.cuda.is_available() or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def advice(name: str) -> str | None:
    """What to know, in a line, before working with a base in its form on this machine."""
    bare, form = split_form(name)
    if form != "bf16" or computes_bfloat16():
        return None
    return f"base {name!r}: this CPU has no bfloat16 arithmetic and emulates it, about 100 times slower. Use {bare}."


def loading_options(form: Form) -> dict[str, Any]:
    """Arguments of transformers' `from_pretrained`. 4-bit weights go to the GPU at once, others to the CPU."""
    if form == "float32":
        return {"dtype": "float32"}
    if form == "bf16":
        return {"dtype": "bfloat16"}
    import torch
    from transformers import BitsAndBytesConfig

    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"dtype": "bfloat16", "quantization_config": quantisation}


def device_for(name: str, device: str) -> str:
    """Where a base for `device` computes: 4-bit weights stay on the GPU."""
    import torch

    on_gpu = split_form(name)[1] == "nf4" and device == "cpu" and torch.cuda.is_available()
    return "cuda" if on_gpu else device
