"""Tests that take minutes and gigabytes; run them with `make large`."""

import os
import subprocess
import sys

import pytest
from test_run import settings

from helpers.data import write_glue
from neuroprune.config import memory
from neuroprune.results.records import read_record

GIB = 2**30
CONFIG = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
TWO_STEPS = {"epochs": 1, "batch_size": 8, "accumulation": 2, "gradient_checkpointing": True}

pytestmark = pytest.mark.large


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_two_steps_of_300_million_parameters_fit_in_12_gib(optimizer, tmp_path):
    """Including a calibration, a fold and a cut; the estimate is approximately right."""
    run = settings(
        model={"name": "large", "source": "random:bert", "config": CONFIG},
        method={"name": "neuroprune", "sparsity": 0.5, "events": 1, "start": 0.5, "end": 0.5, "calibration_rows": 8},
        training=TWO_STEPS | {"optimizer": optimizer},
    )
    folder = tmp_path / "run"
    words = ["train", "--settings", run.model_dump_json(), "--output", str(folder / "run.json")]
    data_root = write_glue(tmp_path / "data", "sst2", train=16, evaluated=8)
    command = [sys.executable, "-m", "neuroprune.cli", *words, "--data-root", str(data_root)]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    result = read_record(folder / "run.json").result
    assert result.steps == 2 and result.sparsity.dense_parameters > 3e8
    assert result.sparsity.weights == pytest.approx(0.5, abs=1e-3)
    expected = memory.memory(run, memory.shape_of(run.model.source, run.model.config)).total
    peak = usage.ru_maxrss * 1024
    print(f"\n{optimizer}: peak {peak / GIB:.1f} GiB, estimated {expected / GIB:.1f} GiB")
    assert peak < 12 * GIB
    assert peak == pytest.approx(expected, rel=0.4)
