"""A process in which the libraries of this project are loaded, of which jobs are forks.

``python warm_server.py LISTENER JOURNAL``, with the number of a listening socket, a file to which
it adds what each job took, and a pipe as standard input: it ends when the pipe does, that is with
the process that holds the other end, however that ends. For each environment and folder that jobs
come with it starts one interpreter in them, so a fork has the variables (``OMP_NUM_THREADS`` is
read while libraries load), the hash seed and the module path of its own interpreter. No module of
this project is loaded there: each job loads them as they are, and fingerprints no others.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import ctypes
import gc
import importlib
import importlib.machinery
import json
import logging
import os
import re
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import types
import warnings
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

#: What is loaded for every job, and on top of that for papers that use torch, and fairseq beside:
#: they take 300 MB and 2 s, which others would seem to use. All of it is what jobs load; pydantic
#: loads its parts when asked.
LIBRARIES: Final = (
    (
        *("pydantic.main", "pydantic.types", "pydantic.functional_validators"),
        *("pydantic.plugin._loader", "yaml", "tqdm", "jinja2", "concurrent.futures.thread"),
        *("pydantic.fields", "lazy_loader", "tabulate", "pandas.io.formats.style"),
        *("numpy", "pandas", "scipy.optimize", "numba"),
        *("matplotlib.pyplot", *(f"matplotlib.backends.backend_{kind}" for kind in ("agg", "svg"))),
        # PIL loads them when it first reads or writes a file.
        *(f"PIL.{kind}ImagePlugin" for kind in ("Bmp", "Gif", "Jpeg", "Ppm", "Png")),
    ),
    (
        *("torch", "torch.utils.data", "torch._dynamo", "safetensors.torch", "accelerate"),
        *("sklearn.datasets", "sklearn.decomposition"),
    ),
    ("fairseq", "fairseq.trainer", "fairseq.sequence_generator"),
)
#: Libraries of which a paper's modules load some, for each group after the first.
ASKED_FOR: Final = ("torch", "fairseq")
OURS: Final = ("common", "papers")
MESSAGE: Final = 2**17
PR_SET_PDEATHSIG: Final = 1
#: By executable, folder and variables.
Interpreters = dict[tuple[str, ...], tuple[subprocess.Popen[bytes], socket.socket]]


class Job(NamedTuple):
    """What a client wants run: ``python words`` with these three streams."""

    client: socket.socket
    streams: list[int]
    words: list[str]

    @classmethod
    def received(cls, link: socket.socket) -> Job | None:
        """The next one, or None where the other end is closed."""
        text, numbers, *_ = socket.recv_fds(link, MESSAGE, 4)
        words = os.fsdecode(text).split("\0")
        return cls(socket.socket(fileno=numbers[0]), numbers[1:], words) if text else None

    def send(self, link: socket.socket) -> None:
        """Hand it to another process."""
        text = os.fsencode("\0".join(self.words))
        socket.send_fds(link, [text], [self.client.fileno(), *self.streams])

    def close(self) -> None:
        """Give back what came with it."""
        self.client.close()
        for number in self.streams:
            os.close(number)


class Forked(NamedTuple):
    """A job at work: when it was started, in seconds since the epoch, by whom, and what it runs."""

    started: float
    client: socket.socket
    words: list[str]


def listen(listener: socket.socket, journal: str) -> None:
    """Pass jobs to the interpreter of their environment until standard input ends."""
    interpreters: Interpreters = {}
    with selectors.DefaultSelector() as waiting:
        waiting.register(0, selectors.EVENT_READ)
        waiting.register(listener, selectors.EVENT_READ)
        while all(key.fd != 0 for key, _ in waiting.select()):
            client = listener.accept()[0]
            with contextlib.suppress(OSError, ValueError):
                if own(client):
                    direct(client, interpreters, journal)
            client.close()
    for process, link in interpreters.values():
        link.close()
        process.wait()


def own(client: socket.socket) -> bool:
    """Whether it is a process of the same user that asks; anybody can see the socket."""
    return peer(client)[1] == os.getuid()


def peer(client: socket.socket) -> tuple[int, int]:
    """Process and user that asked."""
    found = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", found)
    return pid, uid


def direct(client: socket.socket, interpreters: Interpreters, journal: str) -> None:
    """Read a request and hand it to its interpreter, which is started if need be."""
    head, streams, *_ = socket.recv_fds(client, 8, 3)
    try:
        request = client.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
        executable, folder, number, *rest = os.fsdecode(request).split("\0")
        words, variables = rest[: int(number)], rest[int(number) :]
        key = (executable, folder, *sorted(variables))
        if key not in interpreters:
            link, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with other:
                process = subprocess.Popen(
                    ("python", __file__, journal),
                    executable=executable,
                    cwd=folder,
                    env=dict(item.split("=", 1) for item in variables),
                    stdin=other.fileno(),
                    stdout=subprocess.DEVNULL,
                )
            interpreters[key] = process, link
        Job(client, streams, words).send(interpreters[key][1])
    finally:
        for stream in streams:
            os.close(stream)


class Interpreter:
    """Forks jobs, tells their clients how they ended, and kills those whose client has gone.

    Args:
        link: brings jobs; when it ends, they are killed and this process ends.
        journal: file to which it adds what each took.
        depth: how many groups of :data:`LIBRARIES` are loaded. A job that wants more is handed to a
            fork of this interpreter, which loads them.
    """

    def __init__(self, link: socket.socket, journal: str, depth: int = 1) -> None:
        self._link, self._journal, self._depth = link, journal, depth
        self._jobs: dict[int, Forked] = {}
        self._deeper: tuple[int, socket.socket] | None = None
        self._wakeup = socket.socketpair()
        for end in self._wakeup:
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup[1].fileno(), warn_on_full_buffer=False)
        self._waiting = selectors.DefaultSelector()
        self._waiting.register(link, selectors.EVENT_READ)
        self._waiting.register(self._wakeup[0], selectors.EVENT_READ)
        load(LIBRARIES[depth - 1])

    def job(self) -> Job:
        """What this process, a fork of the one that called, is to run."""
        while True:
            for key, _ in self._waiting.select():
                if key.fileobj is self._wakeup[0]:
                    self._reap()
                elif key.fileobj is not self._link:
                    if key.data in self._jobs:  # else it was reaped a moment ago
                        self._hear(key.data)
                elif (job := Job.received(self._link)) is None:
                    self._end()
                elif read_depth(job.words) > self._depth:
                    if link := self._pass_on(job):
                        return Interpreter(link, self._journal, self._depth + 1).job()
                elif self._fork(job):
                    return job

    def _fork(self, job: Job) -> bool:
        """Start a job if its client is still there; whether this is the job's process."""
        if not is_there(job.client):
            job.close()
            return False
        started = time.time()
        pid = os.fork()
        if not pid:
            self._leave()
            return True
        with contextlib.suppress(OSError):  # the job does it itself; whoever is first
            os.setpgid(pid, pid)
        for stream in job.streams:
            os.close(stream)
        self._jobs[pid] = Forked(started, job.client, job.words)
        self._waiting.register(job.client, selectors.EVENT_READ, pid)
        return False

    def _pass_on(self, job: Job) -> socket.socket | None:
        """Hand a job to the interpreter that has more libraries; in that one, its link."""
        first = self._deeper is None
        if self._deeper is None:
            link, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._deeper = os.fork(), link
        pid, link = self._deeper
        if not pid:
            self._leave()
            job.close()
            return other
        if first:
            other.close()
        with contextlib.suppress(OSError):
            job.send(link)
        job.close()
        return None

    def _hear(self, pid: int) -> None:
        """Pass on the signals that a client was sent; its end is the end of its job."""
        try:
            numbers = self._jobs[pid].client.recv(64)
        except OSError:
            numbers = b""
        for number in numbers:
            os.kill(pid, number)
        if not numbers:
            self._waiting.unregister(self._jobs[pid].client)
            os.killpg(pid, signal.SIGKILL)

    def _reap(self) -> None:
        self._wakeup[0].recv(4096)
        for pid, job in list(self._jobs.items()):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            own = cpu_s(pid)
            _, status, usage = os.wait4(pid, 0)
            code = os.waitstatus_to_exitcode(status)
            # Before its client ends, and jobs start that count what was taken so far.
            with contextlib.suppress(OSError):
                write_down(self._journal, job, code, own, usage.ru_utime + usage.ru_stime - own)
            with contextlib.suppress(OSError):
                job.client.send(b"%d" % code)
            with contextlib.suppress(KeyError):
                self._waiting.unregister(job.client)
            self._jobs.pop(pid).client.close()

    def _end(self) -> NoReturn:
        for pid in self._jobs:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if self._deeper:
            self._deeper[1].close()
            os.waitpid(self._deeper[0], 0)
        os._exit(0)

    def _leave(self) -> None:
        """Give back, in a fork, what is the interpreter's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        links = [self._deeper[1]] if self._deeper else []
        clients = [job.client for job in self._jobs.values()]
        for end in (self._link, *self._wakeup, *clients, *links):
            end.close()
        self._waiting.close()


def write_down(journal: str, job: Forked, status: int, own: float, children: float) -> None:
    """Add a job that has ended to the journal, in one piece: several interpreters write there."""
    line = {
        "words": job.words,
        "status": status,
        "started": job.started,
        "ended": time.time(),
        "cpu_s": own,
        "children_cpu_s": max(children, 0.0),
        "client_cpu_s": cpu_s(peer(job.client)[0]),
    }
    Path(journal).parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    finally:
        os.close(descriptor)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process without its children, as its own ``time.process_time`` tells them.

    Of one that has ended until it is waited for; 0 of one that is gone.
    """
    try:
        return time.clock_gettime(~pid << 3 | 2)  # Linux's number of the clock of another process
    except OSError:
        return 0.0


def is_there(client: socket.socket) -> bool:
    """Whether a client that is told to be ready says to start; it may have run its job itself."""
    client.settimeout(60)
    try:
        client.send(b"r")
        return client.recv(1) == b"\0"
    except OSError:
        return False
    finally:
        client.settimeout(None)


def load(libraries: tuple[str, ...]) -> None:
    """Import what of ``libraries`` there is, for forks; end the process where one could not be.

    A fork has the thread that forks and no other, cannot use a GPU that was in use before, and has
    to load our modules itself. What a library says while it is loaded it would say in each job;
    variables and where logging goes are as a job would find them.
    """
    variables = dict(os.environ)
    logging.disable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in libraries:
            # What is not there or is broken, a job that wants it finds out by itself.
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    logging.disable(logging.NOTSET)
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    threads = sum(1 for _ in Path("/proc/self/task").iterdir())
    ours = any(name.partition(".")[0] in OURS for name in sys.modules)
    cuda = "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized()
    if threads > 1 or ours or cuda:
        os._exit(1)
    gc.collect()
    gc.freeze()  # collections in forks would write to pages that they share


def read_depth(words: list[str]) -> int:
    """Groups of :data:`LIBRARIES` for a job: those that modules of its paper ask for.

    The paper is where the script lies, or is named as in ``-m common.results table PAPER TARGET``.
    What makes the report loads the modules of all papers.
    """
    if words[0] != "-m":
        return 1 + asked_for(Path(words[0]).parent)
    named = words[3:4] if words[2:3] != ["report"] else []
    return 1 + asked_for(Path("papers", *named))


@cache
def asked_for(folder: Path) -> int:
    """How many of :data:`ASKED_FOR`, in this order, modules below ``folder`` load."""
    sources = [file.read_text(encoding="utf8") for file in folder.rglob("*.py")]
    loads = [re.compile(rf"^\s*(import|from) .*\b{name}\b", re.MULTILINE) for name in ASKED_FOR]
    found = [any(map(line.search, sources)) for line in loads]
    return (*found, False).index(False)


def run(job: Job) -> NoReturn:
    """Be ``python words`` in a process group of its own, to the end."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # should the interpreter be killed
    for number, stream in enumerate(job.streams):
        os.dup2(stream, number)
    job.close()
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    # As fresh ones are seeded; Python's own and Numba's see to it themselves.
    sys.modules["numpy.random"].seed()
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.seed()
    status = run_as_main(job.words)
    # As multiprocessing ends its forks: to tear the libraries down would copy all that is shared.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        status = 120
    os._exit(status)


def run_as_main(words: list[str]) -> int:
    """Run a script or a module as ``__main__``; its exit status, once what Python says is said."""
    try:
        execute(words)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 255
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def execute(words: list[str]) -> None:
    """Run a script or a module in a new ``__main__``."""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    vars(main).update(__builtins__=builtins, __annotations__={})
    sys.orig_argv = ["python", *words]
    if words[0] == "-m":
        _, module, *arguments = words
        first_on_path(Path.cwd())
        sys.argv = ["-m", *arguments]
        runpy._run_module_as_main(module)  # type: ignore[attr-defined]
        return
    sys.argv = words
    script = Path(words[0]).absolute()
    first_on_path(script.resolve().parent)
    path = str(script)
    loader = importlib.machinery.SourceFileLoader("__main__", path)
    vars(main).update(__file__=path, __loader__=loader, __cached__=None)
    exec(compile(script.read_bytes(), path, "exec", dont_inherit=True), vars(main))  # noqa: S102


def first_on_path(folder: Path) -> None:
    """Look for modules there first, as Python does in the folder of the script that it runs."""
    if not sys.flags.safe_path:
        sys.path[0] = str(folder)


if __name__ == "__main__":
    *number, journal = sys.argv[1:]
    if number:
        listen(socket.socket(fileno=int(number[0])), journal)
    else:
        first_on_path(Path(os.devnull))
        link = socket.socket(fileno=os.dup(0))
        os.dup2(1, 0)
        run(Interpreter(link, journal).job())
