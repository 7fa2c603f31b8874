"""Shared core of the reproductions: configuration, runs and records, training, data, results.

Knows no paper: nothing in here imports from :mod:`papers`.
"""

from pathlib import Path

#: Root of the checkout. The project is installed editable, so this file lies in it.
ROOT = Path(__file__).resolve().parent.parent
