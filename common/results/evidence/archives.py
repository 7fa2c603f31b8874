"""Archives: the records of a paper at one scale, without their artifacts.

What many records have in common (data, code, environment, settings) stands once, in lists in the
first line; a record has places in those lists. Code is shared module by module.

What would be too large for one file goes on in others beside it, ``paper.2.jsonl`` and so on, each
with lists of its own and the number of all records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from common.errors import InputError
from common.experiments.documents import parse_json
from common.experiments.schema import RunKey
from common.experiments.settings import validated
from common.results.evidence.repeats import pooled
from common.runs.files import write_atomically
from common.runs.record import Record

#: Of a record's provenance, what all runs of one installation on one machine have in common.
ENVIRONMENT: Final = (
    *("git_commit", "git_dirty", "python", "packages", "platform", "cpu", "instructions", "cores"),
    *("threads", "device", "precision"),
)
#: Bytes of a file, about; none above a megabyte is committed.
LARGEST: Final = 900_000
#: Lists in the first line. Archives of old have data and code alone, and code as a whole.
LISTS: Final = ("data", "modules", "code", "environment", "settings")
OLD_LISTS: Final = ("data", "code")


def archive_path(folder: Path, scale: str) -> Path:
    """Path of a paper's archive of records."""
    return folder / "archive" / f"{scale}.jsonl"


def archive_files(path: Path) -> list[Path]:
    """The files of an archive: ``path`` and those that it goes on in."""
    found = [path]
    while (more := _file(path, len(found))).is_file():
        found.append(more)
    return found


def write_archive(path: Path, records: Sequence[Record], largest: int = LARGEST) -> Path:
    """Write records to ``path``, one a line, in their order; returns it.

    Args:
        largest: bytes of a file, about; more go on in other files.

    Raises:
        InputError: there are none.
    """
    if not records:
        raise InputError(f"{path}: there are no records to archive")
    count = min(len(records), -(-len(_text(records, {}).encode()) // largest))
    cuts = [len(records) * place // count for place in range(count + 1)]
    before = archive_files(path)
    # Each of several tells how many records there are, so that files of two states are refused.
    told = {"records": len(records)} if count > 1 else {}
    for place in range(count):
        text = _text(records[cuts[place] : cuts[place + 1]], told)
        write_atomically(_file(path, place), text)
    for part in before[count:]:
        part.unlink()
    return path


def _file(path: Path, place: int) -> Path:
    return path.with_name(f"{path.stem}.{place + 1}{path.suffix}") if place else path


def _text(records: Sequence[Record], told: Mapping[str, int]) -> str:
    lines = [record.model_dump(mode="json") for record in records]
    provenances = [line["provenance"] for line in lines]
    data: list[Any] = []
    for line, provenance in zip(lines, provenances, strict=True):
        data += [item for item in line["data"] if item not in data]
        line["data"] = [data.index(item) for item in line["data"]]
        provenance["environment"] = {name: provenance.pop(name) for name in ENVIRONMENT}
    codes = [
        [{"module": [name, named]} for name, named in code.items()]
        for code in pooled(provenances, "code")
    ]
    head = {
        "data": data,
        "modules": pooled([entry for code in codes for entry in code], "module"),
        "code": [[entry["module"] for entry in code] for code in codes],
        "environment": pooled(provenances, "environment"),
        "settings": pooled(lines, "settings"),
        **told,
    }
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in (head, *lines))


def read_archive(path: Path) -> list[Record]:
    """The records in an archive.

    Raises:
        InputError: a line is not a record, or is of the same run as one before; or several files
            hold more or fewer records than they say.
    """
    records: dict[RunKey, Record] = {}
    told = {_read_file(part, records) for part in archive_files(path)} - {None}
    if told and told != {len(records)}:
        said = " or ".join(map(str, sorted(told)))  # type: ignore[type-var]
        raise InputError(
            f"{path}: holds {len(records)} records, with the files that it goes on in, and says"
            f" {said}: one of them is missing, or of another state"
        )
    return list(records.values())


def _read_file(path: Path, records: dict[RunKey, Record]) -> int | None:
    """Add the records of one of an archive's files; how many it says that all of them hold."""
    try:
        # At line feeds alone: str.splitlines takes other characters, which JSON leaves in text.
        first, *lines = path.read_text(encoding="utf8").removesuffix("\n").split("\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: not an archive ({error})") from None
    try:
        header = parse_json(first)
        told: int | None = header.pop("records", None)
        shared = _read_lists(header)
    except (AttributeError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path}: line 1: not the lists of an archive, {', '.join(LISTS)} ({error})"
        ) from None
    for number, line in enumerate(lines, start=2):
        where = f"{path}: line {number}"
        try:
            content = _completed(parse_json(line), shared)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{where}: not a record ({error})") from None
        record = validated(Record, content, where)
        if record.key in records:
            raise InputError(f"{where}: a second record of {record.key.folder}")
        records[record.key] = record
    return told


def _read_lists(header: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The lists by name, with the code of a run as a record has it."""
    if set(header) not in (set(LISTS), set(OLD_LISTS)):
        raise ValueError(f"it has {list(header)}")
    lists = {name: list(values) for name, values in header.items()}
    if "modules" in lists:
        lists["code"] = [
            dict(_at(place, lists, "modules") for place in places) for places in lists["code"]
        ]
    return lists


def _completed(content: Any, shared: Mapping[str, Sequence[Any]]) -> Any:
    """A line's record with what it shares in the places of numbers."""
    provenance = content["provenance"]
    content["data"] = [_at(place, shared, "data") for place in content["data"]]
    provenance["code"] = _at(provenance["code"], shared, "code")
    if "environment" in shared:
        provenance |= _at(provenance.pop("environment"), shared, "environment")
        content["settings"] = _at(content["settings"], shared, "settings")
    return content


def _at(place: Any, shared: Mapping[str, Sequence[Any]], name: str) -> Any:
    values = shared[name]
    if type(place) is not int or not 0 <= place < len(values):
        raise ValueError(f"{name} {place!r}: must be a place in line 1, below {len(values)}")
    return values[place]
