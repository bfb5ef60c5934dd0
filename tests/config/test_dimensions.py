"""The sizes assumed in planning equal those of transformers."""

import json
from dataclasses import replace

import pytest
from pydantic import ValidationError
from transformers import AutoConfig
from transformers.activations import ACT2FN

from neuroprune.config.dimensions import (
    ACTIVATIONS,
    DEFAULTS,
    OFFSET,
    Dimensions,
    bad_sizes,
    bad_stored_values,
    bad_values,
    changed_sizes,
    find_dimensions,
)
from neuroprune.config.study import ModelRow
from neuroprune.pruning.architectures import ARCHITECTURES

# Positions by rotation or as a bias, without a table.
WITHOUT_TABLE = {"llama", "gemma2", "gemma3_text", "mistral", "modernbert", "qwen2", "qwen3", "t5"}


def test_every_model_type_of_the_table_has_sizes():
    assert set(DEFAULTS) >= set(ARCHITECTURES)


@pytest.mark.parametrize("kind", sorted(DEFAULTS))
def test_defaults_are_those_of_transformers(kind):
    config, sizes = AutoConfig.for_model(kind), find_dimensions(f"random:{kind}", {})
    assert (sizes.width, sizes.heads, sizes.layers) == (
        config.hidden_size, config.num_attention_heads, config.num_hidden_layers,
    )  # fmt: skip
    assert sizes.key_value_heads in (getattr(config, "num_key_value_heads", None), None)
    if config.is_encoder_decoder:
        decoder = getattr(config, "decoder_layers", None) or config.num_decoder_layers
        heads = getattr(config, "decoder_attention_heads", config.num_attention_heads)
        assert (sizes.decoder_layers, sizes.decoder_heads) == (decoder, heads)
    assert (sizes.positions is None) == (kind in WITHOUT_TABLE)
    assert sizes.positions in (None, getattr(config, "max_position_embeddings", None))


def test_activations_are_those_of_transformers():
    assert set(ACT2FN) >= set(ACTIVATIONS)


def test_roberta_and_mpnet_start_behind_their_padding():
    assert {kind: AutoConfig.for_model(kind).pad_token_id + 1 for kind in OFFSET} == OFFSET


def test_a_configuration_replaces_defaults_and_layers_are_cut():
    sizes = find_dimensions("random:t5", {"num_layers": 4, "num_heads": 2, "d_model": 16}, layers=3)
    assert sizes == Dimensions(16, 2, 3, None, 3, 2, splits_width=False)
    assert (sizes.attentions, sizes.all_heads) == (9, 18)
    assert find_dimensions("some/where", {}) is None


@pytest.mark.parametrize("given", [{}, {"num_decoder_layers": None}])
def test_the_decoder_of_t5_has_as_many_layers_as_its_encoder_by_default(given):
    assert find_dimensions("random:t5", {"num_layers": 4} | given).decoder_layers == 4
    assert find_dimensions("random:t5", {"num_layers": 4, "num_decoder_layers": 2}).decoder_layers == 2
    assert find_dimensions("random:bert", {"num_hidden_layers": 4}).decoder_layers == 0


def test_a_folder_tells_its_sizes(tmp_path):
    stored = {"model_type": "bert", "num_attention_heads": 4, "num_hidden_layers": 3, "hidden_size": 32}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert find_dimensions(str(tmp_path), {}) == replace(DEFAULTS["bert"], width=32, heads=4, layers=3)
    (tmp_path / "config.json").write_text("[" * 100_000)
    assert find_dimensions(str(tmp_path), {}) is None


STORED = {"model_type": "bert", "num_attention_heads": 4, "num_hidden_layers": 3, "hidden_size": 32, "vocab_size": 60}


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_attention_heads", 0), ("hidden_size", "wide"), ("type_vocab_size", 0), ("intermediate_size", -1)],
)
def test_sizes_in_a_folder_that_no_model_has_are_refused_by_the_plan(tmp_path, key, value):
    (tmp_path / "config.json").write_text(json.dumps(STORED | {key: value}))
    assert list(bad_stored_values(str(tmp_path))) == [key]
    with pytest.raises(ValidationError, match=rf"config.json: {key} must be a whole number from 1"):
        ModelRow(name="m", source=str(tmp_path))


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        ({"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 60, "attention_dropout": 0.1}, []),
        ({"hidden_size": 64}, ["hidden_size"]),
        ({"num_hidden_layers": 4, "vocab_size": 61}, ["num_hidden_layers", "vocab_size"]),
        ({"num_attention_heads": 2}, ["num_attention_heads"]),
        ({"num_decoder_layers": None}, []),
    ],
)
def test_sizes_that_the_weights_of_a_folder_do_not_have_are_refused(tmp_path, values, keys):
    (tmp_path / "config.json").write_text(json.dumps(STORED | {"num_decoder_layers": 2}))
    assert list(changed_sizes(str(tmp_path), values)) == keys
    assert changed_sizes("random:bert", values) == changed_sizes("some/where", values) == {}


def test_values_and_sizes_that_models_have_are_accepted():
    values = {"n_inner": None, "classifier_dropout": None, "feed_forward_proj": "gated-gelu", "note": [1]}
    assert bad_values(values) == {}
    for kind in DEFAULTS:
        values = AutoConfig.for_model(kind).to_dict()
        values = {key: value for key, value in values.items() if key not in ("model_type", "is_encoder_decoder")}
        assert bad_values(values, kind) == {}, kind
        assert bad_sizes(find_dimensions(f"random:{kind}", values), None) == [], kind
