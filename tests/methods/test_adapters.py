"""Models with PEFT adapters are rejected with working advice, and pruned models accept new adapters."""

import peft
import pytest
import torch

from helpers.loops import make_trainer, train_bare
from helpers.models import make_batch, make_model
from neuroprune import DSP, L1, CoFi, NeuroPrune, Taylor, from_pretrained, measure_sparsity, remove, save_pretrained
from neuroprune.errors import UserError


def lora(*targets, **options):
    return peft.LoraConfig(r=2, target_modules=list(targets) or ["query", "value"], init_lora_weights=False, **options)


def added(config):
    model = make_model("bert")
    model.add_adapter(config)
    return model


def deleted():
    model = added(lora())
    model.delete_adapter("default")
    return model


IA3 = {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]}
PROMPT = {"task_type": "SEQ_CLS", "num_virtual_tokens": 3}
ADAPTED = {
    "LoRA": (lambda: peft.get_peft_model(make_model("bert"), lora()), "merge_and_unload"),
    "DoRA": (lambda: peft.get_peft_model(make_model("bert"), lora(use_dora=True)), "merge_and_unload"),
    "IA3": (lambda: peft.get_peft_model(make_model("bert"), peft.IA3Config(**IA3)), "merge_and_unload"),
    "only the head": (lambda: peft.get_peft_model(make_model("bert"), lora("classifier")), "merge_and_unload"),
    "a prompt": (lambda: peft.get_peft_model(make_model("bert"), peft.PromptTuningConfig(**PROMPT)), "get_base_model"),
    "transformers' own": (lambda: added(lora()), "PeftModel.from_pretrained"),
    "only the embeddings": (lambda: added(lora("word_embeddings")), "PeftModel.from_pretrained"),
    "deleted": (deleted, "the original model, without adapters"),
}


@pytest.mark.parametrize("kind", ADAPTED)
@pytest.mark.parametrize("method", [NeuroPrune, L1, Taylor, CoFi])
def test_adapters_are_refused_at_the_start_with_the_way_out(kind, method):
    make, advice = ADAPTED[kind]
    with pytest.raises(UserError, match=rf"has adapters.*{advice}.*requires_grad_\(True\)"):
        train_bare(method(sparsity=0.5), make())


@pytest.mark.parametrize("kind", ADAPTED)
def test_nothing_is_removed_by_hand_either(kind):
    model = ADAPTED[kind][0]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match="has adapters"):
        remove(model, {0: [0]})
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_the_trainer_is_refused_too(tmp_path):
    with pytest.raises(UserError, match="has adapters"):
        make_trainer(DSP(heads=4), added(lora("classifier")), tmp_path).train()


def test_the_advice_for_merged_adapters_works(tmp_path):
    adapted = peft.get_peft_model(make_model("bert"), lora()).eval()
    wanted = adapted(**make_batch()).logits
    model = adapted.merge_and_unload().requires_grad_(True)
    torch.testing.assert_close(model(**make_batch()).logits, wanted, atol=1e-5, rtol=0)
    train_bare(NeuroPrune(sparsity=0.5), model)
    save_pretrained(model, tmp_path)
    assert measure_sparsity(from_pretrained(tmp_path)).weights == pytest.approx(0.5, abs=0.01)


def test_the_advice_for_adapters_that_transformers_added_works(tmp_path):
    adapted = added(lora()).eval()
    wanted = adapted(**make_batch()).logits
    adapted.save_pretrained(tmp_path)
    model = peft.PeftModel.from_pretrained(make_model("bert"), str(tmp_path)).merge_and_unload().requires_grad_(True)
    torch.testing.assert_close(model.eval()(**make_batch()).logits, wanted, atol=1e-5, rtol=0)
    train_bare(NeuroPrune(sparsity=0.5), model)
    assert measure_sparsity(model).weights == pytest.approx(0.5, abs=0.01)


def test_a_pruned_model_takes_adapters_and_merges_them(tmp_path):
    model = make_model("bert").eval()
    remove(model, {0: [0], 1: [1, 2]}, {0: range(10)})
    save_pretrained(model, tmp_path / "small")
    adapted = peft.get_peft_model(model, lora("query", "dense")).eval()
    wanted = adapted(**make_batch()).logits
    adapted.save_pretrained(str(tmp_path / "adapter"))
    again = peft.PeftModel.from_pretrained(from_pretrained(tmp_path / "small"), str(tmp_path / "adapter")).eval()
    assert again(**make_batch()).logits.equal(wanted)
    merged = again.merge_and_unload()
    torch.testing.assert_close(merged(**make_batch()).logits, wanted, atol=1e-5, rtol=0)
    save_pretrained(merged, tmp_path / "merged")
    assert measure_sparsity(from_pretrained(tmp_path / "merged")) == measure_sparsity(merged)
