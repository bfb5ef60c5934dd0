"""The files of a model's folder may name nothing but safetensors files in the same folder."""

import json

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from neuroprune.config.settings import ModelSettings
from neuroprune.errors import UserError
from neuroprune.models import pretrained, sources

INDEX = "model.safetensors.index.json"
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


@pytest.fixture
def sharded(tmp_path):
    """A model in several files, along with a pickle of one of its weights."""
    folder = tmp_path / "model"
    model = BertForSequenceClassification(BertConfig(vocab_size=64, **SIZES))
    model.save_pretrained(folder, max_shard_size="40KB")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(59))]))
    torch.save({"classifier.bias": torch.ones(2)}, tmp_path / "outside.bin")
    torch.save({"classifier.bias": torch.ones(2)}, folder / "inside.bin")
    return folder


def rename(folder, name):
    """Make the index list another file for the classifier's bias."""
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["classifier.bias"] = name
    (folder / INDEX).write_text(json.dumps(index))


def prepare(folder):
    return sources.prepare(ModelSettings(name="m", source=str(folder)))


def test_weights_in_several_files_are_read(sharded):
    assert len(list(sharded.glob("*.safetensors"))) > 2
    pretrained.from_pretrained(sharded)
    assert len(prepare(sharded)["sha256"]) == 64


@pytest.mark.parametrize("name", ["../outside.bin", "inside.bin", "../outside.safetensors", "/tmp/x.safetensors", 3])
def test_an_index_that_names_other_files_is_refused(name, sharded):
    rename(sharded, name)
    for read in (pretrained.from_pretrained, prepare):
        with pytest.raises(UserError, match=f"{INDEX} lists '{name}'; only"):
            read(sharded)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": ["b"]}}'])
def test_an_index_that_cannot_be_read_is_one_sentence(text, sharded):
    (sharded / INDEX).write_text(text)
    with pytest.raises(UserError, match=f"{INDEX} cannot be read as an index of weights"):
        pretrained.from_pretrained(sharded)


@pytest.mark.parametrize(
    ("file", "entry", "part"),
    [
        ("config.json", {"_attn_implementation": "someone/kernel"}, "code of the hub, which is never run"),
        ("config.json", {"attn_implementation": {"text_config": "someone/kernel"}}, "code of the hub"),
        ("config.json", {"text_config": {"_attn_implementation": "someone/kernel:f"}}, "code of the hub"),
        ("config.json", {"transformers_weights": "../outside.safetensors"}, "in the same folder"),
        ("config.json", {"transformers_weights": "inside.bin"}, "in the same folder"),
        ("adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "/elsewhere"}, "an adapter"),
    ],
)
def test_a_configuration_that_names_code_or_files_elsewhere_is_refused(file, entry, part, sharded):
    path = sharded / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | entry))
    for read in (pretrained.from_pretrained, prepare):
        with pytest.raises(UserError, match=f"{file}: .*{part}"):
            read(sharded)


def test_a_package_that_is_missing_is_named_in_a_sentence(sharded, monkeypatch):
    def refuse(*_, **__):
        raise ImportError("bitsandbytes is required")

    monkeypatch.setattr(BertForSequenceClassification, "from_pretrained", refuse)
    with pytest.raises(UserError, match="bitsandbytes is required"):
        pretrained.from_pretrained(sharded)
