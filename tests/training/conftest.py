"""What tests of the clock share."""

import time

import pytest


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves when ``clock.now`` is set."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(time, "monotonic", lambda: Clock.now)
    return Clock
