"""What metrics.json says of lesions, from rows whose counts are known by hand."""

import math
from dataclasses import replace

import pytest
from test_records_tables import LESION, SCORE

from pipeline.records.index import Index, IndexedCase
from pipeline.records.settings import EvaluationSettings
from pipeline.records.split_metrics import summarise
from pipeline.records.tables import CaseScore, LesionScore

SETTINGS = EvaluationSettings(lesion_labels=("lesion",))
CASE = IndexedCase("c1", "p1", "test", "i.nii", "l.nii", (9, 9, 9), (1.0, 1.0, 1.0), "RAS", {"lesion": 1}, "0", "1")
NONE = {"prediction_components": 0, "false_positive_components": 0}


def of_lesions(scores: list[CaseScore], lesions: list[LesionScore]) -> dict[str, float]:
    rows = [replace(score, label="lesion") for score in scores]
    cases = tuple(replace(CASE, case_id=row.case_id) for row in rows)
    index = Index("tiny", "data/raw/tiny", "CT", "CC0-1.0", {"lesion": 1}, cases)
    found: dict[str, float] = summarise(rows, lesions, index=index, settings=SETTINGS)["test"]["lesion_detection"][
        "lesion"]
    return found


def test_precision_and_f1_are_over_all_parts_and_false_ones_over_segmented_scans() -> None:
    # 3 of 4 parts are wrong in one scan; the other was lost. 1 of 3 lesions is found: 2 (1/3) (1/4) / (7/12) = 2/7.
    seen = replace(SCORE, prediction_components=4, false_positive_components=3)
    lost = replace(SCORE, case_id="lost", status="failed", **NONE)
    lesions = [replace(LESION, split="test", found=found) for found in (True, False, False)]
    assert of_lesions([seen, lost], lesions) == {
        "recall": pytest.approx(1 / 3), "precision": 0.25, "f1": pytest.approx(2 / 7), "false_positives_per_scan": 3.0}


@pytest.mark.parametrize(("parts", "lesions", "f1"), [
    ({"prediction_components": 2, "false_positive_components": 2}, [], 0.0),
    (NONE, [replace(LESION, split="test", found=False)], 0.0), (NONE, [], math.nan),
], ids=["only false parts", "only missed lesions", "neither"])
def test_f1_of_one_side_alone_is_zero_and_of_neither_undefined(
    parts: dict[str, int], lesions: list[LesionScore], f1: float
) -> None:
    assert of_lesions([replace(SCORE, **parts)], lesions)["f1"] == pytest.approx(f1, nan_ok=True)
