"""Figure 8: non-zero entries of Q, K and V in several layers and at several sparsities."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from neuroprune.results.figures.cells import cells_figure


def figure8(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 8 of a study; see ``cells_figure`` for what is returned and raised."""
    return cells_figure(study_dir, ("q", "k", "v"))
