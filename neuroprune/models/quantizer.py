"""How transformers learns to load cut models: importing this module is all it takes; `import neuroprune` sees to it.

transformers builds a model at the sizes of its configuration, asks the quantizer that the configuration names to shape
it, and fills it with the stored weights. Here that quantizer removes what the record of a cut model lacks (see
`kept.py`); it quantizes nothing, and the loaded model is a plain model that can be trained, cast and saved. Pipelines,
the Trainer and every `from_pretrained` of transformers go this way. Where this module was not imported, they refuse the
weights because of their sizes.

transformers is still being imported when this module is (see `hook.py`), so its models are not imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.kept_units import RECORD, kept_units, unkept, unpack_positions
from neuroprune.pruning.residual_stream import remove_hidden
from neuroprune.pruning.surgery import remove, settle

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register_quantization_config(RECORD)
class KeptConfig(QuantizationConfigMixin):
    """The record of a cut model, as transformers passes it on.

    Args:
        heads: Attention -> `of` (heads of the dense model) and `kept` (bit mask of those that are left).
        neurons: MLP -> likewise.
        quant_method: Always `neuroprune`.
        hidden: The same for the hidden dimension, and `others` (see `kept.py`); None if it is whole.
    """

    def __init__(
        self,
        heads: dict[str, dict[str, Any]] | None = None,
        neurons: dict[str, dict[str, Any]] | None = None,
        quant_method: str = RECORD,
        hidden: dict[str, Any] | None = None,
    ) -> None:
        self.quant_method = quant_method  # type: ignore[assignment]
        self.heads = heads or {}
        self.neurons = neurons or {}
        if hidden:
            self.hidden = hidden


@register_quantizer(RECORD)
class KeptUnits(HfQuantizer):
    """Cuts an empty dense model to what the record says; steps aside once the weights are loaded."""

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        """Cut the model, which has no weights yet."""
        del model.config.quantization_config  # the model is dense until it is cut
        cut_to_record(model, self.quantization_config.to_dict())
        self._shapes = {name: weight.shape for name, weight in model.named_parameters()}
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        """Make the model a plain one, with the record in its configuration."""
        _check_shapes(model, self._shapes)
        model.config.quantization_config = self.quantization_config.to_dict()
        for name in ("hf_quantizer", "quantization_method", "is_quantized"):
            delattr(model, name)
        for module in model.modules():
            if hasattr(module, "config"):
                module.config.__dict__.pop("_is_quantized", None)
        settle(find_blocks(model), kept_units(model))
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
        remove(model, heads, neurons, optimizer)
        if hidden := record.get("hidden"):
            remove_hidden(model, torch.tensor(unpack_positions(hidden["kept"])), optimizer)


def _check_shapes(model: PreTrainedModel, shapes: dict[str, torch.Size]) -> None:
    """See to weights whose stored shape is not the model's: transformers 5.17 to 5.20 let them pass at a quantizer.

    Later ones leave nothing to do here: they refuse such weights or, where they are asked to, draw them anew.

    Args:
        model: The model with its weights; those of a head, made for other classes, are drawn anew.
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
