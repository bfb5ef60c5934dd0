"""Surgery is atomic: an error at any step leaves model and optimizer unchanged."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_surgery import mask, train, uneven_cut

import neuroprune.pruning.empty_blocks
import neuroprune.pruning.t5  # loaded late, and its lines are not to be counted
from helpers.models import NAMES, WIDTH, logits, make_batch, make_model
from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.residual_stream import remove_hidden
from neuroprune.pruning.surgery import remove, remove_zero_units
from neuroprune.pruning.transaction import Transaction

FOLDER = str(Path(next(iter(neuroprune.pruning.__path__))))


class InjectedError(Exception):
    pass


def traced(call, fail_at=None):
    """Run a call, optionally failing at one line; return the package's lines that ran until the commit was complete."""
    lines = []

    def trace(frame, event, _):
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        if event == "line" and lines[-1:] != ["done"]:
            lines.append((frame.f_code.co_filename, frame.f_lineno))
            if len(lines) - 1 == fail_at:
                raise InjectedError
        if event == "return" and frame.f_code is Transaction.commit.__code__:
            lines.append("done")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines[:-1]


def steps_of(lines):
    """Return the first and last execution of each line, and each of the last assignments of the commit."""
    first = {line: i for i, line in reversed(list(enumerate(lines)))}
    last = {line: i for i, line in enumerate(lines)}
    commit = [i for i, (file, _) in enumerate(lines) if file.endswith("transaction.py")]
    return sorted({*first.values(), *last.values(), *commit[-200:]})


def describe(model, optimizer):
    """Return all state changed by surgery: objects by identity, values by content."""
    modules = {
        name: (
            type(module),
            {key: id(value) for key, value in module._parameters.items()},
            {key: id(value) for key, value in module._buffers.items()},
            set(module._non_persistent_buffers_set),
            "forward" in vars(module),
            {key: value for key, value in vars(module).items() if isinstance(value, (int, str, tuple))},
        )
        for name, module in model.named_modules()
    }
    values = torch.cat(
        [p.detach().flatten() for p in model.parameters()]
        + [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    )
    groups = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    state = [(id(p), {key: id(value) for key, value in entry.items()}) for p, entry in optimizer.state.items()]
    return modules, values.tolist(), groups, state, model.config.to_dict()


def trained(name):
    model, batch = make_model(name), make_batch(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    train(model, optimizer, batch)
    model(**batch).logits.sum().backward()
    return model, optimizer


def fails_cleanly_at_every_step(model, optimizer, call, copy):
    """Make the call fail at each step in turn; then let it succeed."""
    steps = steps_of(traced(copy))
    before = describe(model, optimizer)
    for step in steps:
        with pytest.raises(InjectedError):
            traced(call, fail_at=step)
        assert describe(model, optimizer) == before
    call()
    assert describe(model, optimizer) != before


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_an_error_at_any_step_of_a_removal_changes_nothing(name):
    (model, optimizer), (twin, twins) = trained(name), trained(name)
    heads, neurons = uneven_cut(name)
    fails_cleanly_at_every_step(
        model,
        optimizer,
        lambda: remove(model, heads, neurons, optimizer),
        lambda: remove(twin, heads, neurons, twins),
    )
    batch = make_batch(name)
    assert torch.equal(logits(model, batch), logits(twin, batch))
    train(model, optimizer, batch)


@pytest.mark.parametrize("name", ["t5", "gpt2"])
def test_an_error_at_any_step_of_emptying_blocks_changes_nothing(name):
    (model, optimizer), (twin, twins) = trained(name), trained(name)
    heads, neurons = {0: range(4)}, {1: range(WIDTH)}
    fails_cleanly_at_every_step(
        model,
        optimizer,
        lambda: remove(model, heads, neurons, optimizer),
        lambda: remove(twin, heads, neurons, twins),
    )
    batch = make_batch(name)
    assert torch.equal(logits(model, batch), logits(twin, batch))
    train(model, optimizer, batch)


@given(name=st.sampled_from(NAMES), share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=20, deadline=None)
def test_an_error_at_a_random_step_of_any_model_changes_nothing(name, share):
    (model, optimizer), (twin, twins) = trained(name), trained(name)
    heads, neurons = uneven_cut(name)
    steps = traced(lambda: remove(twin, heads, neurons, twins))
    before = describe(model, optimizer)
    with pytest.raises(InjectedError):
        traced(lambda: remove(model, heads, neurons, optimizer), fail_at=int(share * len(steps)))
    assert describe(model, optimizer) == before
    train(model, optimizer, make_batch(name))


def silent(name):
    """Return a model with silent heads and neurons, and one neuron that is a constant for the next bias."""
    model = mask(make_model(name), *uneven_cut(name))
    with torch.no_grad():
        find_blocks(model).mlps[-1].ins[0].weight[3] = 0
    return model, torch.optim.AdamW(model.parameters())


def test_an_error_at_any_step_of_removing_zero_units_changes_nothing():
    (model, optimizer), (twin, twins) = silent("bert"), silent("bert")
    fails_cleanly_at_every_step(
        model, optimizer, lambda: remove_zero_units(model, optimizer), lambda: remove_zero_units(twin, twins)
    )


def test_an_error_at_any_step_of_removing_hidden_dimensions_changes_nothing():
    (model, optimizer), (twin, twins), keep = trained("bert"), trained("bert"), torch.arange(1, 16)
    fails_cleanly_at_every_step(
        model, optimizer, lambda: remove_hidden(model, keep, optimizer), lambda: remove_hidden(twin, keep, twins)
    )


def test_a_commit_undoes_new_attributes_and_values():
    class Owner:
        old = None

        @property
        def fixed(self):
            return 1

    owner, tensor, changes = Owner(), torch.zeros(2), Transaction()
    owner.old = 1
    changes.set(owner, "old", 2)
    changes.set(owner, "new", 3)
    changes.copy(tensor, torch.ones(2))
    changes.set(owner, "fixed", 4)
    with pytest.raises(AttributeError):
        changes.commit()
    assert vars(owner) == {"old": 1} and tensor.tolist() == [0, 0]
