"""Evaluate a model on a benchmark, or measure its preferences: one program per benchmark."""

from prefrep.programs.bestofn import bestofn
from prefrep.programs.every import every as all
from prefrep.programs.generate import generate
from prefrep.programs.intransitivity import intransitivity
from prefrep.programs.judge import judge
from prefrep.programs.judgebench import judgebench
from prefrep.programs.leaderboard import leaderboard
from prefrep.programs.league import league
from prefrep.programs.pairs import pairs
from prefrep.programs.ppe import ppe
from prefrep.programs.rewardbench import rewardbench, rewardbench2
from prefrep.programs.rmb import rmb
from prefrep.programs.rmbench import rmbench
from prefrep.programs.steps import steps
from prefrep.programs.winrate import winrate

__all__ = (
    "rewardbench", "rewardbench2", "rmbench", "judgebench", "rmb", "ppe", "bestofn", "all", "pairs", "steps", "intransitivity",
    "judge", "leaderboard", "winrate", "league", "generate",
)  # fmt: skip
