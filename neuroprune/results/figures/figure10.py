"""Figure 10: non-zero entries of L_out, the contracting MLP matrix, in several layers and at several sparsities."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from neuroprune.results.figures.cells import cells_figure


def figure10(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 10 of a study; see ``cells_figure`` for what is returned and raised."""
    return cells_figure(study_dir, ("out",))
