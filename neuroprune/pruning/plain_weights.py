"""Check that weights are plain parameters, because changes to other weights would be silently undone or lost.

A weight computed before each forward pass (pruning masks, parametrizations, norms) returns to its old values and shape.
A quantized, sharded or adapted weight is not the matrix used in the forward pass.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from neuroprune.errors import UserError

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

ADAPTERS = "merge the adapters first (merge_and_unload()), prune, and attach new ones"
QUANTIZED = "load the model without quantization, prune it, and quantize the result"
SHARDED = "load the whole model on one device, without FSDP or tensor parallelism"


def check_plain(module: nn.Module, name: str) -> None:
    """Reject a linear layer whose weight is not a plain, dense, floating-point parameter.

    Args:
        module: The layer.
        name: Its path in the model, for the error message.

    Raises:
        UserError: If the weight or bias is computed from other tensors, quantized, sharded or adapted; the message
            explains the remedy.
    """
    found = _computed(module, name) or _unknown(module) or _stored(module)
    if found is not None:
        what, remedy = found
        raise UserError(f"{name}: {what}, so pruning would be undone or lost; {remedy}.")


def check_no_adapters(model: nn.Module) -> None:
    """Reject a model with PEFT adapters, because only the adapters would be saved and not the cut model.

    Args:
        model: A PEFT model, or a model with adapters added by transformers.

    Raises:
        UserError: If it has adapters; the message explains how to get the same model without adapters.
    """
    if not hasattr(model, "peft_config") and not any(hasattr(module, "base_layer") for module in model.modules()):
        return
    kind = next(kind for method, kind in _WITHOUT if method is None or hasattr(model, method))
    raise UserError(
        f"{type(model).__name__} has adapters, which would be saved without the pruned model. Use {kind}; call "
        "requires_grad_(True) on it, as adapters freeze the model; prune it, and attach new adapters after that."
    )


_WITHOUT = (
    ("merge_and_unload", "what model.merge_and_unload() returns"),
    ("get_base_model", "model.get_base_model()"),
    (
        None,
        "the original model, without adapters or with merged ones (model.save_pretrained('adapter'), then "
        "peft.PeftModel.from_pretrained(original, 'adapter').merge_and_unload())",
    ),
)
"""Method of a model with adapters -> expression that returns the model without them."""


def _computed(module: nn.Module, name: str) -> tuple[str, str] | None:
    """Describe how the weight or bias is computed before each forward pass, and how to make it permanent."""
    layer = f'model.get_submodule("{name}")'
    for tensor in ("weight", "bias"):
        if parametrize.is_parametrized(module, tensor):
            used = type(module.parametrizations[tensor][0]).__name__  # type: ignore[index]
            remedy = f'torch.nn.utils.parametrize.remove_parametrizations({layer}, "{tensor}")'
            return f"its {tensor} is parametrized ({used})", f"call {remedy} first"
        for suffixes, what, function in _REPARAMETRIZED:
            if all(hasattr(module, f"{tensor}_{suffix}") for suffix in suffixes):
                remedy = f'call torch.nn.utils.{function}({layer}, "{tensor}") first'
                return f"its {tensor} is computed by {what}", remedy
    return None


_REPARAMETRIZED = (
    (("orig", "mask"), "torch.nn.utils.prune", "prune.remove"),
    (("g", "v"), "weight_norm", "remove_weight_norm"),
    (("orig", "u"), "spectral_norm", "remove_spectral_norm"),
)


def _unknown(module: nn.Module) -> tuple[str, str] | None:
    """Describe a layer that is not a linear map or has parameters other than weight and bias."""
    extra = sorted(set(module._parameters) - {"weight", "bias"})
    if hasattr(module, "base_layer") or any("lora" in other.lower() for other in extra):
        return f"it has adapters ({type(module).__name__})", ADAPTERS
    if not isinstance(module, nn.Linear | Conv1D):
        quantized = "quant" in f"{type(module).__module__}.{type(module).__name__}".lower()
        what = f"it is a {type(module).__name__}, not a linear layer"
        return what, QUANTIZED if quantized else "put an nn.Linear with the same weights in its place"
    if extra:
        return (
            f"it has parameters besides its weight ({', '.join(extra)})",
            f"remove them or, if quantized, {QUANTIZED}",
        )
    return None


def _stored(module: nn.Module) -> tuple[str, str] | None:
    """Describe a weight or bias that is sharded, not a parameter, or quantized."""
    for name, tensor in (("weight", module.weight), ("bias", module.bias)):
        if name == "bias" and tensor is None:
            continue
        kind = type(getattr(tensor, "data", tensor)).__name__
        if kind == "DTensor" or (name == "weight" and getattr(tensor, "ndim", 2) != 2):
            return f"its {name} is sharded", SHARDED
        if not isinstance(tensor, nn.Parameter):
            remedy = "make it one (nn.Parameter(…)); load a sharded model as a whole on one device"
            return f"its {name} is a {kind}, not a parameter", remedy
        if kind != "Tensor" or tensor.dtype not in DTYPES:
            return f"its {name} is quantized ({kind}, {str(tensor.dtype).removeprefix('torch.')})", QUANTIZED
    return None
