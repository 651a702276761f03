"""What a comparison depends on beside the two responses: the prompt, and who is asked."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Context(NamedTuple):
    """The circumstances of comparisons. Leading axes [..] are those of the comparisons, or broadcast to them.

    Args:
        prompt: Hidden states of the prompts, [.., H], for heads that need them (`PreferenceHead.needs_prompt`); else None.
        annotator: Index of who is asked among the annotators that the head knows (`nn.people`), [..], -1: the population; None: the
            population throughout. Most heads answer everybody alike.
    """

    prompt: Tensor | None = None
    annotator: Tensor | None = None


ANYBODY = Context()
