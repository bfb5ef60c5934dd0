"""GGUF export: shapes per layer, channel order, tokenizer, and rejected models."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, pre_tokenizers

from helpers.models import make_model
from neuroprune.cli import main
from neuroprune.errors import UserError
from neuroprune.models.export import export
from neuroprune.models.pretrained import save_pretrained
from neuroprune.models.sources import train_text_tokenizer
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.surgery import remove

gguf = pytest.importorskip("gguf")

FREE = ({0: [0, 1], 1: [2, 3, 4, 5]}, {0: range(8), 1: range(4)})
EMPTY = ({0: range(8), 1: [2, 3]}, {1: range(24)})
UNIFORM = ({0: [0, 1], 1: [2, 3]}, {0: range(8), 1: range(8, 16)})
TEXTS = ["a warm story of a long film is great", "the very dull film is not a story"] * 5


def written(folder, name="llama", cuts=FREE, **changes):
    """Cut a model, save it with a tokenizer and export it; return the model and the file's reader."""
    tokenizer = train_text_tokenizer(TEXTS, 320)
    model = make_model(name, **changes)
    model.resize_token_embeddings(len(tokenizer))
    remove(model, *cuts)
    save_pretrained(model, folder / "m", tokenizer)
    export(folder / "m", "gguf", folder / "g")
    return model, gguf.GGUFReader(folder / "g" / "model.gguf")


def value(reader, key):
    return reader.get_field(key).contents()


def test_layers_that_differ_become_deci_with_a_number_for_each(tmp_path):
    model, reader = written(tmp_path)
    blocks = find_blocks(model)
    assert value(reader, "general.architecture") == "deci"
    assert value(reader, "deci.attention.head_count") == [a.heads for a in blocks.attentions] == [6, 4]
    assert value(reader, "deci.attention.head_count_kv") == [3, 2]
    assert value(reader, "deci.feed_forward_length") == [16, 20]
    assert value(reader, "deci.attention.key_length") == value(reader, "deci.rope.dimension_count") == 4


def test_equal_layers_become_a_plain_llama(tmp_path):
    _, reader = written(tmp_path, cuts=UNIFORM)
    assert value(reader, "general.architecture") == "llama"
    assert (value(reader, "llama.attention.head_count"), value(reader, "llama.feed_forward_length")) == (6, 16)


def test_an_attention_without_heads_and_an_mlp_without_neurons_have_one_of_zeros(tmp_path):
    _, reader = written(tmp_path, cuts=EMPTY)
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    assert value(reader, "general.architecture") == "deci"
    assert value(reader, "deci.attention.head_count") == [1, 6]
    assert value(reader, "deci.attention.head_count_kv") == [1, 3]
    assert value(reader, "deci.feed_forward_length") == [24, 1]
    assert found["blk.0.attn_q.weight"].shape == (4, 16) and not found["blk.0.attn_output.weight"].any()
    assert found["blk.1.ffn_up.weight"].shape == (1, 16) and not found["blk.1.ffn_down.weight"].any()


def test_the_bias_of_an_attention_without_heads_is_kept(tmp_path):
    model, reader = written(tmp_path, cuts=EMPTY, attention_bias=True)
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    assert value(reader, "deci.attention.head_count") == [1, 6]
    assert not found["blk.0.attn_v.weight"].any() and not found["blk.0.attn_output.weight"].any()
    bias = find_blocks(model).attentions[0].o.bias.detach().numpy()
    np.testing.assert_array_equal(found["blk.0.attn_output.bias"], bias)


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2"])
def test_all_weights_are_there_and_channels_of_q_and_k_are_in_pairs(name, tmp_path):
    model, reader = written(tmp_path, name)
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    assert sum(data.size for data in found.values()) == sum(p.numel() for p in model.parameters())
    attention = find_blocks(model).attentions[1]
    q, stored = attention.q.weight.detach().numpy(), found["blk.1.attn_q.weight"]
    for head in range(attention.heads):
        for i in range(2):
            np.testing.assert_array_equal(stored[4 * head + 2 * i], q[4 * head + i])
            np.testing.assert_array_equal(stored[4 * head + 2 * i + 1], q[4 * head + 2 + i])
    np.testing.assert_array_equal(found["blk.1.attn_v.weight"], attention.v.weight.detach().numpy())


def test_the_tokenizer_is_inside(tmp_path):
    _, reader = written(tmp_path)
    tokenizer = train_text_tokenizer(TEXTS, 320)
    assert value(reader, "tokenizer.ggml.model") == "gpt2"
    assert value(reader, "tokenizer.ggml.tokens") == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert value(reader, "tokenizer.ggml.eos_token_id") == tokenizer.eos_token_id
    assert value(reader, "tokenizer.ggml.token_type")[:4] == [3, 3, 3, 1]


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def splitter(*before, by_words=False):
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=by_words)
    return pre_tokenizers.Sequence([*before, last])


def split(pattern, behavior="isolated", **options):
    return pre_tokenizers.Split(Regex(pattern), behavior, **options)


PATTERNS = {
    "GPT-2": (pre_tokenizers.ByteLevel(add_prefix_space=False), "gpt-2"),
    "GPT-2 as a regular expression": (splitter(split(GPT2)), "gpt-2"),
    "Llama 3": (splitter(split(LLAMA3)), "llama-bpe"),
    "Qwen2": (splitter(split(LLAMA3.replace("{1,3}", ""))), "qwen2"),
    "Tekken": (splitter(split(TEKKEN)), "tekken"),
    "SmolLM": (splitter(pre_tokenizers.Digits(individual_digits=True), by_words=True), "smollm"),
    "bytes without words": (splitter(), None),
    "numbers of two digits": (splitter(split(LLAMA3.replace("{1,3}", "{1,2}"))), None),
    "no regular expression": (splitter(pre_tokenizers.Split(" ", "isolated")), None),
    "another behavior": (splitter(split(LLAMA3, "removed")), None),
    "inverted": (splitter(split(LLAMA3, invert=True)), None),
    "split twice": (splitter(split(LLAMA3), by_words=True), None),
    "three steps": (splitter(split(r"\p{N}"), split(LLAMA3)), None),
    "whole numbers": (splitter(pre_tokenizers.Digits(individual_digits=False), by_words=True), None),
    "white space": (pre_tokenizers.Whitespace(), None),
    "nothing": (None, None),
}


@pytest.mark.parametrize("kind", PATTERNS)
def test_the_name_of_the_splitting_pattern_is_known_or_no_tokenizer_is_written(kind, tmp_path):
    splits, name = PATTERNS[kind]
    tokenizer, model = train_text_tokenizer(TEXTS, 320), make_model("llama")
    model.resize_token_embeddings(len(tokenizer))
    save_pretrained(model, tmp_path / "m", tokenizer)
    file = tmp_path / "m" / "tokenizer.json"
    described = json.loads(file.read_text())
    made = Tokenizer.from_str(json.dumps(described | {"pre_tokenizer": None}))
    if splits is not None:
        made.pre_tokenizer = splits
    made.save(str(file))
    sentence = export(tmp_path / "m", "gguf", tmp_path / "g")[-1]
    reader = gguf.GGUFReader(tmp_path / "g" / "model.gguf")
    if name is None:
        assert sentence.startswith("It has no tokenizer because only byte-level BPE with the splitting pattern of gpt")
        assert value(reader, "tokenizer.ggml.model") == "none"
        assert reader.get_field("tokenizer.ggml.pre") is None
    else:
        assert sentence == f"It includes the tokenizer (byte-level BPE, {name})."
        assert value(reader, "tokenizer.ggml.pre") == name


def test_several_chat_templates_are_inside_by_name(tmp_path):
    tokenizer, model = train_text_tokenizer(TEXTS, 320), make_model("llama")
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "T{{ messages }}"}
    model.resize_token_embeddings(len(tokenizer))
    save_pretrained(model, tmp_path / "m", tokenizer)
    export(tmp_path / "m", "gguf", tmp_path / "g")
    reader = gguf.GGUFReader(tmp_path / "g" / "model.gguf")
    assert value(reader, "tokenizer.chat_template") == "{{ messages }}"
    assert value(reader, "tokenizer.chat_template.tool_use") == "T{{ messages }}"


def test_a_failed_export_leaves_no_folder(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    save_pretrained(make_model("llama"), tmp_path / "m")
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", fail)
    for out in ("g", "empty"):
        with pytest.raises(UserError, match=r"can't be written .No space left on device"):
            export(tmp_path / "m", "gguf", tmp_path / out)
    assert not (tmp_path / "g").exists() and not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("opt", {}, "supported are decoders of the types llama, mistral, qwen2"),
        ("mistral", {"sliding_window": 8}, "lacks sliding windows"),
        ("llama", {"hidden_act": "gelu"}, "SiLU, not gelu"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "scaled rotary"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused(name, changes, message, tmp_path):
    save_pretrained(make_model(name, **changes), tmp_path / "m")
    with pytest.raises(UserError, match=message):
        export(tmp_path / "m", "gguf", tmp_path / "g")
    assert not (tmp_path / "g").exists()


def test_the_command_line_says_what_it_wrote(tmp_path, capsys):
    save_pretrained(make_model("llama"), tmp_path / "m")
    assert main(["export", str(tmp_path / "m"), "--format", "gguf", "--out", str(tmp_path / "g")]) == 0
    assert "architecture llama, 2 layers" in (said := capsys.readouterr().out) and "pass token ids to llama.cpp" in said


LLAMA_CPP = """
import sys, xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.n_ctx, parameters.n_parallel, parameters.warmup = sys.argv[1], 64, 1, False
prompt = [int(token) for token in sys.argv[2].split()]
given = {"prompt": prompt, "n_predict": 4, "temperature": 0.0, "logprobs": 299, "samplers": ["temperature"]}
answer = xllamacpp.Server(parameters).handle_completions(given)
tokens = answer["choices"][0]["logprobs"]["content"]
print("GREEDY", *(token["id"] for token in tokens))
print("FIRST", *(f"{e['id']}:{e['logprob']}" for e in tokens[0]["top_logprobs"]))
"""


@pytest.mark.parametrize("cuts", [FREE, UNIFORM, EMPTY], ids=["deci", "llama", "empty"])
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2"])
def test_llama_cpp_writes_the_same_tokens(name, cuts, tmp_path):
    pytest.importorskip("xllamacpp")
    model, _ = written(tmp_path, name, cuts, hidden_size=64, head_dim=16)
    prompt = torch.arange(3, 28)[None]
    with torch.no_grad():
        expected = model(input_ids=prompt).logits[0, -1].log_softmax(-1)
    command = [
        sys.executable,
        "-c",
        LLAMA_CPP,
        str(tmp_path / "g" / "model.gguf"),
        " ".join(map(str, prompt[0].tolist())),
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    lines = dict(line.split(" ", 1) for line in said if line.startswith(("GREEDY", "FIRST")))
    greedy = [int(token) for token in lines["GREEDY"].split()]
    assert greedy == model.generate(prompt, max_new_tokens=4, do_sample=False)[0, 25 : 25 + len(greedy)].tolist()
    for entry in lines["FIRST"].split():
        token, found = entry.split(":")
        assert float(found) == pytest.approx(expected[int(token)].item(), abs=1e-2)
