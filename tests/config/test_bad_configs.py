"""Invalid study files: `neuroprune plan` reports file and key in one sentence and writes nothing."""

# ruff: noqa: E501 (the tables have one case a line)

import copy
import time
from pathlib import Path

import pytest
import yaml

from neuroprune.cli import main
from neuroprune.config.yaml_files import read_yaml

SECONDS = 10  # seconds of processor time: far above a rejection, far below a hang
STUDY = {
    "study": "s",
    "models": {"m": {"source": "random:bert", "config": {"hidden_size": 32, "num_attention_heads": 4}}},
    "tasks": {"t": {"source": "some/where", "inputs": ["text"]}},
    "experiments": {"e": {"models": ["m"], "tasks": ["t"], "methods": [{"name": "l1", "sparsity": 0.5}]}},
}
METHOD, MODEL, TASK = "experiments.e.methods[0]", "models.m", "tasks.t"
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 100}


def bert(**values):
    return {"source": "random:bert", "config": BERT | values}


def random(kind, **values):
    return {"source": f"random:{kind}", "config": values}


def known(**values):
    return {"source": "google-bert/bert-base-uncased", "config": values}


VALUES = [
    # the study
    ("study", "a/b", "study"),
    ("study", "..", "study"),
    ("study", "", "study"),
    ("study", ".hidden", "study"),
    ("study", "-x", "study"),
    ("study", "s" * 300, "study"),
    ("study", "a\nb", "study"),
    ("study", "s\n", "study"),
    ("study", None, "study"),
    ("study", ["s"], "study"),
    ("study", True, "study"),
    ("study", "ä", "study"),
    ("results", "", "results"),
    ("results", "a{b}", "results"),
    ("results", "<study>", "results"),
    ("results", "-x", "results"),
    ("results", "~/results", "results"),
    ("results", "$HOME/results", "results"),
    ("results", "r" * 300, "results"),
    ("results", "a\0b", "results"),
    ("results", "a/" * 3000 + "b", "results"),
    ("results", 5, "results"),
    ("results", "a b*", "results"),
    ("results", "study.yaml", "results: 'study.yaml' is a file"),
    ("results", "study.yaml/below", "results: 'study.yaml' is a file"),
    ("data_root", "study.yaml/a/b", "data_root: 'study.yaml' is a file"),
    ("data_root", "", "data_root"),
    ("data_root", "a\0b", "data_root"),
    ("data_root", ["x"], "data_root"),
    ("data_root", "d" * 300, "data_root"),
    ("data_root", "-x", "data_root"),
    ("data_root", "~/data", "data_root"),
    # seeds
    ("seeds", [2**32], "seeds[0]"),
    ("seeds", [-1], "seeds[0]"),
    ("seeds", [2**64], "seeds[0]"),
    ("seeds", [10**400], "seeds[0]"),
    ("seeds", list(range(100_000)), "seeds"),
    ("seeds", [], "seeds"),
    ("seeds", [[0]], "seeds[0]"),
    ("seeds", [{}], "seeds[0]"),
    ("seeds", [0.5], "seeds[0]"),
    ("seeds", [float("nan")], "seeds[0]"),
    ("seeds", [None], "seeds[0]"),
    ("seeds", 3, "seeds"),
    ("seeds", "0", "seeds"),
    ("seeds", {"a": 1}, "seeds"),
    ("seeds", [1, 1], "seeds"),
    ("seeds", [2, True], "seeds[1]: True is not allowed; it must be a number"),
    ("experiments.e.seeds", [2**64], "experiments.e.seeds[0]"),
    ("experiments.e.seeds", [], "experiments.e.seeds"),
    # training
    ("training.epochs", 1e308, "training.epochs"),
    ("training.epochs", float("nan"), "training.epochs"),
    ("training.epochs", float("inf"), "training.epochs"),
    ("training.epochs", 0, "training.epochs"),
    ("training.epochs", -1, "training.epochs"),
    ("models", {}, "experiments.e.models[0]: unknown model 'm'; known: none"),
    ("training.epochs", "three", "training.epochs"),
    ("training.epochs", True, "training.epochs: True is not allowed; it must be a number"),
    ("training.threads", False, "training.threads: False"),
    ("models.m.layers", True, "models.m.layers: True"),
    ("timing.batch_sizes", [1, True], "timing.batch_sizes[1]: True"),
    (METHOD, {"name": "l1", "sparsity": 0.5, "events": True}, f"{METHOD}.events: True"),
    (METHOD, {"name": "l1", "sparsity": 0.5, "events": [1, True]}, f"{METHOD}.events[1]: True"),
    (METHOD, {"name": "l1", "sparsity": 0.5, "version": "2"}, f"{METHOD}.version: '2' is not allowed; allowed: 1 or 2"),
    (METHOD, {"name": "l1", "sparsity": 0.5, 5: 6}, f"{METHOD}: the key 5 is not text; put it in quotes"),
    ("experiments", {True: STUDY["experiments"]["e"]}, "experiments: the key True is not text; put it in quotes"),
    ("experiments.e.tasks", None, "experiments.e.tasks: nothing (null) is not allowed; it must be a list"),
    ("training.epochs", [1], "training.epochs"),
    ("training.epochs", None, "training.epochs"),
    ("training.batch_size", 0, "training.batch_size"),
    ("training.batch_size", 10**12, "training.batch_size"),
    ("training.batch_size", 2.5, "training.batch_size"),
    ("training.learning_rate", 0, "training.learning_rate"),
    ("training.learning_rate", float("inf"), "training.learning_rate"),
    ("training.learning_rate", float("nan"), "training.learning_rate"),
    ("training.learning_rate", -1e-4, "training.learning_rate"),
    ("training.weight_decay", -1, "training.weight_decay"),
    ("training.weight_decay", float("inf"), "training.weight_decay"),
    ("training.warmup", 1, "training.warmup"),
    ("training.warmup", 1.5, "training.warmup"),
    ("training.warmup", float("nan"), "training.warmup"),
    ("training.max_grad_norm", 0, "training.max_grad_norm"),
    ("training.threads", 10**12, "training.threads"),
    ("training.threads", 0, "training.threads"),
    ("training.processes", 10**6, "training.processes"),
    ("training.processes", 3000, "training.processes"),
    ("training.accumulation", 0, "training.accumulation"),
    ("training.accumulation", 10**12, "experiments.e"),
    ("training.accumulation", 7, "experiments.e"),
    ("training.optimizer", "adam", "training.optimizer"),
    ("training.precision", "fp8", "training.precision"),
    ("training.budget", 5, "training.budget"),
    ("training.evaluate", True, "training.evaluate"),
    ("training.deterministic", "perhaps", "training.deterministic"),
    ("training", [], "training"),
    ("training", "fast", "training"),
    ("training.epoch", 3, "training.epoch"),
    ("experiments.e.training.epochs", float("nan"), "experiments.e.training.epochs"),
    ("models.m.training.epochs", 0, "models.m.training.epochs"),
    ("tasks.t.training.warmup", 2, "tasks.t.training.warmup"),
    # timing, jobs
    ("timing.batch_sizes", [], "timing.batch_sizes"),
    ("timing.batch_sizes", [10**12], "timing.batch_sizes[0]"),
    ("timing.batch_sizes", 32, "timing.batch_sizes"),
    ("timing.batch_sizes", [1, 1], "timing.batch_sizes"),
    ("timing.examples", 0, "timing.examples"),
    ("timing.examples", 10**15, "timing.examples"),
    ("timing.repeats", 10**9, "timing.repeats"),
    ("timing.warmup", -1, "timing.warmup"),
    ("timing.warmup", 10**9, "timing.warmup"),
    ("timing.threads", 10**12, "timing.threads"),
    ("timing.seeds", 0, "timing.seeds"),
    ("runs_per_job", 0, "runs_per_job"),
    ("runs_per_job", 10**6, "runs_per_job"),
    ("job_hours", 0, "job_hours"),
    ("job_hours", float("nan"), "job_hours"),
    ("checkpoint_minutes", -1, "checkpoint_minutes"),
    ("checkpoint_minutes", float("inf"), "checkpoint_minutes"),
    ("models.m.job.memory_mb", 0, "models.m.job.memory_mb"),
    ("models.m.job.memory_mb", 10**30, "models.m.job.memory_mb"),
    ("models.m.job.minutes", -5, "models.m.job.minutes"),
    ("models.m.job.minutes", 10**30, "models.m.job.minutes"),
    ("artefacts", ["figure99"], "artefacts[0]"),
    ("artefacts", "figure4", "artefacts"),
    ("artefacts", [["figure4"]], "artefacts[0]"),
    ("keep_models", 7, "keep_models"),
    ("from_results", "perhaps", "from_results"),
    # experiments
    ("experiments", {}, "experiments"),
    ("experiments", [], "experiments"),
    ("experiments", "e", "experiments"),
    ("experiments.e", None, "experiments.e"),
    ("experiments.e", {}, "experiments.e.models"),
    ("experiments.e.models", [], "experiments.e.models"),
    ("experiments.e.models", "m", "experiments.e.models"),
    ("experiments.e.models", [["m"]], "experiments.e.models[0]"),
    ("experiments.e.models", [{"m": 1}], "experiments.e.models[0]"),
    ("experiments.e.models", [5], "experiments.e.models[0]"),
    ("experiments.e.models", ["mm"], "experiments.e.models[0]"),
    ("experiments.e.tasks", [None], "experiments.e.tasks[0]"),
    ("experiments.e.tasks", ["t", "t"], "experiments.e.tasks"),
    ("experiments.e.methods", [], "experiments.e.methods"),
    ("experiments.e.methods", {"name": "l1"}, "experiments.e.methods"),
    ("experiments.e.methods", [None], METHOD),
    ("experiments.e.methods", [[]], METHOD),
    ("experiments.e.methods", [{}], f"{METHOD}.name"),
    ("experiments.e.methods", [{"name": ["l1"]}], f"{METHOD}.name"),
    ("experiments.e.methods", [{"name": {"l1": 1}}], f"{METHOD}.name"),
    ("experiments.a-b", {"models": ["m"], "tasks": ["t"], "methods": [{"name": "dense"}]}, "experiments.a-b"),
    ("experiments.", {"models": ["m"], "tasks": ["t"], "methods": [{"name": "dense"}]}, "experiments"),
    (f"experiments.{'x' * 300}", {"models": ["m"], "tasks": ["t"], "methods": [{"name": "dense"}]}, "experiments"),
    # methods
    (METHOD, {"name": "l1", "sparsity": 0.5, "events": 10**9}, f"{METHOD}.events"),
    (METHOD, {"name": "taylor", "sparsity": 0.5, "events": 1001}, f"{METHOD}.events"),
    (METHOD, {"name": "l1", "sparsity": 1}, f"{METHOD}.sparsity"),
    (METHOD, {"name": "l1", "sparsity": 80}, f"{METHOD}.sparsity"),
    (METHOD, {"name": "l1", "sparsity": float("nan")}, f"{METHOD}.sparsity"),
    (METHOD, {"name": "l1", "sparsity": [0.5, [0.6]]}, f"{METHOD}.sparsity[1]"),
    (METHOD, {"name": "l1", "sparsity": {"a": 1}}, f"{METHOD}.sparsity"),
    (METHOD, {"name": "l1", "sparsity": [0.5, 0.5]}, "experiments.e"),
    (METHOD, {"name": "l1", "sparsity": None}, METHOD),
    (METHOD, {"name": "l1", "strength": float("inf")}, f"{METHOD}.strength"),
    (METHOD, {"name": "l1", "strength": -1}, f"{METHOD}.strength"),
    (METHOD, {"name": "l1", "sparsity": 0.5, "start": float("nan")}, f"{METHOD}.start"),
    (METHOD, {"name": "l1", "sparsity": 0.5, "start": 0.9}, METHOD),
    (METHOD, {"name": "neuroprune", "heads": 0}, f"{METHOD}.heads"),
    (METHOD, {"name": "neuroprune", "heads": 10**9}, "experiments.e"),
    (METHOD, {"name": "neuroprune", "heads": 49}, "experiments.e"),
    (METHOD, {"name": "neuroprune", "heads": 11}, "experiments.e"),
    (METHOD, {"name": "dsp", "heads": 49}, "experiments.e"),
    (METHOD, {"name": "neuroprune", "alpha": [*range(1000)], "beta": [*range(1000)], "theta": [*range(1000)]}, METHOD),
    (METHOD, {"name": "neuroprune", "theta": -1}, f"{METHOD}.theta"),
    (METHOD, {"name": "cofi", "sparsity": 0.5, "masks": [["hed"]]}, f"{METHOD}.masks"),
    (METHOD, {"name": "cofi", "sparsity": 0.5, "masks": ["head"]}, f"{METHOD}.masks"),
    (METHOD, {"name": "cofi", "sparsity": 0.5, "masks": [["head", "head"]]}, METHOD),
    (METHOD, {"name": "cofi", "sparsity": 0.5, "masks": [[]]}, f"{METHOD}.masks"),
    (METHOD, {"name": "cofi", "sparsity": 0.5, "masks": 5}, f"{METHOD}.masks"),
    (METHOD, {"name": "cofi", "sparsity": 0.5, "teacher": "no/such/folder"}, f"{METHOD}.teacher"),
    (METHOD, {"name": "cofi", "sparsity": 0.5, "teacher": ""}, f"{METHOD}.teacher"),
    (METHOD, {"name": "cofi", "sparsity": 0.5, "teacher": "."}, f"{METHOD}.teacher: there is no config.json in"),
    (METHOD, {"name": "cofi", "sparsity": 0.5, "teacher": "study.yaml"}, f"{METHOD}.teacher"),
    (METHOD, {"name": "dense", "sparsity": 0.5}, f"{METHOD}.sparsity"),
    # models
    ("models", [], "models"),
    (MODEL, [], MODEL),
    (MODEL, {"source": ""}, f"{MODEL}.source"),
    (MODEL, {"source": 5}, f"{MODEL}.source"),
    (MODEL, {"source": None}, f"{MODEL}.source"),
    (MODEL, {"source": "random:"}, MODEL),
    (MODEL, {"source": "random:brt"}, MODEL),
    (MODEL, {"source": "random:albert"}, MODEL),
    (MODEL, {"source": "a\0b"}, MODEL),
    (MODEL, {"source": "x" * 5000}, MODEL),
    (MODEL, {"source": "no/such/hub/id"}, MODEL),
    (MODEL, {"source": "."}, f"{MODEL}: there is no config.json in the folder '.'"),
    (MODEL, {"source": "https://example.org/model"}, MODEL),
    (MODEL, {"source": "package:x"}, MODEL),
    (MODEL, {"source": "package:x==1"}, MODEL),
    (MODEL, {"source": "package:x==1", "sha256": "a" * 64, "folder": "/etc"}, MODEL),
    (MODEL, {"source": "package:x==1", "sha256": "a" * 64, "folder": "../up"}, MODEL),
    (MODEL, {"source": "package:x==", "sha256": "a" * 64, "folder": "m"}, MODEL),
    (MODEL, {"source": "a/b", "layers": 0}, f"{MODEL}.layers"),
    (MODEL, {"source": "a/b", "layers": 2.5}, f"{MODEL}.layers"),
    (MODEL, {"source": "a/b", "parameters": -1}, f"{MODEL}.parameters"),
    (MODEL, {"source": "a/b", "revision": ["main"]}, f"{MODEL}.revision"),
    (MODEL, {"source": "a/b", "config": [1]}, f"{MODEL}.config"),
    (MODEL, {"source": "a/b", "config": "x"}, f"{MODEL}.config"),
    (MODEL, {"source": "random:bert", "layers": 13}, MODEL),
    (MODEL, bert(hidden_size="wide"), MODEL),
    (MODEL, bert(hidden_size=None), MODEL),
    (MODEL, bert(hidden_size=float("nan")), MODEL),
    (MODEL, bert(hidden_size=[32]), MODEL),
    (MODEL, bert(hidden_size={"a": 1}), MODEL),
    (MODEL, bert(hidden_size=0), MODEL),
    (MODEL, bert(hidden_size=-32), MODEL),
    (MODEL, bert(hidden_size=32.5), MODEL),
    (MODEL, bert(hidden_size=True), MODEL),
    (MODEL, bert(hidden_size="32"), MODEL),
    (MODEL, bert(hidden_size=33), MODEL),
    (MODEL, bert(hidden_size=10**9), MODEL),
    (MODEL, bert(num_attention_heads=0), MODEL),
    (MODEL, bert(num_attention_heads=64), MODEL),
    (MODEL, bert(num_hidden_layers=0), MODEL),
    (MODEL, bert(num_hidden_layers="two"), MODEL),
    (MODEL, bert(num_hidden_layers=10**9), MODEL),
    (MODEL, bert(intermediate_size=0), MODEL),
    (MODEL, bert(intermediate_size=[64]), MODEL),
    (MODEL, bert(vocab_size="many"), MODEL),
    (MODEL, bert(vocab_size=None), MODEL),
    (MODEL, bert(vocab_size=[1]), MODEL),
    (MODEL, bert(vocab_size=0), MODEL),
    (MODEL, bert(vocab_size=10**12), MODEL),
    (MODEL, bert(max_position_embeddings=0), MODEL),
    (MODEL, bert(max_position_embeddings=64), "experiments.e"),
    (MODEL, bert(max_position_embeddings=None), MODEL),
    (MODEL, bert(hidden_act="gelloo"), MODEL),
    (MODEL, bert(hidden_act=None), MODEL),
    (MODEL, bert(hidden_act=5), MODEL),
    (MODEL, bert(hidden_dropout_prob=1.5), MODEL),
    (MODEL, bert(hidden_dropout_prob="none"), MODEL),
    (MODEL, bert(hidden_dropout_prob=float("nan")), MODEL),
    (MODEL, bert(attention_probs_dropout_prob=-0.1), MODEL),
    (MODEL, bert(initializer_range=-1), MODEL),
    (MODEL, bert(initializer_range="small"), MODEL),
    (MODEL, bert(initializer_range=float("inf")), MODEL),
    (MODEL, bert(layer_norm_eps=-1), MODEL),
    (MODEL, bert(type_vocab_size=0), MODEL),
    (MODEL, bert(type_vocab_size="two"), MODEL),
    (MODEL, random("electra", type_vocab_size=0), MODEL),
    (MODEL, random("deberta-v2", type_vocab_size=-1), MODEL),
    (MODEL, random("deberta-v2", pooler_hidden_size="x"), MODEL),
    (MODEL, random("deberta-v2", pooler_hidden_size=0), MODEL),
    (MODEL, known(hidden_size=32), f"{MODEL}.config.hidden_size"),
    (MODEL, known(num_attention_heads=6), f"{MODEL}.config.num_attention_heads"),
    (MODEL, known(num_hidden_layers=24), f"{MODEL}.config.num_hidden_layers"),
    (MODEL, known(max_position_embeddings=64), f"{MODEL}.config.max_position_embeddings"),
    (MODEL, known(hidden_act="gelloo"), f"{MODEL}.config.hidden_act"),
    (MODEL, bert(is_decoder=True), MODEL),
    (MODEL, bert(output_attentions=True), f"{MODEL}.config.output_attentions"),
    (MODEL, bert(add_cross_attention=True), MODEL),
    (MODEL, bert(model_type="t5"), MODEL),
    (MODEL, random("t5", d_model=0), MODEL),
    (MODEL, random("t5", d_kv="x"), MODEL),
    (MODEL, random("t5", num_heads=None), MODEL),
    (MODEL, random("t5", num_layers=2.5), MODEL),
    (MODEL, random("t5", feed_forward_proj="gated-gelloo"), MODEL),
    (MODEL, random("t5", dropout_rate=2), MODEL),
    (MODEL, random("marian", d_model=130, encoder_attention_heads=4), MODEL),
    (MODEL, random("marian", decoder_layers=0), MODEL),
    (MODEL, random("marian", activation_function="gelloo"), MODEL),
    (MODEL, random("opt", hidden_size=130, num_attention_heads=4), MODEL),
    (MODEL, random("opt", ffn_dim="x"), MODEL),
    (MODEL, random("gpt2", n_embd=33, n_head=4), MODEL),
    (MODEL, random("llama", num_attention_heads=4, num_key_value_heads=3, hidden_size=64), MODEL),
    (MODEL, random("llama", hidden_act="gelloo"), MODEL),
    (MODEL, random("distilbert", dim=33, n_heads=4), MODEL),
    (MODEL, random("distilbert", activation="gelloo"), MODEL),
    # tasks
    ("tasks", [], "tasks"),
    (TASK, None, TASK),
    (TASK, {"source": "a/b"}, f"{TASK}.inputs"),
    (TASK, {"source": "a/b", "inputs": []}, f"{TASK}.inputs"),
    (TASK, {"source": "a/b", "inputs": "text"}, f"{TASK}.inputs"),
    (TASK, {"source": "a/b", "inputs": ["a", "b", "c"]}, f"{TASK}.inputs"),
    (TASK, {"source": "a/b", "inputs": [["a"]]}, f"{TASK}.inputs[0]"),
    (TASK, {"source": "a/b", "inputs": [""]}, f"{TASK}.inputs[0]"),
    (TASK, {"source": "a/b", "inputs": ["text", "text"]}, TASK),
    (TASK, {"source": "a/b", "inputs": ["text"], "label": "text"}, TASK),
    (TASK, {"source": "a/b", "inputs": ["text"], "label": ""}, f"{TASK}.label"),
    (TASK, {"source": "a/b", "inputs": ["text"], "label": 1}, f"{TASK}.label"),
    (TASK, {"source": "a/b", "inputs": ["text"], "train_split": ""}, f"{TASK}.train_split"),
    (TASK, {"source": "a/b", "inputs": ["text"], "train_split": "validation"}, f"{TASK}: train_split and eval_split are both"),
    (TASK, {"source": "a/b", "inputs": ["text"], "eval_split": "train"}, f"{TASK}: train_split and eval_split are both"),
    (TASK, {"source": "a\0b", "inputs": ["text"]}, f"{TASK}.source"),
    (TASK, {"source": "x" * 5000, "inputs": ["text"]}, f"{TASK}.source"),
    (TASK, {"source": "https://example.org/x.csv", "inputs": ["text"]}, TASK),
    (TASK, {"source": "a/b", "inputs": ["text"], "metric": "rouge1"}, TASK),
    (TASK, {"source": "a/b", "inputs": ["text"], "kind": "ranking"}, f"{TASK}.kind"),
    (TASK, {"source": "a/b", "inputs": ["text"], "max_length": 0}, f"{TASK}.max_length"),
    (TASK, {"source": "a/b", "inputs": ["text"], "max_length": 513}, "experiments.e"),
    (TASK, {"source": "a/b", "inputs": ["text"], "max_length": 10**12}, f"{TASK}.max_length"),
    (TASK, {"source": "a/b", "inputs": ["text"], "train_rows": 0}, f"{TASK}.train_rows"),
    (TASK, {"source": "a/b", "inputs": ["text"], "train_rows": -5}, f"{TASK}.train_rows"),
    (TASK, {"source": "a/b", "inputs": ["text"], "eval_rows": 1.5}, f"{TASK}.eval_rows"),
    (TASK, {"source": "a/b", "inputs": ["text"], "expected_rows": 0}, f"{TASK}.expected_rows"),
    (TASK, {"source": "a/b", "inputs": ["text"], "beams": 4}, TASK),
    (TASK, {"source": "a/b", "inputs": ["text"], "kind": "summarization", "metric": "rouge1"}, "experiments.e"),
    (TASK, {"source": "a/b", "inputs": ["text"], "kind": "summarization", "metric": "rouge1", "beams": 10**9}, f"{TASK}.beams"),
    (TASK, {"source": "a/b", "inputs": ["text"], "kind": "summarization", "metric": "rouge1", "answer_length": 10**12}, f"{TASK}.answer_length"),
    (TASK, {"source": "a/b", "inputs": ["text"], "kind": "translation", "metric": "bleu", "label_smoothing": 1.5}, f"{TASK}.label_smoothing"),
    (TASK, {"source": "a/b", "inputs": ["text"], "name": "other"}, TASK),
]  # fmt: skip

TEXTS = [
    ("study: s\nseeds: [1,\ntraining: {", "line "),
    ("study: s\n\tseeds: 1", "line 2"),
    ("study: s\nstudy: t\n", "line 2"),
    ("", "the file is empty"),
    ("# nothing\n", "the file is empty"),
    ("--- \n...\n", "the file is empty"),
    ("- 1\n", ""),
    ("just text", ""),
    ("5", ""),
    ("study: s\n---\nstudy: t\n", ""),
    ("a: !!python/object/apply:os.getcwd []", "line 1"),
    ("a: !unknown 5", "line 1"),
    ("a: *nowhere", "line 1"),
    ("? [a, b]\n: 5\n", "line 1"),
    ("? {a: b}\n: 5\n", "line 1"),
    ("study: s\nmodels: {? [a] : {source: x}}\n", "line 2"),
    ("a: &a [*a]\n", "line 1"),
    ("study: &a {b: *a}\n", "line 1"),
    ("a: &a {b: &b {c: *a}}\n", "line 1"),
    ("[" * 500 + "]" * 500, "line 1"),
    ("a: " + "[" * 500 + "]" * 500, "line 1"),
    ("a: " + "{b: " * 500 + "1" + "}" * 500, "line 1"),
    ("\n".join(" " * n + "a:" for n in range(500)), "line "),
    ("[" * 100_000, "line 1"),
    ("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)), "line "),
    ("a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(10))}}}\n" for n in range(1, 10)), "line "),
    ("b: &b {seeds: [0]}\nstudy: s\n<<: *b\n<<: *b\n", "line 4"),
    ("study: s\ntraining:\n  <<: 5\n", "line 3"),
    ("study: s\nseeds: [0x_]\n\x00", ""),
    ("study: s\x07", ""),
    ("study: 2020-01-01\n", "study"),
    ("study: 2020-99-99\n", "line 1"),
    ("study: s\nseeds: [0b2, 08:99]\n", ""),
    ("study: s\nseeds: [010]\n", "line 2, column 9: invalid YAML: YAML reads 010 as 8; write this number"),
    ("study: s\ntraining: {epochs: 1:30}\n", "line 2, column 20: invalid YAML: YAML reads 1:30 as 90"),
    ("study: s\ntraining: {epochs: 1:30.5}\n", "line 2, column 20: invalid YAML: YAML reads 1:30.5 as 90.5"),
    ("a: !!int x:y\n", "line 1"),
    ("%YAML 9.9\n---\nstudy: s\n", ""),
    ("study: 'unfinished\n", "line "),
    ("study: s: t\n", "line 1"),
    ("study: s\n seeds: [0]\n", "line 2"),
    ("1: 2\nstudy: s\n", ""),
    ("null: 2\nstudy: s\n", ""),
    ("true: 2\nstudy: s\n", ""),
    ("1.5: 2\nstudy: s\n", ""),
    ("a: !!binary '@@'\n", ""),
    ("a: !!int x\n", ""),
    ("a: !!set {b}\n", ""),
    ("x: " + "y" * 2_000_000 + "\n", ""),
    ("seeds: [" + "9" * 10_000 + "]\n", "line 1"),
]  # fmt: skip

FILES = [
    ("utf-16", "study: s\n".encode("utf-16")),
    ("utf-16 without mark", "study: s\n".encode("utf-16-le")),
    ("utf-32", "study: s\n".encode("utf-32")),
    ("latin-1", "study: s\n# für\n".encode("latin-1")),
    ("binary", bytes(range(256))),
    ("zip", b"PK\x03\x04" + bytes(100)),
    ("zeros", bytes(1000)),
]


def parts(place):
    """Split a dotted location with bracketed numbers into its parts."""
    return [int(part) if part.isdigit() else part for part in place.replace("[", ".").replace("]", "").split(".")]


def changed(place, value):
    """Return the study as YAML text with one value replaced."""
    study = copy.deepcopy(STUDY)
    *above, last = parts(place)
    inner = study
    for part in above:
        inner = inner.setdefault(part, {}) if isinstance(inner, dict) else inner[part]
    inner[last] = value
    return yaml.safe_dump(study, allow_unicode=True, sort_keys=False)


def refusal(folder, monkeypatch, capsys, data):
    """Plan a study file in a folder; return the reported problems."""
    monkeypatch.chdir(folder)
    Path("study.yaml").write_bytes(data)
    begun = time.process_time()
    code = main(["plan", "--config", "study.yaml"])
    out, err = capsys.readouterr()
    assert (code, out) == (1, ""), out
    assert time.process_time() - begun < SECONDS
    assert [path.name for path in folder.iterdir()] == ["study.yaml"]
    lines = err.splitlines()
    assert lines and all(line.startswith("study.yaml: ") and len(line) < 1500 for line in lines), err
    return [line.removeprefix("study.yaml: ") for line in lines]


@pytest.mark.parametrize(("place", "value", "key"), VALUES, ids=lambda value: repr(value)[:60])
def test_a_bad_value_is_refused_with_its_key(tmp_path, monkeypatch, capsys, place, value, key):
    found = refusal(tmp_path, monkeypatch, capsys, changed(place, value).encode())
    assert len(found) < 4 and found[0].startswith(key)


@pytest.mark.parametrize(("text", "begin"), TEXTS, ids=lambda text: repr(text)[:60])
def test_a_bad_file_is_refused_with_its_place(tmp_path, monkeypatch, capsys, text, begin):
    assert refusal(tmp_path, monkeypatch, capsys, text.encode())[0].startswith(begin)


@pytest.mark.parametrize("data", [data for _, data in FILES], ids=[name for name, _ in FILES])
def test_a_file_in_another_encoding_is_refused_and_says_so(tmp_path, monkeypatch, capsys, data):
    (sentence,) = refusal(tmp_path, monkeypatch, capsys, data)
    assert "UTF-8" in sentence


def test_the_study_without_a_mistake_is_planned(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(yaml.safe_dump(STUDY))
    assert main(["plan", "--config", "study.yaml"]) == 0
    assert "some/where" not in capsys.readouterr().err


def test_merge_keys_work_as_in_yaml(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("training: &base {epochs: 2, warmup: 0.1}\nother: {<<: *base, warmup: 0.2}\n")
    assert read_yaml(path)["other"] == {"epochs": 2, "warmup": 0.2}


def test_a_name_too_long_for_a_folder_is_refused(tmp_path, monkeypatch, capsys):
    model, task = "m" * 100, "t" * 100
    study = copy.deepcopy(STUDY) | {"models": {model: STUDY["models"]["m"]}, "tasks": {task: STUDY["tasks"]["t"]}}
    study["experiments"]["e"] |= {"models": [model], "tasks": [task]}
    (sentence,) = refusal(tmp_path, monkeypatch, capsys, yaml.safe_dump(study).encode())
    assert sentence.startswith("experiments.e: ") and "200" in sentence


def test_settings_too_long_for_a_command_are_refused(tmp_path, monkeypatch, capsys):
    text = changed("models.m.config.note", "x" * 200_000)
    (sentence,) = refusal(tmp_path, monkeypatch, capsys, text.encode())
    assert sentence.startswith("experiments.e: ") and "100,000" in sentence


def test_a_study_of_several_hundred_kilobytes_is_planned(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    study = copy.deepcopy(STUDY)
    study["experiments"] = {
        f"e{number}": study["experiments"]["e"] | {"training": {"learning_rate": 1e-5 * (1 + number)}}
        for number in range(2000)
    }
    text = yaml.safe_dump(study)
    assert len(text) > 200_000
    Path("study.yaml").write_text(text)
    assert main(["plan", "--config", "study.yaml", "--folder"]) == 0
