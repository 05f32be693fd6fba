"""What glibc keeps of freed memory, read from the kernel in a process of its own."""

import subprocess
import sys

import pytest

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
