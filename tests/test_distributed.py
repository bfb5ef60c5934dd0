"""Two processes train like one with the same rows per step, including shrinking, evaluation and resuming."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from test_run import BERT, settings
from torch.nn.parallel import DistributedDataParallel

from helpers.data import write_glue
from helpers.loops import labelled_batch, make_run
from helpers.models import make_model
from neuroprune import NeuroPrune, RandomUnits, distributed
from neuroprune.errors import UserError
from neuroprune.models import pretrained
from neuroprune.pruning.surgery import kept_units
from neuroprune.results.records import read_record
from neuroprune.training import checkpoints
from neuroprune.training import run as training

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MODELS = {
    "bert": {"name": "tiny", "source": "random:bert", "config": BERT | NO_DROPOUT},
    "t5": {
        "name": "tiny_t5",
        "source": "random:t5",
        "config": {"vocab_size": 300, "d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64, "num_layers": 2,
                   "num_decoder_layers": 2, "dropout_rate": 0.0},
    },
}  # fmt: skip
TARGET = {"name": "neuroprune", "sparsity": 0.5, "calibration_rows": 24}
KINDS = {
    "dense": ("bert", {"name": "dense"}),
    "l1": ("bert", {"name": "l1", "sparsity": 0.5}),
    "neuroprune": ("bert", TARGET),
    "t5": ("t5", TARGET),
    "penalty": ("bert", {"name": "neuroprune", "alpha": 0.03, "beta": 0.3, "theta": 0.5, "mode": "decoupled"}),
    "dsp": ("bert", {"name": "dsp", "heads": 5}),
    "cofi": ("bert", {"name": "cofi", "sparsity": 0.5}),
}
TRAINING = {"epochs": 2, "batch_size": 12, "learning_rate": 1e-3, "evaluate": "epoch"}  # 63 rows: the last step has 3


def chosen(kind, processes=1, **more):
    model, method = KINDS[kind]
    return settings(model=MODELS[model], method=method, training=TRAINING | {"processes": processes} | more)


def train_all(data_root: Path, folder: Path) -> None:
    """Run in each of two processes: all runs one after the other, and one that is interrupted and resumed."""
    with distributed.joined(2):
        for kind in KINDS:
            training.train(chosen(kind, 2), folder / kind / "run.json", data_root)
        keep = checkpoints.Checkpoints.on_save

        def on_save(self, args, state, *more, **kwargs):
            keep(self, args, state, *more, **kwargs)
            if state.global_step == 4:  # in a calibration: each process has seen its own rows
                raise KeyboardInterrupt

        checkpoints.Checkpoints.on_save = on_save
        with pytest.raises(KeyboardInterrupt):
            training.train(chosen("neuroprune", 2), folder / "resumed" / "run.json", data_root, 0.0)
        checkpoints.Checkpoints.on_save = keep
        training.train(chosen("neuroprune", 2), folder / "resumed" / "run.json", data_root)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return write_glue(tmp_path_factory.mktemp("data"), "sst2", train=63, evaluated=25)


@pytest.fixture(scope="module")
def by_two(data_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        here = Path(__file__).parent
        places = [here, here / "training", os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))
        distributed.launch(train_all, 2, data_root, folder)
    return folder


def without_loss(metrics):
    judged = "loss" if "step" not in metrics else "eval_loss"
    return {name: value for name, value in metrics.items() if name != judged}


def assert_close(folder, expected):
    """Weights, shapes and metrics agree; the loss in evaluation is a mean of batches' means, and does not."""
    one, two = read_record(expected / "run.json").result, read_record(folder / "run.json").result
    assert two.sparsity == one.sparsity and two.steps == one.steps
    for ours, theirs in zip([two.metrics, *two.history], [one.metrics, *one.history], strict=True):
        assert without_loss(ours) == pytest.approx(without_loss(theirs), abs=1e-4)
    state = pretrained.from_pretrained(folder / "model").state_dict()
    wanted = pretrained.from_pretrained(expected / "model").state_dict()
    assert {name: value.shape for name, value in state.items()} == {name: v.shape for name, v in wanted.items()}
    for name, value in state.items():
        torch.testing.assert_close(value, wanted[name], rtol=0, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_as_one(kind, by_two, data_root, tmp_path):
    training.train(chosen(kind), tmp_path / "run.json", data_root)
    assert_close(by_two / kind, tmp_path)


def test_a_run_of_two_processes_goes_on(by_two):
    assert read_record(by_two / "resumed" / "run.json").result.resumed_at == [4]
    assert_close(by_two / "resumed", by_two / "neuroprune")
    assert not (by_two / "resumed" / "checkpoints").exists()


def test_passes_add_up_to_a_step(data_root, tmp_path):
    method = TARGET | {"token_weights": False}  # their mean is over the tokens of a pass
    for name, more in {"one": {}, "three": {"accumulation": 3}, "again": {"gradient_checkpointing": True}}.items():
        run = settings(model=MODELS["bert"], method=method, training=TRAINING | more)
        training.train(run, tmp_path / name / "run.json", data_root)
    assert_close(tmp_path / "three", tmp_path / "one")
    assert_close(tmp_path / "again", tmp_path / "one")


def test_what_fails_in_one_process_is_told(data_root, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", "3")
        with pytest.raises(UserError, match="3 processes were launched"):
            training.train(chosen("dense", 2), tmp_path / "run.json", data_root)
    with pytest.raises(UserError, match=r"^2 processes were launched"):
        distributed.launch(distributed.must_start, 2, 5)  # which each of the two finds out


def prune_with(average: bool) -> None:
    """Prune in each of two processes, with gradients averaged by hand or by DistributedDataParallel."""
    with distributed.joined(2):
        rank = dist.get_rank()
        for method in (RandomUnits(sparsity=0.5), NeuroPrune(sparsity=0.5)):
            torch.manual_seed(rank)  # which must not matter
            model = make_model("bert").train()
            passes = model if average else DistributedDataParallel(model, find_unused_parameters=True)
            run = make_run(model, steps=12)
            method.start(run)
            while run.step < 12:
                passes(**labelled_batch("bert", seed=2 * run.step + rank)).loss.backward()
                if average:
                    distributed.average([p.grad for p in model.parameters() if p.grad is not None])
                method.before_step(run)
                run.optimizer.step()
                run.step += 1
                method.after_step(run)
                run.optimizer.zero_grad()
            method.finish(run)
            left = torch.tensor([len(units) for units in (*kept_units(model).heads, *kept_units(model).neurons)])
            distributed.copy_main([copy := left.clone()])
            assert torch.equal(copy, left)


def test_a_loop_may_average_gradients_itself():
    distributed.launch(prune_with, 2, True)


def test_a_loop_with_distributed_data_parallel_is_refused_at_the_first_cut():
    with pytest.raises(UserError, match="gradients differ between processes: DistributedDataParallel does not follow"):
        distributed.launch(prune_with, 2, False)
