"""What is written down of a sampler."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from prefrep.callbacks.sampling import described
from prefrep.generation import TransformersSampler


def test_memory_decides_no_response() -> None:
    """A sampler on an engine may go on with less of it, and with nothing else changed."""
    options = {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 8, "template": "auto"}
    engine = cast(Any, SimpleNamespace(**options, gpu_memory=0.4))
    assert described(engine) == {"class": "SimpleNamespace", **options}
    more = {"top_k": 0, "dtype": "auto"}
    assert described(TransformersSampler(**cast(Any, options))) == {"class": "TransformersSampler", **options, **more}
