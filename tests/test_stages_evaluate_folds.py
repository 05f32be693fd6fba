"""Evaluation and report of an experiment with folds: who segments whom, and which scores are called what."""

import math
from pathlib import Path

import pytest
import yaml
from tiny_evaluation import WORK
from tiny_folds import Segmenting, enter_folds, summary

from pipeline import bundle
from pipeline.records.index import read_index
from pipeline.records.model_card import markdown_card
from pipeline.records.tables import CaseScore, TrainingPoint, read_metrics, read_table, write_table
from pipeline.stages import evaluate, report

PLAN = {"network_def": {"_target_": "UNet"}, "patch_size": [8, 8, 8], "spacing_mm": [1, 1, 1], "iterations": 9,
        "batch_size": 2, "accumulation": 2, "processes": 1}


def evaluated(folder: Path, monkeypatch: pytest.MonkeyPatch, *, keeps_tests: bool) -> Segmenting:
    enter_folds(folder, monkeypatch, keeps_tests=keeps_tests)
    segmenting = Segmenting()
    monkeypatch.setattr(bundle, "segment", segmenting)
    (WORK / "bundle/models").mkdir(parents=True)
    for fold in range(2):
        (WORK / f"bundle/models/model.fold{fold}.pt").write_text("weights")
        (WORK / f"bundle/models/model.fold{fold}.pt.sha256").write_text(f"digest{fold}  model.fold{fold}.pt\n")
    evaluate.run("tiny")
    return segmenting


def reported() -> tuple[str, str]:
    """Returns the report's words, as HTML and as Markdown."""
    points = [TrainingPoint(50 * epoch, epoch, 2.0 / epoch, 0.8 if epoch == 2 else math.nan, 0.002)
              for epoch in (1, 2)]
    (WORK / "bundle/docs").mkdir()
    for path in ("history.csv", "bundle/docs/history.fold0.csv", "bundle/docs/history.fold1.csv"):
        write_table(WORK / path, TrainingPoint, points)
    (WORK / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    (WORK / "schedule.yaml").write_text("iterations: 40\n")
    (WORK / "audit.json").write_text("[]")
    report.run("tiny")
    return Path("reports/tiny/index.html").read_text(), Path("reports/tiny/report.md").read_text()


def test_each_case_is_segmented_by_the_network_that_did_not_see_it_and_test_cases_by_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenting = evaluated(tmp_path, monkeypatch, keeps_tests=True)
    assert segmenting.asked == {"v1": [0], "a1": [1], "t1": None, "t2": None, "t3": None}
    assert {row.case_id: row.split for row in read_table(WORK / "cases.csv", CaseScore)} == {
        "v1": "validation", "a1": "validation", "t1": "test", "t2": "test", "t3": "test"}
    metrics = read_metrics(WORK / "metrics.json")
    assert (metrics["validation"]["cases"], metrics["test"]["cases"]) == (2, 3)
    assert (metrics["validation"]["failed"], metrics["test"]["failed"]) == (1, 1)
    assert sorted(summary()) == ["a1.nii.gz", "t1.nii.gz", "t2.nii.gz", "t3.nii.gz", "v1.nii.gz"]


def test_the_report_says_which_scores_are_out_of_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated(tmp_path, monkeypatch, keeps_tests=True)
    html, markdown = reported()
    assert "by the packaged ensemble of 2 networks" in html
    assert "over the 2 other cases, each segmented by the one network that did not see its patient" in html
    assert html.count("<td>out of fold</td>") == 4  # two labels of two cases
    assert html.count('class="fold"') == 4
    assert "<code>digest1</code>" in html
    assert "Test, by the ensemble of 2 networks: 3 cases, 1 lost" in markdown
    assert "2 in 2 folds, 3 test cases" in markdown


def test_without_test_cases_everything_is_about_out_of_fold_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(tmp_path, monkeypatch, keeps_tests=False)
    metrics = read_metrics(WORK / "metrics.json")
    assert (metrics["validation"]["cases"], metrics["test"]["cases"]) == (5, 0)
    assert metrics["test"]["dice"]["mean"] is None
    assert "evaluate: mean out-of-fold Dice" in capsys.readouterr().out
    assert len((WORK / "plots/dice_by_case.csv").read_text().splitlines()) == 6
    html, markdown = reported()
    assert "Mean out-of-fold Dice" in html
    assert "(standard deviation over 2 folds)" in html
    assert "1 of 2 scans lost" not in html
    assert "2 of 5 scans lost" in html
    assert "No case is kept to test the ensemble on." in markdown
    assert "test case" not in html
    card = markdown_card("tiny", read_index(WORK / "index.json"), PLAN, metrics)
    assert "- Scores: Out of fold: mean Dice" in card
    assert "- Ensemble: 2 networks, each trained without another fold" in card
