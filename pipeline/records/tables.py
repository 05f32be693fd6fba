"""The tables that training and evaluation leave behind: cases.csv, lesions.csv, calibration.csv and so on.

A number that is undefined is NaN here, an empty cell in a table and null in JSON. All are written with six decimals, so
the same scores give the same bytes.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from pipeline.records.errors import InputError
from pipeline.records.files import write_json, write_text
from pipeline.records.index import Split

Status = Literal["scored", "both empty", "truth empty", "prediction empty", "failed"]
DECIMALS = 6


@dataclass(frozen=True)
class CaseScore:
    """One row of cases.csv: one label, or one region of several, of one scan. Empty masks, lost scans: docs/adr/0001.

    The scores are those of `pipeline.metrics.LabelScores`. `expected_dice` is what inference expected without the
    truth, NaN where it found nothing, and of a region; `low_confidence` whether it called the scan not sure. `status`
    is ``failed`` where inference gave no segmentation for this scan.
    """

    case_id: str
    patient: str
    split: Split
    label: str
    is_region: bool
    dice: float
    iou: float
    recall: float
    precision: float
    specificity: float
    hd95_mm: float
    assd_mm: float
    nsd: float
    truth_ml: float
    prediction_ml: float
    volume_error: float
    prediction_components: int
    false_positive_components: int
    expected_dice: float
    low_confidence: bool
    status: Status


@dataclass(frozen=True)
class LesionScore:
    """One row of lesions.csv: one connected component of the truth; `x`, `y`, `z` is a voxel inside it."""

    case_id: str
    split: Split
    label: str
    volume_ml: float
    diameter_mm: float
    x: int
    y: int
    z: int
    found: bool


@dataclass(frozen=True)
class CalibrationStep:
    """One row of calibration.csv: voxels that were given their label with about the same probability.

    `confidence` is their mean probability, `right` the share that has the true label.
    """

    split: Split
    confidence: float
    right: float
    voxels: int


@dataclass(frozen=True)
class TrainingPoint:
    """One row of history.csv; `validation_dice` is NaN in rows without validation.

    The file has more columns behind these: Dice and recall of each label.
    """

    iteration: int
    epoch: int
    train_loss: float
    validation_dice: float
    learning_rate: float


def of_labels(rows: Iterable[CaseScore]) -> list[CaseScore]:
    """Returns the rows of labels: those of regions would count their labels twice."""
    return [row for row in rows if not row.is_region]


Row = TypeVar("Row", CaseScore, LesionScore, CalibrationStep, TrainingPoint)


def write_table(path: Path, kind: type[Row], rows: Sequence[Row]) -> None:
    """Writes rows as CSV with a header, atomically; without rows the header alone."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in fields(kind)])
    writer.writerows([_cell(value) for value in asdict(row).values()] for row in rows)
    write_text(path, text.getvalue())


def read_table(path: Path, kind: type[Row]) -> tuple[Row, ...]:
    """Reads a table that `write_table` wrote.

    Raises:
        InputError: ``missing-table``, ``bad-table`` (a column is missing or unknown, a cell cannot be read).
    """
    return table_in(_opened(path), kind, where=path)


def table_in(text: io.StringIO, kind: type[Row], *, where: Path | str) -> tuple[Row, ...]:
    """Reads a table that `write_table` wrote from its text; errors name `where` it is from.

    Raises:
        InputError: ``bad-table``.
    """
    reader = csv.DictReader(text, restval="")
    wanted = [column.name for column in fields(kind)]
    names = list(reader.fieldnames or [])
    if names[: len(wanted) if kind is TrainingPoint else None] != wanted:
        raise _bad_table(where, f"columns {', '.join(reader.fieldnames or ['none'])}", f"{', '.join(wanted)}")
    more = names[len(wanted) :]
    return tuple(_row(where, reader.line_num, kind, {name: cell for name, cell in cells.items() if name not in more})
                 for cells in reader)


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Writes nested metrics as JSON with six decimals, atomically; NaN becomes null."""
    write_json(path, _plain(metrics))


def read_metrics(path: Path) -> dict[str, Any]:
    """Reads what `write_metrics` wrote; null stays None.

    Raises:
        InputError: ``missing-table``, ``bad-table`` (not JSON).
    """
    with _opened(path) as text:
        try:
            content: dict[str, Any] = json.load(text)
        except json.JSONDecodeError as error:
            raise _bad_table(path, f"invalid JSON ({error})", "a JSON object") from error
    return content


def _opened(path: Path) -> io.StringIO:
    if not path.is_file():
        raise InputError(path, found="no such file", wanted="a table of an earlier stage", reason="missing-table",
                         remedy="run the stages before this one: make repro EXPERIMENT=<name>")
    return io.StringIO(path.read_text(encoding="utf-8"))


def _row(where: Path | str, line: int, kind: type[Row], cells: dict[str, str]) -> Row:
    types = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, cell in cells.items():
        try:
            values[name] = _reader(types[name])(cell)
        except (KeyError, ValueError) as error:
            raise _bad_table(where, f"`{cell}` as {name} in line {line}", "a value of that column") from error
    return kind(**values)


def _reader(wanted: Any) -> Callable[[str], Any]:
    readers: dict[Any, Callable[[str], Any]] = {
        float: lambda cell: float(cell) if cell else math.nan,
        bool: lambda cell: {"true": True, "false": False}[cell],
        int: int,
    }
    return readers.get(wanted, str)


def _cell(value: str | float | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(round(float(value), DECIMALS))
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float):
        return None if math.isnan(value) else round(float(value), DECIMALS)
    return value


def _bad_table(where: Path | str, found: str, wanted: str) -> InputError:
    return InputError(where, found=found, wanted=wanted, remedy="remove it and run its stage again", reason="bad-table")
