"""Better labels for preference data: the steps of `prefrep label`."""

from prefrep.labels.base import Example as Example
from prefrep.labels.base import LabelStep as LabelStep
from prefrep.labels.base import Outcome as Outcome
from prefrep.labels.base import Work as Work
from prefrep.labels.duplicates import Duplicates as Duplicates
from prefrep.labels.rows import Labelled as Labelled
from prefrep.labels.strength import Strength as Strength
