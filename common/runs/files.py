"""Files that are written whole or not at all, and folders that one process holds at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
from pathlib import Path


def locked(folder: Path) -> int:
    """Make ``folder`` and lock it for this process; waits while another one holds it.

    A Snakemake that was killed leaves its jobs running; started again, it makes the same runs.
    The kernel frees the lock however its holder ends. Returns the descriptor to close.
    """
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            if os.path.lexists(folder) and not folder.is_dir():
                raise  # else it was removed in between, as below
        with contextlib.suppress(FileNotFoundError):  # whoever held it wrote nothing and removed it
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log = logging.getLogger("run")
                log.warning("%s: another process makes this run; waiting", folder)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, folder):
                return descriptor
            os.close(descriptor)


def _is_at(descriptor: int, folder: Path) -> bool:
    """Whether an open folder is still the one at its path: a removed one can be locked, too."""
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False


def disk_failure(error: BaseException | None) -> str:
    """Why the disk took no more (full, over quota, a file's limit), if ``error`` is of that; or "".

    Libraries that write raise errors of their own, in the course of the system's or with its words;
    NumPy counts what was written.
    """
    while error is not None:
        if isinstance(error, OSError):
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                return os.strerror(error.errno)
            if re.fullmatch(r"\d+ requested and \d+ written", str(error)):
                return str(error)
        if os.strerror(errno.ENOSPC) in str(error):
            return os.strerror(errno.ENOSPC)
        error = error.__cause__ or error.__context__
    return ""


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` to a temporary file beside ``path``, sync it and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
