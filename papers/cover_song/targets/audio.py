"""What audio files do to features, and which recordings two collections share."""

from __future__ import annotations

from common.results.records import Results
from common.results.tables import Measure, Table, grid


def table_recordings(results: Results) -> Table:
    """Chroma from files beside chroma from notes."""
    measures = [
        Measure("songs", "Songs"),
        Measure("works_with_covers", "Works with covers"),
        Measure("frame_cosine", "Cosine with chroma of notes"),
        Measure("same_transposition", "Cover pairs of one transposition", "%", 100),
        Measure("file_bytes_per_s", "File", "kB/s", 1e-3),
    ]
    return Table(
        row_header="Songs and format",
        cells=grid(results, "recordings", measures, columns="measures"),
        notes=["Transposition: by the audio's chroma and by the notes', of covers."],
    )


def table_leaks(results: Results) -> Table:
    """Works that hold a recording of the judged set."""
    measures = [
        Measure("songs", "Songs"),
        Measure("leaking_songs", "Same recordings"),
        Measure("leaking_works", "Works left out of training"),
        Measure("median_distance", "Median of least distances"),
    ]
    return Table(
        row_header="Songs",
        cells=grid(results, "leak_check", measures, columns="measures"),
        notes=[
            "Same: least distance (DTW + OTI over the first 64 s) to a judged track under 0.15."
        ],
    )
