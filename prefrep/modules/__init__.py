"""LightningModules."""

from prefrep.modules.alignment import DirectAlignment
from prefrep.modules.base import Schedule
from prefrep.modules.gpo import GPO
from prefrep.modules.mixture import MixtureAlignment
from prefrep.modules.models import BradleyTerry, GeneralPreference, HybridPreference, PairPreference
from prefrep.modules.personal import MixturePreference, PersonalPreference
from prefrep.modules.preference import PreferenceModule

__all__ = (
    "GPO",
    "BradleyTerry",
    "DirectAlignment",
    "GeneralPreference",
    "HybridPreference",
    "MixtureAlignment",
    "MixturePreference",
    "PairPreference",
    "PersonalPreference",
    "PreferenceModule",
    "Schedule",
)
