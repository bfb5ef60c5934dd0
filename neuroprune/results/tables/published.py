"""Values published in the paper (arXiv 2404.01306), for studies that repeat its experiments."""

from __future__ import annotations

import pandas as pd

# Models and datasets of the paper's experiments, identified by source and not by a study's names for them.
SUMMARIZATION = ("t5_base", "cnn_dailymail")  # Table 1
SPREAD = ("bert_base", "sst2")  # Figure 2
SPARSITIES = (0.25, 0.5, 0.7, 0.8, 0.9, 0.95)

TABLE1_COLUMNS = ["point", "method", "rouge1", "rouge2", "rougeL", "rougeLsum", "inference_s", "train_s"]
TABLE1 = [
    (0.0, "dense", 43.18, 20.47, 30.77, 40.41, 0.455, 24603),
    (0.25, "neuroprune", 43.07, 20.34, 30.70, 40.31, 0.451, 24620),
    (0.25, "l1", 42.19, 20.12, 29.29, 39.33, 0.454, 24621),
    (0.5, "neuroprune", 41.96, 19.52, 29.73, 39.20, 0.442, 24605),
    (0.5, "l1", 42.18, 19.02, 29.29, 38.65, 0.451, 24601),
    (0.7, "neuroprune", 41.60, 18.45, 28.56, 37.93, 0.431, 24623),
    (0.7, "l1", 40.10, 18.02, 27.51, 36.63, 0.441, 24628),
    (0.8, "neuroprune", 36.92, 16.78, 26.29, 34.35, 0.427, 24614),
    (0.8, "l1", 34.27, 14.95, 25.11, 32.79, 0.437, 24610),
    (0.9, "neuroprune", 33.92, 13.78, 24.29, 31.35, 0.415, 24602),
    (0.9, "l1", 31.88, 11.94, 23.18, 29.22, 0.422, 24608),
    (0.95, "neuroprune", 32.17, 13.72, 23.66, 30.97, 0.406, 24610),
    (0.95, "l1", 30.25, 11.21, 21.42, 28.16, 0.417, 24611),
]
FIGURE2_SPREAD = {0.0: 0.13, 0.5: 12.12, 0.9: 4.16}  # sparsity -> standard deviation of the degrees in percent


def table1() -> pd.DataFrame:
    """Return the paper's Table 1 (T5-base, CNN/DailyMail): ROUGE in percent, seconds per example and of training."""
    return pd.DataFrame(TABLE1, columns=TABLE1_COLUMNS)


def is_the_papers(model: str, task: str, experiment: tuple[str, str]) -> bool:
    """Return whether a study's model and task are those of the named experiment of the paper."""
    return (model, task) == experiment
