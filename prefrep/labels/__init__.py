"""Better labels for preference data: the steps of `prefrep label`."""

from prefrep.labels.axioms import Axiom as Axiom
from prefrep.labels.axioms import Evidence as Evidence
from prefrep.labels.axioms import Relevance as Relevance
from prefrep.labels.axioms import Thoroughness as Thoroughness
from prefrep.labels.axioms import Usefulness as Usefulness
from prefrep.labels.base import Example as Example
from prefrep.labels.base import LabelStep as LabelStep
from prefrep.labels.base import Outcome as Outcome
from prefrep.labels.base import Work as Work
from prefrep.labels.cross_prompt import CrossPrompt as CrossPrompt
from prefrep.labels.duplicates import Duplicates as Duplicates
from prefrep.labels.route import Route as Route
from prefrep.labels.rows import Labelled as Labelled
from prefrep.labels.steps import Steps as Steps
from prefrep.labels.strength import Strength as Strength
from prefrep.labels.verdicts import Verdicts as Verdicts
