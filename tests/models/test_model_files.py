"""`prepare-model` rejects damaged model files with a message that includes the file, and writes nothing."""

import json
import shutil

import pytest
from transformers import BertConfig, BertModel

from neuroprune.cli import main
from neuroprune.models.sources import train_tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 5\n"
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"

# what is wrong: file, its new content as a function of the old, a part of the sentence
BAD = {
    "cut by a few bytes": (WEIGHTS, lambda data: data[:-4], "truncated or damaged"),
    "cut by half": (WEIGHTS, lambda data: data[: len(data) // 2], "truncated or damaged"),
    "empty weights": (WEIGHTS, lambda _: b"", "truncated or damaged"),
    "zeros": (WEIGHTS, lambda data: bytes(len(data)), "truncated or damaged"),
    "too long": (WEIGHTS, lambda data: data + b"more", "truncated or damaged"),
    "a huge header": (WEIGHTS, lambda _: (2**60).to_bytes(8, "little"), "truncated or damaged"),
    "a page": (WEIGHTS, lambda _: b"<html>log in</html>", "truncated or damaged"),
    "a pointer": (WEIGHTS, lambda _: POINTER.encode(), "git lfs pull"),
    "no weights": (WEIGHTS, None, "no weights as safetensors"),
    "an index of nothing": (f"{WEIGHTS}.index.json", lambda _: b'{"weight_map": 5}', "index of weights"),
    "an index that is cut": (f"{WEIGHTS}.index.json", lambda _: b'{"weight_map"', "index of weights"),
    "no configuration": (CONFIG, None, "config.json"),
    "an empty configuration": (CONFIG, lambda _: b"", "config.json"),
    "a cut configuration": (CONFIG, lambda data: data[:-9], "config.json"),
    "a list": (CONFIG, lambda _: b"[1]", "config.json"),
    "no type": (CONFIG, lambda _: b"{}", "model_type"),
    "an unknown type": (CONFIG, lambda _: b'{"model_type": "foo"}', "`foo`"),
    "a type without a row": (CONFIG, lambda _: b'{"model_type": "albert"}', "'albert' is not supported"),
    "a width in words": (CONFIG, lambda data: data.replace(b'"hidden_size": 32', b'"hidden_size": "x"'), "hidden_size"),
    "latin-1": (CONFIG, lambda _: '{"model_type": "ü"}'.encode("latin-1"), "config.json"),
    "a cut tokenizer": (TOKENIZER, lambda data: data[:-9], "model can't be loaded: "),
    "an empty tokenizer": (TOKENIZER, lambda _: b"", "model can't be loaded: "),
    "no tokenizer": (TOKENIZER, None, "model has no tokenizer; save it with the model: save_pretrained("),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "model"
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=60, **sizes)).save_pretrained(folder)
    train_tokenizer(["good film", "bad story"], 60).save_pretrained(folder)
    return folder


def prepare(folder, **changes):
    """Prepare a model; return the exit code."""
    settings = {"name": "m", "source": str(folder)} | changes
    return main(["prepare-model", "--settings", json.dumps(settings), "--output", str(folder.parent / "m.json")])


def test_a_whole_model_is_prepared(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "model")
    assert prepare(folder) == 0 and (tmp_path / "m.json").exists()


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_file_is_named(whole, tmp_path, capsys, name):
    folder = shutil.copytree(whole, tmp_path / "model")
    file, damage, part = BAD[name]
    path = folder / file
    if damage is None:
        path.unlink()
        (folder / "tokenizer_config.json").unlink()
    else:
        path.write_bytes(damage(path.read_bytes() if path.exists() else b""))
    assert prepare(folder) == 1
    sentence = capsys.readouterr().err
    assert part in sentence and sentence.count("\n") == 1, sentence
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("gpt2", {"reorder_and_upcast_attn": 5}),
        ("bart", {"scale_embedding": "x"}),
        ("bert", {"hiden_size": 3}),
        ("bert", {"type_vocab_size": "x"}),
        ("llama", {"head_dim": 7, "num_attention_heads": 4, "hidden_size": 32}),
    ],
)
def test_values_that_a_random_model_cannot_have_are_named(tmp_path, capsys, kind, values):
    assert prepare(tmp_path / "none", source=f"random:{kind}", config=values) == 1
    assert next(iter(values)) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("t5", {"relative_attention_num_buckets": 1}),
        ("t5", {"relative_attention_max_distance": 0}),
        ("bert", {"chunk_size_feed_forward": 3}),
        ("llama", {"rope_parameters": {"rope_type": "odd"}}),
        ("gemma2", {"query_pre_attn_scalar": 0}),
        ("deberta-v2", {"hidden_size": 16, "num_attention_heads": 2, "pooler_hidden_size": 3}),  # of the head alone
    ],
)
def test_a_random_model_that_cannot_read_a_token_is_refused(tmp_path, capsys, kind, values):
    assert prepare(tmp_path / "none", source=f"random:{kind}", config=values) == 1
    sentence = capsys.readouterr().err
    assert sentence.startswith("model m: its config does not give a working model: ") and sentence.count("\n") == 1


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("llama", SMALL),
        ("mistral", SMALL | {"num_key_value_heads": 2}),
        ("qwen2", SMALL | {"num_key_value_heads": 2}),
        ("gemma2", SMALL | {"num_key_value_heads": 2}),
        ("modernbert", SMALL),
        ("deberta-v2", SMALL),
        ("bart", {"d_model": 32, "encoder_attention_heads": 4, "decoder_attention_heads": 4}),
        ("opt", SMALL),
    ],
)
def test_small_random_models_need_no_more_than_their_sizes(tmp_path, kind, values):
    assert prepare(tmp_path / "none", source=f"random:{kind}", config=values) == 0


@pytest.mark.parametrize("kind", ["modernbert", "gemma2"])
def test_the_lowest_layers_of_a_model_with_layers_of_several_kinds_are_kept(tmp_path, kind):
    assert prepare(tmp_path / "none", source=f"random:{kind}", config={}, layers=3) == 0
