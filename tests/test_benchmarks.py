"""Benchmarks run for minutes, so tests only begin them: what they import and how they are called must hold."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
LIBRARIES = {"ct_like_scan.py", "nnunet_peer.py"}  # of other benchmarks, and no commands


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_benchmark_can_be_begun_and_is_found(script: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script, "--help"], env=environment, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    if script.name not in LIBRARIES:
        assert done.stdout.startswith("usage: ")
        assert script.name in (ROOT / "benchmarks/README.md").read_text()
