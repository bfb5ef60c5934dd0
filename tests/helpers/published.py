"""Look-up and formatting of numbers from the published records for checking the documentation."""

import json
import math
import re
import shutil
import statistics
from pathlib import Path

from scipy import stats

from neuroprune.results.collect import collect
from neuroprune.results.runs import read_runs
from neuroprune.results.tables.summary import summarize

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "results" / "published"
STUDIES = ("ablations", "architectures", "demo", "inhouse", "small", "smollm2", "sst2", "training_time")
LABELS = {"dense": "dense", "cofi": "CoFi", "dsp": "DSP", "taylor": "Taylor", "random": "random heads and neurons"}
FORMS = {
    ("neuroprune", "penalty"): "NeuroPrune (penalties)",
    ("neuroprune", "regulated"): "NeuroPrune (penalties, regulated)",
    ("neuroprune", "target"): "NeuroPrune-FC",
    ("l1", "penalty"): "l1 penalty",
    ("l1", "target"): "magnitude",
}
SYMBOLS = {"alpha": "α", "beta": "β", "theta": "θ", "strength": "λ"}


def published_rows(folder):
    """Return a function that looks up the mean over seeds of a published setting, computed from its records.

    The records are copied to `folder`; published tables are not read.
    """
    found = {}
    for study in STUDIES:
        copy = folder / study
        shutil.copytree(PUBLISHED / study, copy, ignore=shutil.ignore_patterns("*.safetensors", "tables", "figures"))
        collect(copy)
        for row in summarize(read_runs(copy)).to_dict("records"):
            (record, *_) = sorted((copy / "runs").glob(f"{row['group']}-s*/run.json"))
            found[study, row["group"]] = row | {"result": json.loads(record.read_text())["result"]}
    return lambda study, group: found[study, group]


def paired_difference(study, ours, theirs):
    """Return the mean over seeds of a published setting's paired differences in points, as `mean_interval` does."""
    values = [[result["value"] for result in seed_results(study, group)] for group in (ours, theirs)]
    return mean_interval([100 * (one - other) for one, other in zip(*values, strict=True)]).removeprefix("+")


def mean_interval(points):
    """Return a mean with its sign, and half of its 95 % interval (t)."""
    half = stats.t.ppf(0.975, len(points) - 1) * statistics.stdev(points) / math.sqrt(len(points))
    return f"{statistics.mean(points):+.1f} ± {half:.1f}".replace("-", "−")


def seed_results(study, group):
    """Return the results of a published setting's records, in the order of the seeds."""
    records = sorted((PUBLISHED / study / "runs").glob(f"{group}-s*/run.json"))
    return [json.loads(record.read_text())["result"] for record in records]


def percent(fraction, digits=1):
    return f"{100 * fraction:.{digits}f} %"


def sparsity(row):
    """Format a sparsity, without decimals if it was the target."""
    return percent(row["sparsity"], 0 if row["sparsity"] == 0 or math.isfinite(row["point"]) else 1)


def accuracy(row):
    spread = "" if math.isnan(row["value_sd"]) else f" ± {100 * row['value_sd']:.1f}"
    assert bool(spread) == (row["runs"] > 1)
    return f"{100 * row['value']:.1f}{spread} %"


def score(row):
    return f"{100 * row['value']:.1f}"


def label(row):
    return LABELS.get(row["method"]) or FORMS[row["method"], row["form"]]


def setting(row):
    if math.isfinite(row["point"]):
        theta = f", θ {row['theta']:g}" if math.isfinite(row["theta"]) else ""
        return percent(row["point"], 0) + theta
    strengths = {symbol: row[name] for name, symbol in SYMBOLS.items() if math.isfinite(row[name])}
    return ", ".join(f"{symbol} {_short(value)}" for symbol, value in strengths.items())


def _short(value):
    return f"{value:g}" if value >= 0.01 else re.sub(r"\.?0*e-0?", "e-", f"{value:.2e}")


def millions(row):
    return f"{row['parameters'] / 1e6:.1f} M"


def neurons(row):
    return sum(row["result"]["sparsity"]["neurons_per_layer"])


def heads(row):
    return sum(row["result"]["sparsity"]["heads_per_layer"])


def seconds(row):
    return f"{row['train_time']:.0f} s"


def faster(row, batch=32):
    if row["method"] == "dense":
        return ""
    speedup = row[f"speedup_b{batch}"]
    return "no faster" if speedup < 1.05 else f"{speedup:.1f} × faster"


def inference(row):
    time = f"{row['inference_ms_b32']:.1f} ms"
    return time if row["method"] == "dense" else f"{time}, {faster(row)}"


def standard_error(row):
    """Return the standard error of one accuracy, in points."""
    return 100 * math.sqrt(row["value"] * (1 - row["value"]) / row["result"]["eval_rows"])


def tables(text):
    """Return the tables of a page: a header and rows of cells each."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()] for block in blocks
    ]
