"""Cut models load under another quantizer, and as parts of composed models."""

import json

import pytest
import torch
import transformers
from torch import nn
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.utils.quantization_config import QuantizationConfigMixin

from helpers.models import WIDTH, logits, make_batch, make_model
from neuroprune.errors import UserError
from neuroprune.models import pretrained, quantizer
from neuroprune.pruning.kept_units import kept_units
from neuroprune.pruning.surgery import remove

CLASSES = {
    "bert": transformers.AutoModelForSequenceClassification,
    "t5": transformers.AutoModelForSeq2SeqLM,
    "llama": transformers.AutoModelForCausalLM,
}


class EighthsConfig(QuantizationConfigMixin):
    """Round weights to multiples of 1/8."""

    def __init__(self, **_):
        self.quant_method = "eighths"


class Eighths(HfQuantizer):
    """A quantizer with transformers' interface that requires unquantized weights."""

    def _process_model_before_weight_loading(self, model, **_):
        assert not self.pre_quantized
        self.left_out = self.get_modules_to_not_convert(model, [])
        self.shapes = [module.weight.shape for module in model.modules() if isinstance(module, nn.Linear)]

    def _process_model_after_weight_loading(self, model, **_):
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.Linear):
                    module.weight.copy_((module.weight * 8).round() / 8)

    def is_serializable(self):
        return True

    is_trainable = False


@pytest.fixture
def eighths(monkeypatch):
    for mapping in (AUTO_QUANTIZER_MAPPING, AUTO_QUANTIZATION_CONFIG_MAPPING):
        monkeypatch.setitem(mapping, "eighths", None)
        del mapping["eighths"]
    register_quantization_config("eighths")(EighthsConfig)
    register_quantizer("eighths")(Eighths)
    return EighthsConfig()


def saved(name, folder):
    model = make_model(name)
    remove(model, {0: [0, 1]}, {1: [0, 5]})
    pretrained.save_pretrained(model, folder)
    return model


@pytest.mark.parametrize("name", CLASSES)
def test_another_quantizer_gets_the_cut_model(name, eighths, tmp_path):
    model, batch = saved(name, tmp_path), make_batch(name)
    found = CLASSES[name].from_pretrained(tmp_path, quantization_config=eighths)
    assert {tuple(shape) for shape in found.hf_quantizer.shapes} == {
        tuple(module.weight.shape) for module in model.modules() if isinstance(module, nn.Linear)
    }
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.copy_((module.weight * 8).round() / 8)
    torch.testing.assert_close(logits(found, batch), logits(model, batch))


def test_layers_without_units_are_not_quantized(eighths, tmp_path):
    """torchao and quanto fail on matrices of size zero."""
    model = make_model("bert")
    remove(model, {0: range(4)}, {1: range(WIDTH)})
    pretrained.save_pretrained(model, tmp_path)
    found = CLASSES["bert"].from_pretrained(tmp_path, quantization_config=eighths)
    below = ("0.attention.self.query", "0.attention.self.key", "0.attention.self.value", "0.attention.output.dense")
    below = (*below, "1.intermediate.dense", "1.output.dense")
    assert set(found.hf_quantizer.left_out) == {f"bert.encoder.layer.{name}" for name in below}


def test_the_quantized_model_is_not_saved_without_the_record_of_what_was_removed(eighths, tmp_path):
    saved("bert", tmp_path)
    found = CLASSES["bert"].from_pretrained(tmp_path, quantization_config=eighths)
    with pytest.raises(ValueError, match="quantized with eighths and is not serializable"):
        found.save_pretrained(tmp_path / "again")
    with pytest.raises(UserError, match=r"quantized \(eighths\)"):
        remove(found, {0: [0]})


def test_other_quantizers_treat_dense_models_as_before(eighths, tmp_path):
    make_model("bert").save_pretrained(tmp_path)
    found = CLASSES["bert"].from_pretrained(tmp_path, quantization_config=eighths)
    found.save_pretrained(tmp_path / "again")
    assert isinstance(found.config.quantization_config, EighthsConfig)


# ---- composed models


def part(folder, name="bert", heads=(0,), neurons=()):
    """Save a model without a head, cut unless there is nothing to remove."""
    model = make_model(name)
    base = getattr(model, model.base_model_prefix)
    if heads or neurons:
        remove(base, {0: heads}, {1: neurons})
    pretrained.save_pretrained(base, folder)
    return str(folder)


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [
        ({}, {}),
        ({"heads": (0, 2)}, {"heads": (), "neurons": (1, 2, 3)}),
        ({"heads": (1,), "neurons": (4,)}, {"heads": ()}),  # only the encoder is cut
        ({"heads": ()}, {"heads": (3,)}),  # only the decoder is cut
        ({"name": "roberta"}, {"name": "gpt2", "heads": (1,), "neurons": (0,)}),
    ],
)
def test_composed_models_of_cut_models_reload(encoder, decoder, tmp_path):
    parts = part(tmp_path / "encoder", **encoder), part(tmp_path / "decoder", **decoder)
    model = transformers.EncoderDecoderModel.from_encoder_decoder_pretrained(*parts)
    model.save_pretrained(tmp_path / "both")
    again = transformers.EncoderDecoderModel.from_pretrained(tmp_path / "both")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        one, other = (m.eval()(input_ids=ids, decoder_input_ids=ids).logits for m in (model, again))
    assert torch.equal(one, other)
    assert kept_units(again.encoder).heads == kept_units(model.encoder).heads
    assert kept_units(again.decoder).heads == kept_units(model.decoder).heads
    assert getattr(again.config, "quantization_config", None) is None
    again.save_pretrained(tmp_path / "again")
    transformers.EncoderDecoderModel.from_pretrained(tmp_path / "again")


def test_parts_of_a_composed_model_can_be_cut_further_and_loaded_strictly(tmp_path):
    parts = part(tmp_path / "encoder"), part(tmp_path / "decoder")
    model = transformers.EncoderDecoderModel.from_encoder_decoder_pretrained(*parts)
    remove(model.encoder, {1: [0, 1]})
    remove(model.decoder, neurons={0: range(10)})
    pretrained.save_pretrained(model, tmp_path / "both")
    again = pretrained.from_pretrained(tmp_path / "both")
    assert kept_units(again.encoder).heads == [[1, 2, 3], [2, 3]]
    assert len(kept_units(again.decoder).neurons[0]) == 14
    assert {type(module.config) for module in again.modules() if hasattr(module, "config")} >= {
        transformers.EncoderDecoderConfig,
        transformers.BertConfig,
    }


def test_a_composed_model_is_told_to_prune_its_parts(tmp_path):
    parts = part(tmp_path / "encoder"), part(tmp_path / "decoder")
    model = transformers.EncoderDecoderModel.from_encoder_decoder_pretrained(*parts)
    with pytest.raises(UserError, match=r"composed of .*model\.encoder \(bert\).*model\.decoder \(bert\)"):
        remove(model, {0: [0]})


def test_sizes_in_per_layer_config_are_left_to_the_record(tmp_path):
    """transformers 5.24 does not build such layers; a version that does would leave them to be cut twice."""
    model, batch = make_model("llama"), make_batch("llama")
    remove(model, {0: [0, 1]}, {1: range(5)})
    pretrained.save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "per_layer_config" not in config  # only written by `neuroprune export --format per-layer`
    sizes = {"0": {"num_key_value_heads": 3}, "1": {"intermediate_size": 19}}
    (tmp_path / "config.json").write_text(json.dumps(config | {"per_layer_config": sizes}))
    for again in (pretrained.from_pretrained(tmp_path), transformers.AutoModelForCausalLM.from_pretrained(tmp_path)):
        assert torch.equal(logits(again, batch), logits(model, batch))
        assert kept_units(again).heads == kept_units(model).heads
        assert "per_layer_config" not in again.config.to_dict()


def test_other_values_in_per_layer_config_stay():
    config = make_model("llama").config
    config.allow_global_per_layer_attribute_access = True
    config.per_layer_config = {0: {"intermediate_size": 19, "attention_dropout": 0.25}, 1: {"num_key_value_heads": 3}}
    quantizer.leave_shapes_to_the_record(config)
    assert config.to_dict()["per_layer_config"] == {"0": {"attention_dropout": 0.25}}
    assert config.allow_global_per_layer_attribute_access
