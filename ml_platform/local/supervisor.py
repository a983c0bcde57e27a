"""Keeps services running: starts them with their logs, notices their end, restarts them, and stops every one."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from ml_platform.local import processes
from ml_platform.local.processes import PlatformError
from ml_platform.local.services import Service

READY_SECONDS = 180
RESTARTS = 3
LEFTOVER_SECONDS = 5.0
RESTART_WINDOW_SECONDS = 300
LAST_LINES = 8


@dataclass
class _Child:
    """A service with its process."""

    service: Service
    process: subprocess.Popen[bytes]
    since: str
    begun: float = field(default_factory=time.monotonic)
    ends: list[float] = field(default_factory=list)


@dataclass
class Supervisor:
    """The services of one platform. `hurry` is set when the user does not want to wait for gentle ends."""

    state: Path
    environment: Mapping[str, str]
    say: Callable[[str], None]
    hurry: Event = field(default_factory=Event)
    _children: dict[str, _Child] = field(default_factory=dict)

    @property
    def _record(self) -> Path:
        return self.state / "processes.json"

    def end_leftovers(self) -> int:
        """The services of a platform that was killed are gone; how many there were."""
        try:
            left = json.loads(self._record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0
        alive = [one for one in left if processes.is_alive(one["pid"], one["since"])]
        for one in alive:
            processes.send(one["pid"], one["since"], signal.SIGTERM)
        for one in alive:
            processes.end(one["pid"], one["since"], [(signal.SIGINT, LEFTOVER_SECONDS), (signal.SIGKILL, 5.0)])
            _end_group(one["pid"])
        self._record.unlink(missing_ok=True)
        return len(alive)

    def start(self, service: Service) -> None:
        """The service's process runs, and is remembered on disk."""
        log = self._log(service)
        if service.name not in self._children:
            processes.rotate(log)
        with log.open("ab") as out:
            process = processes.spawn(service.command, log=out, cwd=self.state, env=self.environment)
        ends = self._children[service.name].ends if service.name in self._children else []
        self._children[service.name] = _Child(service, process, processes.started(process.pid), ends=ends)
        self._remember()

    def wait_until_ready(self, names: Iterable[str]) -> None:
        """The services answer.

        Raises:
            PlatformError: when one has died or is not ready in time; the message has the end of its log.
        """
        waiting, begun = list(names), time.monotonic()
        while waiting:
            for name in list(waiting):
                child = self._children[name]
                if child.process.poll() is not None:
                    raise PlatformError(self._obituary(child))
                if child.service.is_ready():
                    waiting.remove(name)
                    self.say(f"  {name} is up ({time.monotonic() - child.begun:.0f} s)")
            if waiting and time.monotonic() - begun > READY_SECONDS:
                log = self._log(self._children[waiting[0]].service)
                msg = f"{waiting[0]} is not ready after {READY_SECONDS} s; its log is {log}{_end_of(log)}"
                raise PlatformError(msg)
            time.sleep(0.1)

    def check(self) -> None:
        """Every service runs: one that has died was started again.

        Raises:
            PlatformError: when one dies again and again.
        """
        for child in list(self._children.values()):
            if child.process.poll() is None:
                continue
            now = time.monotonic()
            child.ends = [end for end in child.ends if now - end < RESTART_WINDOW_SECONDS] + [now]
            if len(child.ends) > RESTARTS:
                raise PlatformError(self._obituary(child))
            self.say(f"{self._obituary(child)}\n  It is started again ({len(child.ends)} of {RESTARTS}).")
            _end_group(child.process.pid)
            self.start(child.service.again())

    def stop(self, name: str) -> None:
        """The service has ended: gently within its patience, at once in a hurry. Nothing it started remains."""
        if child := self._children.get(name):
            _ask_to_end(child)
            self._wait_for_end(child)
            del self._children[name]
            self._remember()

    def stop_all(self) -> None:
        """All have ended, each within its own patience, at the same time."""
        for child in self._children.values():
            _ask_to_end(child)
        for child in self._children.values():
            self._wait_for_end(child)
        self._children.clear()
        self._record.unlink(missing_ok=True)

    def is_empty(self) -> bool:
        """Whether no service was started."""
        return not self._children

    def _wait_for_end(self, child: _Child) -> None:
        """The service and all it started are gone."""
        deadline = time.monotonic() + child.service.patience
        while child.process.poll() is None and time.monotonic() < deadline and not self.hurry.is_set():
            time.sleep(0.05)
        _end_group(child.process.pid)
        child.process.wait()

    def _remember(self) -> None:
        """The next platform can end these processes should this one be killed."""
        record = [
            {"name": name, "pid": child.process.pid, "since": child.since} for name, child in self._children.items()
        ]
        fresh = self._record.with_suffix(".new")
        fresh.write_text(json.dumps(record), encoding="utf-8")
        fresh.replace(self._record)

    def _log(self, service: Service) -> Path:
        return self.state / "logs" / service.log_name

    def _obituary(self, child: _Child) -> str:
        log = self._log(child.service)
        how = processes.in_words(child.process.poll() or 0)
        return f"{child.service.name} ended unexpectedly ({how}); its log is {log}{_end_of(log)}"


def _ask_to_end(child: _Child) -> None:
    """The service knows that it shall end; all of ours finish what they are at."""
    with suppress(ProcessLookupError):
        child.process.send_signal(signal.SIGTERM)


def _end_group(leader: int) -> None:
    """The processes that a service started have ended with it; a group keeps its id until its last member is gone."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _end_of(log: Path) -> str:
    """The last lines of a log, indented; empty if there are none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
    except OSError:
        return ""
    return "".join(f"\n  | {line}" for line in lines)
