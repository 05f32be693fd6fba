"""From the slices of a series to one regular grid, or to the reason why there is none."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.imaging.dicom_headers import SliceHeader
from pipeline.records.errors import InputError

# Direction cosines may differ by this much between the slices of one series: 0.06 degrees.
COSINE_TOLERANCE = 1e-3
PIXEL_TOLERANCE_MM = 1e-3
# A slice may stand this far from its place in a regular stack: scanners round positions to a tenth of a millimetre.
UNEVEN_SHARE = 0.05
ROUNDING_MM = 0.1
ROUNDING_SHARE = 0.2
# Slices nearer than this share of the usual step lie on each other.
DUPLICATE_SHARE = 0.02
# The stack may lean by this much before it is called tilted, and stray sideways by this share of a pixel.
TILT_DEGREES = 0.1
SIDEWAYS_PIXELS = 0.5
# MR and CT stacks below this are scouts or scraps, and have no step to measure.
FEWEST_SLICES = 2


@dataclass(frozen=True)
class SliceStack:
    """Slices in order along their normal.

    `affine` takes ``(column, row, slice)`` to millimetres in RAS+, which is the array order ``(x, y, z)``.
    """

    paths: tuple[Path, ...]
    affine: NDArray[np.float64]


def stack_slices(folder: Path, slices: Sequence[SliceHeader]) -> SliceStack:
    """Returns the slices ordered by position along the normal, never by name or instance number.

    Raises:
        InputError: ``missing-geometry``, ``mixed-orientation``, ``mixed-size``, ``mixed-pixel-spacing``,
            ``too-few-slices``, ``duplicate-slice``, ``missing-slice``, ``uneven-spacing``, ``gantry-tilt``,
            ``shifted-slice``.
    """
    for item in slices:
        if item.position_mm is None or item.orientation is None or item.pixel_spacing_mm is None:
            raise _refusal(folder, f"no position, orientation or pixel spacing in {item.path.name}",
                           "all three in every slice", "missing-geometry", "export the series with its geometry")
    _check_alike(folder, slices)
    if len(slices) < FEWEST_SLICES:
        raise _refusal(folder, f"{len(slices)} slice ({slices[0].path.name})", f"{FEWEST_SLICES} or more",
                       "too-few-slices", "give the folder of the whole series")
    rows, columns, normal = _axes(folder, slices[0])
    positions = np.array([item.position_mm for item in slices], dtype=np.float64)
    depths = positions @ normal
    order = np.argsort(depths, kind="stable")
    names = [slices[i].path.name for i in order]
    _check_steps(folder, depths[order], names)
    pixel_mm = slices[0].pixel_spacing_mm or (0.0, 0.0)
    _check_upright(folder, positions[order], normal, names, min(pixel_mm))
    step = (depths[order[-1]] - depths[order[0]]) / (len(slices) - 1)
    lps = np.eye(4)
    # DICOM's pixel spacing is between rows first, and a column index moves along the row direction.
    lps[:3, 0], lps[:3, 1], lps[:3, 2] = rows * pixel_mm[1], columns * pixel_mm[0], normal * step
    lps[:3, 3] = positions[order[0]]
    # DICOM is LPS; scans here are RAS.
    return SliceStack(tuple(slices[i].path for i in order), np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)


def _check_alike(folder: Path, slices: Sequence[SliceHeader]) -> None:
    """Raises unless orientation, size and pixel spacing are the same in all slices; names the first odd one."""
    checks: list[tuple[str, str, Callable[[SliceHeader], Hashable]]] = [
        ("orientation", "mixed-orientation", lambda one: _rounded(one.orientation, COSINE_TOLERANCE)),
        ("size", "mixed-size", lambda one: (one.columns, one.rows)),
        ("pixel spacing", "mixed-pixel-spacing", lambda one: _rounded(one.pixel_spacing_mm, PIXEL_TOLERANCE_MM)),
    ]
    for what, reason, value_of in checks:
        usual = Counter(value_of(item) for item in slices).most_common(1)[0][0]
        for item in slices:
            if not _is_near(value_of(item), usual):
                raise _refusal(folder, f"{what} {value_of(item)} in {item.path.name} and {usual} in other slices",
                               f"one {what}", reason, "split the series into folders")


def _rounded(values: tuple[float, ...] | None, step: float) -> tuple[float, ...]:
    digits = round(-np.log10(step))
    return tuple(round(value, digits) + 0.0 for value in values or ())


def _is_near(value: Hashable, usual: Hashable) -> bool:
    """Returns whether two rounded tuples are equal but for the last digit, where rounding may part neighbours."""
    return bool(np.allclose(np.asarray(value), np.asarray(usual), rtol=0, atol=COSINE_TOLERANCE * 1.5))


def _axes(folder: Path, first: SliceHeader) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Returns the unit vectors along rows, down columns and across slices, in LPS."""
    cosines = np.array(first.orientation, dtype=np.float64).reshape(2, 3)
    lengths = np.linalg.norm(cosines, axis=1)
    pixel_mm = first.pixel_spacing_mm or (0.0, 0.0)
    is_sound = bool(np.isfinite(cosines).all()) and np.allclose(lengths, 1, atol=0.01) and min(pixel_mm) > 0
    if not is_sound or abs(float(cosines[0] @ cosines[1])) > 0.01:
        raise _refusal(folder, f"orientation {first.orientation} and pixel spacing {first.pixel_spacing_mm}",
                       "two perpendicular unit vectors and lengths above 0", "bad-orientation",
                       "export the series again")
    rows = cosines[0] / lengths[0]
    normal = np.cross(rows, cosines[1] / lengths[1])
    normal /= np.linalg.norm(normal)
    return rows, np.cross(normal, rows), normal


def _check_steps(folder: Path, depths: NDArray[np.float64], names: Sequence[str]) -> None:
    """Raises unless sorted `depths` (mm along the normal) are one regular stack."""
    steps = np.diff(depths)
    extent = float(depths[-1] - depths[0])
    apart = steps > DUPLICATE_SHARE * extent / len(steps)
    if not apart.all():
        first = int(np.argmin(apart))
        raise _refusal(folder, f"{names[first]} and {names[first + 1]} both at {depths[first]:.2f} mm "
                       f"({int((~apart).sum())} such pairs)", "one slice a position", "duplicate-slice",
                       "keep one phase, echo or acquisition in a folder")
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])
    tolerance = max(UNEVEN_SHARE * usual, min(ROUNDING_MM, ROUNDING_SHARE * usual))
    wrong = np.flatnonzero(np.abs(steps - usual) > tolerance)
    if wrong.size:
        first = int(wrong[0])
        where = f"between {names[first]} at {depths[first]:.2f} mm and {names[first + 1]} at {depths[first + 1]:.2f} mm"
        missing = round(steps[first] / usual) - 1
        if missing >= 1 and abs(steps[first] / usual - missing - 1) * usual <= 2 * tolerance:
            raise _refusal(folder, f"{missing} missing {where}", f"a slice every {usual:.2f} mm", "missing-slice",
                           "export the whole series again")
        raise _refusal(folder, f"a step of {steps[first]:.2f} mm {where}", f"{usual:.2f} mm as in other slices",
                       "uneven-spacing", "resample the series to even steps first")
    even = depths[0] + extent * np.linspace(0, 1, len(depths))
    strayed = int(np.argmax(np.abs(depths - even)))
    if abs(depths[strayed] - even[strayed]) > tolerance:
        raise _refusal(folder, f"{names[strayed]} at {depths[strayed]:.2f} mm", f"{even[strayed]:.2f} mm in even steps",
                       "uneven-spacing", "resample the series to even steps first")


def _check_upright(
    folder: Path, positions: NDArray[np.float64], normal: NDArray[np.float64], names: Sequence[str], pixel_mm: float
) -> None:
    """Raises unless sorted `positions` (LPS, mm) lie on one line along `normal`."""
    moved = positions - positions[0]
    depths = moved @ normal
    sideways = moved - np.outer(depths, normal)
    lean = np.linalg.norm(sideways[-1]) / depths[-1]
    degrees = float(np.degrees(np.arctan(lean)))
    if degrees > TILT_DEGREES and np.linalg.norm(sideways[-1]) > SIDEWAYS_PIXELS * pixel_mm:
        raise _refusal(folder, f"a stack that leans by {degrees:.1f} degrees from {names[0]} to {names[-1]}",
                       "slices straight above each other", "gantry-tilt",
                       "correct the gantry tilt first, for instance with dcm2niix")
    strayed = int(np.argmax(np.linalg.norm(sideways, axis=1)))
    shift = float(np.linalg.norm(sideways[strayed]))
    if shift > SIDEWAYS_PIXELS * pixel_mm:
        raise _refusal(folder, f"{names[strayed]} at {depths[strayed]:.2f} mm from the first slice stands "
                       f"{shift:.2f} mm to the side", "slices straight above each other", "shifted-slice",
                       "resample the series first")


def _refusal(folder: Path, found: str, wanted: str, reason: str, remedy: str) -> InputError:
    return InputError(folder, found=found, wanted=wanted, remedy=remedy, reason=reason)
