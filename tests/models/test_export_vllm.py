"""The export for vLLM's DeciLMForCausalLM: the keys that vLLM reads, and weights that compute the same."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.models import make_batch, make_model
from neuroprune.cli import main
from neuroprune.errors import UserError
from neuroprune.models.export import export
from neuroprune.models.pretrained import save_pretrained
from neuroprune.models.sources import train_text_tokenizer
from neuroprune.pruning.surgery import remove

FREE = ({0: [0, 1], 1: [2, 3, 4, 5]}, {0: range(8), 1: range(5)})
EQUAL = ({0: [0, 1], 1: [2, 3]}, {0: range(8), 1: range(5)})


def written(folder, cuts, **changes):
    """Cut a small Llama and export it; return the model and the export's configuration and weights."""
    model = make_model("llama", **changes)
    remove(model, *cuts)
    save_pretrained(model, folder / "m", train_text_tokenizer(["a b c"], 280))
    export(folder / "m", "vllm", folder / "v")
    return model, json.loads((folder / "v/config.json").read_text()), load_file(folder / "v/model.safetensors")


@pytest.mark.parametrize("cuts", [FREE, EQUAL], ids=["filled", "equal heads"])
def test_weights_have_the_shapes_that_vllm_derives_from_the_keys(cuts, tmp_path):
    _, config, weights = written(tmp_path, cuts)
    assert config["architectures"] == ["DeciLMForCausalLM"] and "quantization_config" not in config
    heads, size = config["num_attention_heads"], config["head_dim"]
    assert len(config["block_configs"]) == config["num_hidden_layers"] == 2
    for number, block in enumerate(config["block_configs"]):
        assert not block["attention"]["no_op"] and not block["ffn"]["no_op"] and "ffn_mult" not in block["ffn"]
        key_heads = heads // block["attention"]["n_heads_in_group"]
        shapes = {
            name: list(weights[f"model.layers.{number}.{name}.weight"].shape)
            for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj")
        }
        assert shapes["self_attn.q_proj"] == shapes["self_attn.o_proj"][::-1] == [heads * size, config["hidden_size"]]
        assert shapes["self_attn.k_proj"] == shapes["self_attn.v_proj"] == [key_heads * size, config["hidden_size"]]
        assert shapes["mlp.up_proj"] == [block["ffn"]["intermediate_size"], config["hidden_size"]]
    assert [block["ffn"]["intermediate_size"] for block in config["block_configs"]] == [16, 19]


READ = """
import copy, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "neuroprune":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
config = AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
model = LlamaForCausalLM(config)
for number, block in enumerate(config.block_configs):
    assert block.attention.no_op is False and block.ffn.no_op is False and not hasattr(block.ffn, "ffn_mult")
    own = copy.deepcopy(config)
    own.num_key_value_heads = config.num_attention_heads // block.attention.n_heads_in_group
    own.intermediate_size = block.ffn.intermediate_size
    model.model.layers[number] = LlamaDecoderLayer(own, number)
missing, unexpected = model.load_state_dict(load_file(sys.argv[1] + "/model.safetensors"), strict=False)
assert not unexpected and missing in ([], ["lm_head.weight"]), (missing, unexpected)
batch = load_file(sys.argv[2])
expected = batch.pop("expected")
with torch.no_grad():
    print("DISTANCE", float((model.eval()(**batch).logits - expected).abs().max()))
"""


@pytest.mark.parametrize("tied", [False, True], ids=["apart", "tied"])
def test_without_this_package_the_configuration_is_read_and_the_filled_model_computes_the_same(tied, tmp_path):
    model, _, _ = written(tmp_path, FREE, tie_word_embeddings=tied)
    batch = make_batch("llama")
    with torch.no_grad():
        save_file({**batch, "expected": model(**batch).logits.contiguous()}, tmp_path / "batch")
    command = [sys.executable, "-c", READ, str(tmp_path / "v"), str(tmp_path / "batch")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    distance = next(float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("DISTANCE"))
    assert distance < 1e-5


def test_other_models_are_refused(tmp_path):
    save_pretrained(make_model("qwen3"), tmp_path / "m")
    with pytest.raises(UserError, match="Qwen3ForCausalLM can't be written for vLLM's DeciLMForCausalLM"):
        export(tmp_path / "m", "vllm", tmp_path / "v")
    assert not (tmp_path / "v").exists()


def test_the_command_line_says_what_it_wrote_and_that_it_was_not_run(tmp_path, capsys):
    save_pretrained(make_model("llama"), tmp_path / "m")
    assert main(["export", str(tmp_path / "m"), "--format", "vllm", "--out", str(tmp_path / "v")]) == 0
    said = capsys.readouterr().out
    assert "needs --trust-remote-code), 0 query heads filled" in said and "not run in vLLM" in said
