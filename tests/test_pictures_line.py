"""Pictures through the whole line: generated RGB and RGBA PNGs with instance masks, from the audit to the report."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny_pictures import COLUMNS, ROWS, blob_labels, blob_picture, write_pictures

from pipeline.bundle import open_segmenter, series_rule_of
from pipeline.engine.cache import read_cached_cases
from pipeline.imaging.discovery import find_scans
from pipeline.imaging.nifti import write_nifti
from pipeline.records.index import read_index
from pipeline.records.plan import read_plan
from pipeline.stages import audit, evaluate, plan, preprocess, report, schedule, train
from pipeline.stages.report.wording import units_of

PROJECT = Path(__file__).parent.parent
NAMES = [f"p{number:02}" for number in range(10)]
WORK, RAW = Path("work/tiny"), Path("data/raw/tiny")
DATA = {
    "dataset": "tiny", "layout": "folders", "split": {"validation": 0.2, "test": 0.2, "seed": 0},
    "folders": {"label_values": "instances", "label_names": {"blob": 1}, "modality": "microscopy", "licence": "CC0"},
}


def write_experiment(root: Path, data: dict[str, object]) -> None:
    """Makes a repository in `root` with the template, the pictures and their configuration."""
    shutil.copytree(PROJECT / "bundles", root / "bundles")
    write_pictures(root / RAW, NAMES)
    configs = root / "configs/tiny"
    configs.mkdir(parents=True)
    (configs / "data.yaml").write_text(yaml.safe_dump(data))
    (configs / "bundle.yaml").write_text("iterations: 40\nepochs: 2\nvalidate_every: 1\nwidth: 8\nbatch_size: 2\n")
    (configs / "evaluation.yaml").write_text("lesion_labels: [blob]\npictures: 1\n")


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository after all stages."""
    root = tmp_path_factory.mktemp("line")
    write_experiment(root, DATA)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(train, "lineage_of_training", lambda _: "lineage")
        patch.setattr(train.live, "start_run", lambda *_, **__: None)
        for stage in (audit, plan, preprocess, schedule, train, evaluate, report):
            stage.run("tiny")
    return root


@pytest.fixture(autouse=True)
def _inside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "line" in request.fixturenames:
        monkeypatch.chdir(request.getfixturevalue("line"))


def test_the_index_says_what_the_pictures_are(line: Path) -> None:
    index = read_index(WORK / "index.json")
    assert (index.channels, index.are_pictures, index.are_instances, index.has_spacing) == (
        ("red", "green", "blue"), True, True, False)
    assert [case.case_id for case in index.cases] == NAMES
    case = index.cases[3]
    assert (case.shape, case.spacing_mm, case.orientation) == ((COLUMNS, ROWS, 1), (1, 1, 1), "none")
    assert case.label_voxels == {"blob": int((blob_labels(3) > 0).sum())}
    assert json.loads((WORK / "audit.json").read_text()) == []
    assert "channels red, green, blue; alpha channels are dropped" in (WORK / "audit.md").read_text()


def test_the_plan_takes_three_channels_and_pictures(line: Path) -> None:
    planned = read_plan(WORK / "plan.yaml")
    assert (planned.channels, planned.pictures, planned.spatial_dims) == (("red", "green", "blue"), True, 2)
    # Nobody knows how large a pixel is: also of new pictures, whatever they state, none is resampled.
    assert planned.spacing_mm == (-1, -1, -1)
    # 48 and 40 are halved four times: whole, in multiples of 16.
    assert (planned.network_def["in_channels"], planned.patch_size) == (3, (48, 48, 1))
    channels = json.loads((WORK / "fingerprint.json").read_text())["channels"]
    assert list(channels) == ["red", "green", "blue"]
    # The ground is 20, 40 and 90, a good fifth is blobs of 200, 120 and 60, and the noise 14.5 on average.
    assert channels["red"]["darkest"] > 60
    assert 85 < channels["blue"]["darkest"] < channels["blue"]["brightest"] < 105


def test_the_cache_has_each_channel_normalised_by_itself(line: Path) -> None:
    for case in read_cached_cases(WORK / "cache", "train"):
        number = NAMES.index(case.case_id)
        # Of an array (x, y, z) in RAS order: both axes of the picture run the other way.
        pixels = blob_picture(number).transpose(2, 1, 0)[:, ::-1, ::-1].astype(np.float64)
        expected = np.stack([(one - one.mean()) / one.std() for one in pixels])
        np.testing.assert_allclose(case.image[..., 0], expected, atol=1e-5)
        np.testing.assert_array_equal(case.label[..., 0], (blob_labels(number).T > 0)[::-1, ::-1])


def test_metadata_and_scores(line: Path) -> None:
    metadata = json.loads((WORK / "bundle/configs/metadata.json").read_text())
    image = metadata["network_data_format"]["inputs"]["image"]
    assert (image["num_channels"], image["channel_def"]) == (3, {"0": "red", "1": "green", "2": "blue"})
    assert json.loads((WORK / "metrics.json").read_text())["test"]["dice"]["blob"] > 0.7


def test_segmentations_are_pngs_of_the_picture_in_its_own_size(line: Path) -> None:
    index = read_index(WORK / "index.json")
    for case in index.in_split("test"):
        folder = WORK / "predictions" / case.case_id
        assert sorted(path.name for path in folder.iterdir()) == ["preview.png", "report.json", "segmentation.png"]
        found = np.asarray(Image.open(folder / "segmentation.png"))
        truth = blob_labels(NAMES.index(case.case_id)) > 0
        assert (found.shape, found.dtype) == ((ROWS, COLUMNS), np.uint8)
        assert ((found == 1) & truth).sum() > 0.9 * truth.sum()
        said = json.loads((folder / "report.json").read_text())
        assert (said["low_confidence"], said["warnings"]) == (False, [])
        assert said["geometry"] == {"shape": [COLUMNS, ROWS], "channels": 3, "spacing_mm": None}
        assert said["labels"]["blob"]["pixels"] == int((found == 1).sum())
        assert said["labels"]["blob"]["area_mm2"] is None
        red, _, blue = said["labels"]["blob"]["mean_intensity"]
        assert red > blue + 50  # by 60 within the blobs, and by -70 beside them


def test_the_report_speaks_of_pixels_and_shows_colours(line: Path) -> None:
    html = Path("reports/tiny/index.html").read_text()
    assert "HD95 <small>pixels</small>" in html
    assert "Truth <small>pixels</small>" in html
    assert not re.search(r", mL|\d mL| mL<", html)
    assert "patient’s right" not in html
    assert "red, green, blue" in html
    assert " mm" not in Path("reports/tiny/report.md").read_text().split("## What was run")[0]


def test_of_a_mixed_folder_only_what_is_like_the_training_is_segmented(line: Path, tmp_path: Path) -> None:
    Image.fromarray(blob_picture(3)).save(tmp_path / "colour.png")
    Image.fromarray(blob_picture(3)).save(tmp_path / "colour.tif")
    Image.fromarray(blob_picture(3)[..., 0]).save(tmp_path / "grey.png")
    write_nifti(tmp_path / "volume.nii.gz", np.zeros((9, 8, 7), np.int16), affine=np.eye(4))
    found = find_scans(tmp_path, rule=series_rule_of(WORK / "bundle"))
    results = open_segmenter(WORK / "bundle").segment_found(found, tmp_path / "out")
    assert {result.relative: result.reason for result in results} == {
        "colour.png": None, "colour.tif": None, "grey.png": "other-channels", "volume.nii.gz": "not-a-picture"}
    grey = next(result for result in results if result.relative == "grey.png")
    assert str(grey.message).startswith("1 channel; expected 3 (red, green, blue)")
    one, other = (Image.open(tmp_path / f"out/{name}/segmentation.png") for name in ("colour", "colour-2"))
    assert one.size == (COLUMNS, ROWS)
    assert one.tobytes() == other.tobytes()


def test_each_faulty_file_costs_one_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path, DATA)
    cut = RAW / "images/p00.png"
    cut.write_bytes(cut.read_bytes()[:200])
    Image.fromarray(blob_picture()[..., 0]).save(RAW / "images/p01.png")
    Image.fromarray(blob_labels()[1:]).save(RAW / "labels/p02.png")
    Image.fromarray(blob_picture()).save(RAW / "labels/p03.png")
    Image.fromarray(np.full((ROWS, COLUMNS, 3), 9, np.uint8)).save(RAW / "images/p04.png")
    (RAW / "images/p05.png").unlink()
    Image.fromarray(np.zeros((ROWS, COLUMNS), np.uint8)).save(RAW / "labels/p06.png")
    Image.fromarray(blob_picture()).save(RAW / "images/p07.png")
    veiled = np.concatenate([blob_picture(), np.full((ROWS, COLUMNS, 1), 99, np.uint8)], axis=-1)
    Image.fromarray(veiled).save(RAW / "images/p07.png")
    audit.run("tiny")
    findings = json.loads((WORK / "audit.json").read_text())
    assert {(one["check"], one["file"]) for one in findings} == {
        ("truncated-file", "images/p00.png"), ("other-channels", "images/p01.png"),
        ("shape-mismatch", "labels/p02.png"), ("not-single-channel", "labels/p03.png"),
        ("constant-image", "images/p04.png"), ("unpaired-file", "labels/p05.png"), ("empty-label", "labels/p06.png"),
        ("alpha-dropped", "images/p07.png"),
    }
    assert [case.case_id for case in read_index(WORK / "index.json").cases] == ["p06", "p07", "p08", "p09"]


def test_spacing_of_data_yaml_counts_where_the_files_state_none(tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path, {**DATA, "folders": {**DATA["folders"], "spacing_mm": [0.5, 0.25]}})  # type: ignore[dict-item]
    audit.run("tiny")
    plan.run("tiny")
    index = read_index(WORK / "index.json")
    assert index.has_spacing
    assert index.cases[0].spacing_mm == (0.5, 0.25, 1.0)
    assert read_plan(WORK / "plan.yaml").spacing_mm == (0.5, 0.25, -1.0)
    assert units_of(index).size == "mm²"
