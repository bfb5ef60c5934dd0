"""Early checks of models and datasets: missing data are skipped, unsuitable models rejected."""

import json

import pytest
from test_catalogue import changed, plan_of, problems_of

from helpers.data import write_glue
from helpers.models import make_model
from neuroprune import cli
from neuroprune.config.availability import has_data
from neuroprune.config.settings import TaskSettings
from neuroprune.tasks import sources


def glue(config="sst2", **fields):
    return TaskSettings(name="some", source="nyu-mll/glue", config=config, inputs=["sentence"], **fields)


def skipping(root, **values):
    return changed(skip_absent_data=True, data_root=str(root), **values)


# ---- absent data


def test_tasks_without_data_are_left_out_with_a_sentence_each(tmp_path):
    write_glue(tmp_path, "mrpc", "rte")
    more = {"models": ["tiny"], "tasks": ["cola"], "methods": [{"name": "dense"}]}
    plan = plan_of(skipping(tmp_path, experiments__sweep__tasks=["sst2", "mrpc", "rte"], experiments__more=more))
    assert {run.task.name for run in plan.runs.values()} == {"mrpc", "rte"}
    assert list(plan.study.tasks) == ["mrpc", "rte"] and list(plan.experiments) == ["sweep"]
    assert plan.skipped == tuple(
        f"Skipped task {name}: there is no dataset nyu-mll/glue, configuration {name}, below {tmp_path}."
        for name in ("sst2", "cola")
    )


def test_what_is_left_is_what_a_study_without_the_absent_tasks_comes_to(tmp_path):
    write_glue(tmp_path, "mrpc")
    plan = plan_of(skipping(tmp_path))
    assert plan.runs == plan_of(skipping(tmp_path, experiments__sweep__tasks=["mrpc"])).runs
    again = plan_of(json.loads(json.dumps(plan.as_dict()))["settings"])
    assert again.as_dict() == plan.as_dict() and again.skipped == ()


def test_nothing_is_skipped_unless_asked_or_if_results_are_there(tmp_path):
    whole = plan_of(changed(data_root=str(tmp_path)))
    assert plan_of(skipping(tmp_path, from_results=True)).runs == whole.runs
    assert whole.skipped == ()


def test_a_study_of_which_nothing_is_left_is_refused_in_one_sentence(tmp_path):
    problems = problems_of(skipping(tmp_path))
    assert problems == [
        f"study.yaml: skip_absent_data: no task has data below {tmp_path} (nyu-mll/glue for sst2, mrpc); put them "
        "there, correct data_root, or download them with skip_absent_data: false"
    ]


def test_mistakes_in_what_would_be_skipped_are_told_too(tmp_path):
    write_glue(tmp_path, "mrpc")
    again = {"models": ["tiny"], "tasks": ["sst2"], "methods": [{"name": "dense"}], "seeds": [0]}
    assert (
        "tiny-sst2-dense-s0 is listed in experiments.sweep too"
        in problems_of(skipping(tmp_path, experiments__again=again))[0]
    )


def test_a_mirror_of_the_hub_has_the_configurations_that_its_card_or_a_folder_names(tmp_path):
    write_glue(tmp_path, "sst2")
    folder = tmp_path / "nyu-mll" / "glue"
    assert has_data(glue(), tmp_path) and has_data(glue(None), tmp_path)
    assert not has_data(glue("cola"), tmp_path)
    (folder / "sst2").rename(folder / "files")
    assert not has_data(glue(), tmp_path)  # the card lists files that do not exist
    card = folder / "README.md"
    card.write_text(card.read_text().replace("sst2/", "files/"))
    assert has_data(glue(), tmp_path)
    card.unlink()
    assert not has_data(glue(), tmp_path)
    (folder / "files").rename(folder / "sst2")
    assert has_data(glue(), tmp_path)
    assert sources.read(glue(), tmp_path, tmp_path)[0].num_rows == 12  # what counts as there can be read


def test_a_user_s_folder_and_demo_data_count_as_there(tmp_path):
    own = {"name": "own", "inputs": ["text"]}
    assert has_data(TaskSettings(source="demo", **own), tmp_path / "nothing")
    assert has_data(TaskSettings(source=str(tmp_path), **own), tmp_path / "nothing")
    assert not has_data(TaskSettings(source=str(tmp_path / "absent"), **own), tmp_path)


@pytest.mark.parametrize("option", [[], ["--json"], ["--folder"]])
def test_the_plan_command_says_what_is_skipped_beside_what_it_prints(tmp_path, capsys, option):
    write_glue(tmp_path, "mrpc")
    capsys.readouterr()
    assert cli.main(["plan", "--settings", json.dumps(skipping(tmp_path)), *option]) == 0
    printed = capsys.readouterr()
    assert printed.err == (
        f"Skipped task sst2: there is no dataset nyu-mll/glue, configuration sst2, below {tmp_path}.\n"
    )
    assert "Skipped" not in printed.out


# ---- models that can't do a task

WRITING = {"kind": "summarization", "source": "demo", "inputs": ["body"], "label": "summary", "metric": "rouge1"}


def grid(model, **models):
    experiment = {"models": [model], "tasks": ["news"], "methods": [{"name": "dense"}], "seeds": [0]}
    return changed(models=models, tasks={"news": WRITING}, experiments={"write": experiment})


@pytest.mark.parametrize("kind", ["bert", "distilbert", "gpt2", "opt", "qwen3"])
def test_a_model_that_writes_no_answers_is_refused_for_tasks_with_text(kind):
    assert problems_of(grid("new", new={"source": f"random:{kind}"})) == [
        f"study.yaml: experiments.write: the model 'new' ({kind}) can't generate the answers of the task 'news' "
        "(summarization); use an encoder-decoder such as t5, bart or marian"
    ]


@pytest.mark.parametrize("kind", ["t5", "bart", "marian"])
def test_encoder_decoders_are_not(kind):
    plan = plan_of(grid("new", new={"source": f"random:{kind}"}))
    assert {name: run.model.source for name, run in plan.runs.items()} == {"new-news-dense-s0": f"random:{kind}"}


SCORING = {"kind": "regression", "source": "nyu-mll/glue", "config": "stsb", "inputs": ["a", "b"], "metric": "pearson"}


@pytest.mark.parametrize("kind", ["bert", "opt", "bart"])
def test_models_with_a_head_answer_with_numbers(kind):
    assert plan_of(grid("new", new={"source": f"random:{kind}"}) | {"tasks": {"news": SCORING}}).runs


TAGGING = {"kind": "token_classification", "source": "me/tags", "inputs": ["tokens"], "metric": "token_accuracy"}


@pytest.mark.parametrize("kind", ["t5", "marian"])
@pytest.mark.parametrize("task", [SCORING, TAGGING], ids=lambda task: task["kind"])
def test_models_that_answer_with_text_are_refused_for_numbers_and_tags(kind, task):
    assert problems_of(grid("new", new={"source": f"random:{kind}"}) | {"tasks": {"news": task}}) == [
        f"study.yaml: experiments.write: the model 'new' ({kind}) can't give the answers of the task 'news' "
        f"({task['kind']}), because it generates text; use a model with a head such as bert, roberta or opt"
    ]


@pytest.mark.parametrize("name", ["neuroprune", "cofi"])
def test_settings_that_a_teacher_does_not_go_with_are_told(name):
    study = grid("new", new={"source": "random:t5"})
    study["tasks"]["news"] = WRITING | {"label_smoothing": 0.1}
    experiment = study["experiments"]["write"]
    experiment |= {"methods": [{"name": name, "sparsity": 0.5, "teacher": "run"}]}
    experiment["training"] = {"budget": "dense_flops"}
    begin = f"study.yaml: experiments.write: {name} has a teacher, "
    assert problems_of(study) == [
        begin + "which takes the place of the labels of news; set tasks.news.label_smoothing to 0",
        begin
        + "whose forward passes training.budget: dense_flops does not count; set it to epochs, or leave teacher out",
    ]
    experiment["methods"] = [{"name": name, "sparsity": 0.5}]
    assert plan_of(study).runs


def test_a_folder_s_type_is_known_and_a_hub_id_s_is_not(tmp_path):
    make_model("bert").save_pretrained(tmp_path / "bert")
    study = grid("new", new={"source": str(tmp_path / "bert")})
    assert "the model 'new' (bert) can't generate" in problems_of(study)[0]
    assert plan_of(grid("new", new={"source": "google-bert/bert-base-uncased"})).runs
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "brt"}')
    sentence = problems_of(grid("new", new={"source": str(tmp_path / "bert")}))[0]
    assert f"models.new: source '{tmp_path}/bert': model type 'brt' is not supported (did you mean 'bert'?)" in sentence
    for text in ("{", "[1]", '{"model_type": 5}'):
        (tmp_path / "bert" / "config.json").write_text(text)
        assert plan_of(grid("new", new={"source": str(tmp_path / "bert")})).runs  # loading says what is wrong


def test_it_is_told_at_once_with_other_mistakes():
    study = grid("new", new={"source": "random:bert"}) | {"sedes": [1]}
    study["experiments"]["write"]["models"] = ["new", "opt_random"]
    problems = problems_of(study)
    assert [problem.split(": ")[1] for problem in problems] == ["sedes", "experiments.write", "experiments.write"]
    assert "'new' (bert)" in problems[1] and "'opt_random' (opt)" in problems[2]


def test_the_prune_command_says_which_option_is_wrong(tmp_path, capsys):
    make_model("bert").save_pretrained(tmp_path / "bert")
    capsys.readouterr()
    words = ["prune", "--model", str(tmp_path / "bert"), "--task", "docstrings", "--sparsity", "0.5"]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("--model: the model 'bert' (bert) can't generate the answers of the task")


@pytest.mark.parametrize("name", ["a{b}", "<study>", "a*b", "$HOME", "-x", "a\nb"])
def test_a_teacher_in_a_folder_that_snakemake_would_not_find_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text("{}")
    method = {"name": "neuroprune", "sparsity": 0.5, "teacher": name}
    (problem,) = problems_of(changed(experiments__sweep__methods=[method]))
    begin = f"study.yaml: experiments.sweep.methods[0].teacher: {name!r} has "
    assert problem.startswith(begin) and problem.endswith(", which has a special meaning in commands; leave it out")
