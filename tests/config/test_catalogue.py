"""Study files expand to the intended plan, or to one sentence per mistake."""

# ruff: noqa: E501 (the tables have one case a line)

import copy
import json
from math import prod
from pathlib import Path

import jsonschema
import pytest
import yaml

from neuroprune.config import schema as reference
from neuroprune.config.canonical import canonical
from neuroprune.config.catalogue import make_plan, merge, read_catalogue, read_study
from neuroprune.config.methods import L1Settings
from neuroprune.errors import ConfigError
from neuroprune.results.figures import FIGURES
from neuroprune.results.tables import TABLES

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"
CATALOGUE = read_catalogue(CONFIG)

STUDY = yaml.safe_load("""
study: small
seeds: [0, 1]
models: {tiny: {source: "random:bert", config: {hidden_size: 48}}}
experiments:
  sweep:
    models: [tiny]
    tasks: [sst2, mrpc]
    methods:
      - {name: dense}
      - {name: neuroprune, sparsity: [0.5, 0.975]}
""")


def changed(**values):
    """Return the small study with values replaced; keys are paths with `__` for dots."""
    study = copy.deepcopy(STUDY)
    for path, value in values.items():
        *parents, last = path.split("__")
        place = study
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = value
    return study


def plan_of(study, catalogue=CONFIG):
    return make_plan(study, "study.yaml", catalogue, artefacts=[*FIGURES, *TABLES])


def problems_of(study, catalogue=CONFIG):
    with pytest.raises(ConfigError) as error:
        plan_of(study, catalogue)
    assert str(error.value).splitlines() == error.value.problems
    return error.value.problems


# ---- from a study to its runs


def test_a_plan_has_every_run_in_order_with_every_setting():
    plan = plan_of(STUDY)
    assert list(plan.runs) == [
        f"tiny-{task}-{method}-s{seed}"
        for task in ("sst2", "mrpc")
        for method in ("dense", "neuroprune-50", "neuroprune-97.5")
        for seed in (0, 1)
    ]
    run = plan.runs["tiny-mrpc-neuroprune-97.5-s1"]
    assert run.run == "tiny-mrpc-neuroprune-97.5-s1"
    assert (run.seed, run.method.sparsity, run.method.form) == (1, 0.975, "target")
    assert (run.model.source, run.model.config) == ("random:bert", {"hidden_size": 48})
    assert (run.task.source, run.task.config, run.task.inputs) == ("nyu-mll/glue", "mrpc", ("sentence1", "sentence2"))
    assert run.training.epochs == 3 and run.training.batch_size == 32
    assert plan.experiments == {"sweep": tuple(plan.runs)}
    assert plan.timed == tuple(name for name in plan.runs if "dense" not in name)


def test_the_most_special_training_setting_counts():
    study = changed(
        training={"epochs": 1, "batch_size": 8, "warmup": 0.5, "threads": 2},
        models__tiny__training={"batch_size": 16, "warmup": 0.25, "threads": 3},
        tasks__sst2__training={"warmup": 0.125, "threads": 4},
        experiments__sweep__training={"threads": 5},
    )
    runs = plan_of(study).runs
    special, other = runs["tiny-sst2-dense-s0"].training, runs["tiny-mrpc-dense-s0"].training
    assert (special.epochs, special.batch_size, special.warmup, special.threads) == (1, 16, 0.125, 5)
    assert (other.epochs, other.batch_size, other.warmup, other.threads) == (1, 16, 0.25, 5)
    assert special.learning_rate == 1e-4


def test_a_setting_that_repeats_the_default_still_counts():
    study = changed(training={"epochs": 1}, tasks__sst2__training={"epochs": 3})
    runs = plan_of(study).runs
    assert (runs["tiny-sst2-dense-s0"].training.epochs, runs["tiny-mrpc-dense-s0"].training.epochs) == (3, 1)


def test_a_study_changes_keys_of_rows_and_leaves_the_others():
    study = changed(
        tasks__mrpc={"train_rows": 100}, models__minilm={"layers": 3}, experiments__sweep__models=["minilm"]
    )
    run = plan_of(study).runs["minilm-mrpc-dense-s0"]
    assert (run.task.train_rows, run.task.config) == (100, "mrpc")
    assert run.model.layers == 3 and run.model.source.startswith("package:")


def test_only_the_first_seeds_are_timed():
    plan = plan_of(changed(timing={"seeds": 1}))
    assert plan.timed == tuple(name for name in plan.runs if name.endswith("-s0") and "dense" not in name)


def test_a_dense_run_is_timed_where_nothing_else_is_beside_it():
    dense = {"models": ["tiny"], "tasks": ["mrpc"], "methods": [{"name": "dense"}], "seeds": [0]}
    timed = plan_of(changed(experiments__sweep__tasks=["sst2"], experiments__alone=dense)).timed
    assert "tiny-mrpc-dense-s0" in timed and not any(name.startswith("tiny-sst2-dense") for name in timed)


def test_an_experiment_may_have_its_own_seeds():
    plan = plan_of(changed(experiments__sweep__seeds=[7]))
    assert {run.seed for run in plan.runs.values()} == {7}


def test_lists_of_a_method_are_a_grid():
    methods = [{"name": "neuroprune", "alpha": [1, 0.1], "theta": [0.15, 0.25], "mode": "decoupled"}]
    plan = plan_of(
        changed(experiments__sweep={"models": ["tiny"], "tasks": ["sst2"], "methods": methods, "seeds": [0]})
    )
    assert list(plan.runs) == [
        f"tiny-sst2-neuroprune-{point}-s0" for point in ("a1-t0.15", "a1-t0.25", "a0.1-t0.15", "a0.1-t0.25")
    ]
    assert {run.method.mode for run in plan.runs.values()} == {"decoupled"}


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ({"name": "neuroprune", "sparsity": 0.29}, "neuroprune-29"),
        ({"name": "neuroprune", "alpha": 1e-7, "beta": 0.1, "theta": 0.15}, "neuroprune-a1e-7-b0.1-t0.15"),
        (
            {"name": "neuroprune", "algorithm": "penalties", "sparsity": 0.5, "theta": 0.2},
            "neuroprune-penalties-50-t0.2",
        ),
        ({"name": "l1", "strength": 0.001}, "l1-l0.001"),
        ({"name": "l1", "sparsity": "8e-1"}, "l1-80"),  # YAML 1.1 reads 8e-1 as text
    ],
)
def test_names_are_short_and_exact(method, name):
    study = changed(experiments__sweep={"models": ["tiny"], "tasks": ["sst2"], "methods": [method], "seeds": [0]})
    assert list(plan_of(study).runs) == [f"tiny-sst2-{name}-s0"]


def test_runs_that_differ_in_options_alone_get_names_that_say_so():
    methods = [{"name": "neuroprune", "sparsity": 0.5, "fold": [True, False]}, {"name": "dense"}]
    first = {"models": ["tiny"], "tasks": ["sst2"], "methods": methods, "seeds": [0]}
    longer = first | {"training": {"epochs": 5, "freeze_embeddings": True}}
    runs = plan_of(changed(experiments={"first": first, "longer": longer})).runs
    assert list(runs) == [
        "tiny-sst2-neuroprune-50-s0",
        "tiny-sst2-neuroprune-50-fold_false-s0",
        "tiny-sst2-dense-s0",
        "tiny-sst2-neuroprune-50-epochs_5-training.freeze_embeddings_true-s0",
        "tiny-sst2-neuroprune-50-fold_false-epochs_5-training.freeze_embeddings_true-s0",
        "tiny-sst2-dense-epochs_5-freeze_embeddings_true-s0",
    ]
    assert list(plan_of(changed(experiments={"first": first})).runs.items()) == list(runs.items())[:3]


def test_all_seeds_of_one_setting_share_their_name():
    first = {"models": ["tiny"], "tasks": ["sst2"], "methods": [{"name": "l1", "sparsity": 0.8}]}
    short, long = ({"seeds": s, "training": {"epochs": e}} for s, e in (([0], 2), ([0, 1, 2], 10)))
    runs = plan_of(changed(experiments={"a": first | short, "b": first | long})).runs
    assert list(runs) == ["tiny-sst2-l1-80-s0", *(f"tiny-sst2-l1-80-epochs_10-s{seed}" for seed in range(3))]
    epochs = {name.rpartition("-s")[0]: run.training.epochs for name, run in runs.items()}
    assert all(run.training.epochs == epochs[name.rpartition("-s")[0]] for name, run in runs.items())


def test_lists_and_paths_are_written_with_what_a_name_may_have(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for teacher in ("a b", "a_b"):
        Path("runs", teacher).mkdir(parents=True)
        Path("runs", teacher, "config.json").write_text("{}")
    cofi = {"name": "cofi", "sparsity": 0.8}
    methods = [cofi, cofi | {"masks": [["head", "intermediate"]]}, cofi | {"teacher": ["runs/a b", "runs/a_b", "run"]}]
    sweep = {"models": ["tiny"], "tasks": ["sst2"], "methods": methods, "seeds": [0]}
    options = ["", "-masks_head.intermediate", "-teacher_runs_a_b", "-teacher_runs_a_b_", "-teacher_run"]
    assert list(plan_of(changed(experiments={"sweep": sweep})).runs) == [f"tiny-sst2-cofi-80{o}-s0" for o in options]


def test_exactly_the_settings_of_the_runs_concerned_change():
    before = plan_of(STUDY).runs
    after = plan_of(changed(tasks__mrpc={"max_length": 64})).runs
    different = {name for name in before if canonical(before[name]) != canonical(after[name])}
    assert different == {name for name in before if "mrpc" in name}


def test_the_order_of_keys_changes_nothing():
    def turned(value):
        return {key: turned(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    before, after = plan_of(STUDY).runs, plan_of(turned(STUDY)).runs
    assert {name: canonical(run) for name, run in before.items()} == {
        name: canonical(run) for name, run in after.items()
    }


def test_a_plan_holds_all_that_is_needed_to_make_it_again(tmp_path):
    plan = plan_of(changed(tasks__sst2={"train_rows": 10}, training={"epochs": 2}))
    settings = json.loads(json.dumps(plan.as_dict()))["settings"]
    assert set(settings["models"]) == {"tiny"} and set(settings["tasks"]) == {"sst2", "mrpc"}
    again = plan_of(settings, catalogue=tmp_path)  # an empty catalogue
    assert again.as_dict() == plan.as_dict()


def test_numbers_with_an_exponent_are_numbers():
    # YAML 1.1 reads them as text, and so do values of Snakemake's command line
    study = changed(training={"learning_rate": "1e-5"}, models__tiny__config={"layer_norm_eps": "1e-12", "act": "gelu"})
    run = next(iter(plan_of(study).runs.values()))
    assert run.training.learning_rate == 1e-5
    assert run.model.config == {"layer_norm_eps": 1e-12, "act": "gelu"}


@pytest.mark.parametrize("key", ["seeds", "training", "timing", "models", "tasks"])
def test_a_section_that_is_left_empty_counts_as_absent(key):
    study = changed(experiments__sweep__models=["minilm"])
    study = {name: value for name, value in study.items() if name != key}
    assert plan_of(study | {key: None}).as_dict() == plan_of(study).as_dict()


def test_files_are_laid_over_each_other_key_by_key(tmp_path):
    for name, text in {"a.yaml": "x: {p: 1, q: 2}\nl: [1, 2]", "b.yaml": "x: {q: 3}\nl: [4]"}.items():
        (tmp_path / name).write_text(text)
    assert read_study([tmp_path / "a.yaml", tmp_path / "b.yaml"]) == {"x": {"p": 1, "q": 3}, "l": [4]}
    assert merge({"a": {"b": 1}}, {"a": 2}) == {"a": 2}


# ---- mistakes

KNOWN_MODELS = ", ".join(sorted([*CATALOGUE.models, "tiny"]))
KNOWN_TASKS = ", ".join(sorted(CATALOGUE.tasks))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"sedes": [1]}, "sedes: unknown key (did you mean 'seeds'?); known: study, experiments, seeds, training,"),
        ({"training__epoch": 2}, "training.epoch: unknown key (did you mean 'epochs'?); known: epochs, budget, batch_size,"),
        ({"tasks__sst2__metrik": 2}, "tasks.sst2.metrik: unknown key (did you mean 'metric'?); known: name, kind,"),
        ({"experiments__sweep__model": []}, "experiments.sweep.model: unknown key (did you mean 'models'?); known: models,"),
        ({"experiments__sweep__tasks": ["sst2", "mprc"]}, f"experiments.sweep.tasks[1]: unknown task 'mprc' (did you mean 'mrpc'?); known: {KNOWN_TASKS}"),
        ({"experiments__sweep__models": ["tinny"]}, f"experiments.sweep.models[0]: unknown model 'tinny' (did you mean 'tiny'?); known: {KNOWN_MODELS}"),
        ({"experiments__sweep__methods": [{"name": "neuropune"}]}, "experiments.sweep.methods[0].name: unknown method 'neuropune' (did you mean 'neuroprune'?); known: dense, l1, neuroprune"),
        ({"experiments__sweep__methods": [{"sparsity": 0.5}]}, "experiments.sweep.methods[0].name: the method's name is missing; known: dense, l1, neuroprune"),
        ({"experiments__sweep__methods": [{"name": "l1", "sparsity": 1.2}]}, "experiments.sweep.methods[0].sparsity: 1.2 is not allowed; it must be greater than 0 and less than 1"),
        ({"experiments__sweep__methods": [{"name": "l1", "sparsity": [0.5, 0]}]}, "experiments.sweep.methods[0].sparsity[1]: 0 is not allowed; it must be greater than 0 and less than 1"),
        ({"training__epochs": float("inf")}, "training.epochs: inf is not allowed; it must be a finite number"),
        ({"experiments__sweep__methods": [{"name": "l1", "sparsity": "half"}]}, "experiments.sweep.methods[0].sparsity: 'half' is not allowed; it must be a valid number"),
        ({"experiments__sweep__methods": [{"name": "l1", "sparsity": 0.5, "evnts": 3}]}, "experiments.sweep.methods[0].evnts: unknown key (did you mean 'events'?); known: "),
        ({"experiments__sweep__methods": [{"name": "l1"}]}, "experiments.sweep.methods[0]: specify exactly one of sparsity (a target) and strength (the penalty)"),
        ({"experiments__sweep__methods": [{"name": "neuroprune", "sparsity": 0.5, "alpha": 1}]}, "experiments.sweep.methods[0]: give either sparsity (a target) or alpha (the penalty), not both"),
        ({"experiments__sweep__methods": [{"name": "l1", "sparsity": 0.5, "start": 0.6}]}, "experiments.sweep.methods[0]: start (0.6) must not be after end (0.5)"),
        ({"experiments__sweep__methods": [{"name": "l1", "strength": 1, "mode": "copled"}]}, "experiments.sweep.methods[0].mode: 'copled' is not allowed (did you mean 'coupled'?); allowed: 'coupled' or 'decoupled'"),
        ({"experiments__sweep__methods": "dense"}, "experiments.sweep.methods: 'dense' is not allowed; it must be a list, such as [dense]"),
        ({"experiments__sweep__methods": ["dense"]}, "experiments.sweep.methods[0]: 'dense' is not allowed; it must be a mapping of keys to values"),
        ({"experiments__sweep__methods": [{"name": "l1", "sparsity": []}]}, "experiments.sweep.methods[0].sparsity: [] is not allowed; give at least one value"),
        ({"experiments__sweep__tasks": []}, "experiments.sweep.tasks: [] is not allowed; it must have at least 1 item"),
        ({"experiments__sweep__tasks": ["sst2", "sst2"]}, "experiments.sweep.tasks: 'sst2' is listed twice; list each value once"),
        ({"experiments__sweep__methods": [{"name": "dense"}, {"name": "dense"}]}, "experiments.sweep: tiny-sst2-dense-s0 and 3 more runs are listed twice here; a run may be listed once"),
        ({"experiments__more": {"models": ["tiny"], "tasks": ["sst2"], "methods": [{"name": "dense"}], "seeds": [1]}}, "experiments.more: the run tiny-sst2-dense-s1 is listed in experiments.sweep too; a run may be listed once"),
        ({"experiments__a-b": {"models": ["tiny"], "tasks": ["rte"], "methods": [{"name": "dense"}]}}, "experiments.a-b: 'a-b' is not allowed; it must be a name of letters, digits, '_' and '.' that begins with a letter or digit"),
        ({"experiments": {}}, "experiments: {} is not allowed; it must have at least 1 item"),
        ({"experiments": None}, "experiments: nothing (null) is not allowed; it must be a mapping of keys to values"),
        ({"study": "../up"}, "study: '../up' is not allowed; it must be a name of letters, digits, '_', '.' and '-' that begins with a letter or digit"),
        ({"study": "published"}, "study: 'published' is reserved for committed results; choose another name"),
        ({"study": 5}, "study: 5 is not allowed; it must be text"),
        ({"seeds": ["a"]}, "seeds[0]: 'a' is not allowed; it must be a valid integer"),
        ({"seeds": [0, -1]}, "seeds[1]: -1 is not allowed; it must be greater than or equal to 0"),
        ({"seeds": [1, 1]}, "seeds: 1 is listed twice; list each value once"),
        ({"training__learning_rate": "fast"}, "training.learning_rate: 'fast' is not allowed; it must be a valid number"),
        ({"training__learning_rate": 0}, "training.learning_rate: 0 is not allowed; it must be greater than 0"),
        ({"training__warmup": 1}, "training.warmup: 1 is not allowed; it must be at least 0 and less than 1"),
        ({"training__precision": "fp23"}, "training.precision: 'fp23' is not allowed (did you mean 'fp32'?); allowed: 'auto', 'fp32' or 'bf16'"),
        ({"training": [1]}, "training: [1] is not allowed; it must be a mapping of keys to values"),
        ({"keep_models": "perhaps"}, "keep_models: 'perhaps' is not allowed; it must be a valid boolean"),
        ({"timing__batch_sizes": [0]}, "timing.batch_sizes[0]: 0 is not allowed; it must be greater than or equal to 1"),
        ({"artefacts": ["figure44"]}, "artefacts[0]: unknown artefact 'figure44' (did you mean 'figure"),
        ({"models__minilmm": {"layers": 3}}, "models.minilmm: no such row exists (did you mean 'minilm'?); a new row needs a source"),
        ({"models": ["tiny"]}, "models: ['tiny'] is not allowed; it must be a mapping of keys to values"),
        ({"tasks": [{"name": "sst2"}]}, "tasks: [{'name': 'sst2'}] is not allowed; it must be a mapping of keys to values"),
        ({"models__new": {"source": "random:brt"}}, "models.new: source 'random:brt': model type 'brt' is not supported (did you mean 'bert'?)"),
        ({"models__new": {"source": "package:gt"}}, "models.new: source 'package:gt' has no version; write package:NAME==VERSION"),
        ({"models__new": {"source": "package:gt==1"}}, "models.new: source 'package:gt==1' requires `sha256`, the hash of the package file, and `folder`"),
        ({"models__new": {"source": "a/b", "sha256": "12"}}, "models.new.sha256: '12' is not allowed; it must be a SHA-256 of 64 hexadecimal digits"),
        ({"models__tiny__name": "other"}, "models.tiny.name must be 'tiny', the same as its key; leave it out"),
        ({"tasks__new": {"source": "a/b"}}, "tasks.new.inputs: this key is missing (The text columns: a sentence or a pair of sentences; one text to summarize or translate; for language modelling, a text, or a prompt and its completion, of which only the completion is learned; for token classification, lists of words, or texts whose words are separated by spaces; for question answering, question and context)"),
        ({"tasks__sst2__metric": "acuracy"}, "tasks.sst2.metric: 'acuracy' is not allowed (did you mean 'accuracy'?); allowed: 'accuracy', 'f1', 'matthews_correlation', 'token_accuracy', 'macro_f1', 'exact_match', 'spearmanr', 'pearson', 'rouge1', 'rouge2', 'rougeL', 'rougeLsum' or 'bleu'"),
        ({"tasks__sst2": {"kind": "translation", "metric": "accuracy"}}, "tasks.sst2: metric 'accuracy' is not a metric of translation; use one of bleu"),
        ({"tasks__sst2__beams": 4}, "tasks.sst2: beams is for summarization and translation, not for classification; leave it out"),
        ({"tasks__mrpc": {"kind": "summarization", "metric": "rouge1"}}, "tasks.mrpc: inputs: summarization reads one text column, not 2"),
    ],
)  # fmt: skip
def test_one_sentence_says_what_is_wrong_and_what_is_allowed(values, sentence):
    problems = problems_of(changed(**values))
    assert len(problems) == 1, problems
    assert problems[0].startswith(f"study.yaml: {sentence}")


def test_a_study_without_its_name_says_so():
    study = {key: value for key, value in STUDY.items() if key != "study"}
    assert problems_of(study) == [
        "study.yaml: study: this key is missing (The study's name; its results are written to `<results>/<study>`)"
    ]


def test_a_method_that_cannot_be_used_for_a_task_is_refused(monkeypatch):
    monkeypatch.setattr(L1Settings, "task_kinds", ("summarization",))
    study = changed(experiments__sweep__methods=[{"name": "l1", "sparsity": [0.5, 0.8]}])
    assert problems_of(study) == [
        f"study.yaml: experiments.sweep: l1 cannot be used for the task {task!r} (classification); it can for summarization"
        for task in ("sst2", "mrpc")
    ]


def test_all_mistakes_of_a_file_are_told_at_once(monkeypatch):
    monkeypatch.setattr(L1Settings, "task_kinds", ())
    study = changed(
        sedes=[1],
        training={"epochs": 0},
        models__big={"source": "random:brt"},
        experiments__sweep__tasks=["sst2", "mprc"],
        experiments__sweep__methods=[{"name": "dense"}, {"name": "neuroprune", "sparsity": [0.5, 1.2]}, {"name": "l2"}],
        experiments__twice={"models": ["tiny"], "tasks": ["sst2"], "methods": [{"name": "dense"}], "seeds": [0]},
        experiments__never={"models": ["tiny"], "tasks": ["rte"], "methods": [{"name": "l1", "sparsity": 0.5}]},
    )
    study.pop("study")
    keys = [problem.split(": ")[1] for problem in problems_of(study)]
    assert sorted(keys) == [
        "experiments.never",
        "experiments.sweep.methods[1].sparsity[1]",
        "experiments.sweep.methods[2].name",
        "experiments.sweep.tasks[1]",
        "experiments.twice",
        "models.big",
        "sedes",
        "study",
        "training.epochs",
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("study: x\nseeds: [1,\ntraining: {", "line 3, column 12: invalid YAML: "),
        ("study: x\n\tseeds: 1", "line 2, column 1: invalid YAML: "),
        ("study: x\nseeds: [1]\nstudy: y\n", "line 3, column 1: invalid YAML: duplicate key 'study'"),
        ("a: {b: 1, b: 2}", "line 1, column 11: invalid YAML: duplicate key 'b'"),
        ("", "the file is empty; config/README.md lists the keys that it may have"),
        ("# nothing\n", "the file is empty; config/README.md lists the keys that it may have"),
        ("- 1\n- 2\n", "[1, 2] is not allowed; it must be a mapping of keys to values"),
        ("a: !!python/object/apply:os.getcwd []", "line 1, column 4: invalid YAML: could not determine a constructor"),
        (b"study: \xff", "line 1: byte 0xff is not UTF-8"),
        (None, "the file cannot be read: No such file or directory"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_study_is_refused_with_its_place(tmp_path, text, sentence):
    path = tmp_path / "x.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as error:
        read_study([path])
    assert len(error.value.problems) == 1
    assert error.value.problems[0].startswith(f"{path}: {sentence}")


def test_mistakes_in_rows_are_told_with_their_own_file(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "models.yaml").write_text("tiny: {source: 'random:bert', layer: 2}\nodd: 5\n")
    (tmp_path / "tasks" / "sst2.yaml").write_text("source: a/b\ninputs: [a, b, c]\n")
    (tmp_path / "tasks" / "mrpc.yaml").write_text("source: a/b\ninputs: [a]\nsource: c\n")
    assert [problem.split(";")[0] for problem in read_catalogue(tmp_path).problems] == [
        f"{tmp_path}/models.yaml: tiny.layer: unknown key (did you mean 'layers'?)",
        f"{tmp_path}/models.yaml: odd: 5 is not allowed",
        f"{tmp_path}/tasks/mrpc.yaml: line 3, column 1: invalid YAML: duplicate key 'source'",
        f"{tmp_path}/tasks/sst2.yaml: inputs: ['a', 'b', 'c'] is not allowed",
    ]


# ---- the project's own configuration


def grid_size(experiment, study):
    """Count the runs of a grid: models x tasks x seeds x combinations of each method's listed values."""
    points = sum(prod(len(v) for v in method.values() if isinstance(v, list)) for method in experiment["methods"])
    seeds = experiment.get("seeds", study.get("seeds", [0]))
    return len(experiment["models"]) * len(experiment["tasks"]) * len(seeds) * points


def test_all_rows_are_sound_and_glue_is_complete():
    rows = read_catalogue(CONFIG)
    assert rows.problems == ()
    glue = {"cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "wnli"}
    assert glue | {"movie_snippets", "verse_pairs", "docstrings", "home_messages"} <= set(rows.tasks)
    assert {rows.tasks[name]["kind"] for name in ("cnn_dailymail", "docstrings")} == {"summarization"}
    assert {rows.tasks[name]["kind"] for name in ("iwslt14_de_en", "home_messages")} == {"translation"}
    assert {"bert_base", "t5_base", "t5_large", "opt_125m", "opt_1.3b", "transformer_18"} <= set(rows.models)
    assert rows.tasks["cola"]["metric"] == "matthews_correlation"
    assert rows.tasks["mnli"]["eval_split"] == "validation_matched"


@pytest.mark.parametrize("path", [p for p in CONFIG.glob("*.yaml") if p.name != "models.yaml"], ids=lambda p: p.name)
def test_every_study_is_sound(path):
    study = read_study([path])
    plan = plan_of(study | {"skip_absent_data": False})  # whatever data there are here
    sizes = {name: grid_size(experiment, study) for name, experiment in study["experiments"].items()}
    assert {name: len(set(runs)) for name, runs in plan.experiments.items()} == sizes
    assert len(plan.runs) == sum(sizes.values())
    jsonschema.validate(study, reference.study_schema())


def test_generated_files_are_fresh():
    assert reference.check(CONFIG) == [], "run `neuroprune schema`"


def test_the_schema_knows_lists_and_incomplete_rows_and_refuses_the_rest():
    schema = reference.study_schema()
    jsonschema.validate(changed(tasks__sst2={"train_rows": 5}), schema)
    for wrong in ({"sedes": [1]}, {"experiments__sweep__methods": [{"name": "l1", "sparsity": [0.5, 1.5]}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(changed(**wrong), schema)


def test_every_setting_is_explained():
    lines = [line for line in reference.readme().splitlines() if line.startswith("| `")]
    assert len(lines) > 60
    assert [line for line in lines if line.split("|")[4].strip() == ""] == []
