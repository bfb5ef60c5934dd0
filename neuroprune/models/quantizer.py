"""How transformers learns to load cut models: importing this module is all it takes; `import neuroprune` sees to it.

transformers builds a model at the sizes of its configuration, asks the quantizer that the configuration names to shape
it, and fills it with the stored weights. Here that quantizer removes what the record of a cut model lacks (see
`kept.py`); it quantizes nothing, and the loaded model is a plain model that can be trained, cast and saved. Pipelines,
the Trainer and every `from_pretrained` of transformers go this way. Where this module was not imported, they refuse the
weights because of their sizes.

transformers is still being imported when this module is (see `hook.py`), so its models are not imported here.
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

from neuroprune.pruning.blocks import Blocks, find_blocks
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
    """The record of a cut model, as transformers passes it on.

    Args:
        heads: Attention -> `of` (heads of the dense model) and `kept` (bit mask of those that are left).
        neurons: MLP -> likewise.
        quant_method: `kept_units.METHOD`, or `neuroprune` alone.
        hidden: The same for the hidden dimension, and `others` (see `kept.py`); None if it is whole.
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
    """A model, or one of the models that a composed one consists of, that was cut before its weights are loaded.

    Args:
        model: The part, whose configuration has the record.
        record: The record.
        blocks: Its blocks, with projections as they are before another quantizer replaces them.
        kept: What it has.
    """

    model: PreTrainedModel
    record: dict[str, Any]
    blocks: Blocks
    kept: Kept


def cut_parts(model: PreTrainedModel) -> list[CutPart]:
    """Cut an empty dense model as the records in its configuration and in those of its parts say.

    Args:
        model: A model without weights; changed in place.

    Returns:
        What was cut.
    """
    return [_cut(part) for part in _with_records(model)]


def _with_records(module: Any) -> list[PreTrainedModel]:
    """Return the outermost models at or below a module whose configurations hold records."""
    if isinstance(module, transformers.PreTrainedModel) and has_record(module.config):
        return [module]
    return [part for child in module.children() for part in _with_records(child)]


def _cut(model: PreTrainedModel) -> CutPart:
    """Cut one model as its record says."""
    found = model.config.quantization_config
    record = found if isinstance(found, dict) else found.to_dict()
    for module in model.modules():  # the model is dense until it is cut
        getattr(module, "config", model.config).__dict__.pop("quantization_config", None)
    cut_to_record(model, record)
    with torch.device("cpu"):
        return CutPart(model, record, find_blocks(model, unused=True), kept_units(model, unused=True))


@register_quantizer(RECORD)
@register_quantizer(METHOD)
class KeptUnits(HfQuantizer):
    """Cuts an empty dense model to what the records say; steps aside once the weights are loaded."""

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        """Cut the model, which has no weights yet."""
        self._parts = cut_parts(model)
        self._shapes = {name: weight.shape for name, weight in model.named_parameters()}
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        """Make the model a plain one, with the records in the configurations that they came from."""
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
        """Say that the model can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Say that the model can be trained."""
        return True


def cut_to_record(model: PreTrainedModel, record: Mapping[str, Any], optimizer: Any = None) -> None:
    """Remove from a dense model what the record of a cut model lacks.

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
    """Return whether a configuration itself, without its sub-configurations, holds the record of a cut model."""
    found = getattr(config, "quantization_config", None)
    method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
    return names_record(method)


def choose_quantizer(choose: Callable[..., Any]) -> Callable[..., Any]:
    """Extend transformers' choice of a quantizer to what it does not know: two at once, and records of parts.

    Args:
        choose: `transformers.quantizers.auto.get_hf_quantizer`.

    Returns:
        A function to be put in its place. Where a cut model is to be quantized by another method, that method's
        quantizer gets the cut model. Where only parts of a composed model were cut, all parts are cut as recorded.
    """

    @wraps(choose)
    def chosen(config: Any, quantization_config: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Choose a quantizer as transformers does, while the records of cut models are set aside."""
        owners = [config, *(value for value in vars(config).values() if isinstance(value, PreTrainedConfig))]
        records = {id(owner): (owner, owner.quantization_config) for owner in owners if has_record(owner)}
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
    """Let a quantizer begin with a cut model; the result can't be saved, as one record has no room for both."""
    preprocess, postprocess, parts = quantizer.preprocess_model, quantizer.postprocess_model, []

    def cut_first(model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        """Cut the model as its records say, then preprocess it."""
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

    never = lambda *_, **__: False  # noqa: E731
    vars(quantizer).update(preprocess_model=cut_first, postprocess_model=settle_last, is_serializable=never)
    return quantizer


def _install() -> None:
    """Put the extended choice into every module of transformers that has looked the function up, or will."""
    chosen = choose_quantizer(auto.get_hf_quantizer)
    for name in ("transformers.quantizers.auto", "transformers.modeling_utils"):
        if name in sys.modules:
            vars(sys.modules[name])["get_hf_quantizer"] = chosen


_install()


def _check_shapes(model: PreTrainedModel, shapes: dict[str, torch.Size]) -> None:
    """See to weights whose stored shape is not the model's: transformers 5.17 to 5.20 let them pass at a quantizer.

    Later ones leave nothing to do here: they refuse such weights or, where they are asked to, draw them again.

    Args:
        model: The model with its weights; those of a head, made for other classes, are drawn again.
        shapes: Of all parameters before they were loaded.

    Raises:
        ValueError: Weights below the head have another shape.
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
