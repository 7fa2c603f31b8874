"""The papers' tables and ours, by topic in the modules beside this one."""

from __future__ import annotations

from papers.cover_song.targets.audio import table_leaks, table_recordings, table_tool
from papers.cover_song.targets.long_songs import (
    table_candidates,
    table_features,
    table_long,
    table_long_network,
)
from papers.cover_song.targets.networks import table_epochs, table_network
from papers.cover_song.targets.retrieval import (
    table_fusion,
    table_rankings,
    table_results,
    table_works,
)

TABLES = {
    "table_candidates": table_candidates,
    "table_epochs": table_epochs,
    "table_features": table_features,
    "table_fusion": table_fusion,
    "table_leaks": table_leaks,
    "table_long": table_long,
    "table_long_network": table_long_network,
    "table_network": table_network,
    "table_rankings": table_rankings,
    "table_recordings": table_recordings,
    "table_results": table_results,
    "table_tool": table_tool,
    "table_works": table_works,
}
