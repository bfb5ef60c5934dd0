"""Data-parallel training: process launch and collective operations.

Every process has the whole model and takes the same steps with different rows. With a single process, all functions
return their input at no cost.
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
from neuroprune.files.temporary import temporary_folder

PR_SET_PDEATHSIG = 1  # option of prctl(2)
T = TypeVar("T")


def count() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Return whether this is the main process, which writes files."""
    return count() == 1 or dist.get_rank() == 0


def must_start(processes: int) -> bool:
    """Return whether the processes still have to be started by `launch`.

    Args:
        processes: Requested number of processes.

    Returns:
        False if this process already belongs to such a group or if only one process is requested.

    Raises:
        UserError: If another launcher has started a different number of processes.
    """
    found = int(os.environ.get("WORLD_SIZE", 1))
    if found not in (1, processes):
        raise UserError(
            f"{found} processes were launched, but the run's settings say processes: {processes}; launch a single "
            "process, which starts the others itself."
        )
    return processes > found


def launch(function: Callable[..., None], processes: int, *arguments: Any) -> None:
    """Call a function in a group of new processes on this machine and wait until all have ended.

    If one process fails, the others are terminated. They also end if this process ends.

    Args:
        function: A module-level function.
        processes: Number of processes.
        *arguments: Its arguments, which are pickled.

    Raises:
        UserError: If a process raised a UserError, or if there are fewer GPUs than processes.
        RuntimeError: If a process failed in another way; its traceback is in the log.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if 0 < torch.cuda.device_count() < processes:
        raise UserError(
            f"processes: {processes}, but there are {torch.cuda.device_count()} GPUs; every process needs its own."
        )
    try:
        with temporary_folder("neuroprune-launch-") as logs, _own_signals():
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
                logs_specs=DefaultLogsSpecs(log_dir=str(logs)),
            )
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
    """Restore the signal handlers that torch's launcher replaces."""
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)}
    try:
        yield
    finally:
        for name, handler in before.items():
            if handler not in (None, signal.getsignal(name)):
                signal.signal(name, handler)


def end_with_parent(group: bool = False) -> None:
    """Arrange for this process to be killed when its parent ends, even if the parent is killed.

    Torch's launcher requests SIGINT, but processes that a shell started in the background ignore it, and a process that
    waits for its peers handles it too late.

    Args:
        group: Whether to kill the whole process group, of which this process must be the leader.
    """
    if sys.platform == "linux" and not group:  # the kernel kills immediately, but only this process
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None:  # in case the parent ended before the call above
        threading.Thread(target=_kill_after, args=[parent.sentinel, group], daemon=True).start()


def _kill_after(sentinel: int, group: bool) -> None:
    wait_for([sentinel])
    os.kill(0 if group else os.getpid(), signal.SIGKILL)


@contextmanager
def joined(processes: int) -> Iterator[None]:
    """Join the group of processes that `launch` started, for the duration of the block.

    Args:
        processes: Number of processes; nothing is done for 1 or if this process has already joined.
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
    """Map the location `cpu:0`, used by transformers 5.17 but unknown to torch, to the CPU."""
    return storage if place.startswith("cpu:") else None


def from_main(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in the main process only; return its picklable value in all processes."""
    if count() == 1:
        return function(*arguments)
    found = [function(*arguments) if is_main() else None]
    dist.broadcast_object_list(found, src=0, device=_device())
    return found[0]  # type: ignore[return-value]


def main_first() -> Any:
    """Return a context in which the main process runs before the others, so that files are downloaded once."""
    if count() == 1:
        return nullcontext()
    from accelerate import PartialState

    return PartialState().main_process_first()


def wait() -> None:
    """Wait until all processes have reached this call."""
    if count() > 1:
        dist.barrier()


@torch.no_grad()
def add_up(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by their sums over all processes; the sums are bitwise equal in all of them.

    Args:
        tensors: Tensors of any shapes and types, in the same order in all processes; changed in place.
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
    """Apply a collective operation to all tensors concurrently, which is faster than copying them into one message."""
    sent = [(tensor, tensor.detach().to(_device()).contiguous()) for tensor in tensors if tensor.numel()]
    for work in [operation(copy, async_op=True) for _, copy in sent]:
        work.wait()
    for tensor, copy in sent:
        if copy.data_ptr() != tensor.data_ptr():
            tensor.copy_(copy)


def _device() -> torch.device:
    """Return the device that the backend requires for tensors."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
