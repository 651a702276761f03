"""Callbacks: checkpoints, exported folders, metrics on disk, throughput, and the rounds of post-training."""

from prefrep.callbacks.baselines import Baselines
from prefrep.callbacks.budget import KLBudget
from prefrep.callbacks.checkpoints import Checkpoints
from prefrep.callbacks.export import Export
from prefrep.callbacks.heldout import HeldOut
from prefrep.callbacks.labelling import LabelPreferences
from prefrep.callbacks.mixture import ExpectTypes
from prefrep.callbacks.policy import ExportPolicy
from prefrep.callbacks.projector import Projector
from prefrep.callbacks.records import MetricsFile
from prefrep.callbacks.reference import UpdateReference
from prefrep.callbacks.sampling import SampleResponses
from prefrep.callbacks.throughput import Throughput

__all__ = (
    "Baselines",
    "Checkpoints",
    "ExpectTypes",
    "Export",
    "ExportPolicy",
    "HeldOut",
    "KLBudget",
    "LabelPreferences",
    "MetricsFile",
    "Projector",
    "SampleResponses",
    "Throughput",
    "UpdateReference",
)
