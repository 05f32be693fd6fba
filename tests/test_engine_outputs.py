"""What is written of a scan, and what is said of outputs that it cannot have."""

from pathlib import Path
from typing import Any

import pytest
from test_engine_segmenter import cube
from tiny_bundle import segmenter_of, write_bundle
from tiny_dicom import slice_dataset, write_slices
from tiny_msd import write_scan

ASKED = {"dicom_seg": "fractional", "rtstruct": True}


@pytest.mark.parametrize(("is_dicom", "asked", "said"), [
    (False, ASKED, ["--rtstruct", "--dicom_seg fractional"]), (False, {}, []), (True, ASKED, []),
], ids=["NIfTI", "NIfTI, the defaults", "DICOM"])
def test_what_only_dicom_gets_is_named_where_no_scan_is_dicom(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_dicom: bool, asked: dict[str, Any], said: list[str]
) -> None:
    root = write_bundle(tmp_path / "bundle", labels={"cube": 1})
    series = [slice_dataset(number) for number in range(3)]
    scan = write_slices(tmp_path / "series", series) if is_dicom else write_scan(tmp_path / "a.nii.gz", cube())
    segmenter_of(root, scan, tmp_path / "out", **asked).segment_all()
    noted = [line for line in capsys.readouterr().err.splitlines() if "does nothing" in line]
    assert noted == [f"{option} does nothing here: none of the scans is DICOM" for option in said]
