"""Figure 11: Figure 4 for large models, of more than 300 M parameters."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from neuroprune.figures.figure4 import sparsity_grid


def figure11(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 11 of a study: metric, inference and training time of its large models against sparsity.

    Args:
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        The figure and one row a mark, see ``grid.marks``; a note in place of both if no such run is finished.

    Raises:
        UserError: If there is no table of runs.
    """
    return sparsity_grid(study_dir, large=True)
