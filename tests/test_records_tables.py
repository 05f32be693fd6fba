"""Tables: what is written is read again, and what is undefined stays undefined."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.records.errors import InputError
from pipeline.records.tables import (
    CaseScore,
    LesionScore,
    TrainingPoint,
    read_metrics,
    read_table,
    write_metrics,
    write_table,
)

SCORE = CaseScore("c,1", "p1", "test", "organ", False, 0.5, 0.3, 0.25, 1.0, 0.9, 3.5, 1.5, 0.75, 10.0, 2.5, -0.75, 3, 2,
                  0.6, False, "scored")
LESION = LesionScore("c1", "validation", "lesion", 0.25, 7.5, 3, 2, 1, found=True)


def test_case_table_survives_the_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    write_table(path, CaseScore, [SCORE])
    assert path.read_text() == (
        "case_id,patient,split,label,is_region,dice,iou,recall,precision,specificity,hd95_mm,assd_mm,nsd,truth_ml,"
        "prediction_ml,volume_error,prediction_components,false_positive_components,expected_dice,low_confidence,"
        "status\n"
        '"c,1",p1,test,organ,false,0.5,0.3,0.25,1.0,0.9,3.5,1.5,0.75,10.0,2.5,-0.75,3,2,0.6,false,scored\n')
    assert read_table(path, CaseScore) == (SCORE,)


def test_lesion_table_survives_the_round_trip(tmp_path: Path) -> None:
    missed = replace(LESION, found=False)
    write_table(tmp_path / "lesions.csv", LesionScore, [LESION, missed])
    assert read_table(tmp_path / "lesions.csv", LesionScore) == (LESION, missed)


def test_undefined_is_an_empty_cell_and_nan_again(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    write_table(path, CaseScore, [replace(SCORE, hd95_mm=math.nan)])
    assert ",0.9,,1.5," in path.read_text()
    assert math.isnan(read_table(path, CaseScore)[0].hd95_mm)


def test_history_with_windows_line_ends_and_gaps_is_read(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_bytes(b"iteration,epoch,train_loss,validation_dice,learning_rate\r\n10,1,1.5,,0.002\r\n20,2,1.25,0.75,2e-05\r\n")
    first, second = read_table(path, TrainingPoint)
    assert math.isnan(first.validation_dice)
    assert second == TrainingPoint(20, 2, 1.25, 0.75, 2e-05)


def test_history_may_have_more_columns_and_other_tables_may_not(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("iteration,epoch,train_loss,validation_dice,learning_rate,validation_dice.organ\n10,1,1.5,,0.1,0.5\n")
    (point,) = read_table(path, TrainingPoint)
    assert (point.iteration, point.learning_rate) == (10, 0.1)
    write_table(path, LesionScore, [LESION])
    path.write_text(path.read_text().replace("found", "found,more"))
    with pytest.raises(InputError, match="columns case_id"):
        read_table(path, LesionScore)


def test_numbers_of_numpy_are_written_as_numbers(tmp_path: Path) -> None:
    write_table(tmp_path / "cases.csv", CaseScore, [replace(SCORE, dice=np.float64(1 / 3))])
    assert ",organ,false,0.333333,0.3,0.25," in (tmp_path / "cases.csv").read_text()


def test_metrics_are_strict_json_without_nan(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_metrics(path, {"test": {"dice": {"mean": math.nan, "organ": np.float64(2 / 3)}, "cases": 3}})
    expected = {"test": {"dice": {"mean": None, "organ": 0.666667}, "cases": 3}}
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == expected
    assert read_metrics(path) == expected


@pytest.mark.parametrize(("text", "message"), [
    ("case_id,split\n", "columns case_id, split"),
    ("", "columns none"),
    ("iteration,epoch,train_loss,validation_dice,learning_rate\n1,one,1,,1\n", "`one` as epoch in line 2"),
    ("iteration,epoch,train_loss,validation_dice,learning_rate\n1,1,1,,1,9\n", "in line 2"),
    ("iteration,epoch,train_loss,validation_dice,learning_rate\n1\n", "`` as epoch in line 2"),
])
def test_a_damaged_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "history.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_table(path, TrainingPoint)
    assert caught.value.reason == "bad-table"


def test_a_missing_table_says_what_to_run(tmp_path: Path) -> None:
    for read in (lambda path: read_table(path, CaseScore), read_metrics):
        with pytest.raises(InputError, match=r"no such file.*make repro") as caught:
            read(tmp_path / "none")
        assert caught.value.reason == "missing-table"


def test_invalid_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(InputError, match="invalid JSON"):
        read_metrics(tmp_path / "metrics.json")
