"""LightningModules."""

from prefrep.modules.preference import BradleyTerry, GeneralPreference, PairPreference, PreferenceModule, Schedule

__all__ = ("BradleyTerry", "GeneralPreference", "PairPreference", "PreferenceModule", "Schedule")
