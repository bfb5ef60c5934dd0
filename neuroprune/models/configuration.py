"""Configurations of transformers with values from a study."""

from __future__ import annotations

from typing import Any

from neuroprune.config.settings import ModelSettings
from neuroprune.errors import UserError, did_you_mean
from neuroprune.files.packages import cause


def with_values(config: Any, model: ModelSettings) -> Any:
    """Set a configuration's values and number of layers from the settings.

    Args:
        config: A configuration of transformers; it may be changed.
        model: The model's settings.

    Returns:
        The configuration for building or loading the model.

    Raises:
        UserError: If a value does not exist or there are fewer layers.
    """
    known = sorted({*config.to_dict(), *config.attribute_map})
    for key in model.config:
        if key not in known:
            raise UserError(
                f"model {model.name}: {config.model_type} has no config value {key!r}{did_you_mean(key, known)}"
            )
    try:
        config = type(config).from_dict({**config.to_dict(), **_derived(config, model), **model.config})
    except Exception as error:  # transformers raises its own exceptions for values of a wrong type
        raise UserError(f"model {model.name}: {cause(error)}") from error
    if model.layers is not None:
        if model.layers > config.num_hidden_layers:
            raise UserError(
                f"model {model.name}: layers is {model.layers}, but there are only {config.num_hidden_layers}"
            )
        config.num_hidden_layers = model.layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[: model.layers]
        for name in ("num_decoder_layers", "decoder_layers"):  # configurations of T5 and BART
            if hasattr(config, name):
                setattr(config, name, min(model.layers, getattr(config, name)))
    return config


def _derived(config: Any, model: ModelSettings) -> dict[str, Any]:
    """Return the configuration values of a random model that must be derived from the given ones.

    These are the kind of each layer and the width of a pooler. If the default number of key/value heads does not fit
    the given number of query heads, they also include the key/value heads and the size of heads.
    """
    if not model.source.startswith("random:"):
        return {}
    given = {
        key: value for key, value in model.config.items() if key in config.to_dict() or key in config.attribute_map
    }
    new, names = type(config)(**given).to_dict(), ["layer_types", "pooler_hidden_size"]
    groups = getattr(config, "num_key_value_heads", None)
    if groups and "num_key_value_heads" not in given and new["num_attention_heads"] % groups:
        names += ["num_key_value_heads", "head_dim"]
    return {name: new[name] for name in names if name in new}


def set_classes(config: Any, labels: tuple[str, ...]) -> None:
    """Set the outputs in a model's configuration: class names or a single number; nothing if the target is text."""
    if not labels:
        return
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = "single_label_classification" if len(labels) > 1 else "regression"
