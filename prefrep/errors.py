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


class Stopped(PrefrepError):
    """A run that a signal asked to stop, and that has written its checkpoint.

    Args:
        message: Where it stopped and how to go on; empty in processes that leave the message to another one.
        code: Exit code.
    """

    def __init__(self, message: str, code: int) -> None:
        self.code = code
        super().__init__(message)
