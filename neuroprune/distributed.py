"""Several processes that train one model together: how they start, and what they tell each other.

Every process holds the whole model and goes through the same steps with other rows. Where there is only one, the
functions here return what they are given and cost nothing.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from neuroprune.errors import UserError

PR_SET_PDEATHSIG = 1  # of prctl(2)
T = TypeVar("T")


def count() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Tell whether this is the process that writes files."""
    return count() == 1 or dist.get_rank() == 0


def must_start(processes: int) -> bool:
    """Tell whether the processes are still to be started by `launch`.

    Args:
        processes: How many are asked for.

    Returns:
        False in a process that belongs to such a group, and if one process is enough.

    Raises:
        UserError: If the group that another launcher made has another size.
    """
    found = int(os.environ.get("WORLD_SIZE", 1))
    if found not in (1, processes):
        raise UserError(
            f"{found} processes were launched, but the run's settings say processes: {processes}; launch one, and it "
            "starts the others itself."
        )
    return processes > found


def launch(function: Callable[..., None], processes: int, *arguments: Any) -> None:
    """Call a function in several new processes of this machine, which find each other; wait for their end.

    If one fails, the others are ended. They end with this process, too.

    Args:
        function: A module's function.
        processes: How many.
        *arguments: For the function; they are sent to the processes.

    Raises:
        UserError: If a process raised one, or there are fewer GPUs than processes.
        RuntimeError: If a process failed in another way; its own words are in the log.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if 0 < torch.cuda.device_count() < processes:
        raise UserError(
            f"processes: {processes}, but there are {torch.cuda.device_count()} GPUs; every process needs its own."
        )
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        start_method="spawn",
    )
    try:
        with _own_signals():
            elastic_launch(config, function)(*arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        message: Any = failure.message
        text = str(message.get("message") if isinstance(message, dict) else message)
        if text.startswith(prefix := f"{UserError.__name__}: "):
            raise UserError(text.removeprefix(prefix)) from None
        raise RuntimeError(f"one of {processes} processes failed: {text}") from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Undo what torch's launcher does to the handling of signals, and leaves so."""
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)}
    try:
        yield
    finally:
        for name, handler in before.items():
            if handler not in (None, signal.getsignal(name)):
                signal.signal(name, handler)


def end_with_parent(group: bool = False) -> None:
    """Have this process killed as soon as its parent ends, even if the parent is killed.

    Torch's launcher asks the kernel for a SIGINT. Processes that a shell started in the background ignore it, and one
    that waits for its peers receives it too late.

    Args:
        group: Whether to kill the process group, too. This process must be its leader.
    """
    if sys.platform == "linux" and not group:  # the kernel kills at once, but only this process
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None:  # also if it ended before the call above
        threading.Thread(target=_kill_after, args=[parent.sentinel, group], daemon=True).start()


def _kill_after(sentinel: int, group: bool) -> None:
    wait_for([sentinel])
    os.kill(0 if group else os.getpid(), signal.SIGKILL)


@contextmanager
def joined(processes: int) -> Iterator[None]:
    """Be one of the processes that `launch` started, until the end.

    Args:
        processes: How many there are; with 1, or where they have joined already, nothing happens.
    """
    if processes == 1 or count() > 1:
        yield
        return
    from accelerate import PartialState

    end_with_parent()
    state = PartialState(cpu=not torch.cuda.is_available())  # nccl with GPUs, gloo without
    torch.serialization.register_package(99, lambda _: None, _numbered_cpu)
    yield
    state.destroy_process_group()


def _numbered_cpu(storage: Any, place: str) -> Any:
    """Read what goes to `cpu:0`, where transformers 5.17 wants a checkpoint and torch knows only `cpu`; else None."""
    return storage if place.startswith("cpu:") else None


def from_main(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in the main process alone; return its value, a plain object, in all."""
    if count() == 1:
        return function(*arguments)
    found = [function(*arguments) if is_main() else None]
    dist.broadcast_object_list(found, src=0, device=_device())
    return found[0]  # type: ignore[return-value]


def main_first() -> Any:
    """Return a context that the main process passes before the others: what it fetches is there for them."""
    if count() == 1:
        return nullcontext()
    from accelerate import PartialState

    return PartialState().main_process_first()


def wait() -> None:
    """Wait until all processes have come here."""
    if count() > 1:
        dist.barrier()


@torch.no_grad()
def add_up(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by their sums over all processes, which are the same in each, bit by bit.

    Args:
        tensors: Of any shapes and types, in the same order in all processes; changed in place.
    """
    if count() > 1:
        _exchange(tensors, dist.all_reduce)


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by their means over all processes; see `add_up`."""
    if count() > 1:
        tensors = list(tensors)
        add_up(tensors)
        for tensor in tensors:
            tensor /= count()


@torch.no_grad()
def copy_main(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by those of the main process; see `add_up`."""
    if count() > 1:
        _exchange(tensors, partial(dist.broadcast, src=0))


def _exchange(tensors: Iterable[Tensor], operation: Callable[..., Any]) -> None:
    """Apply a collective operation to every tensor, to all at once: faster than copies in one message."""
    sent = [(tensor, tensor.detach().to(_device()).contiguous()) for tensor in tensors if tensor.numel()]
    for work in [operation(copy, async_op=True) for _, copy in sent]:
        work.wait()
    for tensor, copy in sent:
        if copy.data_ptr() != tensor.data_ptr():
            tensor.copy_(copy)


def _device() -> torch.device:
    """Return where tensors must lie to be sent."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
