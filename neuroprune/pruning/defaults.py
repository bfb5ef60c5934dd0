"""Constants shared by the mathematics, the settings and the tasks; this module does not import torch."""

EPS = 1e-4
"""The paper's ε: entries with a smaller absolute value count as absent."""

IGNORED = -100
"""Label of tokens that the losses of torch and transformers leave out: padding, prompts, parts of words."""
