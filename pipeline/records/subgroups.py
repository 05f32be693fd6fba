"""Scores by what the scans have in common: fold, orientation, spacing, size of what is sought, and attributes."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pipeline.records.index import IndexedCase
from pipeline.records.tables import CaseScore

# More numbers than these are put into thirds.
MOST_VALUES = 4
NONE = "none"  # the group of cases that have no value
TRUTH_ML = "truth_ml"
COLUMNS: dict[str, Callable[[IndexedCase], str | float | None]] = {
    "fold": lambda case: case.fold,
    "orientation": lambda case: case.orientation,
    "spacing_x_mm": lambda case: case.spacing_mm[0],
    "spacing_y_mm": lambda case: case.spacing_mm[1],
    "spacing_z_mm": lambda case: case.spacing_mm[2],
    "largest_spacing_mm": lambda case: max(case.spacing_mm),
}
# What is looked at if nothing is said, where it differs between scans.
USUAL = ("fold", "orientation", "largest_spacing_mm", TRUTH_ML)


def columns_of(cases: Sequence[IndexedCase]) -> tuple[str, ...]:
    """Returns the names by which scores can be grouped: columns of the index, the true volume, attributes."""
    attributes = {name for case in cases for name in case.attributes}
    return (*COLUMNS, TRUTH_ML, *sorted(attributes))


def group_scores(rows: Sequence[CaseScore], cases: Mapping[str, IndexedCase],
                 column: str) -> dict[str, list[CaseScore]]:
    """Returns the rows by the group of their case; groups in the order of their values.

    Up to `MOST_VALUES` different numbers are groups of their own, more are put into thirds; each fold is a group. By
    ``truth_ml`` each label has its own thirds, of the rows whose truth has it.

    Args:
        rows: scores of labels.
        cases: the index's, by id.
        column: one of `columns_of`.
    """
    if column == TRUTH_ML:
        return _by_size(rows)
    values = {row.case_id: _value(cases[row.case_id], column) for row in rows}
    names = _names(set(values.values()), most=math.inf if column == "fold" else MOST_VALUES)
    groups: dict[str, list[CaseScore]] = {name: [] for name in dict.fromkeys(names.values())}
    for row in rows:
        groups[names[values[row.case_id]]].append(row)
    return groups


def _value(case: IndexedCase, column: str) -> str | float:
    found = COLUMNS[column](case) if column in COLUMNS else case.attributes.get(column)
    if found is None:
        return NONE
    # What a table of attributes has is text.
    return _number(found) if isinstance(found, str) else round(float(found), 3)


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _names(values: set[str | float], *, most: float) -> dict[str | float, str]:
    """Returns what the group of each value is called, more than so `most` numbers in thirds; text after numbers."""
    numbers = sorted(value for value in values if isinstance(value, float))
    texts = sorted(value for value in values if isinstance(value, str))
    if len(numbers) <= most:
        named: dict[str | float, str] = {number: f"{number:g}" for number in numbers}
    else:
        parts = [part for part in np.array_split(np.array(numbers), 3) if len(part)]
        named = {float(number): _span(part[0], part[-1]) for part in parts for number in part}
    return named | {text: text for text in texts}


def _span(low: float, high: float) -> str:
    return f"{low:g} to {high:g}" if low < high else f"{low:g}"


def _by_size(rows: Sequence[CaseScore]) -> dict[str, list[CaseScore]]:
    names = ("smallest third", "middle third", "largest third")
    groups: dict[str, list[CaseScore]] = {name: [] for name in names}
    for label in dict.fromkeys(row.label for row in rows):
        present = sorted((row for row in rows if row.label == label and row.truth_ml > 0),
                         key=lambda row: (row.truth_ml, row.case_id))
        for place, row in enumerate(present):
            groups[names[3 * place // len(present)]].append(row)
    return groups
