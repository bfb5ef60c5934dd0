"""Training resumes from the checkpoint of a cut model with a newly built model."""

import shutil

import pytest
import torch
from transformers import Trainer

from helpers.loops import make_trainer
from helpers.models import make_model
from neuroprune.errors import UserError
from neuroprune.methods.neuroprune.method import NeuroPrune
from neuroprune.models.resumption import cut_as_saved, teach_trainer
from neuroprune.pruning.kept_units import kept_units
from neuroprune.pruning.plain_config import to_plain
from neuroprune.pruning.surgery import remove

NAMES = ["bert", "t5", "opt"]  # events at steps 8, 10 and 12 of 24


def fit(folder, name, model=None, add_later=False, resume=None, method=None, save_steps=10):
    """Train for two epochs, or resume with a dense model."""
    method = method or NeuroPrune(sparsity=0.7, calibration_rows=8)
    model = model or make_model(name)
    trainer = make_trainer(method, model, folder, name=name, save_strategy="steps", save_steps=save_steps)
    if add_later:
        trainer.remove_callback(method)
        trainer.add_callback(method)
    trainer.train(resume_from_checkpoint=resume)
    return trainer.model


def assert_same(model, expected):
    state, wanted = model.state_dict(), expected.state_dict()
    assert {name: value.shape for name, value in state.items()} == {n: value.shape for n, value in wanted.items()}
    for name, value in state.items():
        torch.testing.assert_close(value, wanted[name], rtol=0, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")
    ours, theirs = kept_units(model), kept_units(expected)
    assert ours.heads == theirs.heads
    assert [kept.tolist() for kept in ours.neurons] == [kept.tolist() for kept in theirs.neurons]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("step", [10, 20])  # between events; after the last
def test_a_dense_model_goes_on_from_the_checkpoint_of_a_cut_one(name, step, tmp_path):
    expected = fit(tmp_path, name)
    for folder in tmp_path.glob("checkpoint-*"):
        if int(folder.name.split("-")[1]) > step:
            shutil.rmtree(folder)
    assert_same(fit(tmp_path, name, resume=True), expected)


def test_a_method_that_is_added_later_resumes_from_a_folder_of_its_own(tmp_path):
    expected = fit(tmp_path, "bert")
    assert_same(fit(tmp_path, "bert", add_later=True, resume=str(tmp_path / "checkpoint-20")), expected)


def test_a_checkpoint_before_the_first_event_is_loaded_as_ever(tmp_path):
    expected = fit(tmp_path, "bert", save_steps=5)
    for step in (10, 15, 20, 24):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    assert_same(fit(tmp_path, "bert", resume=True), expected)


def test_a_model_that_is_cut_otherwise_is_refused_in_a_sentence(tmp_path):
    fit(tmp_path, "bert")
    model = make_model("bert")
    remove(model, {0: [0]}, {0: range(9)})
    with pytest.raises(UserError, match=r"checkpoint-24: .*from_pretrained\(") as caught:
        fit(tmp_path, "bert", model, resume=True)
    assert "\n" not in str(caught.value)


def test_a_cut_model_does_not_go_on_from_the_checkpoint_of_a_dense_one(tmp_path):
    """As after an interruption in the same process, or for a model with a plain configuration."""
    cut = fit(tmp_path, "bert", save_steps=5)
    plain = make_model("llama")
    remove(plain, {0: range(4), 1: range(4)})
    to_plain(plain)
    for model in (cut, plain):
        with pytest.raises(UserError, match="checkpoint-5: the saved model has other heads and neurons"):
            cut_as_saved(model, tmp_path / "checkpoint-5")
        (tmp_path / "checkpoint-5" / "method.json").unlink(missing_ok=True)  # as written by the Trainer alone


def test_checkpoints_without_a_record_are_left_to_the_trainer(tmp_path):
    """Of quantized models and of modules of other libraries, with any content."""
    model, cut = torch.nn.Linear(2, 2), make_model("bert")
    remove(cut, {0: [0]})
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "bitsandbytes"}}')
    cut_as_saved(cut, tmp_path)
    for text in ('{"quantization_config": {"quant_method": "bitsandbytes"}}', "{}", "[]", "{"):
        (tmp_path / "config.json").write_text(text)
        cut_as_saved(model, tmp_path)
    quantized = make_model("bert")
    quantized.config.quantization_config = {"quant_method": "bitsandbytes"}
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    cut_as_saved(quantized, tmp_path)


class Wrapper(torch.nn.Module):
    """A user's own module around one model; its checkpoints have no configuration."""

    def __init__(self):
        super().__init__()
        self.body, self.head = make_model("bert").bert, torch.nn.Linear(16, 2)

    def forward(self, input_ids, attention_mask=None, labels=None):
        states = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits = self.head(states[:, 0])
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.parametrize("step", [5, 10, 20])  # before the first event, between events, after the last
def test_a_module_without_a_configuration_goes_on_from_its_checkpoint(step, tmp_path):
    torch.manual_seed(0)
    expected = fit(tmp_path, "bert", Wrapper(), save_steps=5)
    assert not (tmp_path / "checkpoint-20" / "config.json").exists()
    resumed = fit(tmp_path, "bert", Wrapper(), resume=str(tmp_path / f"checkpoint-{step}"))
    state = resumed.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in expected.state_dict().items())
    if step > 5:
        with pytest.raises(UserError, match="the saved model has other heads and neurons"):
            fit(tmp_path, "bert", resumed, resume=str(tmp_path / "checkpoint-5"))


def test_the_trainer_is_taught_once():
    NeuroPrune(sparsity=0.5)
    taught = Trainer._load_from_checkpoint
    teach_trainer()
    assert Trainer._load_from_checkpoint is taught
    assert not hasattr(taught.__wrapped__, "__wrapped__")
