"""Evaluate against hand-known scores; inference is replaced by predictions that tiny_evaluation.py writes."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import surface_distance
import tiny_evaluation
from tiny_evaluation import AFFINE, EVALUATION, ORGAN, WORK, enter_experiment, label_map, write_predictions
from tiny_msd import write_scan

from pipeline import bundle
from pipeline.records.errors import InputError
from pipeline.records.tables import CalibrationStep, CaseScore, LesionScore, read_metrics, read_table
from pipeline.stages import evaluate


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter_experiment(tmp_path, monkeypatch)
    monkeypatch.setattr(bundle, "segment", write_predictions)
    return tmp_path


def scores() -> dict[tuple[str, str], CaseScore]:
    return {(row.case_id, row.label): row for row in read_table(WORK / "cases.csv", CaseScore)}


@pytest.mark.usefixtures("experiment")
def test_case_table_holds_hand_worked_scores() -> None:
    evaluate.run("tiny")
    table = scores()
    assert set(table) == {(case, label) for case in ("t1", "t2", "t3", "v1") for label in ("organ", "lesion")}
    organ, lesion = table["t1", "organ"], table["t1", "lesion"]
    # 24 of 32 voxels overlap; the organ is one voxel of 1 mm off.
    assert (organ.dice, organ.recall, organ.precision, organ.hd95_mm) == (0.75, 0.75, 0.75, 1.0)
    assert (organ.truth_ml, organ.prediction_ml, organ.status) == (0.064, 0.064, "scored")
    # A's 8 voxels of 9.
    assert (lesion.dice, lesion.recall, lesion.precision) == (pytest.approx(16 / 17, abs=1e-6),
                                                              pytest.approx(8 / 9, abs=1e-6), 1.0)
    assert table["t2", "lesion"].status == "both empty"
    assert math.isnan(table["t2", "lesion"].dice)
    assert (table["v1", "lesion"].dice, table["v1", "lesion"].status) == (0.0, "truth empty")
    assert (organ.patient, organ.split, table["v1", "organ"].split) == ("patient-t1", "test", "validation")


def test_a_region_is_scored_like_a_label_and_no_part_of_the_means(experiment: Path) -> None:
    evaluate.run("tiny")
    without = read_metrics(WORK / "metrics.json")["test"]
    more = "regions: {whole: [organ, lesion]}\nsurface_tolerance_mm: {whole: 0}\n"
    (experiment / "configs/tiny/evaluation.yaml").write_text(EVALUATION + more)
    evaluate.run("tiny")
    found = read_metrics(WORK / "metrics.json")["test"]
    whole = scores()["t1", "whole"]
    # Organ, A and B are 41 voxels, the shifted organ and A 40; in both are 24 and 8.
    assert (whole.is_region, whole.dice, whole.recall) == (True, pytest.approx(64 / 81, abs=1e-6),
                                                           pytest.approx(32 / 41, abs=1e-6))
    assert not scores()["t1", "organ"].is_region
    # t2 is right, t3 lost.
    assert found["dice"]["whole"] == pytest.approx((64 / 81 + 1 + 0) / 3, abs=1e-6)
    assert found["dice"]["mean"] == without["dice"]["mean"]
    assert found["intervals"]["dice"]["mean"] == without["intervals"]["dice"]["mean"]


@pytest.mark.usefixtures("experiment")
def test_how_sure_the_model_is_is_set_against_how_often_it_is_right() -> None:
    evaluate.run("tiny")
    # Of 720 voxels t1 has two times 8 of the organ wrong, and B; t2 has none wrong. All are 80% sure.
    right = (1440 - 17) / 1440
    assert read_table(WORK / "calibration.csv", CalibrationStep)[-1] == CalibrationStep(
        "test", 0.8, pytest.approx(right, abs=1e-6), 1440)
    assert (WORK / "plots/reliability.csv").read_text() == f"confidence,right\n0.800000,{right:.6f}\n"
    test = read_metrics(WORK / "metrics.json")["test"]
    assert test["calibration"]["ece"] == pytest.approx(right - 0.8, abs=1e-6)
    # What was expected of t1 is (0.7 + 0.9) / 2, of t2 0.95; it is (0.75 + 16 / 17) / 2 and 1. The lost scan has none.
    assert (scores()["t1", "organ"].expected_dice, scores()["t1", "organ"].low_confidence) == (0.7, True)
    assert math.isnan(scores()["t3", "organ"].expected_dice)
    foresight = test["foresight"]
    dice = (0.75 + 16 / 17) / 2
    assert (foresight["cases"], foresight["low"], foresight["auc"], foresight["flagged_low"]) == (2, 1, 1.0, 1)
    assert foresight["bias"] == pytest.approx((0.8 - dice + 0.95 - 1) / 2, abs=1e-6)


@pytest.mark.usefixtures("experiment")
def test_a_lost_scan_counts_as_missed() -> None:
    evaluate.run("tiny")
    for label in ("organ", "lesion"):
        row = scores()["t3", label]
        assert (row.dice, row.recall, row.precision, row.status) == (0.0, 0.0, 0.0, "failed")
        assert math.isnan(row.hd95_mm)
    assert scores()["t3", "organ"].truth_ml == 0.064


@pytest.mark.usefixtures("experiment")
def test_predictions_say_nothing_that_differs_from_run_to_run() -> None:
    evaluate.run("tiny")
    report = json.loads((WORK / "predictions/t1/report.json").read_text())
    assert set(report) == {"input", "labels", "low_confidence"}
    lost = json.loads((WORK / "predictions/summary.json").read_text())["scans"][-1]
    assert lost == {"input": "t3.nii.gz", "status": "failed", "message": "its gzip ends early"}
    assert not (WORK / "predictions/summary.csv").exists()


@pytest.mark.usefixtures("experiment")
def test_metrics_are_means_over_cases_then_labels() -> None:
    evaluate.run("tiny")
    metrics = read_metrics(WORK / "metrics.json")
    test, validation = metrics["test"], metrics["validation"]
    organ, lesion = (0.75 + 1 + 0) / 3, (16 / 17 + 0) / 2
    assert test["dice"] == pytest.approx({"mean": (organ + lesion) / 2, "organ": organ, "lesion": lesion}, abs=1e-6)
    assert test["recall"]["lesion"] == pytest.approx((8 / 9 + 0) / 2, abs=1e-6)
    assert (test["cases"], test["failed"], test["empty"]) == (3, 1, {"organ": 0, "lesion": 1})
    assert test["hd95_undefined"] == {"organ": 1, "lesion": 1}
    assert validation["dice"] == {"mean": 0.5, "organ": 1.0, "lesion": 0.0}
    assert validation["dice_where_present"] == {"mean": 1.0, "organ": 1.0, "lesion": None}
    assert (validation["truth_empty"]["lesion"], validation["false_positive_ml"]["lesion"]) == (1, 0.016)
    assert validation["false_positive_components"]["lesion"] == 1


@pytest.mark.usefixtures("experiment")
def test_lesions_are_found_or_missed_by_size() -> None:
    evaluate.run("tiny")
    lesions = {(row.case_id, row.x, row.y, row.z): row for row in read_table(WORK / "lesions.csv", LesionScore)}
    assert {key: row.found for key, row in lesions.items()} == {
        ("t1", 7, 1, 1): True, ("t1", 7, 7, 4): False, ("t3", 7, 1, 1): False}
    assert lesions["t1", 7, 1, 1].diameter_mm == pytest.approx(3.126, abs=1e-3)
    assert lesions["t1", 7, 7, 4].diameter_mm == pytest.approx(1.563, abs=1e-3)
    test = read_metrics(WORK / "metrics.json")["test"]
    assert test["lesions"] == {"lesion": {"all": 3, "1-3 mm": 1, "3-6 mm": 2}}
    assert test["lesion_recall"] == {"lesion": {"all": pytest.approx(1 / 3, abs=1e-6), "1-3 mm": 0.0, "3-6 mm": 0.5}}


@pytest.mark.usefixtures("experiment")
def test_lesions_and_scans_are_detected_or_not() -> None:
    evaluate.run("tiny")
    metrics = read_metrics(WORK / "metrics.json")
    # Of t1's, t2's and t3's predictions one part is a lesion, A of t1, which it touches; one of three lesions is found.
    assert metrics["test"]["lesion_detection"]["lesion"] == {
        "recall": pytest.approx(1 / 3, abs=1e-6), "precision": 1.0, "f1": 0.5, "false_positives_per_scan": 0.0}
    assert metrics["validation"]["lesion_detection"]["lesion"] == {
        "recall": None, "precision": 0.0, "f1": 0.0, "false_positives_per_scan": 1.0}
    # t1 and t3, which is lost, have lesions; t2 has none.
    detection = metrics["test"]["detection"]["lesion"]
    assert (detection["sensitivity"]["share"], detection["sensitivity"]["scans"]) == (0.5, 2)
    assert (detection["specificity"]["share"], detection["specificity"]["scans"]) == (1.0, 1)
    assert metrics["validation"]["detection"]["lesion"]["specificity"]["share"] == 0.0


@pytest.mark.usefixtures("experiment")
def test_a_tolerance_in_evaluation_yaml_is_the_surfaces() -> None:
    evaluate.run("tiny")
    # t1's organ is one voxel of 1 mm off.
    assert scores()["t1", "organ"].nsd == 1.0
    Path("configs/tiny/evaluation.yaml").write_text("surface_tolerance_mm: {organ: 0.5}\n")
    evaluate.run("tiny")
    masks = [label_map(part) == ORGAN for part in ("organ", "shifted organ")]
    distances = surface_distance.compute_surface_distances(*masks, (1.0, 1.0, 2.0))
    expected = surface_distance.compute_surface_dice_at_tolerance(distances, 0.5)
    assert expected < 1
    assert scores()["t1", "organ"].nsd == pytest.approx(expected, abs=1e-6)
    interval = read_metrics(WORK / "metrics.json")["test"]["intervals"]["dice"]["organ"]
    assert 0.0 <= interval["low"] < (0.75 + 1 + 0) / 3 < interval["high"] <= 1.0


@pytest.mark.usefixtures("experiment")
def test_without_lesion_labels_the_lesion_table_is_a_header() -> None:
    Path("configs/tiny/evaluation.yaml").write_text("pictures: 1\n")
    evaluate.run("tiny")
    assert (WORK / "lesions.csv").read_text() == "case_id,split,label,volume_ml,diameter_mm,x,y,z,found\n"
    assert sorted(path.name for path in (WORK / "plots").iterdir()) == [
        "dice_by_case.csv", "reliability.csv", "volumes.csv"]


@pytest.mark.usefixtures("experiment")
def test_plots_rank_test_cases() -> None:
    evaluate.run("tiny")
    with (WORK / "plots/dice_by_case.csv").open() as stream:
        rows = [(row["rank"], row["case_id"], float(row["dice"])) for row in csv.DictReader(stream)]
    assert rows == [("1", "t3", 0.0), ("2", "t1", pytest.approx((0.75 + 16 / 17) / 2, abs=1e-6)), ("3", "t2", 1.0)]
    assert (WORK / "plots/lesion_recall_lesion.csv").read_text().splitlines() == [
        "size,recall", "all,0.333333", "1-3 mm,0.000000", "3-6 mm,0.500000"]


@pytest.mark.usefixtures("experiment")
def test_a_rerun_gives_the_same_bytes() -> None:
    names = ("cases.csv", "lesions.csv", "calibration.csv", "metrics.json", "plots/dice_by_case.csv")
    evaluate.run("tiny")
    first = [(WORK / name).read_bytes() for name in names]
    evaluate.run("tiny")
    assert [(WORK / name).read_bytes() for name in names] == first
    assert "NaN" not in (WORK / "metrics.json").read_text()


def test_a_prediction_of_an_earlier_run_is_not_scored_again(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate.run("tiny")
    monkeypatch.setattr(tiny_evaluation, "PREDICTIONS", {"t2": label_map("organ")})
    evaluate.run("tiny")
    assert scores()["t1", "organ"].status == "failed"
    assert not (experiment / WORK / "predictions/t1").exists()


@pytest.mark.usefixtures("experiment")
@pytest.mark.parametrize(("prediction", "affine"), [
    (label_map("organ")[:, :, :5], AFFINE), (label_map("organ"), np.diag([1.0, 1.0, 2.5, 1.0])),
], ids=["shape", "affine"])
def test_a_prediction_on_another_grid_is_an_error(
    prediction: np.ndarray, affine: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_another_grid(bundle_root: Path, scans: dict[str, Path], *, output_dir: Path, **more: Any) -> None:
        write_predictions(bundle_root, scans, output_dir=output_dir, **more)
        for name in scans:
            write_scan(output_dir / name / "segmentation.nii.gz", prediction, affine)

    monkeypatch.setattr(bundle, "segment", on_another_grid)
    with pytest.raises(InputError, match=r"predictions/v1/segmentation.nii.gz.*truth's shape") as caught:
        evaluate.run("tiny")
    assert caught.value.reason == "other-grid"


@pytest.mark.usefixtures("experiment")
@pytest.mark.parametrize(("text", "reason"), [
    ("surface_tolerance_mm: wide\n", "bad-tolerance"), ("surface_tolerance_mm: {tumour: 2}\n", "bad-tolerance"),
    ("regions: {whole: [tumour]}\n", "bad-region"), ("regions: {organ: [lesion]}\n", "bad-region"),
    ("regions: {whole: []}\n", "bad-region"), ("regions: {mean: [organ]}\n", "bad-region"),
    ("regions: [organ]\n", "bad-region"),
    ("low_dice: 1.5\n", "bad-low-dice"), ("low_dice: yes\n", "bad-low-dice"),
    ("subgroups: [scanner]\n", "unknown-column"), ("subgroups: fold\n", "unknown-column"),
    ("lesion_labels: [tumour]\n", "unknown-label"), ("lesion_diameters_mm: [5, 3]\n", "bad-edges"),
    ("lesion_diameters_mm: 3\n", "bad-edges"), ("lesion_labels: lesion\n", "unknown-label"),
    ("pictures: many\n", "bad-count"), ("viewer_cases: -1\n", "bad-count"),
])
def test_settings_that_do_not_fit_are_refused_before_inference(
    text: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "segment", lambda *_, **__: pytest.fail("inference was started"))
    Path("configs/tiny/evaluation.yaml").write_text(text)
    with pytest.raises(InputError, match=r"evaluation\.yaml") as caught:
        evaluate.run("tiny")
    assert caught.value.reason == reason


@pytest.mark.usefixtures("experiment")
def test_an_index_without_test_cases_is_refused() -> None:
    path = WORK / "index.json"
    content = json.loads(path.read_text())
    content["cases"] = [{**case, "split": "train"} for case in content["cases"]]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="no validation or test case"):
        evaluate.run("tiny")


@pytest.mark.usefixtures("experiment")
def test_a_bundle_that_segments_nothing_is_an_error_and_not_a_score_of_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "segment", lambda *_, **__: [])
    with pytest.raises(InputError) as caught:
        evaluate.run("tiny")
    assert caught.value.reason == "all-scans-lost"
    assert not Path("work/tiny/metrics.json").exists()
