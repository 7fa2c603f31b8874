"""What audio files do to features, how the tool does on them, recordings that two sets share."""

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


def table_tool(results: Results) -> Table:
    """What the tool says of each song of a folder, beside what is true."""
    measures = [
        Measure("songs", "Songs"),
        Measure("queries_with_covers", "Queries with covers"),
        Measure("first_is_cover", "First is a cover", "%", 100),
        Measure("covers", "Covers"),
        Measure("covers_called", "Covers called covers", "%", 100),
        Measure("others_called", "Others called covers"),
        Measure("others_expected", "Others expected"),
        Measure("copies_found", "Same recordings told", "%", 100),
        Measure("copies_wrong", "Others called the same"),
        Measure("skipped", "Skipped"),
        Measure("warned", "Used with a warning"),
    ]
    case, arm = results.paper.experiments["tool"].runs(results.scale)[0]
    told = results.first("tool", arm, case).record.metrics
    # Of fewer than thirty songs the tool sets no threshold, and nothing is called a cover.
    measures = [measure for measure in measures if measure.metric in told]
    return Table(
        row_header="Songs and measure",
        cells=grid(results, "tool", measures, columns="measures"),
        notes=[
            "Each song against all others, with the threshold that the tool sets. The same"
            " recordings are a copy in another format and one that breaks off after two thirds;"
            " they count as no covers. One file is no audio, and has to be skipped."
        ],
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
