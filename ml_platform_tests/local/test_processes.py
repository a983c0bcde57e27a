"""Ports for tests and benchmarks, of which several may run at the same time."""

import secrets
import socket

import pytest

from ml_platform.local import processes
from ml_platform.local.processes import FIRST_PORT, free_port


def test_a_port_is_given_once_though_nobody_listens_on_it_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is given it takes a while to listen."""
    first = free_port()
    chance = iter([first - FIRST_PORT, *range(1000)])
    monkeypatch.setattr(secrets, "randbelow", lambda _: next(chance))

    assert free_port() != first


def test_a_port_on_which_somebody_listens_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever it is."""
    with socket.create_server(("127.0.0.1", free_port())) as somebody:
        taken = somebody.getsockname()[1]
        processes._signs.pop().close()
        chance = iter([taken - FIRST_PORT, *range(1000)])
        monkeypatch.setattr(secrets, "randbelow", lambda _: next(chance))

        assert free_port() != taken
