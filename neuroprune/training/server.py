"""A process that keeps Python and the libraries loaded, so that a machine's many small jobs need not load them again.

The workflow starts it beside local jobs. A ``neuroprune`` command that finds its address in the environment hands over
its words, folder, environment and standard streams; the server forks, and the fork does what the command would have
done. So each run is a process of its own still, which may fail, be killed and be started again alone. A command whose
server is gone does its work itself.

No accelerator is touched before the fork: a CUDA context does not survive one.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

ADDRESS = "NEUROPRUNE_WARM"  # environment: the path of the server's socket; absent or empty: no server
_LENGTH = struct.Struct("!Q")
_STREAMS = (0, 1, 2)
FOR_RUNS = ("datasets", "evaluate", "sklearn.metrics", "neuroprune.training.inference_time", "neuroprune.training.run")
LIBRARIES = (*FOR_RUNS, "matplotlib.pyplot", "pandas", "neuroprune.results.collect")


def start() -> None:
    """Start a server for the commands that this process starts, unless the environment says which to use, or none.

    It ends with this process, however this one ends.
    """
    if ADDRESS in os.environ:
        return
    folder = tempfile.TemporaryDirectory(prefix="neuroprune-")
    os.environ[ADDRESS] = str(Path(folder.name, "warm"))
    command = [sys.executable, "-m", "neuroprune.cli", "warm", os.environ[ADDRESS]]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1", ADDRESS: ""})
    atexit.register(folder.cleanup)
    atexit.register(server.communicate)  # done first


def hand_over(words: Sequence[str]) -> int | None:
    """Let the server named in the environment do a command, and wait for its end.

    Args:
        words: The command line without the program's name.

    Returns:
        The exit code, or None if there is no server to do it.
    """
    address = os.environ.get(ADDRESS)
    if not address:
        return None
    request = json.dumps({"words": list(words), "folder": str(Path.cwd()), "environment": dict(os.environ)}).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(address)
            socket.send_fds(connection, [_LENGTH.pack(len(request))], _STREAMS)
            connection.sendall(request)
        except OSError:
            return None
        if not _byte(connection):  # begun
            return None
        code = _byte(connection)
        _byte(connection)  # ends with the process
    if not code:
        print(f"neuroprune {words[0]} was killed.", file=sys.stderr)
    return code[0] if code else 128 + signal.SIGKILL


def serve(address: str, run: Callable[[Sequence[str]], int]) -> None:
    """Answer `hand_over` until the standard input ends, as it does with the process that started this one.

    Args:
        address: Path of the socket to make, in a folder that nobody else can enter.
        run: What does a command in the fork, such as `neuroprune.cli.main`.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(address)
        server.listen(128)  # callers wait while the libraries load
        for library in LIBRARIES:
            importlib.import_module(library)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
        while sys.stdin not in select.select([server, sys.stdin], [], [])[0]:
            connection, _ = server.accept()
            with connection:
                if os.fork() == 0:
                    sys.exit(_work(connection, run))


def _work(connection: socket.socket, run: Callable[[Sequence[str]], int]) -> int:
    """In the fork: take the caller's place, do the command, tell the caller the exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)
    head, streams, _, _ = socket.recv_fds(connection, _LENGTH.size, len(_STREAMS))
    if len(head) < _LENGTH.size:
        return 1
    request = json.loads(_receive(connection, *_LENGTH.unpack(head)))
    for stream, own in zip(streams, _STREAMS, strict=True):
        os.dup2(stream, own)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    connection.sendall(b"\0")
    threading.Thread(target=_end_with, args=[connection], daemon=True).start()
    try:
        code = run(request["words"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    with contextlib.suppress(OSError):
        connection.sendall(bytes([code]))
    return code


def _receive(connection: socket.socket, size: int) -> bytes:
    """Read so many bytes, or fewer if the caller has gone."""
    parts = bytearray()
    while len(parts) < size and (part := connection.recv(size - len(parts))):
        parts += part
    return bytes(parts)


def _byte(connection: socket.socket) -> bytes:
    """Read one byte, or none if the other side is gone."""
    try:
        return connection.recv(1)
    except ConnectionError:
        return b""


def _end_with(connection: socket.socket) -> None:
    """Kill this job, with what it has started, when its caller is gone."""
    if not _byte(connection):
        os.killpg(0, signal.SIGKILL)
