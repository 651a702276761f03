"""Errors that people can act on: each is one sentence that says where, what, and the way out."""

from __future__ import annotations


class PrefrepError(Exception):
    """Base of every error that is the input's fault: the command line prints it without a traceback."""


class RecordError(PrefrepError):
    """A row of data cannot be used.

    Args:
        source: Where the row stands, as `file:line`.
        problem: What is wrong with it.
        remedy: What to do about it.
    """

    def __init__(self, source: str, problem: str, remedy: str = "") -> None:
        self.source, self.problem, self.remedy = source, problem, remedy
        super().__init__(source, problem, remedy)

    def __str__(self) -> str:
        return f"{self.source}: {self.problem}" + (f"; {self.remedy}" if self.remedy else "")


class DataError(PrefrepError):
    """A data source cannot be read, or holds nothing usable."""


class CheckpointError(PrefrepError):
    """A model folder is missing, incomplete or of another kind."""


class TrainingError(PrefrepError):
    """Training has diverged, and what it would leave behind is of no use."""


class ConfigError(PrefrepError, ValueError):
    """Settings that cannot go together, or a value outside its range.

    A `ValueError` too, so that jsonargparse reports it as a parse error.
    """


class UsageError(ConfigError):
    """A command line that does not parse: a program, option or value that does not exist. Exit code 2."""


def require_at_least(name: str, value: float, least: float) -> None:
    """Raise ConfigError where a number is too small.

    Args:
        name: Name of the setting, as the user wrote it.
        value: Its value.
        least: The smallest value that makes sense.
    """
    if value < least:
        raise ConfigError(f"{name} must be at least {least}, got {value}")
