"""How each scan ended, and the two tables of all of them: summary.json and summary.csv."""

import csv
import errno
import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.engine.memory import is_out_of_memory
from pipeline.records.errors import InputError
from pipeline.records.files import write_json, written_aside

SUMMARY = "summary.json"
SUMMARY_TABLE = "summary.csv"
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
ABSOLUTE_PATH = re.compile(r"(?<![\w.])(?:/|[A-Za-z]:\\)[^\s'\",;:]+")


@dataclass(frozen=True)
class ScanResult:
    """How one scan ended.

    Attributes:
        name: the name it was found under.
        relative: POSIX path from the given input.
        status: ``ok`` or ``failed``.
        folder: its output folder; None if it failed.
        reason: short id of the failure, None if ok.
        message: the failure in one line without absolute paths, None if ok.
        seconds: by phase, as far as it got; empty where an earlier run did it.
        volumes_ml: by label name; empty if it failed, and of a picture.
        pixels: by label name, of a picture.
        warnings: what is doubtful about the scan.
        low_confidence: whether the result is to be looked at before it is used.
        expected_dice: the mean over labels that the model's own probabilities let expect; None where none was found.
        is_earlier: a run before this one did it.
        details: what only the terminal may show, such as the descriptions of series; written nowhere.
    """

    name: str
    relative: str
    status: Literal["ok", "failed"]
    folder: Path | None
    reason: str | None
    message: str | None
    seconds: Mapping[str, float]
    volumes_ml: Mapping[str, float]
    pixels: Mapping[str, int]
    warnings: Sequence[str] = ()
    low_confidence: bool = False
    expected_dice: float | None = None
    is_earlier: bool = False
    details: str = ""


@dataclass(frozen=True)
class RunFacts:
    """What a whole run is about, beside its scans.

    Attributes:
        model_sha256: digest of the weights.
        expected: how many scans there are to do.
        set_aside: files that are no scan, counted by kind.
        labels: in the order of the table's columns.
    """

    model_sha256: str
    expected: int
    set_aside: Mapping[str, int]
    labels: Sequence[str]


def write_summary(folder: Path, results: Sequence[ScanResult], facts: RunFacts) -> None:
    """Writes how each scan ended so far; `folder` of a scan is relative to the summary."""
    failed = sum(result.status == "failed" for result in results)
    write_json(folder / SUMMARY, {
        "ok": len(results) - failed,
        "failed": failed,
        "not_done": facts.expected - len(results),
        "set_aside": dict(sorted(facts.set_aside.items())),
        "model_sha256": facts.model_sha256,
        "scans": [_entry(result) for result in results],
    })
    with written_aside(folder / SUMMARY_TABLE) as aside, aside.open("w", newline="", encoding="utf-8") as stream:
        unit = "pixels" if any(result.pixels for result in results) else "ml"
        columns = ["input", "status", "folder", "reason", "low_confidence", "expected_dice", "seconds",
                   *(f"{label}_{unit}" for label in facts.labels), "warnings"]
        table = csv.DictWriter(stream, columns, lineterminator="\n", extrasaction="ignore")
        table.writeheader()
        table.writerows(_row(result) for result in results)


def _entry(result: ScanResult) -> dict[str, object]:
    return {
        "input": result.relative,
        "status": result.status,
        "folder": result.folder.name if result.folder else None,
        "reason": result.reason,
        "message": result.message,
        "warnings": list(result.warnings),
        "low_confidence": result.low_confidence,
        "expected_dice": result.expected_dice,
        "earlier_run": result.is_earlier,
        "seconds": round(sum(result.seconds.values()), 3),
    }


def _row(result: ScanResult) -> dict[str, object]:
    sizes = {f"{label}_ml": f"{volume:.6f}" for label, volume in result.volumes_ml.items()}
    sizes |= {f"{label}_pixels": f"{count}" for label, count in result.pixels.items()}
    return {
        "input": result.relative,
        "status": result.status,
        "folder": result.folder.name if result.folder else "",
        "reason": result.reason or "",
        "low_confidence": str(result.low_confidence).lower() if result.folder else "",
        "expected_dice": "" if result.expected_dice is None else f"{result.expected_dice:.6f}",
        "seconds": f"{sum(result.seconds.values()):.3f}",
        **sizes,
        "warnings": "; ".join(result.warnings),
    }


def line_of(result: ScanResult) -> str:
    """Returns the line that the terminal shows."""
    if result.status == "failed":
        return f"{result.relative}: failed: {result.message}{result.details and f' [{result.details}]'}"
    sizes = ", ".join([*(f"{name} {volume:.2f} mL" for name, volume in result.volumes_ml.items()),
                       *(f"{name} {count} pixels" for name, count in result.pixels.items())])
    how = "done before" if result.is_earlier else f"{sum(result.seconds.values()):.1f} s"
    said = ", ".join(result.warnings) or "see report.json"
    doubt = f"; low confidence: {said}" if result.low_confidence else f"; {said}" if result.warnings else ""
    return f"{result.relative}: {sizes} ({how}){doubt}"


def sizes_of(labels: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, float], dict[str, int]]:
    """Returns volumes in mL and pixels by label name, of a report's numbers; a scan has one or the other."""
    return ({name: float(entry["volume_ml"]) for name, entry in labels.items() if "volume_ml" in entry},
            {name: int(entry["pixels"]) for name, entry in labels.items() if "pixels" in entry})


def reason_and_message(error: BaseException) -> tuple[str, str]:
    """Returns a short id and one line for any exception while a scan was segmented, fit for files that are passed on.

    `InputError.where` is left out: the summary names the input beside the message. What other exceptions say is left
    out too, for it may hold paths and with them names; where they were raised is not.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__
    if isinstance(cause, InputError):
        message = f"{cause.found}; expected {cause.wanted}; {cause.remedy}"
        return cause.reason, " ".join(ABSOLUTE_PATH.sub("(path)", message).split())
    if is_out_of_memory(error):
        return "out-of-memory", "not enough memory for this scan; crop it, or use a machine with more"
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return "disk-full", "no space left for the results; make room and go on with --resume"
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" in {Path(last[0].filename).name}, line {last[0].lineno}" if last else ""
    return "unexpected-error", f"{type(error).__name__}{place}; please report it"
