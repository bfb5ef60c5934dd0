"""Defaults shared by the mathematics and the settings; this module does not import torch."""

EPS = 1e-4
"""The paper's ε: entries with a smaller absolute value count as absent."""
