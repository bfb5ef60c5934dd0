"""Defaults that the mathematics and the settings share; importing them loads no torch."""

EPS = 1e-4
"""The paper's ε: an entry whose absolute value is below this counts as absent."""
