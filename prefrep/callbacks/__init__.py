"""What happens around training: exported folders, metrics on disk, throughput."""

from prefrep.callbacks.export import Export
from prefrep.callbacks.records import MetricsFile
from prefrep.callbacks.throughput import Throughput

__all__ = ("Export", "MetricsFile", "Throughput")
