"""Disk errors of any library become user-readable sentences; other errors are not changed."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file

from neuroprune.files import failures

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full on this system")


def of(function):
    """Return the error raised by a function."""
    with pytest.raises(Exception) as found:
        function()
    return found.value


def write():
    with FULL.open("w") as file:
        file.write("x" * 100_000)


@needs_full
@pytest.mark.parametrize(
    "function",
    [write, lambda: torch.save({"a": torch.ones(99_999)}, FULL)],
    ids=["text", "torch"],
)
def test_a_full_disk_is_told_in_a_sentence(function):
    sentence = failures.sentence(of(function))
    assert "free some space and run the command again." in sentence and "\n" not in sentence


def test_an_array_larger_than_files_may_be_is_told(tmp_path):
    import resource

    most, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        error = of(lambda: save_file({"a": np.ones(9999)}, tmp_path / "a.safetensors"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    assert isinstance(error, SafetensorError)
    assert failures.sentence(error).startswith("File too large; raise the limit on the size of files")


@pytest.mark.parametrize("number", failures.REMEDIES)
def test_the_file_and_the_remedy_are_named(number):
    sentence = failures.sentence(OSError(number, os.strerror(number), "a/b.csv"))
    assert sentence == f"a/b.csv: {os.strerror(number)}; {failures.REMEDIES[number]}"


def test_the_first_error_of_a_chain_counts():
    def work():
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "model")
        except OSError as error:
            raise RuntimeError("saving failed") from error

    assert failures.sentence(of(work)).startswith("model: No space left on device")


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError(28), OSError(errno.EIO, "Input/output error", "x"), OSError("x")]
)
def test_other_errors_are_no_sentences(error):
    assert failures.sentence(error) is None
