"""Hostile inputs: each gives one clear error or is a scan, soon, in little memory, and harms no other scan."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from hostile import GENERATORS, VOXELS, write_good_scan

from pipeline.imaging.discovery import find_scans, read_scan
from pipeline.imaging.scans import Scan
from pipeline.imaging.unpacked import remove_unpacked
from pipeline.records.errors import InputError

SOON_SECONDS = 5.0
# The largest input is 12 MiB of private garbage in DICOM files, which nobody needs to hold.
MOST_BYTES = 64 << 20


@pytest.fixture(autouse=True)
def _private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Gives names a key, and archives a temporary folder that can be looked at."""
    monkeypatch.setenv("SEGLINE_PSEUDONYM_KEY", "test")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    yield
    remove_unpacked()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "around/input").mkdir(parents=True)
    return tmp_path / "around/input"


def outcome(path: Path) -> tuple[list[Scan], list[InputError]]:
    """Returns all scans and all errors that a run over `path` would meet before the network."""
    try:
        found = find_scans(path)
    except InputError as error:
        return [], [error]
    scans, errors = [], [one.error for one in found.refused]
    for location in found.scans:
        try:
            scan = read_scan(location)
            if not np.isfinite(scan.array).all():
                raise InputError(path, found="NaN", wanted="numbers", remedy="replace it", reason="non-finite-voxels")
            scans.append(scan)
        except InputError as error:
            errors.append(error)
    return scans, errors


def around(folder: Path) -> list[Path]:
    return sorted(path for path in folder.parents[1].rglob("*") if folder not in path.parents)


@pytest.mark.parametrize("name", GENERATORS)
def test_alone(name: str, folder: Path) -> None:
    reason = GENERATORS[name](folder)
    before = around(folder)
    start = perf_counter()
    scans, errors = outcome(folder)
    assert perf_counter() - start < SOON_SECONDS
    remove_unpacked()
    assert around(folder) == before
    assert not Path("/tmp/segline-escaped.nii").exists()
    if reason is None:
        assert (len(scans), errors) == (1, [])
        return
    assert (len(scans), [error.reason for error in errors]) == (0, [reason])
    assert "\n" not in str(errors[0])
    assert errors[0].remedy


@pytest.mark.parametrize("name", GENERATORS)
def test_beside_a_good_scan_and_in_little_memory(name: str, folder: Path) -> None:
    GENERATORS[name](folder)
    good = write_good_scan(folder / "good.nii.gz")
    tracemalloc.start()
    try:
        scans, _ = outcome(folder)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST_BYTES
    (scan,) = [scan for scan in scans if scan.path == good]
    assert np.array_equal(scan.array, VOXELS)


@pytest.mark.parametrize(("name", "words"), [
    ("gzip bomb behind the voxels", "longer than its header"), ("sheared affine", "not perpendicular"),
    ("forms that disagree", "disagree"), ("no orientation", "left and right"),
])
def test_what_is_doubtful_is_told(name: str, words: str, folder: Path) -> None:
    GENERATORS[name](folder)
    ((scan,), _) = outcome(folder)
    assert any(words in warning for warning in scan.warnings)


def test_names_come_out_as_one_line_of_text(folder: Path) -> None:
    for name in ("name with a new line", "name that is no text", "name that looks like an option"):
        GENERATORS[name](folder)
    for location in find_scans(folder).scans:
        for text in (location.name, location.relative):
            assert text.isprintable()
            assert text.encode()
