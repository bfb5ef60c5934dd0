"""Figure 9: non-zero entries of L_in, the expanding MLP matrix, in several layers and at several sparsities."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from neuroprune.results.figures.cells import cells_figure


def figure9(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 9 of a study; see ``cells_figure`` for what is returned and raised."""
    return cells_figure(study_dir, ("in",))
