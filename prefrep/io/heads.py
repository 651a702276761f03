"""Heads as plain data: recipes without the hidden size, which is the backbone's."""

from __future__ import annotations

from typing import Any

from prefrep.nn import mixture as mixture  # recipes name their parts
from prefrep.nn import personal as personal
from prefrep.nn import rewards as rewards
from prefrep.nn.heads import PreferenceHead
from prefrep.parts import Recipe, factory, make, recipe


def describe_head(head: PreferenceHead) -> Recipe:
    """Return the recipe of a head (`prefrep.parts`).

    Raises:
        PartError: An argument of its constructor is not plain data.
    """
    return recipe(head, supplied=1)


def make_head(settings: Any, hidden_size: int) -> PreferenceHead:
    """Return a newly initialised head, the inverse of `describe_head`.

    Args:
        settings: What `describe_head` returned.
        hidden_size: H of the backbone.

    Raises:
        PartError: The head is unknown or may not be named, or a setting is missing or wrong.
    """
    return make(settings, PreferenceHead, hidden_size)  # type: ignore[type-abstract]


def check_head(head: PreferenceHead) -> None:
    """Check that `make_head` can make this head again from what `describe_head` says of it.

    Raises:
        PartError: An argument is not plain data, or its annotation does not say which.
    """
    factory(describe_head(head), PreferenceHead, 1)  # type: ignore[type-abstract]
