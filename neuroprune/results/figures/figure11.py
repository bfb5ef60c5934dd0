"""Figure 11: Figure 4 for models of more than 300 M parameters."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from neuroprune.results.figures.figure4 import sparsity_grid


def figure11(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 11 of a study: metric, inference and training time of its large models against sparsity.

    Args:
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        The figure and its data: one row per mark, see ``grid.marks``. Both are replaced by a note if no pruned run of a
        model of more than 300 M parameters is finished; Figure 4 shows all others.

    Raises:
        UserError: If the table of runs is missing.
    """
    return sparsity_grid(study_dir, large=True)
