"""Evaluate a model on a benchmark, or measure its preferences: one program per benchmark."""

from prefrep.programs.generate import generate
from prefrep.programs.intransitivity import intransitivity
from prefrep.programs.pairs import pairs
from prefrep.programs.rewardbench import rewardbench, rewardbench2
from prefrep.programs.winrate import winrate

__all__ = ("rewardbench", "rewardbench2", "pairs", "intransitivity", "winrate", "generate")
