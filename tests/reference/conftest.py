"""These tests run only when they are named, ``pytest tests/reference``, and then without the peer they fail."""

import importlib.util

import pytest

MISSING = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
if MISSING:
    pytest.exit(
        f"tests/reference compares with {' and '.join(MISSING)}, not installed here: "
        "python -m pip install -r tests/reference/requirements.txt (torch's CPU build is enough)",
        returncode=1,
    )


@pytest.fixture
def differences(request, record_property):
    """Notes (quantity, difference) pairs; the report at the end shows the largest of each."""

    def note(quantity: str, difference: float) -> None:
        record_property(quantity, float(difference))

    return note


def pytest_terminal_summary(terminalreporter):
    """The table of the largest differences that passed, test by test."""
    terminalreporter.section("largest differences to the reference")
    for report in terminalreporter.stats.get("passed", []):
        largest: dict[str, float] = {}
        for quantity, difference in report.user_properties:
            largest[quantity] = max(largest.get(quantity, 0.0), difference)
        if largest:
            figures = "  ".join(f"{quantity} {difference:.1e}" for quantity, difference in largest.items())
            terminalreporter.write_line(f"{report.nodeid.rpartition('/')[2]}: {figures}")
