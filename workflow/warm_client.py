"""``python`` as jobs of a Snakemake call have it: a fork of a process that is warm, or itself.

``python -ISE warm_client.py SERVER SCRIPT ...`` or ``... SERVER -m MODULE ...``. It passes signals
on to the fork and ends as the fork does; where nobody answers it becomes the ordinary ``python``.
It starts once a job, so it loads what is compiled into Python and nothing else.
"""

import _signal
import _socket
import os
import sys

#: Seconds in which a server says that it is ready; it may be importing libraries at first.
PATIENCE = 300
PASSED_ON = (
    _signal.SIGHUP,
    _signal.SIGINT,
    _signal.SIGQUIT,
    _signal.SIGTERM,
    _signal.SIGUSR1,
    _signal.SIGUSR2,
)


def main(server: str, *words: str) -> None:
    """Run ``python words`` and end as it does."""
    connection = answering(server, words) if can_be_forked(words) else None
    if connection is None:
        os.execvp("python", ("python", *words))  # noqa: S606
    for number in PASSED_ON:
        if _signal.getsignal(number) is not _signal.SIG_IGN:
            _signal.signal(number, lambda number, _: connection.send(bytes([number])))
    connection.send(b"\0")  # start
    told = connection.recv(16)
    if not told:
        sys.exit("the warm process has ended, and this job with it")
    if (status := int(told)) < 0:
        if -status in PASSED_ON:
            _signal.signal(-status, _signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status & 255)


def can_be_forked(words: "tuple[str, ...]") -> bool:
    """Whether it is a script or a module, with one thread: a fork has none of a pool's threads."""
    named = words[:1] == ("-m",) or (words and words[0][:1] != "-")
    return named and os.environ.get("OMP_NUM_THREADS") == "1"


def answering(server: str, words: "tuple[str, ...]") -> "_socket.socket | None":
    """A connection to a process that is ready to run ``words``, or None."""
    variables = (name + b"=" + value for name, value in os.environb.items())
    texts = (sys.executable, os.getcwd(), str(len(words)), *words)  # noqa: PTH109
    request = b"\0".join((*map(os.fsencode, texts), *variables))
    try:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        connection.settimeout(PATIENCE)
        connection.connect("\0" + server)
        streams = b"".join(number.to_bytes(4, sys.byteorder) for number in range(3))
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)
        connection.sendmsg([len(request).to_bytes(8, "big")], [rights])
        connection.sendall(request)
        if connection.recv(1):
            connection.settimeout(None)
            return connection
    except OSError:
        pass
    return None


main(*sys.argv[1:])
