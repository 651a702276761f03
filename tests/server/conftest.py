"""Servers of tiny models."""

from judges.talking import kept
from serving import folders, scorers, served

__all__ = ("folders", "kept", "scorers", "served")
