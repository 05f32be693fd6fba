"""Many scans: what is done stays done, what is interrupted is whole, and what is hostile harms nothing else."""

import errno
import gc
import json
import os
import signal
import subprocess
import sys
import weakref
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from hostile import GENERATORS
from tiny_bundle import segmenter_of, write_bundle
from tiny_dicom import slice_dataset
from tiny_msd import write_scan

from pipeline.engine.inferers import WindowInferer
from pipeline.records.errors import InputError

LABELS = {"one": 1, "two": 2}


def voxels() -> np.ndarray:
    volume = np.zeros((12, 11, 10), dtype=np.float32)
    volume[2:6, 3:7, 4:9], volume[8:10, 8:10, 1:3] = 1, 2
    return volume


def summary_of(folder: Path) -> Any:
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", labels=LABELS)


def run(bundle: Path, scans: Path, out: Path, **overrides: Any) -> list[Any]:
    return segmenter_of(bundle, scans, out, **overrides).segment_all()


def test_a_resumed_run_does_only_what_is_not_done_and_intact(tmp_path: Path, bundle: Path) -> None:
    for name in "abcd":
        write_scan(tmp_path / f"in/{name}.nii.gz", voxels())
    out = tmp_path / "out"
    assert [result.is_earlier for result in run(bundle, tmp_path / "in", out, resume=True)] == [False] * 4
    (out / "b/segmentation.nii.gz").write_bytes(b"cut")
    (out / "c/report.json").unlink()
    write_scan(tmp_path / "in/d.nii.gz", voxels() * 0)
    results = {result.name: result for result in run(bundle, tmp_path / "in", out, resume=True)}
    assert {name: result.is_earlier for name, result in results.items()} == {
        "a": True, "b": False, "c": False, "d": False}
    # 80 and 8 voxels of 1 x 2 x 3 mm.
    assert results["a"].volumes_ml == pytest.approx({"one": 0.48, "two": 0.048})
    assert results["a"].folder == out / "a"
    # b is mended in its place; c and d are no longer known as theirs, so nothing of another is overwritten.
    assert results["b"].folder == out / "b"
    assert nib.load(out / "b/segmentation.nii.gz").shape == (12, 11, 10)
    assert [scan["earlier_run"] for scan in summary_of(out)["scans"]].count(True) == 1


@pytest.mark.parametrize("change", [{"speed": "exact"}, {"uncertainty": True}, {"irregular": "resample"},
                                    {"inferer::overlap": 0.25}, {"spacing_mm": [2, 2, 2]}])
def test_other_settings_are_another_result(tmp_path: Path, bundle: Path, change: dict[str, Any]) -> None:
    scan = write_scan(tmp_path / "a.nii.gz", voxels())
    run(bundle, scan, tmp_path / "out")
    (result,) = run(bundle, scan, tmp_path / "out", resume=True, **change)
    assert not result.is_earlier
    assert result.folder == tmp_path / "out/a"


def test_without_resume_all_is_done_again(tmp_path: Path, bundle: Path) -> None:
    scan = write_scan(tmp_path / "a.nii.gz", voxels())
    run(bundle, scan, tmp_path / "out")
    assert not run(bundle, scan, tmp_path / "out")[0].is_earlier


def test_an_interrupted_run_leaves_whole_folders_and_a_summary(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        write_scan(tmp_path / f"in/{number}.nii.gz", voxels())
    segmenter = segmenter_of(bundle, tmp_path / "in", tmp_path / "out")
    infer, calls = WindowInferer.__call__, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return infer(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(WindowInferer, "__call__", interrupted)
        with pytest.raises(SystemExit) as caught:
            segmenter.run()
    assert caught.value.code == 130
    out = tmp_path / "out"
    folders = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert folders == ["0", "1", "2"]  # the third was being written, and was brought to its end
    assert [scan["folder"] for scan in summary_of(out)["scans"]] == folders
    for folder in folders:
        report = json.loads((out / folder / "report.json").read_text())
        assert set(report["files"]) | {"report.json"} == {path.name for path in (out / folder).iterdir()}
    assert summary_of(out)["not_done"] >= 3
    results = run(bundle, tmp_path / "in", out, resume=True)
    assert sum(result.is_earlier for result in results) == 3
    assert summary_of(out)["not_done"] == 0
    assert len(summary_of(out)["scans"]) == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_with_130_and_one_line(tmp_path: Path, bundle: Path, number: signal.Signals) -> None:
    for name in range(300):
        write_scan(tmp_path / f"in/{name}.nii.gz", voxels())
    with subprocess.Popen(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(bundle / "configs/inference.yaml"),
         "--bundle_root", str(bundle), "--input", "in", "--output_dir", "out"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while not process.stdout.readline().startswith("[1/"):
            assert process.poll() is None
        process.send_signal(number)
        errors = process.stderr.read()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("interrupted; what is in out is whole")
    done = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    assert 0 < len(done) < 300
    assert all((path / "report.json").is_file() for path in done)
    assert not list((tmp_path / "out").glob(".aside*"))


def test_a_zip_and_a_detached_header_are_resumed_by_what_they_hold(tmp_path: Path, bundle: Path) -> None:
    scans, out = tmp_path / "in", tmp_path / "out"
    scan = write_scan(tmp_path / "scan.nii.gz", voxels())
    scans.mkdir()
    with zipfile.ZipFile(scans / "a.zip", "w") as archive:
        archive.write(scan, "inner/scan.nii.gz")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels().T), str(scans / "b.mhd"))
    assert len(run(bundle, scans, out)) == 2
    assert [result.is_earlier for result in run(bundle, scans, out, resume=True)] == [True, True]
    raw = scans / "b.raw"
    raw.write_bytes(bytes(raw.stat().st_size))
    again = {Path(result.relative).name: result for result in run(bundle, scans, out, resume=True)}
    assert not again["b.mhd"].is_earlier
    assert again["b.mhd"].volumes_ml == {"one": 0, "two": 0}


def test_equal_names_sizes_and_times_elsewhere_are_another_scan(tmp_path: Path, bundle: Path) -> None:
    for folder, volume in (("p1", voxels()), ("p2", voxels()[::-1])):
        path = write_scan(tmp_path / folder / "scan.nii", volume)
        os.utime(path, (1, 1))
    run(bundle, tmp_path / "p1", tmp_path / "out")
    (result,) = run(bundle, tmp_path / "p2", tmp_path / "out", resume=True)
    assert not result.is_earlier
    assert result.folder == tmp_path / "out/scan-2"


def test_a_report_that_is_none_of_ours_stops_nothing(tmp_path: Path, bundle: Path) -> None:
    scan = write_scan(tmp_path / "a.nii.gz", voxels())
    run(bundle, scan, tmp_path / "out")
    path = tmp_path / "out/a/report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": None}))
    (result,) = run(bundle, scan, tmp_path / "out", resume=True)
    assert (result.status, result.is_earlier) == ("ok", False)


def test_what_a_killed_run_left_aside_is_removed(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "out/.aside-x/a").mkdir(parents=True)
    run(bundle, write_scan(tmp_path / "a.nii.gz", voxels()), tmp_path / "out", resume=True)
    assert not (tmp_path / "out/.aside-x").exists()


def test_a_failed_scan_leaves_nothing_in_memory(tmp_path: Path, bundle: Path) -> None:
    for name in "abc":
        write_scan(tmp_path / f"in/{name}.nii.gz", voxels())
    segmenter = segmenter_of(bundle, tmp_path / "in", tmp_path / "out")
    seen: list[weakref.ref[torch.Tensor]] = []

    def failing(inputs: torch.Tensor, _: Any) -> torch.Tensor:
        seen.append(weakref.ref(inputs))
        raise RuntimeError("CUDA out of memory")

    segmenter.parts["inferer"] = failing
    gc.disable()
    try:
        results = segmenter.segment_all()
        assert [result.reason for result in results] == ["out-of-memory"] * 3
        assert [reference() for reference in seen] == [None] * 3
    finally:
        gc.enable()


def test_scores_that_are_no_numbers_are_no_empty_mask(tmp_path: Path, bundle: Path) -> None:
    segmenter = segmenter_of(bundle, write_scan(tmp_path / "a.nii.gz", voxels()), tmp_path / "out")
    segmenter.load().network.bias.data[1] = float("nan")
    (result,) = segmenter.segment_all()
    assert (result.status, result.reason) == ("failed", "non-finite-scores")


def test_a_full_disk_has_its_reason_and_no_message_has_a_path(tmp_path: Path, bundle: Path) -> None:
    for name in "ab":
        write_scan(tmp_path / f"in/{name}.nii.gz", voxels())
    segmenter = segmenter_of(bundle, tmp_path / "in", tmp_path / "out")
    errors = iter([OSError(errno.ENOSPC, "No space left on device", "/srv/DOE JOHN/x"), ValueError("/srv/DOE^JOHN")])

    def failing(*_: Any) -> torch.Tensor:
        raise next(errors)

    segmenter.parts["inferer"] = failing
    first, second = segmenter.segment_all()
    assert (first.reason, second.reason) == ("disk-full", "unexpected-error")
    assert "ValueError in test_engine_scan_run.py, line " in str(second.message)
    for name in ("summary.json", "summary.csv"):
        assert "JOHN" not in (tmp_path / "out" / name).read_text()


def test_probabilities_and_uncertainty_by_hand(tmp_path: Path) -> None:
    # Class scores are 1000 (2 k x - k^2) for intensity x: between 0 and 1, at x = 1/2, both are equally likely.
    bundle = write_bundle(tmp_path / "bundle", labels={"one": 1})
    volume = np.zeros((8, 8, 8), dtype=np.float32)
    volume[2], volume[5] = 1, 0.5
    scan = write_scan(tmp_path / "a.nii.gz", volume)
    (result,) = run(bundle, scan, tmp_path / "out", speed="exact", probabilities=True, uncertainty=True)
    assert result.folder is not None
    probabilities = np.asarray(nib.load(result.folder / "probabilities.nii.gz").dataobj)
    assert probabilities.shape == (8, 8, 8, 2)
    assert probabilities.sum(axis=-1) == pytest.approx(1)
    assert probabilities[2, 0, 0].tolist() == [0, 1]
    assert probabilities[5, 3, 3].tolist() == [0.5, 0.5]
    uncertainty = np.asarray(nib.load(result.folder / "uncertainty.nii.gz").dataobj)
    assert uncertainty[5] == pytest.approx(1)
    assert uncertainty[[0, 2]] == pytest.approx(0, abs=1e-6)


def test_intensities_in_other_units_are_a_doubt(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", labels=LABELS, intensity_range=[0.0, 2.0])
    fine = write_scan(tmp_path / "in/fine.nii.gz", voxels())
    write_scan(tmp_path / "in/shifted.nii.gz", voxels() + 1024)
    assert fine.is_file()
    results = {result.name: result for result in run(bundle, tmp_path / "in", tmp_path / "out")}
    assert (results["fine"].low_confidence, results["fine"].warnings) == (False, [])
    assert results["shifted"].low_confidence
    assert "check the units" in results["shifted"].warnings[0]


def test_refused_studies_are_in_the_summary_and_named_on_the_terminal(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scan(tmp_path / "in/a.nii.gz", voxels())
    for uid, number in (("1.2.3.4", "7"), ("1.2.3.5", "8")):
        slices = [slice_dataset(position, series_uid=uid) for position in range(4)]
        for content in slices:
            content.SeriesNumber = number
            content.PixelData = np.zeros((4, 5), dtype=np.int16).tobytes()
        folder = tmp_path / "in/study"
        folder.mkdir(parents=True, exist_ok=True)
        for position, content in enumerate(slices):
            content.save_as(folder / f"{uid}.{position}", enforce_file_format=True)
    run(bundle, tmp_path / "in", tmp_path / "out")
    scans = {scan["input"]: scan for scan in summary_of(tmp_path / "out")["scans"]}
    assert scans["a.nii.gz"]["status"] == "ok"
    (refused,) = [scan for scan in scans.values() if scan["status"] == "failed"]
    assert refused["reason"] == "several-series"
    assert "--series" in refused["message"]
    assert "Smith" not in (tmp_path / "out/summary.json").read_text()
    assert "Smith John liver" in capsys.readouterr().out


def test_a_hundred_hostile_inputs_harm_no_sound_one(tmp_path: Path, bundle: Path) -> None:
    scans = tmp_path / "in"
    write_scan(scans / "a_sound.nii.gz", voxels())
    write_scan(scans / "z_sound.nii.gz", voxels())
    expected = {}
    for name, make in GENERATORS.items():
        (scans / name).mkdir()
        expected[name] = make(scans / name)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    results = run(bundle, scans, tmp_path / "out")
    done = {result.relative for result in results if result.status == "ok"}
    assert {"a_sound.nii.gz", "z_sound.nii.gz"} <= done
    assert not [result for result in results if result.reason == "unexpected-error"]
    for result in results:
        if result.status == "failed":
            assert "\n" not in str(result.message)
            assert result.reason in expected.values() or result.reason == "missing-file", result
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(tmp_path / "out") for path in written)
    assert len(GENERATORS) >= 30


@pytest.mark.parametrize("name", GENERATORS)
def test_each_hostile_input_alone_has_its_reason(tmp_path: Path, bundle: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    expected = GENERATORS[name](tmp_path / "in")
    try:
        reasons = {result.reason for result in run(bundle, tmp_path / "in", tmp_path / "out")}
    except InputError as error:
        reasons = {error.reason}
    assert expected in reasons
