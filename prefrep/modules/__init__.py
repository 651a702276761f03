"""LightningModules."""

from prefrep.modules.base import Schedule
from prefrep.modules.gpo import GPO
from prefrep.modules.preference import (
    BradleyTerry,
    GeneralPreference,
    HybridPreference,
    PairPreference,
    PersonalPreference,
    PreferenceModule,
)

__all__ = (
    "GPO",
    "BradleyTerry",
    "GeneralPreference",
    "HybridPreference",
    "PairPreference",
    "PersonalPreference",
    "PreferenceModule",
    "Schedule",
)
