"""Quantizer class that enables transformers to load cut models once this module is imported.

transformers builds a model with the sizes of its configuration, lets the quantizer of the configuration modify it, and
loads the stored weights. Our quantizer removes the units that are missing from the record of a cut model (see
`kept_units.py`). It does not quantize anything, and the loaded model can be trained, cast and saved as usual.
Pipelines, the Trainer and every `from_pretrained` of transformers work in this way. Without this module (imported by
`import neuroprune`), they fail because the sizes of the weights differ.

transformers may still be importing when this module is loaded (see `import_hook.py`), so its models are not imported
here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers.configuration_utils import PreTrainedConfig
from transformers.quantizers import HfQuantizer, auto, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from neuroprune.pruning import per_layer_config
from neuroprune.pruning.architectures import ARCHITECTURES
from neuroprune.pruning.blocks import Blocks, find_blocks
from neuroprune.pruning.empty_blocks import EmptyConv1D, EmptyLinear
from neuroprune.pruning.kept_units import (
    METHOD,
    RECORD,
    Kept,
    configs_of,
    kept_units,
    names_record,
    unkept,
    unpack_positions,
)
from neuroprune.pruning.residual_stream import remove_hidden
from neuroprune.pruning.surgery import remove, settle

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register_quantization_config(RECORD)
@register_quantization_config(METHOD)
class KeptConfig(QuantizationConfigMixin):
    """The record of a cut model, in transformers' form of a quantization config.

    Args:
        heads: Attention -> `of` (heads of the dense model) and `kept` (bit mask of the remaining ones).
        neurons: The same for MLPs.
        quant_method: `kept_units.METHOD`, or just `neuroprune`.
        hidden: The same for the hidden dimension, and `others` (see `kept_units.py`); None if it is uncut.
    """

    def __init__(
        self,
        heads: dict[str, dict[str, Any]] | None = None,
        neurons: dict[str, dict[str, Any]] | None = None,
        quant_method: str = METHOD,
        hidden: dict[str, Any] | None = None,
    ) -> None:
        self.quant_method = quant_method  # type: ignore[assignment]
        self.heads = heads or {}
        self.neurons = neurons or {}
        if hidden:
            self.hidden = hidden


@dataclass(frozen=True)
class CutPart:
    """A model, or a part of a composed model, that was cut before its weights are loaded.

    Args:
        model: The part, whose configuration has the record.
        record: The record.
        blocks: Its blocks, with the projections before another quantizer replaces them.
        kept: Its remaining units.
    """

    model: PreTrainedModel
    record: dict[str, Any]
    blocks: Blocks
    kept: Kept


def cut_parts(model: PreTrainedModel) -> list[CutPart]:
    """Cut an empty dense model according to the records in its configuration and those of its parts.

    Args:
        model: A model without weights; changed in place.

    Returns:
        The parts that were cut.
    """
    return [_cut(part) for part in _with_records(model)]


def _with_records(module: Any) -> list[PreTrainedModel]:
    """Return the outermost models in a module whose configurations contain records."""
    if isinstance(module, transformers.PreTrainedModel) and has_record(module.config):
        return [module]
    return [part for child in module.children() for part in _with_records(child)]


def _cut(model: PreTrainedModel) -> CutPart:
    """Cut one model according to its record."""
    found = model.config.quantization_config
    record = found if isinstance(found, dict) else found.to_dict()
    for module in model.modules():  # remove the record because the model is still dense
        getattr(module, "config", model.config).__dict__.pop("quantization_config", None)
    cut_to_record(model, record)
    with torch.device("cpu"):
        return CutPart(model, record, find_blocks(model, unused=True), kept_units(model, unused=True))


@register_quantizer(RECORD)
@register_quantizer(METHOD)
class KeptUnits(HfQuantizer):
    """Quantizer that cuts an empty dense model according to its records and removes itself after loading."""

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        """Cut the model before its weights are loaded."""
        self._parts = cut_parts(model)
        self._shapes = {name: weight.shape for name, weight in model.named_parameters()}
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        """Remove the quantizer from the model and restore the records in the configurations."""
        _check_shapes(model, self._shapes)
        for name in ("hf_quantizer", "quantization_method", "is_quantized"):
            delattr(model, name)
        for module in model.modules():
            if hasattr(module, "config"):
                module.config.__dict__.pop("_is_quantized", None)
        del model.config.quantization_config
        for part in self._parts:
            for config in configs_of(part.model):
                config.quantization_config = part.record
            settle(part.blocks, part.kept)
        return model

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """Return that the model can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Return that the model can be trained."""
        return True


def cut_to_record(model: PreTrainedModel, record: Mapping[str, Any], optimizer: Any = None) -> None:
    """Remove the units from a dense model that are missing from the record of a cut model.

    Args:
        model: The model; changed in place.
        record: See `kept_units.read_record`.
        optimizer: As in `surgery.remove`.
    """
    heads, neurons = unkept(model, record)
    with torch.device("cpu"):
        remove(model, heads, neurons, optimizer, unused=True)
        if hidden := record.get("hidden"):
            remove_hidden(model, torch.tensor(unpack_positions(hidden["kept"])), optimizer)


def has_record(config: Any) -> bool:
    """Return whether a configuration, without its sub-configurations, contains the record of a cut model."""
    found = getattr(config, "quantization_config", None)
    method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
    return names_record(method)


def leave_shapes_to_the_record(config: Any) -> None:
    """Remove numbers of heads and neurons from a configuration's `per_layer_config`, in place.

    They repeat the record, by which the model is cut. transformers 5.24 can't build the model with them, and a version
    that builds each layer at its own size would leave a model that is cut twice.

    Args:
        config: A configuration with the record of a cut model.
    """
    layers = config.to_dict().get(per_layer_config.KEY)
    row = ARCHITECTURES.get(config.model_type)
    if not layers or row is None or row.config is None:
        return
    names = {*row.config.neurons, row.config.heads, row.config.key_heads}
    others = {layer: {k: v for k, v in values.items() if k not in names} for layer, values in layers.items()}
    config.per_layer_config = {layer: values for layer, values in others.items() if values} or None
    if not any(others.values()):
        vars(config).pop(per_layer_config.READABLE, None)


def choose_quantizer(choose: Callable[..., Any]) -> Callable[..., Any]:
    """Extend transformers' choice of a quantizer to quantized cut models and to records of parts.

    Args:
        choose: `transformers.quantizers.auto.get_hf_quantizer`.

    Returns:
        A replacement. If a cut model is to be quantized by another method, that method's quantizer gets the cut model.
        If only parts of a composed model were cut, all parts are cut as recorded.
    """

    @wraps(choose)
    def chosen(config: Any, quantization_config: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Choose a quantizer with transformers' function, with the records of cut models temporarily removed."""
        owners = [config, *(value for value in vars(config).values() if isinstance(value, PreTrainedConfig))]
        records = {id(owner): (owner, owner.quantization_config) for owner in owners if has_record(owner)}
        for owner, _ in records.values():
            leave_shapes_to_the_record(owner)
        other = quantization_config is not None and not isinstance(quantization_config, KeptConfig)
        if not records or (id(config) in records and not other):
            return choose(config, quantization_config, *args, **kwargs)
        for owner, _ in records.values():
            del owner.quantization_config
        quantizer, config, device_map = choose(config, quantization_config if other else None, *args, **kwargs)
        wanted = quantizer.quantization_config if quantizer is not None else None
        for owner, record in records.values():
            owner.quantization_config = record
        quantizer = KeptUnits(KeptConfig()) if quantizer is None else _after_cut(quantizer, wanted)
        return quantizer, config, device_map

    return chosen


def _after_cut(quantizer: HfQuantizer, wanted: Any) -> HfQuantizer:
    """Make a quantizer start from a cut model. The result can't be saved, because there is only one record."""
    preprocess, postprocess, parts = quantizer.preprocess_model, quantizer.postprocess_model, []
    skip = quantizer.get_modules_to_not_convert

    def cut_first(model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        """Cut the model according to its records, then preprocess it."""
        parts.extend(cut_parts(model))
        for part in parts:
            del part.model.config.quantization_config
        model.config.quantization_config = wanted
        return preprocess(model, *args, **kwargs)

    def settle_last(model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        done = postprocess(model, *args, **kwargs)
        for part in parts:
            settle(part.blocks, part.kept)
        return done

    def skip_empty(model: PreTrainedModel, *args: Any, **kwargs: Any) -> list[str]:
        """Return the names of layers that are not quantized: also those without units, which have no scales."""
        empty = [name for name, module in model.named_modules() if isinstance(module, EmptyLinear | EmptyConv1D)]
        return [*skip(model, *args, **kwargs), *empty]

    never = lambda *_, **__: False  # noqa: E731
    changed = {"preprocess_model": cut_first, "postprocess_model": settle_last, "is_serializable": never}
    vars(quantizer).update(changed, get_modules_to_not_convert=skip_empty)
    return quantizer


def _install() -> None:
    """Install the extended choice in every module of transformers that has imported or will import the function."""
    chosen = choose_quantizer(auto.get_hf_quantizer)
    for name in ("transformers.quantizers.auto", "transformers.modeling_utils"):
        if name in sys.modules:
            vars(sys.modules[name])["get_hf_quantizer"] = chosen


_install()


def _check_shapes(model: PreTrainedModel, shapes: dict[str, torch.Size]) -> None:
    """Handle weights with wrong stored shapes, which transformers 5.17 to 5.20 accept if there is a quantizer.

    Later versions reject such weights or, on request, reinitialise them, so that this function has no effect.

    Args:
        model: The model with its weights; a head for other classes is reinitialised.
        shapes: Shapes of all parameters before loading.

    Raises:
        ValueError: If weights below the head have a different shape.
    """
    other = sorted(name for name, weight in model.named_parameters() if weight.shape != shapes.get(name, weight.shape))
    is_head = model.base_model is not model
    body = [name for name in other if not is_head or name.startswith(f"{model.base_model_prefix}.")]
    if body:
        more = f" and {len(body) - 1} more" if len(body) > 1 else ""
        raise ValueError(f"what is stored has another shape for {body[0]}{more} than the configuration says")
    modules = {}
    for name in other:
        place, _, last = name.rpartition(".")
        modules[place], old = model.get_submodule(place), model.get_parameter(name)
        setattr(modules[place], last, torch.nn.Parameter(torch.empty(shapes[name], dtype=old.dtype, device=old.device)))
    for module in modules.values():
        model._init_weights(module)
