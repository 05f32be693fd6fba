"""Looks at one case, voxels and header, and returns either what the index needs to know or why it cannot be used."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.imaging.image_files import read_image, read_label_map
from pipeline.imaging.scans import Picture, Scan
from pipeline.records.cases import RawCase
from pipeline.records.errors import InputError
from pipeline.records.files import sha256_of_file
from pipeline.records.findings import CHECKS, Finding, finding_from
from pipeline.records.index import NO_ORIENTATION

# Further than rounding to float32 or through a quaternion moves a voxel, and far below what a person could draw.
AFFINE_TOLERANCE_MM = 0.01
# Label values below this are counted directly, which takes a tenth of the time that sorting does.
COUNTED_DIRECTLY = 1 << 16


@dataclass(frozen=True)
class CaseFacts:
    """What the audit measured in a sound case; the fields are those of `IndexedCase`."""

    image: str
    label: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str
    label_voxels: dict[str, int]
    image_sha256: str
    label_sha256: str


@dataclass(frozen=True)
class CheckedCase:
    """The result for one case. `facts` is None where an error leaves it out.

    `channels` counts those of the image; `has_spacing`: the spacing is stated and not 1 mm for want of a better;
    `has_place`: the file says which side is left, or is a picture.
    """

    case_id: str
    facts: CaseFacts | None
    findings: tuple[Finding, ...]
    channels: int = 1
    has_spacing: bool = True
    has_place: bool = True


def check_case(case: RawCase, root: Path, *, labels: dict[str, int], are_instances: bool = False,
               spacing_mm: tuple[float, float] | None = None) -> CheckedCase:
    """Reads both files of a case and returns all faults found; with no error among them also the case's facts.

    Args:
        case: the pair.
        root: the dataset's folder; findings and facts name files relative to it.
        labels: the declared names and values.
        are_instances: every value above 0 is an object of the one label.
        spacing_mm: along x and y of pictures that do not state it.
    """
    if case.label is None:
        missing = CHECKS["no-label"].finding(_relative(case.image, root), case.case_id, found="no label map",
                                             wanted="an image with its label map")
        return CheckedCase(case.case_id, None, (missing,))
    image = _read(case, case.image, root, read_image)
    label = _read(case, case.label, root, read_label_map)
    if isinstance(image, Finding) or isinstance(label, Finding):
        return CheckedCase(case.case_id, None, tuple(item for item in (image, label) if isinstance(item, Finding)))
    if are_instances:
        label = _as_one_label(label, *labels.values())
    findings = (*_faults_of_image(image, _relative(case.image, root), case.case_id),
                *_faults_of_label(label, _relative(case.label, root), case.case_id, labels=labels),
                *_faults_of_pair(image, label, _relative(case.label, root), case.case_id))
    is_sound = all(finding.severity == "warning" for finding in findings)
    image = _with_spacing(image, spacing_mm)
    return CheckedCase(case.case_id, _facts(image, label, root, labels=labels) if is_sound else None, findings,
                       len(image.channels), image.picture is None or image.picture.has_spacing, image.has_place)


def orphan_finding(path: Path, root: Path) -> Finding:
    """Returns why a file that should be part of a case is not."""
    if path.is_file():
        return CHECKS["unpaired-file"].finding(_relative(path, root), found="a file that belongs to no case",
                                               wanted="an image and its label map, both present and listed")
    return CHECKS["missing-file"].finding(_relative(path, root), found="no such file", wanted="the listed file")


def orientation_of(affine: NDArray[np.float64]) -> str:
    """Returns the anatomical direction that each voxel axis of an affine points to most closely, such as ``RAS``.

    Args:
        affine: ``(4, 4)``, voxel index to millimetres in RAS+.
    """
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    letters = ["", "", ""]
    # The axis that is least oblique chooses first, so that no direction is taken twice.
    for axis in np.argsort(-np.abs(cosines).max(axis=0), kind="stable"):
        direction = int(np.argmax(np.abs(cosines[:, axis])))
        letters[axis] = ("LR", "PA", "IS")[direction][int(cosines[direction, axis] > 0)]
        cosines[direction, :] = 0
    return "".join(letters)


def _read(case: RawCase, path: Path, root: Path, read: Callable[[Path], Scan]) -> Scan | Finding:
    try:
        return read(path)
    except InputError as error:
        return finding_from(error, _relative(path, root), case.case_id)


def _as_one_label(label: Scan, value: int) -> Scan:
    """Returns the map with all objects at one value; what is below 0, fractional or no number stays what it is."""
    is_object = (label.array > 0) & (label.array == np.rint(label.array))
    return replace(label, array=np.where(is_object, np.float32(value), label.array))


def _with_spacing(image: Scan, spacing_mm: tuple[float, float] | None) -> Scan:
    """Returns a picture that does not state its spacing with the dataset's, where that is known."""
    if spacing_mm is None or image.picture is None or image.picture.has_spacing:
        return image
    return replace(image, affine=np.diag([-spacing_mm[0], -spacing_mm[1], 1.0, 1.0]), picture=Picture(has_spacing=True))


def _faults_of_image(image: Scan, file: str, case_id: str) -> Iterator[Finding]:
    yield from _doubts(image, file, case_id)
    wild = int(image.array.size - np.isfinite(image.array).sum())
    if wild:
        yield CHECKS["not-finite"].finding(file, case_id, found=f"{wild} voxels that are NaN or infinite",
                                           wanted="finite values")
    elif (image.channels.min(axis=(1, 2, 3)) == image.channels.max(axis=(1, 2, 3))).all():
        yield CHECKS["constant-image"].finding(file, case_id, found=f"{image.array.flat[0]:g} in every voxel",
                                               wanted="an image")


def _faults_of_label(label: Scan, file: str, case_id: str, *, labels: dict[str, int]) -> Iterator[Finding]:
    yield from _doubts(label, file, case_id)
    wild = int(label.array.size - np.isfinite(label.array).sum())
    if wild:
        yield CHECKS["not-finite"].finding(file, case_id, found=f"{wild} voxels that are NaN or infinite",
                                           wanted="label values")
        return
    fractional = label.array[label.array != np.rint(label.array)]
    if fractional.size:
        yield CHECKS["fractional-label"].finding(file, case_id, wanted="whole numbers",
                                                 found=f"{fractional.size} voxels such as {fractional[0]:g}")
        return
    counts = _counts(label.array)
    unexpected = sorted(counts.keys() - {0, *labels.values()})
    if unexpected:
        shown = ", ".join(f"{value} ({counts[value]} voxels)" for value in unexpected[:5])
        wanted = ", ".join(f"{value} {name}" for name, value in labels.items())
        yield CHECKS["unexpected-label"].finding(file, case_id, found=f"the value {shown}",
                                                 wanted=f"0 background, {wanted}")
    elif counts.keys() == {0}:
        yield CHECKS["empty-label"].finding(file, case_id, found="background only", wanted="a label")


def _faults_of_pair(image: Scan, label: Scan, file: str, case_id: str) -> Iterator[Finding]:
    if image.grid_shape != label.grid_shape:
        yield CHECKS["shape-mismatch"].finding(file, case_id, found=f"{_size(label)} voxels",
                                               wanted=f"{_size(image)} as the image")
        return
    # Pictures lie nowhere, and a mask rarely repeats the resolution of its image.
    apart_mm = 0.0 if image.picture is not None else _largest_displacement_mm(image, label)
    if apart_mm > AFFINE_TOLERANCE_MM:
        yield CHECKS["affine-mismatch"].finding(file, case_id, found=f"a grid up to {apart_mm:.3g} mm from the image's",
                                                wanted=f"at most {AFFINE_TOLERANCE_MM} mm")


def _doubts(scan: Scan, file: str, case_id: str) -> Iterator[Finding]:
    for warning in scan.warnings:
        if scan.picture is not None:
            yield CHECKS["alpha-dropped"].finding(file, case_id, found=warning, wanted="opaque pixels")
            continue
        yield CHECKS["doubtful-header"].finding(file, case_id, found=warning, wanted="an unambiguous header")


def _largest_displacement_mm(image: Scan, label: Scan) -> float:
    """Returns how far apart the affines place a voxel of the same index: the most at one of the grid's 8 corners."""
    corners = np.array(list(product(*((0, extent - 1) for extent in image.array.shape), (1,))), dtype=np.float64)
    return float(np.linalg.norm(corners @ (image.affine - label.affine).T, axis=1).max())


def _counts(array: NDArray[np.float32]) -> dict[int, int]:
    """Returns how many voxels have each value; the values are whole."""
    if array.min() >= 0 and array.max() < COUNTED_DIRECTLY:
        counts = np.bincount(array.astype(np.uint16).ravel())
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, frequencies = np.unique(array, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, frequencies, strict=True)}


def _facts(image: Scan, label: Scan, root: Path, *, labels: dict[str, int]) -> CaseFacts:
    counts = _counts(label.array)
    orientation = orientation_of(image.affine) if image.picture is None else NO_ORIENTATION
    # Nanometres are noise of float32 headers.
    dx, dy, dz = (round(spacing, 6) for spacing in image.spacing_mm)
    return CaseFacts(image=_relative(image.path, root), label=_relative(label.path, root), shape=image.grid_shape,
                     spacing_mm=(dx, dy, dz), orientation=orientation,
                     label_voxels={name: counts.get(value, 0) for name, value in labels.items()},
                     image_sha256=sha256_of_file(image.path), label_sha256=sha256_of_file(label.path))


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _size(scan: Scan) -> str:
    return "x".join(str(extent) for extent in scan.grid_shape)
