"""The tables of the protocol in docs/method.md are those of its runs."""

import csv
import statistics
from collections import defaultdict
from typing import NamedTuple

import pytest

from helpers.published import PUBLISHED, ROOT, mean_interval, percent, tables

LAYOUTS = (ROOT / "docs" / "architectures.md").read_text()
ADVICE = " ".join((ROOT / "docs" / "sparsity.md").read_text().split())
README = " ".join((ROOT / "README.md").read_text().split())
PAGE = "".join((ROOT / "docs" / name).read_text() for name in ("method.md", "experiments.md"))
TEXT = " ".join(PAGE.replace("**", "").split())
TARGETS = ("0.8", "0.9")
DROPOUT = ("protocol.csv", "dropout.csv")
EQUAL_COST = ("protocol.csv", "dense_cost.csv")
EQUAL_COST_DROPOUT = (*EQUAL_COST, "dense_cost_dropout.csv")
TASKS_OF_README = ("`movie_512`", "`sst2_1000`")
SEEDS = (range(10, 15), range(40, 45))
LONG = {"sst2_1000_16": "1,008", "sst2_1000_8": "504", "movie_512_8": "512"}
MEANS, FOLD, TAYLOR = "means, no dropout", "no dropout", "taylor, no dropout"
WITH_AND_WITHOUT = ("usual", "no dropout", "taylor", "taylor, no dropout")
TASKS = ("movie_512", "sst2_1000", "sick_1500", "mrpc_1600", "sst2_6000")
BEGINNINGS = {"usual": "usual", "head_first": "head first", "longer": "longer"}
VARIANTS = {"dense": "dense", "usual": "NeuroPrune-FC", "taylor": "Taylor", "no fold": "without fold"}
VARIANTS |= {"score counts": "counts by Taylor", "score taylor": "Taylor's score with fold"}
VARIANTS |= {"means only": "means folded only"}
VARIANTS |= {"six events": "six events", "taylor, six events": "Taylor, six events"}
SCHEDULES = {
    "post_lr 1": ("`post_lr` 1", "usual"),
    "late": ("late", "usual"),
    "late taylor": ("Taylor, late", "taylor"),
}
"""Changes of the schedule by variant: name, and the variant with the default schedule."""


EXPLORED = {  # seeds by task
    "movie_512": ("10", "11", "12"),
    "sst2_1000": ("10", "11"),
    "sick_1500": ("10", "11"),
    "sst2_1000_8": ("60", "61"),
}
AVERAGED, JOINT = "weights averaged over the last half", "joint Fisher information"
EXPLORATIONS = {
    "NeuroPrune-FC": ("no dropout", ""),
    "mean of abs(q) as score": ("neuroprune", "mean of |q|"),
    "joint Fisher information as score": ("neuroprune", JOINT),
    "the same, cross terms times 0.3": ("neuroprune", f"{JOINT}, cross terms times 0.3"),
    "weights averaged": ("neuroprune", AVERAGED),
    "means folded only": ("neuroprune", "fold=means"),
    "without fold": ("neuroprune", "fold=False"),
    "means folded, Taylor's score": ("neuroprune", "Taylor's score and fold=means"),
    "means folded, square root of the Fisher information": (
        "neuroprune",
        "root of the Fisher information and fold=means",
    ),
    "the run's own dense model as teacher": ("neuroprune", "teacher=run"),
    "Taylor": ("taylor, no dropout", ""),
    "Taylor, weights averaged": ("taylor", AVERAGED),
    "dense": ("dense, no dropout", ""),
    "dense, weights averaged": ("dense", AVERAGED),
}
"""Exploratory comparisons by name: a variant of the protocol, or a method with the setting changed in `runs.csv`."""


class Cell(NamedTuple):
    """Runs that differ only in the seed; `sparsity` is empty for dense runs."""

    task: str
    beginning: str
    sparsity: str
    variant: str


@pytest.fixture(scope="module")
def runs():
    return complete_cells("protocol.csv")


def rows_of(name):
    """Return the runs in one of the files of measurements."""
    with (PUBLISHED / "research" / name).open(newline="") as file:
        return list(csv.DictReader(file))


def complete_cells(*names, seeds=None, number=5):
    """Return the accuracies by cell and seed of some files' cells with all seeds; dense runs belong to every target."""
    found = defaultdict(dict)
    for row in (row for name in names for row in rows_of(name)):
        if seeds is None or int(row["seed"]) in seeds:
            cell = Cell(row["task"], row["beginning"], row["asked"], row["variant"])
            found[cell][row["seed"]] = 100 * float(row["metric pool"])
    return {cell: values for cell, values in found.items() if len(values) == number}


def explored():
    """Return the accuracies by task, method, setting and seed of exploratory runs in which dropout ends."""
    found = defaultdict(dict)
    for row in rows_of("runs.csv"):
        dropout, _, setting = row["setting changed"].partition(" ")
        if dropout == "post_dropout=0":
            found[row["task"], row["method"], setting][row["seed"]] = 100 * float(row["metric pool"])
    return found


def explorations():
    """The exploratory comparisons of scores and of averaged weights; an empty cell was not run."""
    yield ["change", *(f"`{task}`, seeds {', '.join(seeds)}" for task, seeds in EXPLORED.items())]
    other = explored()
    common = complete_cells("dropout.csv", seeds=range(10, 15)) | complete_cells("long.csv", seeds=range(60, 65))
    for name, (variant, setting) in EXPLORATIONS.items():
        line = []
        for task, seeds in EXPLORED.items():
            cell = Cell(task, "usual", "" if name.startswith("dense") else "0.8", variant)
            known = other[task, variant, setting] if setting else common.get(cell, {})
            line.append(", ".join(f"{known[seed]:.1f}" for seed in seeds if seed in known))
        yield [name, *line]


def difference(ours, theirs):
    """Return the mean of paired differences with the half width of its 95 % interval (t over five seeds)."""
    return mean_interval([ours[seed] - theirs[seed] for seed in sorted(ours)])


def by_seed(values):
    """Format the accuracies of a cell in the order of the seeds."""
    return ", ".join(f"{values[seed]:.1f}" for seed in sorted(values))


def lines_below(header):
    """Return the lines of the page's only table with this header."""
    (found,) = [table for table in tables(PAGE) if table[0] == header]
    return found[2:]


def cells(runs, task):
    """The protocol's cells of a task in the order of the names above."""
    yield ["beginning", "sparsity", "method", "accuracy of each seed", "mean", "minus Taylor"]
    shown = [c for c in runs if c.task == task and c.variant in VARIANTS and c.sparsity != "0.5"]
    order = [list(names) for names in (BEGINNINGS, ("", *TARGETS), VARIANTS)]
    for cell in sorted(shown, key=lambda c: [names.index(c[i]) for i, names in enumerate(order, start=1)]):
        values = runs[cell]
        seeds = by_seed(values)
        taylor = runs[cell._replace(sparsity=cell.sparsity or "0.8", variant="taylor")]
        against = "" if cell.variant == "taylor" else difference(values, taylor)
        target = percent(float(cell.sparsity), 0) if cell.sparsity else ""
        names = [BEGINNINGS[cell.beginning], target, VARIANTS[cell.variant]]
        yield [*names, seeds, f"{statistics.mean(values.values()):.1f}", against]


def schedules(runs):
    yield ["task", "sparsity", "change", "accuracy of each seed", "minus the default schedule"]
    for cell, values in runs.items():
        if cell.variant in SCHEDULES:
            name, usual = SCHEDULES[cell.variant]
            seeds = by_seed(values)
            target = percent(float(cell.sparsity), 0)
            yield [f"`{cell.task}`", target, name, seeds, difference(values, runs[cell._replace(variant=usual)])]


def ridges(runs):
    """The addendum's runs: their cells with the usual ridge and a larger one."""
    yield ["task", "sparsity", "`ridge` 0.01", "`ridge` 1", "difference"]
    for cell, values in runs.items():
        if cell.variant == "ridge 1":
            usual = runs[cell._replace(variant="usual")]
            both = (by_seed(usual), by_seed(values))
            yield [f"`{cell.task}`", percent(float(cell.sparsity), 0), *both, difference(values, usual)]


def equal_costs(runs):
    """The second addendum's runs: NeuroPrune-FC with the same epochs and at the cost of dense fine-tuning."""
    yield ["task", "seeds", "sparsity", "dense", "same epochs", "dense cost", "gain", "each seed", "minus Taylor"]
    for cell, values in runs.items():
        if (cell.beginning, cell.variant) == ("dense_cost", "usual"):
            others = [Cell(cell.task, "usual", "", "dense"), cell._replace(beginning="usual")]
            dense, usual = (runs[other] for other in others)
            means = [f"{statistics.mean(found.values()):.1f}" for found in (dense, usual, values)]
            seeds = sorted(values)
            against = difference(values, runs[cell._replace(variant="taylor")])
            names = [f"`{cell.task}`", f"{seeds[0]} to {seeds[-1]}", percent(float(cell.sparsity), 0)]
            yield [*names, *means, difference(values, usual), by_seed(values), against]


def dropouts(runs):
    """The sixth addendum's runs: what changes if dropout ends at the last event."""
    yield ["task", "sparsity", "NeuroPrune-FC", "without dropout", "difference", "Taylor", "dense", "means folded only"]
    for cell in sorted(runs, key=lambda cell: (TASKS.index(cell.task), cell.sparsity)):
        if cell.variant == "no dropout":
            values = runs[cell]
            usual, *others = (
                runs.get(other)
                for other in (
                    cell._replace(variant="usual"),
                    cell._replace(variant="taylor, no dropout"),
                    cell._replace(variant="taylor"),
                    cell._replace(sparsity="", variant="dense, no dropout"),
                    cell._replace(sparsity="", variant="dense"),
                )
            )
            changes = [difference(*pair) if all(pair) else "" for pair in (others[:2], others[2:])]
            means = runs.get(cell._replace(variant="means, no dropout"))
            both = [f"{statistics.mean(found.values()):.1f}" for found in (usual, values)]
            fold = difference(means, values) if means else ""
            names = [f"`{cell.task}`", percent(float(cell.sparsity), 0)]
            yield [*names, *both, difference(values, usual), *changes, fold]


def folds(runs):
    """The seventh addendum's runs: the fold and the means alone on fresh seeds, dropout ending at the last event."""
    yield [
        "task",
        "sparsity",
        "least squares",
        "means alone",
        "means − least squares",
        "least squares − Taylor",
        "means − Taylor",
    ]
    for cell in sorted(runs, key=lambda cell: (TASKS.index(cell.task), cell.sparsity)):
        if cell.variant == FOLD:
            fold, means, taylor = (runs[cell._replace(variant=name)] for name in (FOLD, MEANS, TAYLOR))
            names = [f"`{cell.task}`", percent(float(cell.sparsity), 0), by_seed(fold), by_seed(means)]
            yield [*names, *(difference(*pair) for pair in ((means, fold), (fold, taylor), (means, taylor)))]


def equal_costs_without_dropout(runs):
    """The eighth addendum's runs: the cost of dense fine-tuning, with dropout ending at the last event."""
    yield [
        "task",
        "seeds",
        "sparsity",
        "dense",
        "dropout until the end",
        "dropout ends",
        "difference",
        "minus dense",
        "lowest, minus dense",
    ]
    for cell in sorted(runs, key=lambda cell: (TASKS.index(cell.task), cell.sparsity)):
        if (cell.beginning, cell.variant) == ("dense_cost", "no dropout"):
            values, usual = runs[cell], runs[cell._replace(variant="usual")]
            dense = runs[Cell(cell.task, "usual", "", "dense")]
            means = [f"{statistics.mean(found.values()):.1f}" for found in (dense, usual, values)]
            lowest = f"{min(values[seed] - dense[seed] for seed in values):+.1f}".replace("-", "−")
            names = [f"`{cell.task}`", f"{len(values)}", percent(float(cell.sparsity), 0)]
            yield [*names, *means, difference(values, usual), difference(values, dense), lowest]


def long_runs(runs):
    """The ninth addendum's runs: many epochs over few rows, with dropout until the end or the last event."""
    yield [
        "task",
        "steps",
        "NeuroPrune-FC",
        "dropout ends",
        "difference",
        "worst seed",
        "Taylor",
        "dropout ends",
        "difference",
    ]
    for cell in runs:
        if cell.variant == WITH_AND_WITHOUT[-1]:
            steps = LONG[cell.task]
            found = [runs[cell._replace(variant=name)] for name in WITH_AND_WITHOUT]
            means = [f"{statistics.mean(values.values()):.1f}" for values in found]
            ours, taylor = difference(found[1], found[0]), difference(found[3], found[2])
            worst = f"{min(found[1][seed] - found[0][seed] for seed in found[0]):+.1f}".replace("-", "−")
            yield [f"`{cell.task}`", steps, *means[:2], ours, worst, *means[2:], taylor]


def folds_in_long_runs(runs):
    """The tenth addendum's runs: the fold, the means alone and no fold in many epochs over few rows."""
    names = (FOLD, MEANS, "no fold, no dropout", TAYLOR)
    yield ["task", "least squares", "means alone", "no fold", "Taylor", "means − least squares", "none − least squares"]
    for cell in runs:
        if cell.variant == names[-1]:
            found = [runs[cell._replace(variant=name)] for name in names]
            changes = [difference(each, found[0]) for each in found[1:3]]
            yield [f"`{cell.task}`", *map(by_seed, found), *changes]


def folds_by_length(runs):
    """The eleventh addendum's runs: the least-squares fold and the means alone in runs of 126 steps and more."""
    yield ["task", "sparsity", "least squares", "means alone", "Taylor", "means − least squares", "means − Taylor"]
    for cell in sorted(runs, key=lambda cell: ([*TASKS, *LONG].index(cell.task), cell.sparsity)):
        if cell.variant == FOLD:
            fold, means = (runs[cell._replace(variant=name)] for name in (FOLD, MEANS))
            taylor = runs.get(cell._replace(variant=TAYLOR))
            names = [f"`{cell.task}`", percent(float(cell.sparsity), 0), by_seed(fold), by_seed(means)]
            first, second = (by_seed(taylor), difference(means, taylor)) if taylor else ("", "")
            yield [*names, first, difference(means, fold), second]


def differences_of_seeds(runs, ours, theirs):
    """Return each seed's mean difference of two variants over all cells that both have."""
    pairs = [
        (values, runs[other])
        for cell, values in runs.items()
        if cell.variant == ours and (other := cell._replace(variant=theirs)) in runs
    ]
    return [statistics.mean(one[seed] - other[seed] for one, other in pairs) for seed in sorted(pairs[0][0])]


def over_cells(runs, ours, theirs):
    """Return the difference of two variants over all cells that both have, with the interval over the seeds' means."""
    return mean_interval(differences_of_seeds(runs, ours, theirs))


def concerned(runs):
    """Return the cells over which rule 1 takes the mean: those of the protocol's targets, without head first."""
    return {cell: values for cell, values in runs.items() if cell.beginning == "usual" and cell.sparsity in TARGETS}


def test_the_table_of_equal_costs_is_that_of_the_runs():
    header, *lines = equal_costs(complete_cells(*EQUAL_COST, seeds=SEEDS[0]))
    _, *fresh = equal_costs(complete_cells(*EQUAL_COST, seeds=SEEDS[1]))
    assert lines_below(header) == lines + fresh


def test_the_conclusions_about_equal_costs_are_those_of_the_runs():
    runs = complete_cells(*EQUAL_COST, seeds={*SEEDS[0], *SEEDS[1]}, number=10)
    dense = runs[Cell("movie_512", "usual", "", "dense")]
    found = defaultdict(list)
    for asked in TARGETS:
        ours, usual = (runs[Cell("movie_512", beginning, asked, "usual")] for beginning in ("dense_cost", "usual"))
        taylor, usual_taylor = (
            runs[Cell("movie_512", beginning, asked, "taylor")] for beginning in ("dense_cost", "usual")
        )
        pairs = {"gain": (ours, usual), "lead": (ours, taylor), "usual lead": (usual, usual_taylor)}
        for name, pair in (pairs | {"dense": (ours, dense)}).items():
            found[name].append(difference(*pair))
        found["worst"].append(f"{max(dense[seed] - ours[seed] for seed in dense):.1f} points below the dense run")
    gains, leads, usual_leads = (
        [points.removeprefix("+") for points in found[name]] for name in ("gain", "lead", "usual lead")
    )
    assert f"the lowest ends {found['worst'][0]} of its seed at 80 % sparsity and {found['worst'][1]} of" in TEXT
    assert f"the mean is {found['dense'][0]} points at 80 % and {found['dense'][1]} at 90 %" in TEXT
    assert f"with the same epochs by {usual_leads[0]} and {usual_leads[1]} (ten seeds each)" in TEXT
    assert f"by {usual_leads[0]} points at 80 % sparsity and {usual_leads[1]} at 90 % (ten seeds)" in TEXT
    assert f"at 80 % sparsity ({found['dense'][0]} points), and ahead of Taylor by {leads[0]} points" in TEXT
    assert f"the difference to dense models of the same cost is {found['dense'][0]} points" in ADVICE
    for page in (TEXT, ADVICE):
        assert f"gain {gains[0]} points at 80 % and {gains[1]} at 90 %" in page
        assert f"ahead of Taylor by {leads[0]} and {leads[1]} points" in page


def test_the_conclusions_about_longer_runs_at_equal_cost_are_those_of_the_runs():
    runs = complete_cells(*EQUAL_COST, seeds=SEEDS[0])
    equal = {cell: values for cell, values in runs.items() if cell.beginning == "dense_cost"}
    assert sum(cell.variant == "usual" for cell in equal) == 4
    assert f"at the cost of dense fine-tuning is {over_cells(equal, 'usual', 'taylor')} points from Taylor" in TEXT
    dense = runs[Cell("sst2_1000", "usual", "", "dense")]
    ours, usual = (
        [runs[Cell("sst2_1000", beginning, asked, "usual")] for asked in TARGETS]
        for beginning in ("dense_cost", "usual")
    )
    gains, losses = ([difference(*pair) for pair in zip(ours, base, strict=True)] for base in (usual, [dense] * 2))
    assert f"On `sst2_1000` the gain is {gains[0]} points at 80 % and {gains[1]} at 90 %" in TEXT
    assert f"the gain is {gains[0]} points at 80 % and {gains[1]} at 90 %" in ADVICE
    for page in (TEXT, ADVICE):
        assert f"the difference to dense {losses[0]} and {losses[1]}" in page


def test_the_table_of_equal_costs_without_dropout_is_that_of_the_runs():
    films = complete_cells(*EQUAL_COST_DROPOUT, seeds={*SEEDS[0], *SEEDS[1]}, number=10)
    reviews = complete_cells(*EQUAL_COST_DROPOUT, seeds=SEEDS[0])
    header, *lines = equal_costs_without_dropout(films | {c: v for c, v in reviews.items() if c.task == "sst2_1000"})
    assert lines_below(header) == lines
    short, longer = (next(line for line in lines if line[::2][:2] == [task, "80 %"]) for task in TASKS_OF_README)
    assert f"the difference to dense is then {short[-2]} points in a dense run of 64 steps (n = 10 seeds)" in README
    assert f"and {longer[-2]} points in one of 126 steps (n = 5;" in README
    assert f"no seed ends more than {short[-1].removeprefix('−')} points below its dense run" in TEXT
    assert f"it changes the accuracy by {short[-3]} points on `movie_512` and {longer[-3]} on `sst2_1000`" in TEXT


def test_the_table_and_the_decisions_about_dropout_are_those_of_the_runs():
    runs = complete_cells(*DROPOUT, seeds=SEEDS[0])
    header, *lines = dropouts(runs)
    assert lines_below(header) == lines
    pairs = [("no dropout", "usual"), ("taylor, no dropout", "taylor"), ("means, no dropout", "no dropout")]
    ours, taylor, means = (over_cells(runs, *pair) for pair in pairs)
    number = sum(bool(line[5]) for line in lines)
    assert (
        f"over {len(lines)} cells it changes NeuroPrune-FC by {ours} points, with an interval just above zero" in TEXT
    )
    assert f"and Taylor by {taylor}." in TEXT and number == len(lines)
    assert f"gains a little (`post_dropout: 0`): {ours} points over {len(lines)} cells; Taylor gains {taylor}." in TEXT
    longer = {cell: values for cell, values in runs.items() if cell.task != "movie_512"}
    both = [("no dropout", "taylor, no dropout"), ("means, no dropout", "taylor, no dropout")]
    fold, means_alone = (over_cells(longer, *pair) for pair in both)
    assert f"the difference to Taylor is {fold} points with the fold, and {means_alone} with the means alone" in TEXT
    assert " and ".join(over_cells(runs, *pair) for pair in both) in TEXT
    lead = over_cells(runs, "means, no dropout", "taylor")
    assert f"the difference to Taylor with dropout is {lead} points over these cells" in TEXT
    assert f"over {len(lines)} cells, with dropout ending at the last event, it is {means} points" in TEXT
    reviews = {cell: values for cell, values in runs.items() if cell.task == "sst2_1000"}
    assert f"on `sst2_1000` it is {over_cells(reviews, 'means, no dropout', 'no dropout')} points" in TEXT
    film = next(line for line in lines if line[:2] == ["`movie_512`", "90 %"])
    for text in ("on `movie_512` at 90 % it is {} points", "At 90 % in 64 steps it is {} points"):
        assert text.format(film[-1]) in TEXT


def test_the_table_of_long_runs_and_the_advice_are_those_of_the_runs():
    runs = complete_cells("long.csv", seeds=range(60, 65))
    header, *lines = long_runs(runs)
    assert lines_below(header) == lines and len(lines) > 1
    pairs = [
        ("no dropout", "usual"),
        ("taylor, no dropout", "taylor"),
        ("no dropout", "taylor, no dropout"),
        ("usual", "taylor"),
    ]
    ours, taylor, lead, lead_with_dropout = (over_cells(runs, *pair) for pair in pairs)
    assert f"Over these {len(lines)} cells it changes NeuroPrune-FC by {ours} points and Taylor by {taylor}" in TEXT
    assert f"to Taylor is {lead} points, with dropout until the end {lead_with_dropout}" in TEXT
    assert f"NeuroPrune-FC's difference to Taylor is {lead} points" in TEXT
    assert f"on five other seeds in 8 and 16 epochs {lead} (" in TEXT


def test_the_fold_in_long_runs_is_that_of_the_runs():
    runs = complete_cells("long_fold.csv", seeds=range(70, 75))
    header, *lines = folds_in_long_runs(runs)
    assert lines_below(header) == lines and lines
    means, none = (over_cells(runs, f"{name}, no dropout", "no dropout") for name in ("means", "no fold"))
    assert f"the means alone make a difference of {means} points, no fold {none}" in TEXT
    names = ("no dropout", "means, no dropout", "no fold, no dropout")
    leads = [over_cells(runs, name, "taylor, no dropout") for name in names]
    assert "with the fold {}, with the means {}, without {}".format(*leads) in TEXT
    for page in (TEXT, ADVICE):
        assert f"NeuroPrune-FC's difference to Taylor is {leads[1]} points" in page
    assert f"it is there {leads[0]}, and on five other seeds" in TEXT
    assert f"and behind it in 8 epochs over 1,000 rows ({leads[1]}; n = 5 seeds, 95 % intervals" in README


def numbers(change):
    """Return mean and half width of a formatted difference."""
    return [float(part.replace("−", "-")) for part in change.split(" ± ")]


def test_the_fold_by_length_follows_from_the_addendums_rule():
    runs = complete_cells("fold_by_length.csv", seeds=range(80, 85))
    header, *lines = folds_by_length(runs)
    assert lines_below(header) == lines and len(lines) >= 5
    assert all(numbers(line[-2])[0] > -1 for line in lines)
    every = over_cells(runs, MEANS, FOLD)
    mean, half = numbers(every)
    assert mean - half > -0.5
    assert f"Over these {len(lines)} cells the means alone are {every} points from the least-squares fold" in TEXT
    assert f"the means alone are {every} points from the least-squares fold, over {len(lines)} cells" in TEXT
    pairs, reviews = lines[-2:]
    assert f"on MRPC it is {pairs[-2]}, which" in TEXT and f"6,000 rows of SST-2 {reviews[-2]}." in TEXT
    means, fold = (over_cells(runs, name, TAYLOR) for name in (MEANS, FOLD))
    assert f"to Taylor is {means} points over three cells of these seeds, with the least-squares fold {fold}." in TEXT


def test_the_fold_of_a_model_without_biases_is_that_of_its_runs():
    found = defaultdict(dict)
    for row in rows_of("decoder_fold.csv"):
        found[row["setting changed"]][row["seed"]] = 100 * float(row["metric dev"])
    none, fold = ("{}, {} and {} %".format(*by_seed(found[setting]).split(", ")) for setting in ("fold=False", ""))
    change = difference(found["fold=False"], found[""])
    assert f"ends at {none} without the fold and at {fold} with it (872 rows): {change} points." in TEXT
    assert numbers(change)[0] > -1


def test_the_lead_over_taylor_in_longer_runs_is_that_of_all_seeds():
    addenda = [
        {cell: values for cell, values in concerned(runs).items() if cell.task in TASKS[1:]}
        for runs in (
            complete_cells(*DROPOUT, seeds=range(10, 15)),
            complete_cells("fold.csv", seeds=range(50, 55)),
            complete_cells("fold_by_length.csv", seeds=range(80, 85)),
        )
    ]
    means, fold = (
        mean_interval([lead for runs in addenda for lead in differences_of_seeds(runs, name, TAYLOR)])
        for name in (MEANS, FOLD)
    )
    assert f"it is {means} points with the means and {fold} with the fold" in TEXT
    assert f"**With 126 to 376 steps Taylor is as good**, on SST-2, SICK and MRPC ({means} points" in PAGE
    assert f"({means} points over 15 seeds, 95 % interval" in ADVICE
    assert f"level with it in 126 to 376 steps ({means}; n = 15)" in README


def test_other_weights_of_rows_in_long_runs_are_those_of_the_runs():
    usual = complete_cells("long.csv", seeds=range(60, 65))[Cell("sst2_1000_8", "usual", "0.8", "no dropout")]
    names = ("equal weight of rows", "true Fisher information")
    equal, true = (difference(explored()["sst2_1000_8", "neuroprune", name], usual) for name in names)
    assert f"With the same weight for every row the difference is {equal} points" in TEXT
    assert f"expected over the model's own predictions {true}." in TEXT


def test_the_table_of_explored_scores_is_that_of_the_runs():
    header, *lines = explorations()
    assert lines_below(header) == lines


def test_the_fold_on_fresh_seeds_is_that_of_the_runs():
    runs = complete_cells("fold.csv", seeds=range(50, 55))
    header, *lines = folds(runs)
    assert lines_below(header) == lines
    films = {cell: values for cell, values in runs.items() if cell.task == "movie_512"}
    longer = {cell: values for cell, values in runs.items() if cell.task != "movie_512"}
    short, rest = (over_cells(each, "means, no dropout", "no dropout") for each in (films, longer))
    every = over_cells(runs, "means, no dropout", "no dropout")
    assert f"Over these {len(lines)} cells the means alone are {every} points from it" in TEXT
    assert f"on `movie_512` they are {short}, in longer runs {rest}." in TEXT
    assert (
        f"(experiments.md#the-fold-on-fresh-seeds) it is {short} points in 64 steps and {rest} in longer runs." in TEXT
    )
    names = ("no dropout", "means, no dropout")
    ours, means = (over_cells(films, name, "taylor, no dropout") for name in names)
    assert f"{ours} points over 50, 80 and 90 % sparsity, with the means alone {means}." in TEXT
    assert f"NeuroPrune-FC is ahead of Taylor in 64 steps ({ours} points)" in README
    assert f"Over all {len(lines)} cells: {over_cells(runs, 'no dropout', 'taylor, no dropout')} points." in TEXT
    ours, means = (over_cells(longer, name, "taylor, no dropout") for name in names)
    number = sum(cell.variant == "no dropout" for cell in longer)
    assert f"it is not: {ours} points over {number} cells, with the means alone {means}." in TEXT


def test_the_conclusions_about_variants_are_those_of_the_runs(runs):
    usual = concerned(runs)
    events, counts = (over_cells(usual, name, "usual") for name in ("six events", "score counts"))
    assert f"are worse: {events} points over four cells. Counts by Taylor make no reliable difference: {counts}" in TEXT
    means = over_cells(usual, "means only", "usual")
    assert f"does as much at 80 % sparsity: {means} points over five tasks" in TEXT
    assert f"over five tasks it is {means} points from the least-squares fold" in TEXT
    less = {
        name: [difference(*(usual[Cell(task, "usual", "0.8", each)] for each in (name, "usual"))) for task in TASKS]
        for name in ("means only", "no fold")
    }
    said = ", ".join(f"on `{task}` {points}" for task, points in zip(TASKS, less["means only"], strict=True))
    assert f"(five seeds), {said}." in TEXT
    film, review, sick, pairs, more = less["no fold"]
    assert f"it is {film} points on `movie_512`, {review} on `sst2_1000`, {sick} on `sick_1500`, {pairs} on" in TEXT
    assert f"on `mrpc_1600` and {more} on `sst2_6000`." in TEXT


def test_the_effect_of_frozen_embeddings_is_that_of_the_runs(runs):
    frozen = complete_cells("frozen.csv")
    changes = [
        [
            difference(frozen[Cell(task, "frozen", asked, name)], runs[Cell(task, "usual", asked, name)])
            for task in ("movie_512", "sst2_1000")
        ]
        for name, asked in (("usual", "0.8"), ("dense", ""))
    ]
    ours, dense = changes
    assert f"by {ours[0]} points on `movie_512`, where one of five seeds falls to chance, and by {ours[1]} on" in TEXT
    assert f"dense fine-tuning by {dense[0]} and {dense[1]}." in TEXT


def test_the_table_and_the_decision_about_the_ridge_are_those_of_the_runs():
    runs = complete_cells("ridge.csv")
    header, *lines = ridges(runs)
    assert lines_below(header) == lines and len(lines) == 6
    assert f"over all six cells the difference is {over_cells(runs, 'ridge 1', 'usual')} points" in TEXT
    lead, worth = (over_cells(runs, "usual", other) for other in ("taylor", "no fold"))
    assert f"fold against none on `movie_512` {worth}, and" in TEXT and f"NeuroPrune-FC against Taylor {lead}." in TEXT
    assert f"The fold is worth {worth[1:]} points in 64 steps, over 50, 80 and 90 % sparsity" in TEXT
    half = [runs[Cell("movie_512", "usual", "0.5", name)] for name in ("usual", "taylor", "no fold")]
    lead, worth = (difference(half[0], other) for other in half[1:])
    assert f"at 50 % no difference is found ({lead})" in TEXT
    assert f"at 50 % alone no difference is found ({worth})" in TEXT
    assert f"that suggested it: {over_cells(runs, 'ridge 1', 'usual')} points over six cells" in TEXT


def test_the_conclusions_about_schedules_are_those_of_the_runs(runs):

    def changed(task, sparsity, variant):
        return difference(*(runs[Cell(task, "usual", sparsity, name)] for name in (variant, "usual")))

    late = [changed("movie_512", sparsity, "late") for sparsity in TARGETS]
    assert f"not even in 64 steps: {late[0]} points at 80 % sparsity and {late[1]} at 90 %" in TEXT
    lower = [changed(task, "0.5", "post_lr 1") for task in ("sst2_6000", "movie_512")]
    assert f"in place of 2 it is {lower[0]} points on 6,000 rows of SST-2 and {lower[1]} in runs of 64 steps" in TEXT


def beginnings(runs):
    yield ["task", "method", "head first − usual", "head first − longer"]
    for first, values in runs.items():
        if first.beginning == "head_first":
            others = [runs.get(first._replace(beginning=other)) for other in ("usual", "longer")]
            if any(others):
                found = [difference(values, other) if other else "" for other in others]
                yield [f"`{first.task}`", VARIANTS[first.variant], *found]


def test_the_decision_follows_from_the_runs(runs):
    value = over_cells(concerned(runs), "usual", "taylor")
    assert f"its mean difference to Taylor over the complete cells is {value} points" in TEXT


def test_the_shares_of_dense_accuracy_are_those_of_the_runs(runs):
    dense = runs[Cell("sst2_6000", "usual", "", "dense")]
    shares = []
    for asked in TARGETS:
        ours = runs[Cell("sst2_6000", "usual", asked, "usual")]
        shares.append(percent(statistics.mean(ours[seed] / dense[seed] for seed in dense)))
    assert f"keeps {shares[0]} of the dense accuracy at 80 % sparsity and {shares[1]} at 90 %" in TEXT


def test_the_differences_at_80_and_90_percent_are_those_of_the_runs(runs):
    found = {
        task: " and ".join(
            difference(*(runs[Cell(task, "usual", asked, name)] for name in ("usual", "taylor"))) for asked in TARGETS
        )
        for task in ("sst2_6000", "sick_1500", "mrpc_1600")
    }
    assert f"it is {found['sst2_6000']} points, on SICK {found['sick_1500']}, on MRPC {found['mrpc_1600']}." in TEXT


@pytest.mark.parametrize("task", TASKS)
def test_the_table_of_a_task_is_that_of_the_runs(runs, task):
    header, *lines = cells(runs, task)
    (found, *_) = tables(PAGE.split(f"\n### `{task}`\n")[1])
    assert found[0] == header and found[2:] == lines


def test_every_task_of_the_protocol_has_a_table(runs):
    assert {cell.task for cell in runs} == set(TASKS)


@pytest.mark.parametrize("expected", [schedules, beginnings])
def test_a_table_of_the_page_is_that_of_the_runs(runs, expected):
    header, *lines = expected(runs)
    assert lines_below(header) == lines


def test_the_cost_of_uniform_layers_is_that_of_the_runs():
    runs = complete_cells("uniform.csv")
    usual, uniform, multiple = (
        runs[Cell("sst2_1000", "usual", "0.5", name)] for name in ("usual", "uniform", "uniform, 64")
    )
    text = " ".join(LAYOUTS.split())
    assert f"loses {difference(usual, uniform).removeprefix('+')} points against freely chosen widths" in text
    assert f"and {difference(usual, multiple).removeprefix('+')} points with `multiple_of=64`" in text
