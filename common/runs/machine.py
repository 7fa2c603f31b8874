"""The machine and the software of a run, as its record tells them."""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

from common import ROOT


def git_state(root: Path = ROOT) -> tuple[str, bool]:
    """(commit, whether tracked files differ from it); ("unknown", True) outside a checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(("git", *words), cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "-uno"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True


def package_versions(root: Path = ROOT) -> dict[str, str]:
    """Installed versions of what the project depends on, by ``pyproject.toml``.

    Not of what is loaded: a fork of the warm process has libraries that its run does not use.
    """
    text = (root / "pyproject.toml").read_text(encoding="utf8")
    found = {}
    for requirement in tomllib.loads(text)["project"]["dependencies"]:
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        try:
            found[name] = _version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _version(name: str) -> str:
    """As ``metadata.version``, which reads all of a package's description as an e-mail for it."""
    text = metadata.distribution(name).read_text("METADATA") or ""
    found = re.search(r"^Version:(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else metadata.version(name)


def peak_rss_bytes() -> int:
    """Most memory that this program has had resident.

    The kernel's ru_maxrss would do, but it goes on from the program that started this one.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu_name() -> str:
    """Model name of the processor."""
    return _cpu_line("model name") or platform.processor() or platform.machine()


def cpu_threads() -> int:
    """Threads that computing libraries may use: as OMP_NUM_THREADS says, or one a core."""
    # With nested parallelism the variable is a list, whose first number counts here.
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(said) if said.isdecimal() and int(said) else len(os.sched_getaffinity(0))


def cpu_instructions() -> str:
    """The processor's instruction sets for vectors, sorted; "" where the system does not tell.

    Libraries choose kernels by them, and by ``ONEDNN_MAX_CPU_ISA`` where that is set.
    """
    sets = _cpu_line("flags").split()
    found = sorted(name for name in sets if name.startswith(("avx", "amx", "fma", "f16c")))
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    return " ".join([*found, *([f"ONEDNN_MAX_CPU_ISA={limit}"] if limit else [])])


def _cpu_line(key: str) -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines():
            if line.partition(":")[0].strip() == key:
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return ""
