"""Make the environment of pins and print the folder of its programs; Python's library suffices.

``python3 workflow/environment.py`` uses the active conda environment if it holds exactly the pins
of requirements.txt, else makes or updates ``.venv``. It does nothing where nothing changed, and
starts ``.venv`` afresh where an earlier attempt was interrupted (pip's cache keeps downloads).
``--check`` compares the pins with what the Python that runs it has installed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "requirements.txt"
VENV = ROOT / ".venv"
#: Written last: the fingerprint of what a complete .venv was made from.
STAMP = VENV / "complete"
SUPPORTED = ("3.12", "3.11")
#: Compiled against the pinned torch and NumPy, so installed after them and without isolation.
COMPILED = "fairseq-fixed"
#: Debian package -> expression that is true where its part is there.
BUILD_TOOLS = {
    "python3-venv": "importlib.util.find_spec('ensurepip') is not None",
    "python3-dev": "pathlib.Path(sysconfig.get_path('include'), 'Python.h').exists()",
    "g++": "shutil.which('g++') is not None",
}


def main() -> None:
    """Print the folder that holds python, snakemake and the rest."""
    if sys.argv[1:] == ["--check"]:
        sys.exit("; ".join(differences()) or 0)
    print(conda_programs() or venv_programs())


def differences() -> list[str]:
    """Pins that are not installed as pinned; pip must be there to read their markers."""
    from pip._vendor.packaging.requirements import Requirement

    wrong = []
    for line in PINS.read_text(encoding="utf8").splitlines():
        if not line[:1].isalnum():
            continue
        pin = Requirement(line)
        if pin.marker is not None and not pin.marker.evaluate():
            continue
        try:
            found = metadata.version(pin.name)
        except metadata.PackageNotFoundError:
            found = "absent"
        if not pin.specifier.contains(found.partition("+")[0]):
            wrong.append(f"{pin.name}: {found}, not {pin.specifier}")
    return wrong


def conda_programs() -> Path | None:
    """Programs of the active conda environment, if it is one made from environment.yml."""
    prefix = os.environ.get("CONDA_PREFIX", "")
    python = Path(prefix, "bin", "python")
    if not prefix or not python.exists():
        return None
    done = subprocess.run((python, __file__, "--check"), capture_output=True, text=True)
    if done.returncode == 0:
        return python.parent
    first = done.stderr.strip().partition(";")[0]
    note(f"the active conda environment is not that of environment.yml ({first}); using .venv")
    return None


def venv_programs() -> Path:
    """Programs of ``.venv``, made or updated first if need be."""
    with Path(__file__).open() as lock:
        # A second `make` waits, then finds it done; so it does while a pip is at work whose
        # `make` was killed, because pip inherits the lock.
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.set_inheritable(lock.fileno(), True)
        python = supported_python()
        fingerprint = fingerprint_of(python)
        if not STAMP.exists() or STAMP.read_text() != fingerprint:
            make_venv(python)
            STAMP.write_text(fingerprint)
    return VENV / "bin"


def supported_python() -> str:
    """A Python of a supported version: the running one if it is, else one on the path."""
    if "{}.{}".format(*sys.version_info) in SUPPORTED:
        return sys.executable
    for version in SUPPORTED:
        found = shutil.which(f"python{version}")
        if found and subprocess.run((found, "-V"), capture_output=True).returncode == 0:
            return found
    stop(f"Python 3.11 or 3.12 is needed; python3 is {sys.version.split()[0]}")


def fingerprint_of(python: str) -> str:
    """Changes with the pins, with Python and with the place of the checkout."""
    identity = PINS.read_bytes() + version_of(python) + os.fsencode(ROOT)
    return hashlib.sha256(identity).hexdigest()


def version_of(python: str | Path) -> bytes:
    """What ``python -V`` prints."""
    return subprocess.run((python, "-V"), capture_output=True, check=True).stdout


def make_venv(python: str) -> None:
    """Install every pin and the project; leaves no stamp if it is interrupted."""
    require_build_tools(python)
    if not tested_processor(platform.machine(), Path("/proc/cpuinfo").read_text()):
        note("untested processor: this project is tested on x86-64 with AVX2 and with AVX-512")
    note("installing the pins of requirements.txt into .venv; the first time this takes a while")
    usable = STAMP.exists() and version_of(VENV / "bin" / "python") == version_of(python)
    STAMP.unlink(missing_ok=True)
    if not usable:
        run(python, "-m", "venv", "--clear", VENV)
    lines = PINS.read_text(encoding="utf8").splitlines()
    compiled = [line for line in lines if line.startswith(COMPILED)]
    others = VENV / "without-compiled.txt"
    others.write_text("\n".join(line for line in lines if line not in compiled), encoding="utf8")
    pip("--requirement", others)
    pip("--no-build-isolation", *compiled)
    pip("--no-build-isolation", "--editable", ROOT)


def tested_processor(machine: str, cpuinfo: str) -> bool:
    """Whether the tests ran on such a processor, by the contents of ``/proc/cpuinfo``."""
    return machine == "x86_64" and "avx2" in cpuinfo.split()


def require_build_tools(python: str) -> None:
    """Stop with the Debian packages to install if something is absent that the pins need."""
    tests = ", ".join(f"{name!r}: {test}" for name, test in BUILD_TOOLS.items())
    code = f"import importlib.util, pathlib, shutil, sysconfig; found = {{{tests}}}\n"
    code += "print(*(name for name, there in found.items() if not there))"
    done = subprocess.run((python, "-c", code), capture_output=True, text=True, check=True)
    if done.stdout.strip():
        stop(f"Debian packages are missing; run: apt-get install {done.stdout.strip()}")


def pip(*arguments: str | Path) -> None:
    """Install into ``.venv`` just what is named: the pins are complete, nothing is resolved."""
    program = (VENV / "bin" / "python", "-m", "pip", "--disable-pip-version-check")
    run(*program, "install", "--no-deps", *arguments)


def run(*command: str | Path) -> None:
    """Run ``command``, its output on standard error: standard output is for our one line."""
    # pip builds in isolation with these versions too (the second name is that of pip >= 25.3).
    pinned = {"PIP_CONSTRAINT": str(PINS), "PIP_BUILD_CONSTRAINT": str(PINS)}
    done = subprocess.run(command, stdout=sys.stderr, env=os.environ | pinned, close_fds=False)
    if done.returncode:
        words = " ".join(str(word) for word in command)
        stop(f"this failed (see above), `make env` tries again: {words}")


def note(message: str) -> None:
    """Tell the user something on standard error."""
    print(message, file=sys.stderr)


def stop(message: str) -> NoReturn:
    """End with one line on standard error and exit status 2."""
    note(f"error: {message}")
    sys.exit(2)


if __name__ == "__main__":
    main()
