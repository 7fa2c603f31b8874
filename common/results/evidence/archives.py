"""Archives: the records of a paper at one scale in one file, without their artifacts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.experiments.documents import parse_json
from common.experiments.schema import RunKey
from common.experiments.settings import validated
from common.results.evidence.repeats import pooled
from common.runs.files import write_atomically
from common.runs.record import Record


def archive_path(folder: Path, scale: str) -> Path:
    """Path of a paper's archive of records."""
    return folder / "archive" / f"{scale}.jsonl"


def write_archive(path: Path, records: Sequence[Record]) -> Path:
    """Write records to ``path``, one a line, in their order; returns it.

    The first line lists what data they read and what code they ran; a record names both by their
    places there, because the checksums of many files would otherwise stand in every line.

    Raises:
        InputError: there are none.
    """
    if not records:
        raise InputError(f"{path}: there are no records to archive")
    lines = [record.model_dump(mode="json") for record in records]
    known: list[Any] = []
    for line in lines:
        known += [data for data in line["data"] if data not in known]
        line["data"] = [known.index(data) for data in line["data"]]
    codes = pooled([line["provenance"] for line in lines], "code")
    head = {"data": known, "code": codes}
    texts = [json.dumps(line, ensure_ascii=False) + "\n" for line in (head, *lines)]
    write_atomically(path, "".join(texts))
    return path


def read_archive(path: Path) -> list[Record]:
    """The records in an archive.

    Raises:
        InputError: a line is not a record, or is of the same run as one before.
    """
    try:
        # At line feeds alone: str.splitlines takes other characters, which JSON leaves in text.
        first, *lines = path.read_text(encoding="utf8").removesuffix("\n").split("\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: not an archive ({error})") from None
    try:
        header = parse_json(first)
        if set(header) != {"data", "code"}:
            raise ValueError(f"keys {list(header)}")
        known, codes = list(header["data"]), list(header["code"])
    except (ValueError, TypeError):
        raise InputError(f"{path}: line 1: not the lists of data and code of an archive") from None
    records: dict[RunKey, Record] = {}
    for number, line in enumerate(lines, start=2):
        where = f"{path}: line {number}"
        try:
            content = parse_json(line)
            places = content["data"]
            if not all(type(place) is int and 0 <= place < len(known) for place in places):
                raise ValueError(f"data {places}: must be places in line 1, below {len(known)}")
            content["data"] = [known[place] for place in places]
            place = content["provenance"]["code"]
            if type(place) is not int or not 0 <= place < len(codes):
                raise ValueError(f"code {place}: must be a place in line 1, below {len(codes)}")
            content["provenance"]["code"] = codes[place]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{where}: not a record ({error})") from None
        record = validated(Record, content, where)
        if record.key in records:
            raise InputError(f"{where}: a second record of {record.key.folder}")
        records[record.key] = record
    return list(records.values())
