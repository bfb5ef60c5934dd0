"""Numbers in docs/results.md and the README equal the published records: cells of tables, and values in the text."""

import json
import re
from functools import partial

import pytest

from helpers.published import (
    PUBLISHED,
    ROOT,
    accuracy,
    faster,
    heads,
    inference,
    label,
    millions,
    neurons,
    paired_difference,
    percent,
    published_rows,
    score,
    seconds,
    setting,
    sparsity,
    standard_error,
    tables,
)
from neuroprune.config.catalogue import make_plan, read_study

UNITS = ("neuroprune", "taylor")
PAGE, README = (ROOT / "docs" / "results.md").read_text(), (ROOT / "README.md").read_text()
MEASURED = re.compile(
    r"[\d.,–]*\d (?:M|ms|s|points?|heads?|neurons|rows|steps|times)\b|[\d.,–]*\d [%×]|\b(?:BLEU|Lsum) [\d.]+"
)
SHALLOW = (1, 2, 3)  # numbers of layers
TARGET = re.compile(r"\b[Aa]t (?:50|80|80 and 90|30 and 50) %")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return published_rows(tmp_path_factory.mktemp("published"))


def sst2_table(rows):
    groups = ["dense", "neuroprune-a1e-5-b0.0001-t0.2", "neuroprune-a3e-5-b0.0003-t0.2"]
    groups += ["neuroprune-a0.0001-b0.0003-t0.2", "neuroprune-a0.0001-b0.001-t0.2", "neuroprune-a0.0001-b0.001-t0.25"]
    groups += ["neuroprune-a0.0003-b0.003-t0.2"]
    groups += [f"neuroprune-penalties-{point}-t0.2" for point in (25, 50, 70, 80, 90, 95)]
    groups += ["l1-l1e-5", "l1-l3e-5", "l1-l0.0001", "l1-l0.0003"]
    groups += [f"neuroprune-{point}" for point in (50, 80, 90, 95)]
    groups += [f"{method}-{point}" for method in ("taylor", "l1") for point in (50, 80, 90)]
    table = [rows("sst2", f"minilm-sst2-{group}") for group in groups]
    shallow = [rows("sst2", f"minilm_{layers}-sst2-dense") for layers in SHALLOW]
    names = ["setting", "sparsity", "accuracy", "heads left", "neurons left", "parameters left", "inference, batch 32"]
    yield [f"SST-2, {table[0]['result']['train_rows']:,} rows", *names]
    for row in table:
        left = [f"{heads(row)}", f"{neurons(row):,}", millions(row)]
        yield [label(row), setting(row), sparsity(row), accuracy(row), *left, faster(row)]
    for layers, row in zip(SHALLOW, shallow, strict=True):
        name = f"dense, lowest {layers} of 6 layers"
        yield [name, "", "", accuracy(row), f"{heads(row)}", f"{neurons(row):,}", millions(row), ""]


def demo_table(rows):
    """Results of `make demo`: every method, with training time relative to dense."""
    yield ["movie_snippets, 800 rows", "setting", "sparsity", "accuracy", "inference, batch 32", "training, dense = 1"]
    groups = ["dense", *(f"neuroprune-{point}" for point in (50, 80, 90, 95))]
    groups += [f"neuroprune-penalties-{point}-t0.2" for point in (25, 50, 70, 80)]
    groups += [f"taylor-{point}" for point in (50, 80, 90, 95)] + [f"l1-{point}" for point in (80, 90)]
    for group in [*groups, "cofi-80"]:
        row = rows("demo", f"minilm-movie_snippets-{group}")
        assert row["result"]["train_rows"] == 800
        more = ", 5 epochs" if group == "cofi-80" else ""
        assert row["epochs"] == (5 if more else 2)
        asked = "" if group == "dense" else setting(row) + more
        yield [label(row), asked, sparsity(row), accuracy(row), faster(row), f"{row['training_to_dense']:.2f}"]


def small_table(rows):
    yield ["movie_snippets", "sparsity", "accuracy", "parameters", "inference, batch 32", "training"]
    groups = ["dense", "neuroprune-50", "neuroprune-80", "neuroprune-80-budget_dense_flops", "neuroprune-90"]
    groups += [*(f"neuroprune-x{speed}" for speed in (2, 3, 5)), *(f"l1-{point}" for point in (50, 80, 90))]
    for group in groups:
        row = rows("small", f"minilm-movie_snippets-{group}")
        name = label(row) + (", at dense cost" if "budget" in group else "")
        name += f", `speedup={row['speedup_asked']:.0f}`" if "-x" in group else ""
        yield [name, sparsity(row), accuracy(row), millions(row), inference(row), seconds(row)]


def compared_table(rows):
    left, right = (
        partial(_compared, rows, "small", "movie_snippets_512"),
        partial(_compared, rows, "inhouse", "sst2_1000"),
    )
    sizes = [f"{side('dense')['result']['train_rows']:,} rows" for side in (left, right)]
    yield ["", f"movie_snippets, {sizes[0]}", "training", f"SST-2, {sizes[1]}", "training"]
    for name, one, two in (
        ("", "dense", "dense"),
        (", 80 %", "neuroprune-80", "neuroprune-80"),
        (", 80 %", "cofi-80", "cofi-80"),
        (", 80 %, 4 epochs", None, "cofi-80-epochs_4"),
        (", 80 %", None, "taylor-80"),
        (", 80 %", None, "random-80"),
        (", 25 / 14 heads", "neuroprune-h25", "neuroprune-h14"),
        (", 25 / 14 heads", "dsp-h25", "dsp-h14"),
    ):
        cells = [[accuracy(row), seconds(row)] if row else ["", ""] for row in (left(one), right(two))]
        yield [label(right(two)) + name, *cells[0], *cells[1]]


def _compared(rows, study, task, group):
    row = group and rows(study, f"minilm-{task}-{group}")
    if row and (found := re.search(r"-h(\d+)$", group)):
        assert row["heads_left"] == row["heads_asked"] == int(found.group(1))
    return row


SERIES = {"dense": (2, 4, 8, 16), "neuroprune-80": (2, 4, 8, 16), "taylor-80": (2, 4, 8, 16)}
SERIES |= {"cofi-80": (4, 8, 16, 40), "dsp-h24": (3, 6, 12)}


def by_epochs(rows, group, count):
    """Return the runs of the study training_time with this number of epochs."""
    row = rows("training_time", f"minilm-sst2_1000-{group}" + ("" if count == SERIES[group][0] else f"-epochs_{count}"))
    assert (row["epochs"], row["runs"]) == (count, 3)
    return row


def training_time_table(rows):
    """Accuracy against training time, in processor time over that of the shortest dense run."""
    yield ["SST-2, 1,000 rows", "target", "epochs", "accuracy", "training, 2 dense epochs = 1"]
    unit = by_epochs(rows, "dense", 2)["train_time"]
    for group, counts in SERIES.items():
        target = {"dense": "", "dsp-h24": "24 heads"}.get(group, "80 %")
        for count in counts:
            row = by_epochs(rows, group, count)
            yield [label(row), target, f"{count}", accuracy(row), f"{row['train_time'] / unit:.1f}"]


def glue_table(rows):
    yield [
        "accuracy, 80 % sparsity",
        "rows, epochs",
        "majority class",
        "dense",
        "NeuroPrune-FC",
        "magnitude",
        "inference, batch 32",
    ]
    for task in ("sst2", "sick", "mrpc", "rte", "wnli"):
        dense, ours, l1 = (rows("inhouse", f"minilm-{task}-{method}") for method in ("dense", "neuroprune-80", "l1-80"))
        result, name = dense["result"], {"sst2": "SST-2"}.get(task, task.upper())
        size = f"{result['train_rows']:,}, {result['epochs']:g}"
        yield [name, size, percent(dense["majority"]), accuracy(dense), accuracy(ours), accuracy(l1), faster(ours)]


def random_table(rows):
    yield ["randomly initialised, 80 % sparsity", "dense", "NeuroPrune-FC", "inference, batch 32"]
    for name, group, metric in (
        ("OPT on movie_snippets, 4,000 rows, accuracy", "opt_random-movie_snippets_4000", accuracy),
        ("T5 on movie_snippets, 4,000 rows, accuracy", "t5_random-movie_snippets_4000", accuracy),
        ("T5 on docstrings, ROUGE-Lsum", "t5_random-docstrings", score),
        ("translation of home_messages, BLEU", "transformer_random-home_messages", score),
    ):
        dense, ours = (rows("architectures", f"{group}-{method}") for method in ("dense", "neuroprune-80"))
        assert "4,000" not in name or dense["result"]["train_rows"] == 4000
        yield [name, metric(dense), metric(ours), faster(ours)]


def decoder_table(rows):
    """SmolLM2 as a classifier, its lowest ten layers, and as a language model."""
    names = ["sparsity", "SST-2, 1,000 rows", "inference, batch 16", "next tokens, 512 rows", "perplexity"]
    yield ["SmolLM2-135M, pretrained", *names]
    for group in ("dense", *(f"{method}-{point}" for method in ("neuroprune", "taylor") for point in (30, 50, 80))):
        classifier = rows("smollm2", f"smollm2_10-sst2_1000-{group}")
        language = rows("smollm2", f"smollm2-snippet_texts-{group}")
        assert [row["result"]["train_rows"] for row in (classifier, language)] == [1000, 512]
        left = [label(classifier), sparsity(classifier), accuracy(classifier), faster(classifier, 16)]
        yield [*left, accuracy(language), f"{language['metric_perplexity']:.0f}"]


TABLES = (
    sst2_table,
    demo_table,
    small_table,
    compared_table,
    training_time_table,
    glue_table,
    decoder_table,
    random_table,
)


@pytest.mark.parametrize("expected", TABLES)
def test_a_table_equals_the_records(rows, expected):
    header, *lines = expected(rows)
    assert [table[2:] for table in tables(PAGE) if table[0] == header] == [lines]


def test_every_table_of_results_is_compared(rows):
    compared = [next(iter(table(rows))) for table in TABLES]
    assert [table[0] for table in tables(PAGE)] == compared


def sst2_claims(rows):
    """Yield the sentences' parts that state a measured value of the study sst2."""
    row = lambda group: rows("sst2", f"minilm-sst2-{group}")  # noqa: E731
    dense, l1 = row("dense"), row("l1-l0.0001")
    paper = {theta: row(f"neuroprune-a0.0001-b0.001-t{theta}") for theta in (0.15, 0.2, 0.25)}
    ours, taylor, magnitude, one = row("neuroprune-80"), row("taylor-80"), row("l1-80"), paper[0.2]
    errors = [standard_error(run) for run in (dense, row("l1-l0.001"))]
    yield f"one epoch of {dense['result']['steps']:,} steps"
    yield f"the {dense['result']['eval_rows']} rows of the validation split"
    yield f"the majority class gives {percent(dense['majority'])}"
    yield f"{errors[0]:.1f} to {errors[1]:.1f} points (n = {dense['result']['eval_rows']} rows)"
    yield f"At {sparsity(one)} sparsity it keeps {accuracy(one)} accuracy, and every layer keeps"
    yield f"the paper's form has {accuracy(one)} at {sparsity(one)}, the l1 penalty {accuracy(l1)} at {sparsity(l1)} "
    weaker, plain = row("neuroprune-a0.0001-b0.0003-t0.2"), row("neuroprune-a0.0001-b0.001-t0.2-degree_weight_none")
    yield f"{accuracy(weaker)} at {sparsity(weaker)} with them, {accuracy(plain)} at {sparsity(plain)} without"
    yield timed_twice()
    groups = [f"minilm-sst2-{name}" for name in ("neuroprune-a0.0001-b0.001-t0.2", "l1-l0.0001")]
    pair = paired_difference("sst2", *groups)
    yield f"(n = {one['runs']} seeds each; paired difference {pair} points, 95 % interval), and "
    yield f"magnitude {accuracy(magnitude)} at {sparsity(magnitude)} (one seed)"
    removed = f"{neurons(dense) - neurons(one):,} of {neurons(dense):,} neurons are removed"
    yield f"At {sparsity(one)} sparsity, {millions(one)} of {millions(dense)} parameters are left: {removed}"
    assert heads(paper[0.15]) == heads(paper[0.2]) == heads(dense)
    plain = row("neuroprune-penalties-80-t0.2-degree_weight_none")
    weighted = row("neuroprune-penalties-80-t0.2")
    yield f"have {accuracy(weighted)} with them and {accuracy(plain)} without (n = {plain['runs']} seeds each; "
    groups = [f"minilm-sst2-neuroprune-penalties-80-t0.2{name}" for name in ("", "-degree_weight_none")]
    yield f"paired difference {paired_difference('sst2', *groups)}, 95 % interval)"
    yield f"{neurons(weighted):,} are left against {neurons(plain):,}"
    led = {point: row(f"neuroprune-penalties-{point}-t0.2") for point in (50, 80, 90)}
    yield f"at {setting(magnitude)} sparsity they keep {accuracy(led[80])}, magnitude {accuracy(magnitude)}"
    groups = [f"minilm-sst2-neuroprune-{name}-t0.2" for name in ("penalties-80", "a0.0001-b0.001")]
    pair = paired_difference("sst2", *groups)
    yield f"the paired difference to the fixed strengths at {sparsity(one)} is {pair} points (95 % interval, n = "
    yield f"{accuracy(led[50])} at 50 %, and {accuracy(led[90])} at 90 %, "
    yield f"where NeuroPrune-FC has {accuracy(row('neuroprune-90'))}"
    yield f"{millions(led[80])} of {millions(dense)} parameters at {setting(magnitude)}"
    strengths = setting(one).removesuffix(", θ 0.2")
    yield f"θ = {paper[0.15]['theta']} and θ = {one['theta']} merge no head at {strengths}"
    yield f"θ = 0.25 merges {heads(dense) - heads(paper[0.25])} heads, all in the last layer"
    yield f"{accuracy(ours)} and {accuracy(taylor)} at {setting(ours)} sparsity (n = {ours['runs']} seeds each; "
    groups = [f"minilm-sst2-{name}-80" for name in ("taylor", "neuroprune")]
    yield f"paired difference {paired_difference('sst2', *groups)} points, 95 % interval)"
    shallow = [rows("sst2", f"minilm_{layers}-sst2-dense") for layers in SHALLOW]
    one, two, three = (f"{accuracy(run)} with {millions(run)}" for run in shallow)
    half = row("neuroprune-50")
    yield f"{accuracy(half)} with {millions(half)} parameters, the lowest three layers fine-tuned alone {three}; "
    yield f"{accuracy(ours)} with {millions(ours)}, where two layers have {two} and one layer {one}"
    planned = make_plan(read_study([ROOT / "config" / "sst2.yaml"]), "sst2.yaml", ROOT / "config").runs
    assert {path.parent.name for path in (PUBLISHED / "sst2" / "runs").glob("*/run.json")} == planned.keys()
    yield f"All {len(planned)} runs of the study"


def training_time_claims(rows):
    """Yield the parts that state a measured value of the study training_time."""
    run = partial(by_epochs, rows)
    ratio = run("cofi-80", 40)["train_time"] / run("neuroprune-80", 2)["train_time"]
    yield f"CoFi takes {ratio:.0f} times the training of NeuroPrune-FC for an accuracy that does not differ measurably"
    yield f"{accuracy(run('cofi-80', 40))} after 40 epochs, {accuracy(run('neuroprune-80', 2))} after two"
    ahead = paired_difference("training_time", "minilm-sst2_1000-cofi-80-epochs_40", "minilm-sst2_1000-neuroprune-80")
    yield f"(difference {ahead} points, 95 % interval, n = 3)"
    yield f"CoFi has {accuracy(run('cofi-80', 4))}, NeuroPrune-FC {accuracy(run('neuroprune-80', 4))}"
    error = standard_error(run("taylor-80", 8))
    yield f"Beyond four epochs neither gains reliably: the standard error of one accuracy is {error:.1f} points"
    layers = {group: [run(group, count)["empty_layers"] > 0 for count in SERIES[group]] for group in SERIES}
    assert all(layers.pop("cofi-80")) and layers.pop("dsp-h24") == [False, False, True]
    assert not any(map(any, layers.values()))


def timed_twice():
    """Return the part that states both speed-ups of one model, of runs with the same result."""
    runs = [PUBLISHED / "sst2" / "runs" / f"minilm-sst2-neuroprune-a0.0001-b0.001-t{theta}-s0" for theta in (0.15, 0.2)]
    one, other = (json.loads((run / "run.json").read_text())["result"] for run in runs)
    assert (one["value"], one["sparsity"]) == (other["value"], other["sparsity"])
    timed = [json.loads((run / "timing.json").read_text())["batches"] for run in runs]
    pair = [batch["speedup"]["median"] for batches in timed for batch in batches if batch["batch_size"] == 32]
    return f"was timed twice, at {pair[0]:.1f} × and {pair[1]:.1f} ×"


def decoder_claims(rows):
    """Yield the parts that state a measured value of the study smollm2."""
    row = lambda group: rows("smollm2", group)  # noqa: E731
    group = lambda method, point: f"smollm2_10-sst2_1000-{method}-{point}"  # noqa: E731
    dense, ours = row("smollm2_10-sst2_1000-dense"), row(group("neuroprune", 80))
    yield f"n = {dense['runs']} seeds, evaluated on {dense['result']['eval_rows']} rows"
    yield f"at 80 % sparsity NeuroPrune-FC has {accuracy(ours)} of {accuracy(dense)}"
    pairs = {
        point: paired_difference("smollm2", group("taylor", point), group("neuroprune", point))
        for point in (30, 50, 80)
    }
    yield f"{pairs[30]} points at 30 %, {pairs[50]} points at 50 % "
    yield f"and {pairs[80]} points at 80 % sparsity (95 % intervals"
    yield f"its lowest ten layers, {millions(dense)} parameters"
    yield f"all 30 layers, {millions(row('smollm2-snippet_texts-dense'))} parameters"
    language = [row(f"smollm2-snippet_texts-{name}") for name in ("dense", "neuroprune-30")]
    yield f"{language[0]['result']['steps']} steps are too few to recover"
    yield "perplexity rises from {:.0f} to {:.0f} at 30 %".format(*(one["metric_perplexity"] for one in language))
    both = [row(f"smollm2-snippet_texts-{name}-80") for name in ("neuroprune", "taylor")]
    yield "(perplexity {:.0f} against {:.0f}; one seed)".format(*(one["metric_perplexity"] for one in both))


def other_claims(rows):
    """Yield the parts that state a measured value of the other studies."""
    small = rows("small", "minilm-movie_snippets-neuroprune-50")
    few = partial(_compared, rows, "small", "movie_snippets_512")
    many = partial(_compared, rows, "inhouse", "sst2_1000")
    yield f"{small['result']['train_rows']} movie snippets"
    shown = rows("demo", "minilm-movie_snippets-dense")
    yield f"The demo: {shown['result']['train_rows']} movie snippets"
    steps, judged = shown["result"]["steps"] // 2, shown["result"]["eval_rows"]
    yield f"for two epochs of {steps} steps, evaluated on {judged} other rows"
    yield f"over n = {shown['runs']} seeds"
    pairs = [[rows("demo", f"minilm-movie_snippets-{name}-{point}") for name in UNITS] for point in (80, 90, 95)]
    assert [pair[0]["runs"] for pair in pairs] == [2, 1, 1]
    leads = [f"{100 * (ours['value'] - taylor['value']):.1f}" for ours, taylor in pairs]
    yield "of Taylor by {} points at 80 % (n = 2), {} at 90 % and {} at 95 % (one seed each)".format(*leads)
    yield f"over n = {rows('small', 'minilm-movie_snippets-dense')['runs']} seeds"
    yield f"evaluated on {small['result']['eval_rows']} other rows"
    yield f"The standard error of one accuracy is {standard_error(small):.1f} points"
    groups = [f"minilm-movie_snippets-neuroprune-80{name}" for name in ("-budget_dense_flops", "")]
    dense = rows("small", "minilm-movie_snippets-dense")["value"]
    longer, usual = (percent(rows("small", group)["value"] / dense) for group in groups)
    yield f"keeps {longer} of the dense accuracy; with the same epochs it is {usual}"
    yield f"between the two is {paired_difference('small', *groups)} points (95 % interval over the three seeds)"
    missed = [
        rows("small", f"minilm-movie_snippets-neuroprune-x{speed}")["speedup_b32"] / speed - 1 for speed in (2, 3, 5)
    ]
    yield f"{100 * min(missed):.0f} to {100 * max(missed):.0f} % off the target".replace("-", "−")
    yield f"{few('neuroprune-80')['result']['steps']} steps ({few('dense')['result']['train_rows']} rows)"
    yield f"on {few('dense')['result']['train_rows']} movie snippets"
    seeds = [f"{100 * value:.1f}" for value in _seeds("small", "minilm-movie_snippets_512-neuroprune-80")]
    yield f"across seeds: {', '.join(seeds[:2])} and {seeds[2]} %"
    yield f"CoFi reaches {accuracy(few('cofi-80'))} there (dense {accuracy(few('dense'))}; one seed each) "
    yield f"with {_ratio(few('cofi-80'), few('neuroprune-80')):.0f} times the training time of NeuroPrune-FC"
    size = f"{many('dense')['result']['train_rows']:,} rows"
    yield f"With {many('neuroprune-80')['result']['steps']} steps ({size})"
    yield f"on {size} of SST-2"
    yield f"CoFi takes {_ratio(many('cofi-80'), many('neuroprune-80')):.0f} times the training time"
    yield f"In four epochs CoFi reaches {accuracy(many('cofi-80-epochs_4'))}"
    yield f"ends at {percent(many('cofi-80-schedule_published-epochs_4')['sparsity'])} sparsity instead of 80 %"
    copied = [
        rows("architectures", f"{name}-dense")["copied"]
        for name in ("t5_random-docstrings", "transformer_random-home_messages")
    ]
    yield f"ROUGE-Lsum {100 * copied[0]:.1f} on docstrings"
    yield f"BLEU {100 * copied[1]:.1f}."
    losses = [
        f"{rows('architectures', f'{task}-{method}')['metric_loss']:.2f}"
        for task in ("t5_random-docstrings", "transformer_random-home_messages")
        for method in ("neuroprune-80", "dense")
    ]
    yield "({} and {} on docstrings, {} and {} in translation, one seed each)".format(*losses)


def _seeds(study, group):
    records = [
        json.loads(path.read_text()) for path in sorted((PUBLISHED / study / "runs").glob(f"{group}-s*/run.json"))
    ]
    return [record["result"]["value"] for record in records]


def _ratio(slow, quick):
    return slow["train_seconds_without_eval"] / quick["train_seconds_without_eval"]


def prose(page):
    """Return a page's text without tables, emphasis and line breaks."""
    text = re.sub(r"^\|.*\n", "", page, flags=re.MULTILINE).replace("**", "")
    return " ".join(text.split())


def test_measured_values_in_the_text_equal_the_records(rows):
    text = prose(PAGE)
    claims = (*sst2_claims(rows), *training_time_claims(rows), *decoder_claims(rows), *other_claims(rows))
    for claim in claims:
        assert claim in text
        text = text.replace(claim, "")
    assert MEASURED.findall(TARGET.sub("", text)) == []


def test_the_table_of_the_readme_equals_that_of_the_results():
    (ours, *_), (all_rows, *_) = tables(README), tables(PAGE)
    columns = [all_rows[0].index(name) for name in ours[0]]
    known = [[row[column] for column in columns] for row in all_rows]
    assert [row for row in ours[2:] if row not in known] == []
    assert len(ours) > 5


def test_the_text_of_the_readme_equals_the_records(rows):
    errors = [standard_error(rows("sst2", f"minilm-sst2-{group}")) for group in ("dense", "l1-l0.001")]
    assert f"the standard error of an accuracy is {errors[0]:.1f} to {errors[1]:.1f} points" in prose(README)
    assert timed_twice() in prose(README)
    loss = paired_difference("sst2", "minilm-sst2-neuroprune-80", "minilm-sst2-dense")
    assert f"NeuroPrune-FC is {loss} points from dense (95 % interval of the paired difference, n = 3)" in prose(README)
    one = rows("sst2", "minilm-sst2-l1-80")
    assert f"a single run (n = {one['runs']} seed), evaluated on {one['result']['eval_rows']} rows" in prose(README)


def test_the_papers_algorithm_empties_no_layer(rows):
    groups = [f"neuroprune-{name}" for name in ("a0.0001-b0.001-t0.2", "a0.0003-b0.003-t0.2", "a0.0001-b0.001-t0.25")]
    for result in (rows("sst2", f"minilm-sst2-{group}")["result"]["sparsity"] for group in groups):
        assert min(*result["heads_per_layer"], *result["neurons_per_layer"]) > 0


def test_only_the_largest_threshold_merges_heads():
    def gone(theta):
        path = PUBLISHED / "sst2" / "runs" / f"minilm-sst2-neuroprune-a0.0001-b0.001-t{theta}-s0" / "run.json"
        return [len(heads) for heads in json.loads(path.read_text())["result"]["method"]["removed_heads"]]

    assert sum(gone(0.15)) == sum(gone(0.2)) == 0
    assert gone(0.25) == [0, 0, 0, 0, 0, 5]
