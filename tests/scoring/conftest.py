"""Servers of tiny models."""

from serving import folders, scorers, served

__all__ = ("folders", "scorers", "served")
