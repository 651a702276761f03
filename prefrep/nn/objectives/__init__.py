"""Policy objectives: from log-probabilities of judged responses to one loss per prompt.

Formulas and letters are those of `functional.gpo`; S of the K responses enter the loss. Log-ratios are log pi / pi_t unless an anchor
replaces pi_t.
"""

from prefrep.nn.objectives.base import PolicyObjective
from prefrep.nn.objectives.calibrated import CaPOObjective
from prefrep.nn.objectives.nash import ExtragradientObjective, INPOObjective, MagneticObjective, OptimisticObjective
from prefrep.nn.objectives.pairs import DistillObjective, DPOObjective, IPOObjective
from prefrep.nn.objectives.regression import GPOObjective, LNGPOObjective, NashMDObjective, SPPOObjective
from prefrep.nn.objectives.replay import SemiPolicyObjective
from prefrep.nn.objectives.robust import PessimisticDistillObjective

__all__ = [
    "CaPOObjective",
    "DPOObjective",
    "DistillObjective",
    "ExtragradientObjective",
    "GPOObjective",
    "INPOObjective",
    "IPOObjective",
    "LNGPOObjective",
    "MagneticObjective",
    "NashMDObjective",
    "OptimisticObjective",
    "PessimisticDistillObjective",
    "PolicyObjective",
    "SPPOObjective",
    "SemiPolicyObjective",
]
