"""Selection of the planned runs that each figure and table needs, so that none waits for the whole study.

A selection may contain more runs than the artefact draws, never fewer. Heavy imports are avoided because Snakemake
imports this module while it builds the job graph.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

from neuroprune.config.settings import RunSettings

Runs = Mapping[str, RunSettings]


def needed_runs(artefact: str, runs: Runs) -> tuple[str, ...]:
    """Return the names of the runs that a figure or table needs.

    Args:
        artefact: Name of the figure or table.
        runs: All planned runs by name, in the plan's order.

    Returns:
        Names in the plan's order. All runs if the artefact has no selection or its selection is empty.
    """
    chosen = _SELECTIONS.get(artefact, lambda runs: runs)(runs)
    return tuple(chosen or runs)


def _summaries(runs: Runs) -> Runs:
    """Table 1: the study's summarization tasks, or else all tasks; without runs with a target number of heads."""
    summaries = _where(runs, lambda run: run.task.kind == "summarization")
    return _at_sparsities(summaries or runs)


def _at_sparsities(runs: Runs) -> Runs:
    return _where(runs, lambda run: _heads(run) is None)


def _by_heads(runs: Runs) -> Runs:
    """Figure 5: runs with a target number of heads, and the dense runs of their models and tasks."""
    pairs = {_pair(run) for run in runs.values() if _heads(run) is not None}
    return _where(runs, lambda run: _pair(run) in pairs and (_heads(run) is not None or run.method.name == "dense"))


def _translation_by_heads(runs: Runs) -> Runs:
    """Figures 6 and 7: all runs of translation tasks that have runs with a target number of heads."""
    translations = _where(runs, lambda run: run.task.kind == "translation")
    pairs = {_pair(run) for run in translations.values() if _heads(run) is not None}
    return _where(translations, lambda run: _pair(run) in pairs)


def _ours_of_first_pair(runs: Runs) -> Runs:
    """Figures 1, 8, 9 and 10: NeuroPrune's main form and dense, for the first model and task with such runs."""
    ours = _main_form(runs)
    pair = _first_pair(ours)
    return _where(runs, lambda run: _pair(run) == pair and (run.run in ours or run.method.name == "dense"))


def _ours_of_first_model(runs: Runs) -> Runs:
    """Figure 2: NeuroPrune's main form and dense, for all tasks of the first model with such runs."""
    ours = _main_form(runs)
    models = {run.model.name for run in ours.values()}
    first = next((run.model.name for run in runs.values() if run.model.name in models), None)
    return _where(runs, lambda run: run.model.name == first and (run.run in ours or run.method.name == "dense"))


def _ours(runs: Runs) -> Runs:
    return _where(runs, lambda run: run.method.name == "neuroprune")


def _ours_and_dense(runs: Runs) -> Runs:
    return _at_sparsities(_where(runs, lambda run: run.method.name in ("neuroprune", "dense")))


def _all_of_first_pair(runs: Runs) -> Runs:
    pair = _first_pair(_where(runs, lambda run: run.method.name != "dense"))
    return _where(runs, lambda run: _pair(run) == pair)


def _with_strength(runs: Runs) -> Runs:
    return _where(runs, lambda run: (getattr(run.method, "alpha", None) or 0) > 0)


def _main_form(runs: Runs) -> Runs:
    """Return NeuroPrune's runs of the penalty form if there are any, else those of the target form."""
    ours = _ours(runs)
    return _where(ours, lambda run: getattr(run.method, "form", "") == "penalty") or ours


def _by_epochs(runs: Runs) -> Runs:
    """Return the runs of models, tasks and methods for which several numbers of epochs are planned."""
    planned: dict[Hashable, set[float]] = {}
    for run in runs.values():
        planned.setdefault((*_pair(run), run.method), set()).add(run.training.epochs)
    return _where(runs, lambda run: len(planned[*_pair(run), run.method]) > 1)


def _where(runs: Runs, wanted: Callable[[RunSettings], bool]) -> Runs:
    return {name: run for name, run in runs.items() if wanted(run)}


def _heads(run: RunSettings) -> int | None:
    return getattr(run.method, "heads", None)


def _pair(run: RunSettings) -> tuple[str, str]:
    return run.model.name, run.task.name


def _first_pair(runs: Runs) -> tuple[str, str] | None:
    return next((_pair(run) for run in runs.values()), None)


_SELECTIONS: dict[str, Callable[[Runs], Runs]] = {
    "table1": _summaries,
    "figure4": _at_sparsities,
    "figure11": _at_sparsities,
    "figure5": _by_heads,
    "figure6": _translation_by_heads,
    "figure7": _translation_by_heads,
    "figure3": _ours,
    "figure1": _ours_of_first_pair,
    "figure8": _ours_of_first_pair,
    "figure9": _ours_of_first_pair,
    "figure10": _ours_of_first_pair,
    "figure2": _ours_of_first_model,
    "topology": _all_of_first_pair,
    "dominating_sets": _all_of_first_pair,
    "forms": _ours_and_dense,
    "strengths": _with_strength,
    "training_time": _by_epochs,
}
