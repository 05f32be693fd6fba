"""A repository with one small, sound dataset and its experiment, for tests of the audit."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_msd import write_msd

from pipeline.records.index import read_index

ROOT = Path("data/raw/tiny")
WORK = Path("work/tiny")
CONFIG = Path("configs/tiny/data.yaml")
SETTINGS = "dataset: tiny\nlayout: msd\npatient: '^(p\\d+)_'\nsplit: {validation: 0.2, test: 0.2, seed: 0}\n"
# Five patients; p1 and p2 have two scans.
CASES = ["p1_a", "p1_b", "p2_a", "p2_b", "p3_a", "p4_a", "p5_a"]
IMAGE, LABEL = ROOT / "imagesTr/p3_a.nii.gz", ROOT / "labelsTr/p3_a.nii.gz"


def enter_audited_repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the repository in `folder` and makes it the working folder."""
    monkeypatch.chdir(folder)
    write_msd(ROOT, CASES)
    CONFIG.parent.mkdir(parents=True)
    CONFIG.write_text(SETTINGS)
    return folder


def findings() -> list[dict[str, Any]]:
    """Returns what `audit.json` holds."""
    return json.loads((WORK / "audit.json").read_text())


def indexed() -> list[str]:
    """Returns the case ids in `index.json`."""
    return [case.case_id for case in read_index(WORK / "index.json").cases]


def truncate(path: Path) -> None:
    """Cuts a file after 60 bytes."""
    path.write_bytes(path.read_bytes()[:60])
