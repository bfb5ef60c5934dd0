"""Settings of every pruning method.

The methods take these fields as keyword arguments, and a run's record repeats them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from neuroprune.config.fields import Settings
from neuroprune.config.methods.cofi import CoFiSettings
from neuroprune.config.methods.dense import DenseSettings
from neuroprune.config.methods.dsp import DSPSettings
from neuroprune.config.methods.l1 import L1Settings
from neuroprune.config.methods.neuroprune import NeuroPruneSettings
from neuroprune.config.methods.units import RandomUnitsSettings, TaylorSettings

METHOD_SETTINGS: dict[str, type[Settings]] = {
    "dense": DenseSettings,
    "l1": L1Settings,
    "neuroprune": NeuroPruneSettings,
    "cofi": CoFiSettings,
    "dsp": DSPSettings,
    "taylor": TaylorSettings,
    "random": RandomUnitsSettings,
}
MethodSettings = Annotated[
    DenseSettings | L1Settings | NeuroPruneSettings | CoFiSettings | DSPSettings | TaylorSettings | RandomUnitsSettings,
    Field(discriminator="name"),
]
