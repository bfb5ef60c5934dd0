"""Weights that are not plain parameters are rejected with a remedy wherever a model's blocks are used."""

import pytest
import torch
import torch.nn.utils.prune
from accelerate import cpu_offload
from torch import nn
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor
from torch.nn.utils import parametrizations, parametrize
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers.pytorch_utils import Conv1D

from helpers.loops import assert_no_hooks, make_trainer
from helpers.models import logits, make_batch, make_model
from neuroprune.errors import UserError
from neuroprune.methods import L1, CoFi, NeuroPrune
from neuroprune.methods.hooks import Run
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.sparsity import measure_sparsity
from neuroprune.pruning.surgery import remove

PATH = "bert.encoder.layer.1.intermediate.dense"


class Adapted(nn.Module):
    """A linear layer with an adapter in PEFT's form."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.Linear(base_layer.in_features, 2, bias=False)

    weight = property(lambda self: self.base_layer.weight)
    bias = property(lambda self: self.base_layer.bias)


class LoraLinear(nn.Linear):
    """A linear layer with an adapter in loralib's form."""

    def __init__(self, layer):
        super().__init__(layer.in_features, layer.out_features)
        self.lora_A = nn.Parameter(torch.zeros(2, layer.in_features))


class Scaled(nn.Linear):
    """A quantized linear layer with a scale, like transformers' FP8Linear."""

    def __init__(self, layer):
        super().__init__(layer.in_features, layer.out_features)
        self.weight_scale_inv = nn.Parameter(torch.ones(1))


class Sub(torch.Tensor):
    """A tensor subclass, like torchao's quantized tensors."""


def prune(layer):
    torch.nn.utils.prune.l1_unstructured(layer, "weight", amount=0.3)


def own(layer):
    parametrize.register_parametrization(layer, "weight", nn.Tanh())


def on_bias(layer):
    torch.nn.utils.prune.random_unstructured(layer, "bias", amount=0.3)


def integers(layer):
    layer.weight = nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)


def subclass(layer):
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Sub))


def flat(layer):
    layer.weight = nn.Parameter(layer.weight.detach().flatten())


def plain_tensor(layer):
    weight = layer.weight.detach()
    del layer.weight
    layer.weight = weight


IN_PLACE = {
    "torch prune": (prune, r"computed by torch\.nn\.utils\.prune.*prune\.remove\(model\.get_submodule"),
    "torch prune on a bias": (on_bias, r'its bias is computed.*prune\.remove\(.*"bias"\)'),
    "weight_norm": (parametrizations.weight_norm, r'WeightNorm.*remove_parametrizations\(.*"weight"\)'),
    "spectral_norm": (parametrizations.spectral_norm, r"SpectralNorm.*remove_parametrizations"),
    "a parametrization of one's own": (own, r"parametrized \(Tanh\).*remove_parametrizations"),
    "weight_norm as it was": (torch.nn.utils.weight_norm, "computed by weight_norm.*remove_weight_norm"),
    "spectral_norm as it was": (torch.nn.utils.spectral_norm, "computed by spectral_norm.*remove_spectral_norm"),
    "integers": (integers, r"quantized \(Tensor, int8\).*load the model without quantization"),
    "a subclass": (subclass, r"quantized \(Sub, float32\)"),
    "a flat parameter": (flat, "sharded.*without FSDP"),
    "a plain tensor": (plain_tensor, "is a Tensor, not a parameter"),
}
REPLACED = {
    "PEFT": (Adapted, "adapters.*merge_and_unload"),
    "loralib": (LoraLinear, "adapters.*merge_and_unload"),
    "scales": (Scaled, "besides its weight .weight_scale_inv.*without quantization"),
    "another layer": (lambda layer: nn.Bilinear(16, 16, 24), "a Bilinear, not a linear layer.*put an nn.Linear"),
}


def cut_by_hand(model):
    remove(model, {0: [0]})


def changed(name):
    model = make_model("bert")
    layer = model.get_submodule(PATH)
    if name in IN_PLACE:
        IN_PLACE[name][0](layer)
    else:
        model.set_submodule(PATH, REPLACED[name][0](layer))
    return model


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", [*IN_PLACE, *REPLACED])
@pytest.mark.parametrize("call", [cut_by_hand, find_blocks, measure_sparsity])
def test_a_weight_that_is_no_plain_parameter_is_refused_with_the_remedy(name, call):
    model = changed(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    where = "has " if name == "PEFT" and call is cut_by_hand else f"{PATH}: .*"  # adapters may be in any layer
    with pytest.raises(UserError, match=f"(?s){where}{(IN_PLACE | REPLACED)[name][1]}"):
        call(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_weight_sharded_over_processes_is_refused():
    init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        model = make_model("bert")
        layer = model.get_submodule(PATH)
        layer.weight = nn.Parameter(distribute_tensor(layer.weight.detach(), init_device_mesh("cpu", (2,))))
        with pytest.raises(UserError, match=f"{PATH}: its weight is sharded.*without FSDP or tensor parallelism"):
            find_blocks(model)
    finally:
        destroy_process_group()


@pytest.mark.parametrize("method", [L1(sparsity=0.7), NeuroPrune(sparsity=0.7)])
def test_training_does_not_begin_on_a_model_whose_masks_would_come_back(method, tmp_path):
    """L1 reported 70 %; after the next forward pass, which applies the masks again, it was 30 %."""
    trainer = make_trainer(method, changed("torch prune"), tmp_path)
    with pytest.raises(UserError, match=r"prune\.remove"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_following_the_advice_helps():
    model, expected = changed("torch prune"), changed("torch prune")
    torch.nn.utils.prune.remove(model.get_submodule(PATH), "weight")
    assert torch.equal(logits(model, make_batch()), logits(expected, make_batch()))
    remove(model, {0: [0]})
    model = changed("spectral_norm")
    parametrize.remove_parametrizations(model.get_submodule(PATH), "weight")
    remove(model, {0: [0]})


def test_fused_and_transposed_layers_are_checked_too():
    model = make_model("gpt2")
    attention = model.transformer.h[0].attn.c_attn
    assert isinstance(attention, Conv1D)
    parametrizations.weight_norm(attention)
    with pytest.raises(UserError, match=r"transformer\.h\.0\.attn\.c_attn: .*WeightNorm"):
        find_blocks(model)


def test_dynamically_quantized_models_are_refused():
    model = torch.ao.quantization.quantize_dynamic(make_model("bert"), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(UserError, match=r"not a linear layer.*load the model without quantization"):
        find_blocks(model)


# ---- weights that several layers share, and weights that are elsewhere


def layers_shared(model):
    model.bert.encoder.layer[1] = model.bert.encoder.layer[0]


def mlps_shared(model):
    model.bert.encoder.layer[1].intermediate.dense.weight = model.bert.encoder.layer[0].intermediate.dense.weight


def queries_are_keys(model):
    attention = model.bert.encoder.layer[0].attention.self
    attention.key.weight = attention.query.weight


def used_by_the_head(model):
    model.bert.pooler.dense.weight = model.bert.encoder.layer[0].attention.output.dense.weight


@pytest.mark.parametrize(
    ("share", "names"),
    [
        (layers_shared, r"layer\.0\.attention\.self\.query is used by two layers"),
        (mlps_shared, r"layer\.0\.intermediate\.dense and .*layer\.1\.intermediate\.dense share their weight"),
        (queries_are_keys, r"layer\.0\.attention\.self\.query and .*self\.key share their weight"),
        (used_by_the_head, r"layer\.0\.attention\.output\.dense and bert\.pooler\.dense share their weight"),
    ],
)
@pytest.mark.parametrize("method", [L1(sparsity=0.5), CoFi(sparsity=0.5)])
def test_training_does_not_begin_where_weights_are_shared(method, share, names, tmp_path):
    model = make_model("bert")
    share(model)
    trainer = make_trainer(method, model, tmp_path)
    with pytest.raises(UserError, match=f"{names}.*deepcopy"):
        trainer.train()
    assert trainer.state.global_step == 0
    assert_no_hooks(model)


def test_training_does_not_begin_with_weights_that_accelerate_keeps_elsewhere():
    model = cpu_offload(make_model("bert"), execution_device="cpu")
    with pytest.raises(UserError, match=r"layer\.0\.attention\.self\.query.*on the meta device.*device_map"):
        L1(sparsity=0.5).start(Run(model, torch.optim.AdamW(model.parameters()), total_steps=4))
