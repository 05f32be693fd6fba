"""Inference with a network whose answer is known: masks, places, numbers, and failures that stop nothing."""

import gc
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image
from test_imaging_resampling import ORDERS_AND_FLIPS, affine_of
from tiny_bundle import segmenter_of, write_bundle
from tiny_dicom import slice_dataset, slice_voxels, write_slices
from tiny_msd import write_scan

from pipeline.records.errors import InputError

C, S = np.cos(0.3), np.sin(0.3)
AFFINES = {
    "RAS": np.diag([1.0, 1.0, 1.0, 1.0]),
    "LPS": np.array([[-1, 0, 0, 40], [0, -1, 0, 50], [0, 0, 1, -7], [0, 0, 0, 1.0]]),
    # Axes to the head, the left and the back.
    "SLP": np.array([[0, -2, 0, 5], [0, 0, -1.5, 6], [1, 0, 0, 7], [0, 0, 0, 1.0]]),
    "oblique": np.array([[-C, S, 0, 10], [-S, -C, 0, -20], [0, 0, 1, 30], [0, 0, 0, 1.0]]),
    "anisotropic": np.array([[-0.8 * C, 0.8 * S, 0, 10], [-0.8 * S, -0.8 * C, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1.0]]),
}
CUBE_LABELS = {"cube": 1}
OCTANTS = {f"octant{number}": number for number in range(1, 9)}


def cube(shape: tuple[int, ...] = (20, 18, 16)) -> np.ndarray:
    """Returns zeros with a box of ones of 6 x 5 x 4 voxels, off the middle on each axis."""
    volume = np.zeros(shape, dtype=np.float32)
    volume[tuple(slice(3 + axis, 9) for axis in range(len(shape)))] = 1
    return volume


def octant_markers() -> np.ndarray:
    """Returns a volume with a cube of 5 voxels' edge in each octant, of intensity 1 to 8 in index order."""
    volume = np.zeros((24, 22, 20), dtype=np.float32)
    for number, corner in enumerate(np.ndindex(2, 2, 2)):
        x, y, z = (2 + upper * (size - 9) for upper, size in zip(corner, volume.shape, strict=True))
        volume[x : x + 5, y : y + 5, z : z + 5] = number + 1
    return volume


def report_of(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text())


def segmented(tmp_path: Path, scan: Path, labels: dict[str, int] = CUBE_LABELS, **bundle: Any) -> Path:
    """Segments one scan with a fresh bundle; returns its output folder."""
    root = write_bundle(tmp_path / "bundle", labels=labels, **bundle)
    (result,) = segmenter_of(root, scan, tmp_path / "out").segment_all()
    assert result.status == "ok", result.message
    assert result.folder is not None
    return result.folder


@pytest.mark.parametrize("slice_axis", [None, 2])
@pytest.mark.parametrize("name", AFFINES)
def test_cube_comes_back_voxel_by_voxel_on_its_own_grid(tmp_path: Path, name: str, slice_axis: int | None) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz", cube(), AFFINES[name])
    folder = segmented(tmp_path, scan, slice_axis=slice_axis)
    truth, found = nib.load(scan), nib.load(folder / "segmentation.nii.gz")
    assert np.array_equal(np.asarray(found.dataobj), cube())
    assert found.get_data_dtype() == np.uint8
    assert found.affine == pytest.approx(truth.affine, abs=1e-6)


def test_every_axis_order_and_flip_comes_back_exactly(tmp_path: Path) -> None:
    root = write_bundle(tmp_path / "bundle", labels=OCTANTS)
    for number, (order, flips) in enumerate(ORDERS_AND_FLIPS):
        write_scan(tmp_path / f"in/{number}.nii.gz", octant_markers(), affine_of(order, flips))
    results = segmenter_of(root, tmp_path / "in", tmp_path / "out").segment_all()
    assert len(results) == 48
    for result in results:
        assert result.folder is not None
        found, scan = nib.load(result.folder / "segmentation.nii.gz"), nib.load(tmp_path / "in" / result.relative)
        assert np.array_equal(np.asarray(found.dataobj), octant_markers()), result.name
        assert found.affine == pytest.approx(scan.affine, abs=1e-5)


@pytest.mark.parametrize("name", AFFINES)
def test_markers_of_all_octants_stay_in_place_after_resampling(tmp_path: Path, name: str) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz", octant_markers(), AFFINES[name])
    folder = segmented(tmp_path, scan, OCTANTS, spacing_mm=(1.3, 1.3, 1.3))
    before, after = (SimpleITK.ReadImage(str(path)) for path in (scan, folder / "segmentation.nii.gz"))
    assert after.GetSize() == before.GetSize()
    for number in range(1, 9):
        voxels = np.argwhere(octant_markers() == number)
        place = before.TransformContinuousIndexToPhysicalPoint(voxels.mean(axis=0).tolist())
        assert after[after.TransformPhysicalPointToIndex(place)] == number
        # All of it but at most a rim of a voxel, where intensities of two markers' surroundings mix.
        assert (np.asarray(nib.load(folder / "segmentation.nii.gz").dataobj)[tuple(voxels.T)] == number).sum() >= 27


def test_coarse_network_grid_gives_a_smooth_ball(tmp_path: Path) -> None:
    offsets = np.indices((24, 24, 24)) - 11.5
    ball = (np.sqrt((offsets**2).sum(axis=0)) < 8).astype(np.float32)
    scan = write_scan(tmp_path / "scan.nii.gz", ball, AFFINES["oblique"])
    folder = segmented(tmp_path, scan, spacing_mm=(2.5, 2.5, 2.5))
    found = np.asarray(nib.load(folder / "segmentation.nii.gz").dataobj)
    # Linear resampling of probabilities gives 0.937 here; taking the nearest voxel of the coarse mask 0.884.
    assert 2 * np.sum(found * ball) / (found.sum() + ball.sum()) > 0.92


@pytest.mark.parametrize("codes", [(0, 2), (3, 0), (0, 0)])
def test_codes_are_the_scans(tmp_path: Path, codes: tuple[int, int]) -> None:
    image = nib.Nifti1Image(cube(), AFFINES["LPS"])
    image.set_qform(AFFINES["LPS"], code=codes[0])
    image.set_sform(AFFINES["LPS"], code=codes[1])
    data = bytearray(image.to_bytes())
    data[252:256] = np.array(codes, dtype="<i2").tobytes()  # nibabel sets one of them where both are 0
    (tmp_path / "scan.nii").write_bytes(data)
    folder = segmented(tmp_path, tmp_path / "scan.nii")
    found = nib.load(folder / "segmentation.nii.gz")
    assert (int(found.header["qform_code"]), int(found.header["sform_code"])) == codes
    assert found.affine == pytest.approx(nib.load(tmp_path / "scan.nii").affine, abs=1e-6)
    report = report_of(folder)
    assert report["low_confidence"] == (codes == (0, 0))
    assert len(report["warnings"]) == (codes == (0, 0))


@pytest.mark.parametrize("shape", [(20, 18), (20, 18, 1), (20, 18, 16, 1)])
def test_shape_on_disk_comes_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    voxels = cube(tuple(n for n in shape if n > 1)).reshape(shape)
    folder = segmented(tmp_path, write_scan(tmp_path / "scan.nii.gz", voxels), slice_axis=2)
    assert np.array_equal(np.asarray(nib.load(folder / "segmentation.nii.gz").dataobj), voxels)


def test_class_numbers_become_the_labels_values(tmp_path: Path) -> None:
    # Class 1 is the smallest value: b; class 2 is a.
    scan = write_scan(tmp_path / "scan.nii.gz", cube() * 2)
    folder = segmented(tmp_path, scan, {"a": 300, "b": 7})
    found = nib.load(folder / "segmentation.nii.gz")
    assert np.array_equal(np.asarray(found.dataobj), cube() * 300)
    assert found.get_data_dtype() == np.uint16


def test_report_counts_voxels_and_millilitres(tmp_path: Path) -> None:
    voxels = cube()
    voxels[0, 9, 9] = 2
    scan = write_scan(tmp_path / "scan.nii.gz", voxels, AFFINES["anisotropic"])
    folder = segmented(tmp_path, scan, {"cube": 1, "rim": 2, "none": 3})
    report = report_of(folder)
    # The cube has 6 x 5 x 4 = 120 voxels of 0.8 x 0.8 x 3 = 1.92 cubic millimetres.
    assert report["labels"]["cube"] == {"value": 1, "voxels": 120, "volume_ml": pytest.approx(0.2304, abs=1e-5),
                                        "mean_intensity": 1.0, "touches_border": False, "expected_dice": 1.0}
    assert report["labels"]["rim"]["touches_border"]
    assert (report["labels"]["none"]["voxels"], report["labels"]["none"]["mean_intensity"]) == (0, None)
    assert (report["labels"]["none"]["expected_dice"], report["expected_dice"]) == (None, 1.0)
    assert report["geometry"]["orientation"] == "LPS"
    assert report["geometry"]["spacing_mm"] == pytest.approx([0.8, 0.8, 3.0], abs=1e-5)
    assert set(report["seconds"]) == {"read", "preprocess", "network", "restore", "write"}
    assert report["model_sha256"] == (tmp_path / "bundle/models/model.pt.sha256").read_text().split()[0]
    assert "research use only" in report["notice"]


def test_a_scan_less_sure_than_the_validation_scans_or_without_what_is_always_there_is_to_be_looked_at(
    tmp_path: Path
) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz", cube(), AFFINES["anisotropic"])
    bundle = write_bundle(tmp_path / "bundle", labels={"cube": 1, "rim": 2}, least_quality=0.9, always_there=["rim"])
    # So hot that each class has a third: 2 x 40 voxels' worth over 120 and a third of 19 x 18 x 16 around the cube.
    (unsure,) = segmenter_of(bundle, scan, tmp_path / "hot", temperature=1e6).segment_all()
    assert unsure.low_confidence
    assert [warning.partition(":")[0] for warning in unsure.warnings] == ["no rim found", "expected Dice 0.04"]
    table = (tmp_path / "hot/summary.csv").read_text().splitlines()
    assert table[1].split(",")[4:6] == ["true", f"{unsure.expected_dice:.6f}"]
    (sure,) = segmenter_of(bundle, scan, tmp_path / "cold", always_there=["cube"]).segment_all()
    assert (sure.low_confidence, sure.warnings, sure.expected_dice) == (False, [], 1.0)


def test_who_observes_sees_labels_and_probabilities_of_each_scan(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz", cube(), AFFINES["anisotropic"])
    seen: list[tuple[str, np.ndarray, Sequence[np.ndarray]]] = []
    bundle = write_bundle(tmp_path / "bundle", labels={"cube": 1})
    segmenter_of(bundle, scan, tmp_path / "out", observer=lambda *facts: seen.append(facts)).segment_all()
    ((name, labelmap, probabilities),) = seen
    assert name == "scan"
    assert np.array_equal(labelmap, cube())
    assert np.array_equal(probabilities[1], cube())
    assert not (tmp_path / "out/scan/probabilities.nii.gz").exists()


def test_preview_shows_the_outline(tmp_path: Path) -> None:
    folder = segmented(tmp_path, write_scan(tmp_path / "scan.nii.gz", cube()))
    picture = np.asarray(Image.open(folder / "preview.png"))
    assert (picture == (230, 159, 0)).all(axis=2).sum() > 300


def test_dicom_series_gives_its_grid_and_modality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGLINE_PSEUDONYM_KEY", "test")
    slices = [slice_dataset(number) for number in range(5)]
    for number, content in enumerate(slices):
        content.Modality, content.RescaleIntercept = "MR", "0"
        content.PixelData = (slice_voxels(number) % 2).astype(np.int16).tobytes()
    series = write_slices(tmp_path / "Smith", slices)
    folder = segmented(tmp_path, series)
    image = SimpleITK.ReadImage(str(folder / "segmentation.nii.gz"))
    for path in series.iterdir():
        one = SimpleITK.ReadImage(str(path))
        _, _, number = image.TransformPhysicalPointToIndex(one.GetOrigin())
        assert np.array_equal(SimpleITK.GetArrayFromImage(image)[number], SimpleITK.GetArrayFromImage(one)[0])
    report = report_of(folder)
    assert report["modality"] == {"scan": "MR", "model": "CT"}
    assert report["warnings"] == ["modality MR: the model was trained on CT"]
    assert report["low_confidence"]
    assert "John" not in json.dumps(report)
    assert set(report["files"]) == {"segmentation.nii.gz", "segmentation.dcm", "preview.png"}


def test_one_bad_scan_of_three_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abc":
        write_scan(tmp_path / f"in/{name}.nii.gz", cube())
    truncated = tmp_path / "in/b.nii.gz"
    truncated.write_bytes(truncated.read_bytes()[:-20])
    segmenter = segmenter_of(write_bundle(tmp_path / "bundle", labels=CUBE_LABELS), tmp_path / "in", tmp_path / "out")
    with pytest.raises(SystemExit) as caught:
        segmenter.run()
    assert caught.value.code == 1
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert [(scan["input"], scan["status"], scan["folder"]) for scan in summary["scans"]] == [
        ("a.nii.gz", "ok", "a"), ("b.nii.gz", "failed", None), ("c.nii.gz", "ok", "c"),
    ]
    assert summary["scans"][1]["reason"] == "truncated-file"
    assert (summary["ok"], summary["failed"]) == (2, 1)
    assert str(tmp_path) not in (tmp_path / "out/summary.json").read_text()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "c", "summary.csv", "summary.json"]
    table = (tmp_path / "out/summary.csv").read_text().splitlines()
    assert table[0] == "input,status,folder,reason,low_confidence,expected_dice,seconds,cube_ml,warnings"
    assert table[1].startswith("a.nii.gz,ok,a,,false,")
    assert table[2].startswith("b.nii.gz,failed,,truncated-file,,")
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    assert printed.err.startswith("1 of 3 scans failed")


@pytest.mark.parametrize(("error", "reason"), [
    (MemoryError(), "out-of-memory"),
    (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), "out-of-memory"),
    (ZeroDivisionError("in /home/smith/scans/x.py\nline 2"), "unexpected-error"),
    (KeyError("x"), "unexpected-error"),
])
def test_unexpected_error_stops_no_other_scan(tmp_path: Path, error: Exception, reason: str) -> None:
    for name in "ab":
        write_scan(tmp_path / f"in/{name}.nii.gz", cube())
    root = write_bundle(tmp_path / "bundle", labels=CUBE_LABELS)
    segmenter = segmenter_of(root, tmp_path / "in", tmp_path / "out")
    inferer, calls = segmenter.parts["inferer"], []

    def failing_once(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise error
        return inferer(*arguments)

    segmenter.parts["inferer"] = failing_once
    first, second = segmenter.segment_all()
    assert (first.status, first.reason, first.folder) == ("failed", reason, None)
    assert "smith" not in str(first.message)
    assert "\n" not in str(first.message)
    assert second.status == "ok"


def test_same_scan_is_replaced_and_another_of_its_name_is_not(tmp_path: Path) -> None:
    root = write_bundle(tmp_path / "bundle", labels=CUBE_LABELS)
    first = write_scan(tmp_path / "one/ct.nii.gz", cube())
    other = write_scan(tmp_path / "two/ct.nii.gz", cube() * 0)
    (tmp_path / "out/notes").mkdir(parents=True)
    results = [segmenter_of(root, scan, tmp_path / "out").segment_all()[0] for scan in (first, other, first, other)]
    assert [result.folder.name for result in results if result.folder] == ["ct", "ct-2", "ct", "ct-2"]
    assert report_of(tmp_path / "out/ct")["labels"]["cube"]["voxels"] == 120
    assert report_of(tmp_path / "out/ct-2")["labels"]["cube"]["voxels"] == 0
    # A folder that is no result of ours is left alone too.
    named = write_scan(tmp_path / "three/notes.nii.gz", cube())
    assert segmenter_of(root, named, tmp_path / "out").segment_all()[0].folder == tmp_path / "out/notes-2"


def test_segmenting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    root = write_bundle(tmp_path / "bundle", labels=CUBE_LABELS, spacing_mm=(1.3, 1.3, 1.3))
    scan = write_scan(tmp_path / "scan.nii.gz", cube(), AFFINES["oblique"])
    outputs = [segmenter_of(root, scan, tmp_path / name).segment_all()[0].folder for name in ("one", "two")]
    for name in ("segmentation.nii.gz", "preview.png"):
        first, second = ((folder / name).read_bytes() for folder in outputs if folder)
        assert first == second


def test_garbage_collection_leaves_out_what_was_there_before_the_run_and_only_during_it(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz", cube())
    segmenter = segmenter_of(write_bundle(tmp_path / "bundle", labels=CUBE_LABELS), scan, tmp_path / "out")
    reader, seen = segmenter.parts["reader"], []

    def watched(data: Any) -> Any:
        seen.append(gc.get_freeze_count())
        return reader(data)

    segmenter.parts["reader"] = watched
    segmenter.segment_all()
    assert seen[0] > 10_000
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("damage", ["missing-weights", "changed-weights", "damaged-weights", "other-network"])
def test_weights_that_cannot_be_trusted_stop_before_any_scan(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_bundle(tmp_path / "bundle", labels=CUBE_LABELS)
    weights = root / "models/model.pt"
    overrides: dict[str, Any] = {}
    if damage == "missing-weights":
        weights.unlink()
    elif damage == "other-network":
        overrides["network_def::kernel_size"] = 3
    else:
        weights.write_bytes(weights.read_bytes() + b"x" if damage == "changed-weights" else b"no weights")
        if damage == "damaged-weights":
            (root / "models/model.pt.sha256").unlink()
    segmenter = segmenter_of(root, write_scan(tmp_path / "a.nii.gz", cube()), tmp_path / "out", **overrides)
    with pytest.raises(InputError) as caught:
        segmenter.segment_all()
    assert caught.value.reason == damage
    with pytest.raises(SystemExit) as stopped:
        segmenter.run()
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_output_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    root = write_bundle(tmp_path / "bundle", labels=CUBE_LABELS)
    scan = write_scan(tmp_path / "a.nii.gz", cube())
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as caught:
        segmenter_of(root, scan, tmp_path / "file/out").segment_all()
    assert caught.value.reason == "unwritable-output"


def test_a_summary_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_bundle(tmp_path / "bundle", labels=CUBE_LABELS)
    (tmp_path / "out/summary.json/in the way").mkdir(parents=True)
    with pytest.raises(SystemExit) as ended:
        segmenter_of(root, write_scan(tmp_path / "a.nii.gz", cube()), tmp_path / "out").run()
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert "summary.json: cannot be written (" in line
    assert (tmp_path / "out/a/segmentation.nii.gz").is_file()


def test_the_terminal_says_what_is_doubtful(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = write_scan(tmp_path / "a.nii.gz", cube())
    root = write_bundle(tmp_path / "bundle", labels={"cube": 1}, least_quality=2.0)
    segmenter_of(root, scan, tmp_path / "out").segment_all()
    said = capsys.readouterr().out
    assert "; low confidence: expected Dice 1.00: 95% of the validation scans have 2.00 or more" in said


def test_monai_bundle_run_segments_a_folder_of_an_odd_name(tmp_path: Path) -> None:
    root = write_bundle(tmp_path / "bundle", labels=CUBE_LABELS, spacing_mm=(1.3, 1.3, 1.3))
    odd = "$1_000,x#y z"
    for name in "ab":
        write_scan(tmp_path / odd / f"{name}.nii.gz", cube())
    (tmp_path / odd / "c.nii.gz").write_bytes((tmp_path / odd / "a.nii.gz").read_bytes()[:150])
    finished = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(root / "configs/inference.yaml"),
         "--bundle_root", str(root), "--input", odd, "--output_dir=1_000"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )
    assert finished.returncode == 1, finished.stderr
    assert "Traceback" not in finished.stderr
    assert finished.stderr.splitlines()[-1].startswith("1 of 3 scans failed")
    summary = json.loads((tmp_path / "1_000/summary.json").read_text())
    assert [scan["status"] for scan in summary["scans"]] == ["ok", "ok", "failed"]
    assert report_of(tmp_path / "1_000/a")["labels"]["cube"]["voxels"] > 0
