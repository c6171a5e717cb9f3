"""These tests run only when they are named, ``pytest tests/reference``; without the peer they then fail."""

import importlib.util

import pytest


def pytest_configure():
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise pytest.UsageError(
            f"tests/reference compares with {' and '.join(missing)}, not installed here: "
            "python -m pip install -r tests/reference/requirements.txt (torch's CPU build is enough)"
        )


@pytest.fixture
def differences(record_property):
    """Notes (quantity, difference) pairs; the report at the end shows the largest of each."""

    def note(quantity: str, difference: float) -> None:
        record_property(quantity, float(difference))

    return note


def pytest_terminal_summary(terminalreporter):
    """The table of the largest differences that passed, test by test."""
    rows = {}
    for report in terminalreporter.stats.get("passed", []):
        largest: dict[str, float] = {}
        for quantity, difference in report.user_properties:
            largest[quantity] = max(largest.get(quantity, 0.0), difference)
        if largest:
            rows[report.nodeid.rpartition("/")[2]] = largest
    if rows:
        terminalreporter.section("largest differences to the reference")
    for test, largest in rows.items():
        figures = "  ".join(f"{quantity} {difference:.1e}" for quantity, difference in largest.items())
        terminalreporter.write_line(f"{test}: {figures}")
