"""Make the environment of pins and print the folder of its programs; Python's library suffices.

``python3 workflow/environment.py`` uses the active conda environment if it holds exactly the pins
of requirements.txt, else makes or updates ``.venv``. It does nothing where nothing changed, and
starts ``.venv`` afresh where an earlier attempt was interrupted (caches keep downloads). The pinned
uv installs the pins, many at a time; where it cannot (it reads none of pip's settings), pip does.
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
import tempfile
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
#: What its wheel depends on besides Python: another pin of these, another wheel.
COMPILED_WITH = ("torch", "numpy", "cython", "setuptools")
#: Folder of the wheels built on this machine, for all checkouts.
WHEELS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "paper-reproductions")
PIP = (VENV / "bin" / "python", "-m", "pip", "--disable-pip-version-check")
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
        wanted = fingerprint(python)
        if not STAMP.exists() or STAMP.read_text() != wanted:
            make_venv(python)
            STAMP.write_text(wanted)
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


def fingerprint(python: str) -> str:
    """Changes with the pins, with Python and with the place of the checkout."""
    identity = PINS.read_bytes() + read_version(python) + os.fsencode(ROOT)
    return hashlib.sha256(identity).hexdigest()


def read_version(python: str | Path) -> bytes:
    """What ``python -V`` prints."""
    return subprocess.run((python, "-V"), capture_output=True, check=True).stdout


def make_venv(python: str) -> None:
    """Install every pin and the project; leaves no stamp if it is interrupted."""
    require_build_tools(python)
    if not tested_processor(platform.machine(), Path("/proc/cpuinfo").read_text()):
        note("untested processor: this project is tested on x86-64 with AVX2 and with AVX-512")
    note("installing the pins of requirements.txt into .venv; the first time this takes a while")
    usable = STAMP.exists() and read_version(VENV / "bin" / "python") == read_version(python)
    STAMP.unlink(missing_ok=True)
    if not usable:
        run(python, "-m", "venv", "--clear", VENV)
    lines = [line for line in PINS.read_text(encoding="utf8").splitlines() if line[:1].isalnum()]
    compiled = next(line for line in lines if line.startswith(f"{COMPILED}=="))
    uv = next(line for line in lines if line.startswith("uv=="))
    others = VENV / "without-compiled.txt"
    others.write_text("\n".join(line for line in lines if line != compiled), encoding="utf8")
    run(*PIP, "install", "--no-deps", uv)
    install("--requirement", others)
    with_pins = [line for line in lines if line.startswith(tuple(f"{n}==" for n in COMPILED_WITH))]
    # By its version an older one would do, which was compiled against other pins.
    install("--force-reinstall", find_wheel(compiled, with_pins))
    install("--no-build-isolation", "--editable", ROOT)


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


def install(*arguments: str | Path) -> None:
    """Install into ``.venv`` just what is named: the pins are complete, nothing is resolved."""
    uv = (VENV / "bin" / "uv", "pip", "install", "--python", VENV / "bin" / "python")
    # uv leaves compiling to the first import, which keeps nothing where PYTHONDONTWRITEBYTECODE is
    # set: each process would compile torch anew, for eight seconds. pip compiles in any case.
    once = ("--compile-bytecode",) if sys.dont_write_bytecode else ()
    if not succeeds(*uv, *once, "--quiet", "--no-deps", *arguments):
        note("uv could not install these; pip tries")
        run(*PIP, "install", "--no-deps", *arguments)


def find_wheel(compiled: str, pins: list[str]) -> Path:
    """The wheel of a pin that is compiled, built once a machine for what it is compiled against."""
    identity = "\n".join([compiled, *pins, platform.machine()]).encode()
    key = hashlib.sha256(identity + read_version(VENV / "bin" / "python")).hexdigest()[:16]
    folder = WHEELS / key
    if not list(folder.glob("*.whl")):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as building:
            # pip would take one from its own cache that was built against other pins.
            options = ("--no-deps", "--no-build-isolation", "--no-cache-dir", "--wheel-dir")
            run(*PIP, "wheel", *options, building, compiled)
            folder.mkdir(exist_ok=True)
            for wheel in Path(building).glob("*.whl"):
                wheel.replace(folder / wheel.name)
    return next(folder.glob("*.whl"))


def run(*command: str | Path) -> None:
    """Run ``command``; stop where it fails."""
    if not succeeds(*command):
        words = " ".join(str(word) for word in command)
        stop(f"this failed (see above), `make env` tries again: {words}")


def succeeds(*command: str | Path) -> bool:
    """Run ``command``, its output on standard error: standard output is for our one line."""
    # What is built in isolation is built with these versions too (pip >= 25.3 has the second name).
    names = ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT", "UV_BUILD_CONSTRAINT")
    pinned = dict.fromkeys(names, str(PINS))
    done = subprocess.run(command, stdout=sys.stderr, env=os.environ | pinned, close_fds=False)
    return done.returncode == 0


def note(message: str) -> None:
    """Tell the user something on standard error."""
    print(message, file=sys.stderr)


def stop(message: str) -> NoReturn:
    """End with one line on standard error and exit status 2."""
    note(f"error: {message}")
    sys.exit(2)


if __name__ == "__main__":
    main()
