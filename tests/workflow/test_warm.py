"""The warm process: its forks are as fresh interpreters are, and end with those that want them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from common import ROOT
from common.runs import dag
from tests.workflow.test_dag import processes, wait_for

ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
#: Prints, as JSON, what a program may see of its interpreter.
FACTS = """
import json, locale, logging, os, signal, sys, threading
main = {name: str(value).partition(" object at ")[0] for name, value in vars().items()}
ours = [name for name in sys.modules if name.partition(".")[0] in ("common", "papers")]
streams = [[s.name, s.mode, s.encoding, s.errors, s.line_buffering]
           for s in (sys.stdin, sys.stdout, sys.stderr)]
print(json.dumps({
    "argv": sys.argv, "orig_argv": sys.orig_argv, "path": sys.path, "flags": str(sys.flags),
    "executable": sys.executable, "folder": os.getcwd(), "variables": dict(os.environ),
    "main": {name: main[name] for name in sorted(main) if name.startswith("__")},
    "modules of ours": ours, "streams": streams, "open": sorted(os.listdir("/proc/self/fd")),
    "handlers": [str(signal.getsignal(n)) for n in range(1, 32)],
    "blocked": str(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "threads": threading.active_count(), "locale": locale.setlocale(locale.LC_ALL),
    "logging": [str(logging.root.handlers), logging.root.level], "input": sys.stdin.read(),
}))
"""

CLIENT = ROOT / "workflow" / "warm_client.py"
Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the warm process of these tests says what its jobs took."""
    return tmp_path_factory.mktemp("logs") / "smoke" / "jobs.jsonl"


@pytest.fixture(scope="module")
def warm(journal: Path) -> str:
    """Shell code that makes ``python`` a fork of a warm process, which ends with these tests."""
    return dag.warm_python(journal)


@pytest.fixture(scope="module")
def shell(warm: str, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Runs Python code as a script, warm or with other shell code before.

    An interpreter is of one folder and loads what scripts there ask for, so there are few folders.
    """
    folders = {names: tmp_path_factory.mktemp("jobs") for names in ("", "torch", "torch fairseq")}

    def run(
        code: str,
        words: str = "job.py",
        before: str = warm,
        env: Mapping[str, str] = {},
        input: str = "",
    ) -> subprocess.CompletedProcess[str]:
        asked_for = (name for name in ("torch", "fairseq") if f"import {name}" in code)
        folder = folders[" ".join(asked_for)]
        (folder / "job.py").write_text(code, encoding="utf8")
        command = ("bash", "-c", f"{before} python {words}")
        return subprocess.run(
            command,
            cwd=folder,
            env=os.environ | ONE_THREAD | dag.job_environment() | dict(env),
            input=input,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_libraries_are_loaded_and_no_module_of_ours(shell: Shell) -> None:
    code = "import sys\nprint({'pandas', 'torch', 'common', 'papers'} & set(sys.modules))"
    assert shell(code).stdout == "{'pandas'}\n"


def test_a_program_that_uses_torch_has_it_as_it_is_when_loaded(shell: Shell) -> None:
    code = """
import sys
print("torch" in sys.modules)
import torch
print(torch.initial_seed(), torch.rand(1).item())
print(torch.cuda.is_initialized(), torch.cuda._is_in_bad_fork(), torch.get_num_threads())
torch.manual_seed(0)
print(torch.linalg.qr(torch.randn(200, 200))[1].sum().item())
"""
    (*first, drawn, state, value), (*_, other, _, _) = (
        shell(code).stdout.splitlines() for _ in range(2)
    )
    *fresh, _, fresh_state, fresh_value = shell(code, before="").stdout.splitlines()
    assert (first, fresh) == (["True"], ["False"])
    assert (state, value) == (fresh_state, fresh_value)
    assert not set(drawn.split()) & set(other.split())


@pytest.mark.parametrize("uses", [(), ("torch", "fairseq")])
@pytest.mark.parametrize("words", ["job.py a 'b c' ''", "-m job a 'b c' ''"])
def test_a_fork_sees_what_a_fresh_interpreter_sees(
    shell: Shell, words: str, uses: tuple[str, ...]
) -> None:
    never = "".join(f"\nif not main:\n    import {name}" for name in uses)
    fork, fresh = (
        json.loads(shell(FACTS + never, words=words, input="text", **where).stdout)
        for where in ({}, {"before": ""})
    )
    for facts in (fork, fresh):  # bash counts its levels and names the program that it starts
        facts["variables"] |= {"SHLVL": "1", "_": "python"}
    assert fork == fresh


def test_fairseq_is_there_for_programs_that_use_it(shell: Shell) -> None:
    code = "import sys\nprint('fairseq.trainer' in sys.modules)\nimport torch\nimport fairseq\n"
    done = shell(code)
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("print('ok')", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('a reason')", 1, "a reason"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("1 +", 1, "SyntaxError"),
        ("import os; os._exit(4)", 4, ""),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        ("import os; os.abort()", -signal.SIGABRT, ""),
    ],
)
def test_it_ends_as_its_fork_does(shell: Shell, code: str, status: int, said: str) -> None:
    done = shell(code)
    assert done.returncode == status
    assert said in done.stderr


def test_what_runs_at_exit_runs(shell: Shell) -> None:
    code = """
import atexit, threading, time
atexit.register(print, "last")
threading.Thread(target=lambda: [time.sleep(0.2), print("thread")]).start()
"""
    assert shell(code).stdout == "thread\nlast\n"


def test_forks_draw_different_numbers_where_nobody_seeds(shell: Shell) -> None:
    code = """
import random, numba, numpy
draw = numba.njit(lambda: numpy.random.random())
print(random.random(), numpy.random.random(), draw())
"""
    first, second = (shell(code).stdout.split() for _ in range(2))
    assert not set(first) & set(second)


def test_classes_of_the_script_go_to_processes_that_it_spawns(shell: Shell) -> None:
    code = """
import multiprocessing
def double(number): return 2 * number
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(double, [1, 2]))
"""
    assert shell(code).stdout == "[2, 4]\n"


def test_time_and_memory_are_the_forks_own(shell: Shell) -> None:
    code = """
import time
from common.runs.machine import peak_rss_bytes
at_start = time.process_time(), peak_rss_bytes()
kept = bytearray(300_000_000)
print(*at_start, peak_rss_bytes())
"""
    cpu_s, before, after = map(float, shell(code).stdout.split())
    assert cpu_s < 1
    assert before < 250e6
    assert 290e6 < after - before < 310e6


def test_what_a_job_took_is_written_down_before_it_ends(shell: Shell, journal: Path) -> None:
    code = """
import os, sys, time
if not os.fork():
    while time.process_time() < 0.2: pass
    os._exit(0)
os.wait()
while time.process_time() < 0.4: pass
sys.exit(3)
"""
    before = time.time()
    shell(code, words="job.py 'a b' --scale smoke")
    *_, line = map(json.loads, journal.read_text(encoding="utf8").splitlines())
    assert (line["words"], line["status"]) == (["job.py", "a b", "--scale", "smoke"], 3)
    assert 0.4 <= line["cpu_s"] < 0.8
    assert 0.15 <= line["children_cpu_s"] < 0.4
    assert 0.005 < line["client_cpu_s"] < 0.2
    assert before <= line["started"] <= line["ended"] - 0.6 <= time.time()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"before": f'python() {{ exec python -ISE {CLIENT} nobody "$@"; }};'}, "job.py"),
        ({"env": {"OMP_NUM_THREADS": "2"}}, "job.py"),
        ({}, "-P job.py"),
    ],
)
def test_without_a_server_with_threads_and_with_options_python_is_itself(
    shell: Shell, more: dict[str, Any], words: str
) -> None:
    done = shell("import sys; print('pandas' in sys.modules); sys.exit(5)", words=words, **more)
    assert (done.stdout, done.returncode) == ("False\n", 5)


#: Writes its process number and waits; says which signal ended that.
WAITING = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: [pathlib.Path("saved").touch(), sys.exit(7)])
pathlib.Path("number.new").write_text(str(os.getpid()))
os.rename("number.new", "number")
time.sleep(300)
"""


def started(command: Sequence[str], folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A process in ``folder`` that runs ``WAITING``, and the number of that job."""
    (folder / "job.py").write_text(WAITING, encoding="utf8")
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | ONE_THREAD | dag.job_environment()
    )
    wait_for((folder / "number").exists)
    return process, int((folder / "number").read_text(encoding="utf8"))


def test_a_signal_to_the_client_reaches_the_job(warm: str, tmp_path: Path) -> None:
    client, job = started(("bash", "-c", f"{warm} python job.py"), tmp_path)
    assert job != client.pid
    client.terminate()
    assert client.wait(60) == 7
    assert (tmp_path / "saved").exists()


def test_a_job_whose_client_is_killed_is_killed(warm: str, tmp_path: Path) -> None:
    client, job = started(("bash", "-c", f"{warm} python job.py"), tmp_path)
    client.kill()
    client.wait()
    wait_for(lambda: job not in processes())


def test_a_job_whose_interpreter_is_killed_is_killed_and_its_client_fails(tmp_path: Path) -> None:
    warm = dag.warm_python(tmp_path / "log")
    client, job = started(("bash", "-c", f"{warm} python job.py"), tmp_path)
    os.kill(next(ancestors(job)), signal.SIGKILL)
    assert client.wait(60) == 1
    wait_for(lambda: job not in processes())


def test_nothing_is_left_when_what_started_the_server_is_killed(tmp_path: Path) -> None:
    code = (
        "import pathlib, subprocess; from common.runs import dag\n"
        "python = dag.warm_python(pathlib.Path('log'))\n"
        "subprocess.run(('bash', '-c', python + ' python job.py'))"
    )
    starter, job = started((sys.executable, "-c", code), tmp_path)
    servers = [job, *ancestors(job)]
    assert len(servers) == 3
    starter.kill()
    starter.wait()
    wait_for(lambda: not set(servers) & set(processes()))


def ancestors(pid: int) -> Iterator[int]:
    """Processes of the warm server above ``pid``."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf8")
    parent = int(stat.rpartition(")")[2].split()[1])
    if b"warm_server.py" in Path(f"/proc/{parent}/cmdline").read_bytes():
        yield parent
        yield from ancestors(parent)
