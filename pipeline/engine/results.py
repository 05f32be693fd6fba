"""What a segmented scan leaves behind: its folder with mask, numbers and picture, and its line in summary.json."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.imaging.nifti import write_nifti
from pipeline.imaging.preview import (
    COLOURS,
    draw_planes,
    in_ras_order,
    orientation_of,
    spacing_in_ras_order,
    widest_section,
    write_png,
)
from pipeline.imaging.scans import Scan
from pipeline.records.errors import InputError
from pipeline.records.files import write_json

SEGMENTATION = "segmentation.nii.gz"
REPORT = "report.json"
PREVIEW = "preview.png"
SUMMARY = "summary.json"
NOTICE = "For research use only. Not a medical device."
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
        seconds: by phase, as far as it got.
        volumes_ml: by label name; empty if it failed.
        warnings: what is doubtful about the scan.
    """

    name: str
    relative: str
    status: Literal["ok", "failed"]
    folder: Path | None
    reason: str | None
    message: str | None
    seconds: Mapping[str, float]
    volumes_ml: Mapping[str, float]
    warnings: Sequence[str] = ()


def measured(labelmap: NDArray[np.integer[Any]], labels: Mapping[str, int], scan: Scan) -> dict[str, dict[str, Any]]:
    """Returns for each label its value, voxels, millilitres, and whether it touches the scan's border.

    A structure at the border is probably cut off there. Axes of one voxel have no border.
    """
    counts = np.bincount(labelmap.ravel(order="K"), minlength=max(labels.values()) + 1)
    faces = [np.take(labelmap, end, axis=axis) for axis, n in enumerate(labelmap.shape) if n > 1 for end in (0, -1)]
    at_border = set(np.unique(np.concatenate([face.ravel() for face in faces]))) if faces else set()
    return {
        name: {
            "value": value,
            "voxels": int(counts[value]),
            "volume_ml": round(float(counts[value]) * scan.voxel_volume_ml, 6),
            "touches_border": value in at_border,
        }
        for name, value in labels.items()
    }


def geometry_of(scan: Scan) -> dict[str, Any]:
    """Returns the input's grid for report.json; `low_confidence` where the file does not say how the patient lies."""
    return {
        "shape": list(scan.shape_on_disk),
        "spacing_mm": [round(step, 6) for step in scan.spacing_mm],
        "orientation": orientation_of(scan.affine),
        "affine": scan.affine.tolist(),
        "qform_code": scan.qform_code,
        "sform_code": scan.sform_code,
        "low_confidence": scan.qform_code <= 0 and scan.sform_code <= 0,
    }


def write_segmentation(folder: Path, labelmap: NDArray[np.integer[Any]], scan: Scan) -> None:
    """Writes ``(x, y, z)`` on the scan's own grid: its shape on disk, affine and codes."""
    write_nifti(folder / SEGMENTATION, labelmap.reshape(scan.shape_on_disk), affine=scan.affine,
                qform_code=scan.qform_code, sform_code=scan.sform_code)


def write_preview(folder: Path, labelmap: NDArray[np.integer[Any]], scan: Scan, *, values: Sequence[int]) -> None:
    """Writes the picture of three planes through the widest part of what was found."""
    found = np.asarray(in_ras_order(labelmap, scan.affine))
    outlines = [(found == value, COLOURS[i % len(COLOURS)]) for i, value in enumerate(values)]
    picture = draw_planes(in_ras_order(scan.array, scan.affine), spacing_in_ras_order(scan.affine), labels=outlines,
                          centre=widest_section(found > 0))
    write_png(folder / PREVIEW, picture)


def free_folder(output_dir: Path, name: str, *, content_digest: str, taken: set[str]) -> Path:
    """Returns `output_dir`/`name`, or with a suffix where that belongs to another scan of this name.

    An earlier result of the same scan, known by its content, is to be replaced; anything else stays as it is.

    Args:
        output_dir: where the scans' folders are.
        name: the wanted folder.
        content_digest: of the scan.
        taken: casefolded names of the other scans of this run.
    """
    chosen, count = name, 1
    while chosen.casefold() in taken or not _is_free(output_dir / chosen, content_digest):
        count += 1
        chosen = f"{name}-{count}"
    return output_dir / chosen


def write_summary(path: Path, results: Sequence[ScanResult], *, model_sha256: str) -> None:
    """Writes how each scan ended; `folder` is relative to the summary."""
    scans = [
        {
            "input": result.relative,
            "status": result.status,
            "folder": result.folder.name if result.folder else None,
            "reason": result.reason,
            "message": result.message,
            "warnings": list(result.warnings),
            "seconds": round(sum(result.seconds.values()), 3),
        }
        for result in results
    ]
    failed = sum(result.status == "failed" for result in results)
    write_json(path, {"ok": len(results) - failed, "failed": failed, "model_sha256": model_sha256, "scans": scans})


def reason_and_message(error: BaseException, path: Path) -> tuple[str, str]:
    """Returns a short id and one line for any exception while a scan at `path` was segmented, without absolute paths.

    `InputError.where` is left out: the summary names the input beside the message.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, (InputError, MemoryError)):
        cause = cause.__cause__
    if isinstance(cause, InputError):
        return cause.reason, _clean(f"{cause.found}; expected {cause.wanted}; {cause.remedy}", path)
    is_memory = isinstance(cause, MemoryError) or "not enough memory" in str(error) or "out of memory" in str(error)
    if is_memory:
        return "out-of-memory", "not enough memory for this scan; crop it, or use a machine with more"
    return "unexpected-error", _clean(f"{type(error).__name__}: {error}", path)


def _is_free(folder: Path, content_digest: str) -> bool:
    if not folder.exists():
        return True
    try:
        return bool(json.loads((folder / REPORT).read_text(encoding="utf-8"))["input_sha256"] == content_digest)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _clean(text: str, path: Path) -> str:
    """Returns `text` on one line, with absolute paths reduced to their last part or left out."""
    for known in (path.absolute(), path.absolute().parent, path.resolve(), path.resolve().parent, Path.home()):
        text = text.replace(str(known), known.name)
    return " ".join(ABSOLUTE_PATH.sub("(path)", text).split())
