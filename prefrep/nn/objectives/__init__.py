"""Policy objectives: from log-probabilities of judged responses to one loss per prompt.

Formulas and letters are those of `functional.gpo`; S of the K responses enter the loss. Log-ratios are log pi / pi_t unless an anchor
replaces pi_t.
"""

from prefrep.nn.objectives.base import PolicyObjective
from prefrep.nn.objectives.calibrated import CaPOObjective
from prefrep.nn.objectives.pairs import DistillObjective, DPOObjective, IPOObjective
from prefrep.nn.objectives.regression import GPOObjective, LNGPOObjective, NashMDObjective, SPPOObjective

__all__ = [
    "CaPOObjective",
    "DPOObjective",
    "DistillObjective",
    "GPOObjective",
    "IPOObjective",
    "LNGPOObjective",
    "NashMDObjective",
    "PolicyObjective",
    "SPPOObjective",
]
