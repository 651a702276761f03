"""Errors with a remedy: each message is one sentence, `where: what was wrong; what to do`."""

from __future__ import annotations


class PrefrepError(Exception):
    """Base class of errors in the user's input, which programs print without a traceback."""


class RecordError(PrefrepError):
    """A bad row of data.

    Args:
        source: Location of the row, as `file:line`.
        problem: What is wrong.
        remedy: How to fix it.
    """

    def __init__(self, source: str, problem: str, remedy: str = "") -> None:
        self.source, self.problem, self.remedy = source, problem, remedy
        super().__init__(source, problem, remedy)

    def __str__(self) -> str:
        said = f"{self.source}: {self.problem}" + (f"; {self.remedy}" if self.remedy else "")
        return " ".join(said.splitlines())  # names of columns and what templates raise can hold line breaks


class DataError(PrefrepError):
    """A data source that cannot be read or holds no usable rows."""


class CheckpointError(PrefrepError):
    """A model folder that is missing, incomplete or of another kind."""


class TrainingError(PrefrepError):
    """A training run that has diverged, so that its weights are useless."""


class ConfigError(PrefrepError, ValueError):
    """Settings that conflict, or a value outside its range.

    It is also a `ValueError`, which jsonargparse reports as a parse error.
    """


class UsageError(ConfigError):
    """A command line that does not parse: a program, option or value that does not exist. Exit code 2."""


def require_at_least(name: str, value: float, least: float) -> None:
    """Raise UsageError where a number is too small.

    Args:
        name: Name of the setting, as the user wrote it.
        value: Its value.
        least: The smallest value that makes sense.
    """
    if value < least:
        raise UsageError(f"{name} must be at least {least}, got {value}")


class Stopped(PrefrepError):
    """A run that a signal asked to stop, and that has written its checkpoint.

    Args:
        message: Where it stopped and how to go on; empty in processes that leave the message to another one.
        code: Exit code.
    """

    def __init__(self, message: str, code: int) -> None:
        self.code = code
        super().__init__(message)


def first_line(error: Exception) -> str:
    """Return the first line of an error, shortened; its class if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
