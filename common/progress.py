"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Total, what, unit -> a bar with ``update(n)`` and ``close()``, as tqdm's; a run has one
#: (:meth:`common.runs.run.Run.progress`).
Progress = Callable[[float, str, str], Any]
