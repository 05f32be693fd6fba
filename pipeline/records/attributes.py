"""`participants.tsv`: what a dataset says of its patients beside scans, one line each, by which scores are grouped."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.records.errors import InputError

TABLE = "participants.tsv"
# What BIDS writes where nothing is known.
NOT_KNOWN = "n/a"


def read_attributes(root: Path, names: Any, *, where: Path) -> dict[str, dict[str, str]]:
    """Returns the attributes by what the first column says, a case or a patient; without names nothing is read.

    Args:
        root: the dataset's folder, which has `participants.tsv`: tabs, a header, a line for each case or patient.
        names: the columns to take. No other is kept: such tables hold what is private.
        where: `data.yaml`, for messages.

    Raises:
        InputError: ``invalid-value``, ``missing-attributes``, ``damaged-attributes``, ``unknown-attribute``.

    Source: Brain Imaging Data Structure 1.10, "Participants file".
    """
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise InputError(where, found=f"`attributes: {names}`", wanted=f"a list of columns of {TABLE}",
                         remedy="write for instance [scanner, site]", reason="invalid-value")
    if not names:
        return {}
    path = root / TABLE
    if not path.is_file():
        raise InputError(path, found="no such file", wanted=f"the table of {', '.join(names)}",
                         remedy=f"add it, or take `attributes` out of {where}", reason="missing-attributes")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, delimiter="\t", restval=NOT_KNOWN)
            columns = list(reader.fieldnames or [])
            rows = list(reader)
    except UnicodeDecodeError as error:
        raise InputError(path, found=f"bytes that are no UTF-8 ({error.reason})", wanted="a table in UTF-8",
                         remedy="save it as UTF-8", reason="damaged-attributes") from error
    unknown = [name for name in names if name not in columns[1:]]
    if unknown:
        raise InputError(path, found=f"columns {', '.join(columns) or 'none'}", wanted=f"a column {unknown[0]}",
                         remedy=f"correct `attributes` in {where}; columns are parted by tabs",
                         reason="unknown-attribute")
    return {row[columns[0]]: {name: (row[name] or NOT_KNOWN).strip() for name in names} for row in rows}


def attributes_of(case_id: str, patient: str, table: dict[str, dict[str, str]], names: Sequence[str]) -> dict[str, str]:
    """Returns a case's attributes: those of its own line, else of its patient's, else that they are not known."""
    return table.get(case_id) or table.get(patient) or dict.fromkeys(names, NOT_KNOWN)
