"""Shipped configurations, printed."""

from __future__ import annotations


def config(name: str | None = None) -> str:
    """Print a shipped configuration, or list them all.

    Every program that takes --config takes these names. A file of the same path in the current folder comes first.

    Examples:
        prefrep config
        prefrep config preference/gpm > mine.yaml

    Args:
        name: Name of the configuration, such as `preference/gpm`.

    Returns:
        What was printed.

    Raises:
        ConfigError: There is no such configuration.
    """
    from prefrep.shipped import config_file, config_names

    text = "\n".join(config_names()) + "\n" if name is None else config_file(name).read_text(encoding="utf-8")
    print(text, end="")
    return text
