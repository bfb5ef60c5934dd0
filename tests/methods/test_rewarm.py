"""Re-warming of the learning rate after the last event with every schedule; rejected for optimizers without a rate."""

import pytest
import torch
import transformers
from torch.optim import lr_scheduler as schedules
from transformers.trainer_utils import SchedulerType

from helpers.loops import make_run, make_trainer
from helpers.models import make_model
from neuroprune.errors import UserError
from neuroprune.methods.cofi.method import CoFi
from neuroprune.methods.components.rewarm import RaisedRate
from neuroprune.methods.hooks import Run
from neuroprune.methods.l1 import L1
from neuroprune.methods.neuroprune.method import NeuroPrune

RATE = 0.01


class Recorder(torch.optim.AdamW):
    """Record the rate of each step; its `step` calls the class's, like custom optimizers."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.rates = []

    def step(self, closure=None):
        self.rates.append(self.param_groups[0]["lr"])
        return super().step(closure)


def linear(optimizer):
    return transformers.get_linear_schedule_with_warmup(optimizer, 0, 40)


def sequential(optimizer):
    parts = [schedules.ConstantLR(optimizer, 0.5, 8), schedules.CosineAnnealingLR(optimizer, 20, eta_min=1e-3)]
    return schedules.SequentialLR(optimizer, parts, [16])


def chained(optimizer):
    return schedules.ChainedScheduler(
        [schedules.LinearLR(optimizer, 0.2, total_iters=20), schedules.ExponentialLR(optimizer, 0.95)]
    )


SCHEDULES = {
    "none": lambda optimizer: None,
    "linear": linear,
    "LambdaLR": lambda o: schedules.LambdaLR(o, lambda step: 1 / (1 + step)),
    "MultiplicativeLR": lambda o: schedules.MultiplicativeLR(o, lambda step: 0.9),
    "StepLR": lambda o: schedules.StepLR(o, 7),
    "MultiStepLR": lambda o: schedules.MultiStepLR(o, [9, 17]),
    "ConstantLR": lambda o: schedules.ConstantLR(o, 0.3, 15),
    "PolynomialLR": lambda o: schedules.PolynomialLR(o, 40, 2),
    "CosineAnnealingLR": lambda o: schedules.CosineAnnealingLR(o, 30, eta_min=2e-3),
    "CosineAnnealingWarmRestarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 5, 2, eta_min=2e-3),
    "OneCycleLR": lambda o: schedules.OneCycleLR(o, RATE, total_steps=31),
    "CyclicLR": lambda o: schedules.CyclicLR(o, 1e-3, RATE, step_size_up=4, cycle_momentum=False),
    "ReduceLROnPlateau": lambda o: schedules.ReduceLROnPlateau(o, patience=2, min_lr=1e-3),
    "SequentialLR": sequential,
    "ChainedScheduler": chained,
}


def rates(schedule, factor, resumed_at=None, before=False):
    """Rates of 30 steps; after the twelfth the rate is raised."""
    model = torch.nn.Linear(1, 1)
    run, raised = _run(model, schedule), RaisedRate(factor)
    found = []
    while run.step < 30:
        if run.step == resumed_at:
            state, restored = raised.state_dict(), _run(model, schedule)
            raised.detach()
            restored.optimizer.load_state_dict(run.optimizer.state_dict())
            if restored.scheduler is not None:
                restored.scheduler.load_state_dict(run.scheduler.state_dict())
            restored.step, run, raised = run.step, restored, RaisedRate(factor)
            raised.load_state(run, state)
        model(torch.ones(1)).backward()
        run.optimizer.step()
        found.append(run.optimizer.rates[-1])
        run.step += 1
        if before:
            _step(run.scheduler)
        if run.step == 12:
            raised.begin(run)
        raised.follow(run)
        if not before:
            _step(run.scheduler)
    raised.detach()
    return found


def _run(model, schedule):
    optimizer = Recorder(model.parameters(), lr=RATE)
    return Run(model, optimizer, SCHEDULES[schedule](optimizer), total_steps=100, steps_per_epoch=50)


def _step(schedule):
    if isinstance(schedule, schedules.ReduceLROnPlateau):
        schedule.step(1.0)
    elif schedule is not None:
        schedule.step()


@pytest.mark.parametrize("before", [False, True], ids=["schedule last", "schedule first"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_is_multiplied_by_the_factor(schedule, before):
    plain, raised = rates(schedule, 1, before=before), rates(schedule, 2, before=before)
    rising = [2 / 3, 4 / 3, 2.0]  # over 3 % of 100 steps
    expected = [rate * factor for rate, factor in zip(plain, [1.0] * 12 + rising + [2.0] * 15, strict=True)]
    assert raised == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("step", [5, 13, 20])
@pytest.mark.parametrize("schedule", ["none", "linear", "OneCycleLR", "CosineAnnealingLR", "ReduceLROnPlateau"])
def test_a_resumed_run_has_the_same_rates(schedule, step):
    assert rates(schedule, 2, resumed_at=step) == pytest.approx(rates(schedule, 2), rel=1e-6)


def test_a_rate_that_the_loop_sets_itself_is_raised():
    run, raised = _run(torch.nn.Linear(1, 1), "none"), RaisedRate(2.0)
    raised.begin(run)
    run.step += 10
    for rate in (0.3, 0.2):
        run.optimizer.param_groups[0]["lr"] = rate
        raised.follow(run)
        run.optimizer.step()
        assert run.optimizer.rates[-1] == 2 * rate and run.optimizer.param_groups[0]["lr"] == rate


def test_the_schedule_of_another_optimizer_is_left_alone():
    run, other = _run(torch.nn.Linear(1, 1), "none"), _run(torch.nn.Linear(1, 1), "linear")
    run.scheduler, raised = other.scheduler, RaisedRate(2.0)
    raised.begin(run)
    raised.follow(run)
    assert other.scheduler.base_lrs == [RATE]


ARGUMENTS = {
    "reduce_lr_on_plateau": {"eval_strategy": "epoch"},
    "cosine_with_min_lr": {"lr_scheduler_kwargs": {"min_lr": 1e-4}},
    "cosine_warmup_with_min_lr": {"lr_scheduler_kwargs": {"min_lr": 1e-4}},
    "warmup_stable_decay": {"lr_scheduler_kwargs": {"num_decay_steps": 8}},
    "greedy": {"eval_strategy": "epoch"},
}


def trainer_rates(method, folder, **arguments):
    """Rates of the 24 steps of a Trainer."""
    model = make_model("bert")
    optimizer = Recorder(model.parameters(), lr=1e-3)
    trainer = make_trainer(method, model, folder, **arguments)
    trainer.optimizer = optimizer
    trainer.train()
    return optimizer.rates


@pytest.mark.parametrize("name", [kind.value for kind in SchedulerType])
def test_every_schedule_of_the_trainer_is_raised_after_the_last_event(name, tmp_path):
    found = [
        trainer_rates(L1(sparsity=0.5, post_lr=factor), tmp_path, lr_scheduler_type=name, **ARGUMENTS.get(name, {}))
        for factor in (1.0, 2.0)
    ]
    ratios = [raised / plain for plain, raised in zip(*found, strict=True) if plain]
    assert ratios[:12] == pytest.approx([1.0] * 12) and ratios[12:] == pytest.approx([2.0] * len(ratios[12:]))


def test_cofis_last_stage_has_the_same_option(tmp_path):
    found = [
        trainer_rates(CoFi(sparsity=0.5, end=0.5, final_lr=factor), tmp_path, lr_scheduler_type="cosine")
        for factor in (1.0, 2.0)
    ]
    ratios = [raised / plain for plain, raised in zip(*found, strict=True)]
    assert ratios == pytest.approx([1.0] * 12 + [2.0] * 12)


def test_nothing_stays_on_the_optimizer():
    run = _run(make_model("bert"), "OneCycleLR")
    method = L1(sparsity=0.5)
    method.start(run)
    while run.step < 52:
        method.before_step(run)
        run.step += 1
        method.after_step(run)
    assert run.optimizer._optimizer_step_pre_hooks
    method.abandon()
    assert not run.optimizer._optimizer_step_pre_hooks and not run.optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("method", [L1(sparsity=0.5), NeuroPrune(heads=4), CoFi(sparsity=0.5, final_lr=2.0)])
def test_a_rate_that_is_not_there_cannot_be_raised(method):
    model = make_model("bert")
    optimizer = transformers.Adafactor(model.parameters(), lr=None, relative_step=True)
    with pytest.raises(UserError, match="lr=None"):
        method.start(Run(model, optimizer, total_steps=12))
    L1(sparsity=0.5, post_lr=1).start(Run(model, optimizer, total_steps=12, training="another"))


def test_a_rate_that_the_optimizer_bounds_cannot_be_raised_above_its_bound():
    model = make_model("bert")
    with pytest.raises(UserError, match=r"bounds its rate by 1 / sqrt\(step\), .* 0\.4 exceeds within 12 steps"):
        L1(sparsity=0.5).start(Run(model, torch.optim.Adafactor(model.parameters(), lr=0.2), total_steps=12))
    L1(sparsity=0.5).start(Run(model, torch.optim.Adafactor(model.parameters(), lr=0.1), total_steps=12))
    for schedule in (
        lambda optimizer: schedules.OneCycleLR(optimizer, 0.2, total_steps=12, cycle_momentum=False),
        lambda optimizer: schedules.CyclicLR(optimizer, 0.01, 0.2, cycle_momentum=False),
    ):
        optimizer = torch.optim.Adafactor(model.parameters(), lr=0.1)
        run = Run(model, optimizer, schedule(optimizer), total_steps=12)  # at its peak of 0.2 later
        with pytest.raises(UserError, match=r"0\.4 exceeds within 12 steps"):
            L1(sparsity=0.5).start(run)


def test_optimizers_that_cannot_follow_a_cut_are_refused_at_the_start():
    class AdamWScheduleFree(torch.optim.AdamW):
        pass

    class AdaLomo(torch.optim.SGD):
        pass

    for kind in (AdamWScheduleFree, AdaLomo, torch.optim.LBFGS):
        run = make_run(make_model("bert"), steps=4)
        run.optimizer = kind(run.model.parameters(), lr=1e-3)
        with pytest.raises(UserError, match=rf"^{kind.__name__} .* use AdamW, Adafactor or SGD\.$"):
            L1(sparsity=0.5).start(run)
