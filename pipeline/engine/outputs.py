"""What a segmented scan leaves behind: its folder with masks, numbers and picture."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.confidence import rounded
from pipeline.engine.windows import Box
from pipeline.imaging.dicom_codes import LabelCode
from pipeline.imaging.dicom_seg import SegModel, write_fractional_seg, write_seg
from pipeline.imaging.nifti import write_nifti
from pipeline.imaging.pictures import write_label_picture
from pipeline.imaging.preview import (
    COLOURS,
    draw_planes,
    in_ras_order,
    orientation_of,
    spacing_in_ras_order,
    voxel_in_ras_order,
    widest_section,
    write_png,
)
from pipeline.imaging.rtstruct import write_rtstruct
from pipeline.imaging.scans import Scan
from pipeline.records.files import sha256_of_file, write_json

SEGMENTATION = "segmentation.nii.gz"
LABEL_PICTURE = "segmentation.png"
DICOM_SEG = "segmentation.dcm"
FRACTIONAL_SEG = "probabilities.dcm"
RTSTRUCT = "rtstruct.dcm"
PROBABILITIES = "probabilities.nii.gz"
UNCERTAINTY = "uncertainty.nii.gz"
REPORT = "report.json"
PREVIEW = "preview.png"
NOTICE = "For research use only. Not a medical device."


@dataclass(frozen=True)
class OutputSettings:
    """What is written beside the label map, the report and the picture.

    Attributes:
        dicom_seg: for DICOM scans a SEG with the labels (``binary``), also one with probabilities (``fractional``), or
            ``none``.
        rtstruct: for DICOM scans contours.
        probabilities: of each class, as a 4D NIfTI.
        uncertainty: the entropy of the class probabilities, 0 certain to 1 undecided, as a NIfTI.
    """

    dicom_seg: Literal["binary", "fractional", "none"] = "binary"
    rtstruct: bool = False
    probabilities: bool = False
    uncertainty: bool = False

    @property
    def only_for_dicom(self) -> list[str]:
        """What was asked for beyond the default and only DICOM scans get."""
        asked = {"--rtstruct": self.rtstruct, "--dicom_seg fractional": self.dicom_seg == "fractional"}
        return [option for option, is_asked in asked.items() if is_asked]

    def needs_probabilities(self, scan: Scan) -> bool:
        """Returns whether the class probabilities are wanted on the scan's grid."""
        return self.probabilities or self.uncertainty or (self.dicom_seg == "fractional" and scan.planes is not None)


@dataclass(frozen=True)
class LabelNames:
    """What the label map's values mean: names with their values, rising, and their codes for DICOM."""

    values: Mapping[str, int]
    codes: Mapping[str, LabelCode]


@dataclass(frozen=True)
class Segmented:
    """One scan with what was found in it.

    Attributes:
        scan: as it was read.
        labelmap: ``(x, y, z)`` on its grid.
        box: holds all labels.
        probabilities: for each class ``(x, y, z)``, background first; empty where they were not asked for.
        expected_dice: by label name, NaN where it is not predicted, see `expected_dice`.
    """

    scan: Scan
    labelmap: NDArray[np.integer[Any]]
    box: Box
    probabilities: Sequence[NDArray[np.float32]] = ()
    expected_dice: Mapping[str, float] = field(default_factory=dict)


def write_images(folder: Path, found: Segmented, names: LabelNames, *, settings: OutputSettings,
                 model: SegModel) -> None:
    """Writes all that people and other programs look at, into an existing folder, two files at a time."""
    scan, labelmap = found.scan, found.labelmap
    dicom: dict[str, Any] = {"labels": names.values, "codes": names.codes, "model": model}
    jobs: list[Callable[[], None]] = [
        (lambda: _write_like(folder / SEGMENTATION, labelmap, scan)) if scan.picture is None
        else lambda: write_label_picture(folder / LABEL_PICTURE, labelmap),
        lambda: write_preview(folder / PREVIEW, found, values=list(names.values.values())),
    ]
    if scan.planes is not None:
        if settings.dicom_seg != "none":
            jobs.append(lambda: write_seg(folder / DICOM_SEG, labelmap, scan, **dicom))
        if settings.dicom_seg == "fractional":
            jobs.append(lambda: write_fractional_seg(folder / FRACTIONAL_SEG, found.probabilities[1:], scan, **dicom))
        if settings.rtstruct:
            jobs.append(lambda: write_rtstruct(folder / RTSTRUCT, labelmap, scan, **dicom))
    if settings.probabilities:
        jobs.append(lambda: _write_probabilities(folder / PROBABILITIES, found))
    if settings.uncertainty:
        jobs.append(lambda: _write_like(folder / UNCERTAINTY, entropy(found.probabilities), scan))
    # Compressing, most of the work, leaves the interpreter to the other.
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()


def _write_probabilities(path: Path, found: Segmented) -> None:
    scan = found.scan
    shape = *(*scan.shape_on_disk, 1)[:3], len(found.probabilities)
    stacked = np.stack(found.probabilities, axis=-1).reshape(shape)
    write_nifti(path, stacked, affine=scan.affine, qform_code=scan.qform_code, sform_code=scan.sform_code)


def write_report(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes report.json with the digests of all files in `folder`: a later run can tell that they are whole."""
    files = {path.name: sha256_of_file(path) for path in sorted(folder.iterdir())}
    write_json(folder / REPORT, {**content, "files": files})


def entropy(probabilities: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Returns the entropy of the class probabilities as a share of the largest possible, 0 to 1.

    Source: Shannon 1948, doi:10.1002/j.1538-7305.1948.tb01338.x.
    """
    total = np.zeros_like(probabilities[0])
    for probability in probabilities:
        # x log x goes to 0 with x; the clip also takes rounding below 0 away.
        total -= probability * np.log(np.clip(probability, 1e-12, 1.0))
    return np.asarray(total / np.log(len(probabilities)), dtype=np.float32)


def measured(found: Segmented, labels: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Returns for each label its value, size, mean intensity, whether it touches the scan's border, and expected Dice.

    A structure at the border is probably cut off there. Axes of one voxel have no border. Of several channels there is
    a list of means. A picture has square millimetres instead of millilitres, and None where nobody knows its spacing.
    """
    labelmap, array = found.labelmap[found.box], found.scan.array[(..., *found.box)]
    edges = [(part.start == 0, part.stop == size)
             for part, size in zip(found.box, found.labelmap.shape, strict=True)]
    return {name: {"value": value, **_measured(labelmap == value, array, edges, found),
                   "expected_dice": rounded(found.expected_dice.get(name, math.nan))}
            for name, value in labels.items()}


def _measured(mask: NDArray[np.bool_], array: NDArray[np.float32], edges: Sequence[tuple[bool, bool]],
              found: Segmented) -> dict[str, Any]:
    count = int(np.count_nonzero(mask))
    at_border = any(np.take(mask, end, axis=axis).any() for axis, ends in enumerate(edges) if count
                    for end, is_at_edge in zip((0, -1), ends, strict=True)
                    if is_at_edge and found.labelmap.shape[axis] > 1)
    means = [round(float(channel[mask].mean(dtype=np.float64)), 4)
             for channel in (array if array.ndim == 4 else array[None]) if count]
    return {
        **_extent(count, found.scan),
        "mean_intensity": (means if array.ndim == 4 else means[0]) if count else None,
        "touches_border": bool(at_border),
    }


def _extent(count: int, scan: Scan) -> dict[str, Any]:
    if scan.picture is None:
        return {"voxels": count, "volume_ml": round(count * scan.voxel_volume_ml, 6)}
    area_mm2 = round(count * scan.spacing_mm[0] * scan.spacing_mm[1], 6)
    return {"pixels": count, "area_mm2": area_mm2 if scan.picture.has_spacing else None}


def geometry_of(scan: Scan) -> dict[str, Any]:
    """Returns the input's grid for report.json."""
    if scan.picture is not None:
        spacing = [round(step, 6) for step in scan.spacing_mm[:2]] if scan.picture.has_spacing else None
        return {"shape": list(scan.shape_on_disk), "channels": len(scan.channels), "spacing_mm": spacing}
    return {
        "shape": list(scan.shape_on_disk),
        "spacing_mm": [round(step, 6) for step in scan.spacing_mm],
        "orientation": orientation_of(scan.affine),
        "affine": scan.affine.tolist(),
        "qform_code": scan.qform_code,
        "sform_code": scan.sform_code,
    }


def write_preview(path: Path, found: Segmented, *, values: Sequence[int]) -> None:
    """Writes the picture of three planes through the widest part of what was found."""
    affine = found.scan.affine
    colours = {value: COLOURS[i % len(COLOURS)] for i, value in enumerate(values)}
    is_empty = any(part.start >= part.stop for part in found.box)
    box = tuple(slice(0, size) for size in found.labelmap.shape) if is_empty else found.box
    centre = [part.start + at for part, at in zip(box, widest_section(found.labelmap[box] > 0), strict=True)]
    shown = [in_ras_order(channel, affine) for channel in found.scan.channels]
    picture = draw_planes(np.stack(shown) if len(shown) == 3 else shown[0], spacing_in_ras_order(affine),
                          labelmap=in_ras_order(found.labelmap, affine), colours=colours,
                          centre=voxel_in_ras_order(centre, found.labelmap.shape, affine))
    write_png(path, picture)


def content_digest(scan: Scan) -> str:
    """Returns the SHA-256 of voxels and grid: the same scan, wherever it lies and however it is stored."""
    digest = hashlib.sha256(scan.affine.tobytes())
    digest.update(str(scan.array.shape).encode())
    # Transposed, the usual order (x innermost) needs no copy.
    digest.update(np.ascontiguousarray(scan.array.T).data)
    return digest.hexdigest()


def _write_like(path: Path, array: NDArray[Any], scan: Scan) -> None:
    """Writes ``(x, y, z)`` on the scan's own grid: its shape on disk, affine and codes."""
    write_nifti(path, array.reshape(scan.shape_on_disk, order="F"), affine=scan.affine, qform_code=scan.qform_code,
                sform_code=scan.sform_code)
