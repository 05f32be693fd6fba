"""What glibc keeps of freed memory, read from the kernel in a process of its own, and when it is given back."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import segmenter_of, write_bundle
from tiny_msd import write_scan

from pipeline.engine import scan_run, segmenter

MEASURE = """
import re, sys
from pathlib import Path
import torch
from pipeline.engine.allocator import give_back_freed_memory, keep_freed_memory

def resident_mib():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

if sys.argv[1] == "keep":
    keep_freed_memory()
before = resident_mib()
tensor = torch.ones(64, 1024, 1024)
del tensor
freed = resident_mib() - before
give_back_freed_memory()
print(freed, resident_mib() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, and sets glibc's allocator")
@pytest.mark.parametrize(("how", "is_kept"), [("keep", True), ("by default", False)])
def test_256_mib_are_kept_until_they_are_given_back(how: str, is_kept: bool) -> None:
    words = subprocess.run([sys.executable, "-c", MEASURE, how], capture_output=True, text=True, check=True).stdout
    freed, given_back = map(float, words.split())
    assert (freed > 200) is is_kept
    assert given_back < 56


@pytest.mark.parametrize(("large_from_bytes", "times"), [(1, 3), (10**9, 1)])
def test_what_a_large_scan_has_freed_goes_back_to_the_system_between_its_phases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large_from_bytes: int, times: int
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(scan_run, "LARGE_SCAN_BYTES", large_from_bytes)
    for module in (scan_run, segmenter):
        monkeypatch.setattr(module, "give_back_freed_memory", lambda: calls.append(1))
    scan = write_scan(tmp_path / "scan.nii.gz", np.ones((8, 9, 10), dtype=np.float32))
    segmenter_of(write_bundle(tmp_path / "bundle", labels={"one": 1}), scan, tmp_path / "out").segment_all()
    assert len(calls) == times
