"""The processes of one machine: who is who, started with their log, stopped for certain, remembered across a crash."""

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

import psutil

PR_SET_PDEATHSIG = 1
FIRST_PORT, FIRST_LENT_PORT = 10_000, 32_768
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_signs: list[socket.socket] = []


class PlatformError(RuntimeError):
    """What keeps the platform from running: one line that names the cause and the remedy."""


@cache
def _boot() -> str:
    """This boot of this machine; a process id means nothing beyond it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
    except OSError:
        return f"{psutil.boot_time():.0f}"


def started(pid: int) -> str:
    """When the process began, as an exact mark that no other process with this id can have; empty if there is none.

    On Linux it is counted in the kernel's ticks since boot, so that setting the clock does not make a process look new.
    A zombie is no process: it has ended, and only its parent has not looked yet.
    """
    try:
        # The name stands in brackets and may itself contain brackets and spaces.
        state, *values = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
        return "" if state in "ZX" else f"{_boot()}-{values[18]}"
    except FileNotFoundError:
        return _started_elsewhere(pid)
    except (OSError, IndexError):
        return ""


def _started_elsewhere(pid: int) -> str:
    """The same where there is no /proc."""
    if sys.platform == "linux":
        return ""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{_boot()}-{process.create_time():.2f}"
    except psutil.Error:
        return ""


def is_alive(pid: int, since: str) -> bool:
    """Whether that very process still runs."""
    return bool(since) and started(pid) == since


def wait_until_gone(pid: int, since: str, seconds: float) -> bool:
    """Whether the process has ended within the time."""
    deadline = time.monotonic() + seconds
    while is_alive(pid, since):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def send(pid: int, since: str, sig: signal.Signals, *, group: bool = False) -> None:
    """The signal has been sent, to the whole process group if so asked; nothing happens when the process is gone."""
    if not is_alive(pid, since):
        return
    with suppress(ProcessLookupError, PermissionError):
        if group and os.getpgid(pid) == pid:
            os.killpg(pid, sig)
        else:
            os.kill(pid, sig)


def end(pid: int, since: str, steps: Iterable[tuple[signal.Signals, float]]) -> bool:
    """The process has ended: each signal is given its time before the next. SIGKILL goes to its whole group."""
    for sig, seconds in steps:
        send(pid, since, sig, group=sig is signal.SIGKILL)
        if wait_until_gone(pid, since, seconds):
            return True
    return not is_alive(pid, since)


def spawn(
    command: Sequence[str], *, log: IO[bytes], cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A child in a session of its own, so that Ctrl-C reaches only us and we stop everything in the right order.

    On Linux the kernel interrupts it should we be killed. That holds for the thread that called: call from one that
    lives as long as the platform.
    """
    return subprocess.Popen(  # noqa: S603 - whoever calls says what runs
        list(command), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=cwd, env=env,
        start_new_session=True, preexec_fn=_end_with_parent if _LIBC else None,  # noqa: PLW1509 - one system call
    )  # fmt: skip


def _end_with_parent() -> None:
    """Ask the kernel for SIGINT when the parent dies: the gentle end for PostgreSQL and for Dagster alike."""
    if _LIBC:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def rotate(log: Path) -> None:
    """The log is empty; what it had stands beside it, for the case that it tells why there is a new start."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(log.with_name(f"{log.name}.1"))


def free_port() -> int:
    """A port of the loopback that nobody listens on, and that no other process of ours is given while this one lives.

    The UDP port of the same number is held as the sign of that. Ports below those that the system lends to clients are
    chosen, since otherwise a client could be lent this one before anybody listens.
    """
    while True:
        port = FIRST_PORT + secrets.randbelow(FIRST_LENT_PORT - FIRST_PORT)
        sign = socket.socket(type=socket.SOCK_DGRAM)
        try:
            sign.bind(("127.0.0.1", port))
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            sign.close()
            continue
        _signs.append(sign)
        return port


def in_words(exit_code: int) -> str:
    """An exit code as people know it: with the name of the signal, where it was one."""
    with suppress(ValueError):
        if exit_code < 0:
            return f"exit code {exit_code} ({signal.Signals(-exit_code).name})"
    return f"exit code {exit_code}"
