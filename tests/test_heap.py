"""How a program keeps its memory."""

import subprocess
import sys
from pathlib import Path

import pytest

TWICE = """
import resource
import numpy as np
from detr_jax.heap import keep_memory

{before}
keep_memory()
for _ in range(2):
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(64 << 17)  # 64 MB, written and given back
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""
LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def faults(before: str = "") -> list[int]:
    """Pages fetched from the system when 64 MB are asked for the first and the second time."""
    said = subprocess.run([sys.executable, "-c", TWICE.format(before=before)], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    return list(map(int, said.stdout.split()))


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told")
def test_memory_is_kept_and_in_large_pages():
    first, second = faults()
    assert second < 20  # 16,384 pages of 4 KB where it is returned
    if LARGE_PAGES.exists() and "[never]" not in LARGE_PAGES.read_text():
        assert first < 1000


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told")
@pytest.mark.parametrize("limit", ["RLIMIT_DATA", "RLIMIT_AS"])
def test_a_process_that_may_not_have_half_of_the_memory_goes_on(limit):
    _, second = faults(f"resource.setrlimit(resource.{limit}, (1 << 30, 1 << 30))")
    assert second < 20
