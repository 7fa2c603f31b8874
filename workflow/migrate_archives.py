"""Give archived records of version 1 the fingerprints of version 2, from the commits they name.

Version 1 kept one checksum over the bytes of all modules that a run had loaded. For each record the
modules are read from git at its commit, that checksum is verified, and only then is it replaced by
the fingerprints of the same modules. Nothing is run again. Used once; kept in the history.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from functools import lru_cache

from common import ROOT
from common.config import load_paper
from common.fingerprint import Code, Tree
from common.results.records import Changes, Results, StoredRecord, read_published, write_archive
from common.run import Record


@lru_cache
def sources(commit: str) -> dict[str, bytes]:
    """Every module of a commit by its path."""
    command = ("git", "archive", "--format=tar", commit, "common", "papers")
    data = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {
            item.name: tar.extractfile(item).read()  # type: ignore[union-attr]
            for item in tar
            if item.isfile() and item.name.endswith(".py")
        }


@lru_cache
def tree(commit: str) -> Tree:
    return Tree({path: text.decode() for path, text in sources(commit).items()})


@lru_cache
def code(commit: str, paths: tuple[str, ...], expected: str) -> Code:
    """Fingerprints of modules at a commit, after the old checksum is verified."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(sources(commit)[path]).digest())
    assert digest.hexdigest() == expected, f"{commit}: the modules are not those of the record"
    return tree(commit).code(paths)


def main() -> None:
    for path in sorted(ROOT.glob("papers/*/archive/*.jsonl")):
        head, *lines = (json.loads(line) for line in path.read_text().split("\n") if line)
        records = []
        for line in lines:
            made = line["provenance"]
            made["code"] = code(made["git_commit"], tuple(made["code"]), made.pop("code_sha256"))
            line["data"] = [head["data"][place] for place in line["data"]]
            records.append(Record.model_validate(line | {"version": 2}))
        folder = path.parent.parent
        paper = load_paper(folder)
        stored = [StoredRecord(item, None, Changes((), False)) for item in records]
        kept = Results(
            paper,
            path.stem,
            stored,
            read_published(folder),
            sorted({r.experiment for r in records}),
        )  # type: ignore[arg-type]
        write_archive(kept, folder)
        print(f"{path.relative_to(ROOT)}: {len(records)} of {len(lines)} checksums match")


if __name__ == "__main__":
    main()
