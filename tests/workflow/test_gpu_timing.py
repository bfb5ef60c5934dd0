"""`make gpu-timing`: correct model sizes, a run with tiny models, and a refusal to time a CPU by mistake."""

import os
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
import yaml
from conftest import ROOT
from test_mini_study import rows_of, write_weather
from transformers import AutoConfig, AutoModel

from neuroprune.config.catalogue import make_plan, read_study
from neuroprune.results.records import read_record, read_timing
from neuroprune.results.tables import TABLES

STUDY = ROOT / "config" / "gpu_timing.yaml"
TINY = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4}


@pytest.mark.parametrize(
    ("model", "body"), [("bert_base_size", 85.6e6), ("t5_base_size", 198.2e6), ("opt_125m_size", 85.1e6)]
)
def test_the_models_have_the_sizes_of_their_namesakes(model, body):
    """Without embeddings, whose vocabulary depends on the text."""
    plan = make_plan(read_study([STUDY]), "gpu_timing.yaml", ROOT / "config", [*TABLES])
    settings = plan.study.models[model]
    config = AutoConfig.for_model(settings.source.removeprefix("random:"), **settings.config)
    with torch.device("meta"):
        network = AutoModel.from_config(config)
    embeddings = {
        module.weight  # the same one in T5's encoder and decoder
        for module in network.modules()
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings > 64  # T5's position biases are its body
    }
    assert network.num_parameters() - sum(map(torch.numel, embeddings)) == pytest.approx(body, rel=0.01)


def test_it_runs_at_tiny_sizes_on_whatever_device_there_is(snakemake, tmp_path):
    write_weather(tmp_path / "data")
    study = yaml.safe_load(STUDY.read_text())
    study |= {"data_root": "data", "runs_per_job": 3}  # two processes instead of five load torch
    study["models"] = {"t5_base_size": study["models"]["t5_base_size"] | {"config": TINY}}
    study["tasks"] = {"weather": {"source": "tests/weather", "inputs": ["sentence"], "max_length": 32}}
    study["timing"] |= {"batch_sizes": [1, 8], "examples": 16, "repeats": 2, "precision": "bf16"}
    study["experiments"]["sizes"] |= {"models": ["t5_base_size"], "tasks": ["weather"]}
    assert [entry["name"] for entry in study["experiments"]["sizes"]["methods"]] == ["dense", "neuroprune", "l1"]
    study["experiments"]["sizes"]["methods"][1]["sparsity"] = 0.8
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    done = snakemake(tmp_path, "--cores", "2", "--configfile", "study.yaml")
    assert done.code == 0, done.out + done.err

    results = tmp_path / "results" / "gpu-timing"
    rows = rows_of(results / "tables" / "timing.csv")
    assert len(rows) == 3
    for row in rows:
        assert row["model_random"] == "True"
        assert all(float(row[name]) > 0 for name in ("step_ms_first", "step_ms_last", "inference_ms_b8", "speedup_b1"))
    assert "initialised at random" in (results / "tables" / "timing.md").read_text()
    record = read_record(results / "runs" / "t5_base_size-weather-neuroprune-80-s0" / "run.json")
    assert record.settings.seed == 0 and record.environment.versions["torch"] == version("torch")
    assert len(record.result.step_times) > 1
    timing = read_timing(results / "runs" / "t5_base_size-weather-neuroprune-80-s0" / "timing.json")
    assert timing.settings.precision == "bf16" and len(timing.batches) == 2


@pytest.mark.parametrize(("words", "code"), [([], 1), (["--cpu"], 0)])
def test_a_cpu_is_timed_only_if_asked_for(words, code):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.gpu", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("There is no GPU that torch can use" in done.stderr) == (code == 1)
    assert "Traceback" not in done.stderr
