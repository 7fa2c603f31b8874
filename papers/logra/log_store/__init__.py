"""Gradients of a training set on disk: written while they are computed, read block by block."""

from .reader import LogStore, Rows
from .writer import LogWriter

__all__ = ["LogStore", "LogWriter", "Rows"]
