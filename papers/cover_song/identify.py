"""Command line: ``python -m papers.cover_song.identify QUERY --collection FOLDER``.

Which songs of a folder are covers of a song? With a folder as the query, of each of its songs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_dir

from common.errors import InputError
from papers.cover_song.audio.feature_cache import FeatureCache
from papers.cover_song.audio.features import FEATURES
from papers.cover_song.audio.reading import KEPT_S
from papers.cover_song.command_line import bar, exit_of, load_weights
from papers.cover_song.identification.library import load_songs, music_files, resolved
from papers.cover_song.identification.matching import (
    COHORT,
    FEWEST,
    Candidate,
    Matcher,
    Standard,
    ranked_candidates,
)
from papers.cover_song.similarity.chroma_set import padded


def main(arguments: Sequence[str] | None = None) -> None:
    """Read songs, rank them for each query, print."""
    given = _parser().parse_args(arguments)
    if given.top < 1:
        raise InputError(f"--top {given.top}: allowed: from 1 on")
    if given.weights and given.measure != "cnn":
        raise InputError(f"--weights {given.weights}: is of --measure cnn alone")
    if not 0 < given.false_alarms < math.inf:
        raise InputError(f"--false-alarms {given.false_alarms}: allowed: finite numbers above 0")
    folder = given.query if given.query.is_dir() else given.query.parent
    collection = given.collection or folder
    queries, beside = music_files(given.query) if given.query.is_dir() else ([given.query], [])
    if not given.query.exists():
        raise InputError(f"{given.query}: no such file or folder")
    files, more = music_files(collection)
    paths = list(dict.fromkeys(resolved(path) for path in (*queries, *files)))
    network = load_weights(given.weights) if given.measure == "cnn" else None
    cache = FeatureCache(None if given.no_cache else given.cache, given.feature, given.device)
    with bar(len(paths), "reading", "song") as progress:
        songs, unusable = load_songs(paths, cache, progress.update)
    place = {song.path: number for number, song in enumerate(songs)}
    # Of what is named otherwise, a query alone is read.
    named_otherwise = (each for each in (*beside, *more) if resolved(each.path) not in place)
    skipped = list(dict.fromkeys((*unusable, *named_otherwise)))
    # By what they are called: figures of two queries of one name lie in folders of their own.
    named = {
        place[resolved(path)]: path.relative_to(folder)
        for path in queries
        if resolved(path) in place
    }
    asked = list(named)
    candidates = np.array(sorted({place[resolved(p)] for p in files if resolved(p) in place}))
    if not asked:
        reasons = [each.reason for each in skipped if each.path == resolved(queries[0])]
        raise InputError(f"{queries[0]}: {reasons[0] if reasons else 'cannot be used'}")
    if len(candidates) - (len(asked) == 1 and asked[0] in candidates) < 1:
        raise InputError(f"{collection}: holds no song beside the query that can be used")
    matcher = Matcher(padded([song.chroma for song in songs], KEPT_S), given.measure, network)
    standard, threshold, note = _standard(matcher, candidates, given)
    answers = []
    for query in asked:
        others = candidates[candidates != query]
        kept = None
        if standard is not None:
            keep = candidates != query
            kept = Standard(standard.middle[keep], standard.spread[keep], standard.z)
        ranking = ranked_candidates(matcher, query, others, given.top, kept, threshold)
        rows: list[dict[str, Any]] = [
            {
                "rank": rank,
                "path": str(songs[found.song].path),
                "score": found.score,
                "z": found.z,
                "cover": found.cover,
                "shift_semitones": found.shift_semitones,
                "same_recording": found.same_recording,
                "passage_s": found.passage and found.passage._asdict(),
                "warnings": list(songs[found.song].warnings),
            }
            for rank, found in enumerate(ranking, 1)
        ]
        if given.figures is not None:
            for row, found in zip(rows, ranking, strict=True):
                titles = songs[query].path.name, songs[found.song].path.name
                file = given.figures / named[query] / f"{row['rank']:03d}-{titles[1]}.png"
                _draw(file, titles, matcher, query, found)
                row["figure"] = str(file)
        answers.append(
            {
                "query": str(songs[query].path),
                "seconds": len(songs[query].chroma),
                "warnings": list(songs[query].warnings),
                "results": rows,
            }
        )
    alarms = _alarms(standard, threshold, len(candidates))
    report: dict[str, Any] = {
        "measure": given.measure,
        "songs": len(candidates),
        "threshold": threshold,
        "expected_false_alarms": alarms,
        "note": note,
        "queries": answers,
        "skipped": [asdict(each) | {"path": str(each.path)} for each in skipped],
    }
    if not given.query.is_dir():
        report["results"] = answers[0]["results"]
    _print(report, given.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m papers.cover_song.identify",
        description="Which songs of a folder are covers of a song. Results on standard output,"
        " progress on standard error; the first 180 s of each file are read, once. Same recording:"
        " a copy that begins up to 0.1 s or about a whole second earlier or later, and may break"
        " off after half a minute; one that begins half a second later may be called a cover.",
    )
    parser.add_argument("query", type=Path, help="a file, or a folder: each of its songs")
    parser.add_argument(
        "--collection", type=Path, help="folder with the candidates; default: that of the query"
    )
    parser.add_argument(
        "--measure",
        choices=("qmax", "dmax", "simple", "dtw", "cnn"),
        default="qmax",
        help="default: qmax. cnn: a network sorts the best 50 by Qmax",
    )
    parser.add_argument("--feature", choices=FEATURES, default="chroma", help="default: chroma")
    parser.add_argument(
        "--device",
        default="cpu",
        help="where chroma is computed that the cache does not hold: cpu, cuda or cuda:N, equal but"
        " for rounding; default: cpu",
    )
    parser.add_argument("--top", type=int, default=10, help="candidates shown; default: 10")
    parser.add_argument(
        "--threshold",
        default="auto",
        help="z above which a candidate is called a cover; auto: by --false-alarms. Default: auto",
    )
    parser.add_argument(
        "--false-alarms",
        type=float,
        default=0.1,
        help="non-covers that may be called covers, per query, expected; default: 0.1",
    )
    parser.add_argument(
        "--weights", type=Path, help="of cnn: safetensors; default: those that ship"
    )
    parser.add_argument(
        "--figures",
        type=Path,
        metavar="FOLDER",
        help="write a PNG of each candidate shown, in a folder a query: where it matches",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(
            os.environ.get("REPRO_CACHE") or user_cache_dir("paper-reproductions"), "songs"
        ),
        help="folder where features are kept; default: in the user's cache",
    )
    parser.add_argument("--no-cache", action="store_true", help="keep no features")
    return parser


def _standard(
    matcher: Matcher, candidates: Any, given: argparse.Namespace
) -> tuple[Standard | None, float | None, str]:
    """What candidates give to others, the threshold, and what must be said of it."""
    fixed = None
    if given.threshold != "auto":
        try:
            fixed = float(given.threshold)
        except ValueError:
            fixed = float("nan")
        if not np.isfinite(fixed):
            raise InputError(f"--threshold {given.threshold}: allowed: auto or a number")
    if len(candidates) < FEWEST:
        note = (
            f"{len(candidates)} songs: no threshold can be set with fewer than {FEWEST};"
            " candidates are ranked by their scores alone"
        )
        return None, None, note
    with bar(len(candidates) * min(COHORT, len(candidates) - 1), "comparing", "pair") as progress:
        standard = matcher.standard(candidates, progress.update)
    if fixed is not None:
        return standard, fixed, ""
    return standard, standard.threshold(len(candidates), given.false_alarms), ""


def _draw(
    file: Path, titles: tuple[str, str], matcher: Matcher, query: int, found: Candidate
) -> None:
    """Write where two songs match. Raises InputError if that cannot be."""
    from papers.cover_song.drawings import save_match

    view = matcher.view(query, found.song)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_match(file, titles, view.likeness, view.path, view.evidence)
    except OSError as error:
        raise InputError(f"--figures {file}: cannot be written ({error})") from None


def _alarms(standard: Standard | None, threshold: float | None, count: int) -> float | None:
    """Non-covers that are expected above a given threshold, per query."""
    if standard is None or threshold is None:
        return None
    return float(count * standard.exceedance(threshold))


def _passage(seconds: dict[str, tuple[int, int]] | None) -> str:
    """As 0:12-1:03 = 0:20-1:10, of the query and of the candidate."""
    if seconds is None:
        return "-"
    parts = []
    for start, end in (seconds["query"], seconds["candidate"]):
        parts.append(f"{start // 60}:{start % 60:02d}-{end // 60}:{end % 60:02d}")
    return " = ".join(parts)


def _print(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(report, indent=1, allow_nan=False))
        return
    for answer in report["queries"]:
        print(answer["query"])
        for text in answer["warnings"]:
            print(f"  warning: {text}")
        for row in answer["results"]:
            z = "" if row["z"] is None else f"  z {row['z']:6.2f}"
            said = "same recording" if row["same_recording"] else "cover" if row["cover"] else ""
            print(
                f"{row['rank']:4d}  {row['score']:8.3f}{z}  {row['shift_semitones']:+3d} semitones"
                f"  {_passage(row['passage_s'])}  {row['path']}  {said}".rstrip()
            )
    if report["threshold"] is not None:
        print(
            f"cover: z above {report['threshold']:.2f}; {report['expected_false_alarms']:.2g}"
            " non-covers expected above it per query"
        )
    if report["note"]:
        print(report["note"], file=sys.stderr)
    for each in report["skipped"]:
        if each["looked_at"]:
            print(f"skipped {each['path']}: {each['reason']}", file=sys.stderr)
    others = [Path(each["path"]) for each in report["skipped"] if not each["looked_at"]]
    if others:
        kinds = Counter(path.suffix.lower() or "no suffix" for path in others).most_common()
        told = ", ".join(f"{count} {kind}" for kind, count in kinds)
        print(f"skipped by suffix: {told}; --json names each", file=sys.stderr)


if __name__ == "__main__":
    exit_of(main)
