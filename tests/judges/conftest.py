"""Judges that write."""

from judges.talking import kept

__all__ = ("kept",)
