"""Generated result sentences: numbers equal those of the summary; unknown values are omitted."""

from helpers import results
from neuroprune.results import tables
from neuroprune.results.collect import collect
from neuroprune.results.runs import read_runs
from neuroprune.results.tables.lead import lead
from neuroprune.results.tables.summary import batch_sizes, summarize


def sentences(folder, *runs, **changes):
    for settings, more in runs:
        results.write_run(folder, settings, with_arrays=False, **more, **changes)
    collect(folder)
    table = summarize(read_runs(folder))
    return lead(table, batch_sizes(table))


def test_the_result_is_told_at_the_sparsity_nearest_to_80_percent(tmp_path):
    fc = [results.settings(method={"name": "neuroprune", "sparsity": s}, seed=n) for s in (0.5, 0.8) for n in range(3)]
    penalty = results.settings(method={"name": "neuroprune", "alpha": 0.1}, label="neuroprune-a0.1")
    dense = [results.settings(seed=seed) for seed in range(3)]
    found = sentences(tmp_path, *((run, {}) for run in [*dense, *fc]), (penalty, {"sparsity": 0.02}))
    assert found == [
        "minilm on movie_snippets, 80 % of the weights removed or zero by NeuroPrune-FC: 82.8 ± 1.0 % accuracy against "
        "86.0 ± 1.0 % dense, 2.5 × faster at batch 32; n = 3.",
        "minilm on movie_snippets, 2 % of the weights removed or zero by NeuroPrune (penalties): 85.0 % accuracy "
        "against 86.0 ± 1.0 % dense, no faster at batch 32; n = 1.",
    ]
    text = tables.write("summary", tmp_path)[1].read_text()
    assert text.index(found[0]) < text.index("| Method")
    assert f'<p class="lead">{found[0]}</p>' in tables.write("summary", tmp_path)[3].read_text()


def test_without_dense_or_times_the_sentence_is_shorter(tmp_path):
    run = results.settings(method={"name": "neuroprune", "sparsity": 0.8})
    assert sentences(tmp_path, (run, {}), with_timing=False) == [
        "minilm on movie_snippets, 80 % of the weights removed or zero by NeuroPrune-FC: 81.8 % accuracy; n = 1."
    ]


def test_a_dense_metric_that_is_not_a_number_is_not_compared_with(tmp_path):
    run = results.settings(method={"name": "neuroprune", "sparsity": 0.8})
    sentences(tmp_path, (results.settings(), {}), (run, {}))
    (path,) = tmp_path.glob("runs/*dense*/run.json")
    results.edit(path, lambda data: data["result"].update(value=None, metrics={"accuracy": None}))
    collect(tmp_path)
    (said,) = lead(summarize(read_runs(tmp_path)), [])
    assert "by NeuroPrune-FC: 81.8 % accuracy; n = 1." in said


def test_without_neuroprune_nothing_is_told(tmp_path):
    assert sentences(tmp_path, (results.settings(), {})) == []
