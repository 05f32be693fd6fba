"""From the slices of a series to one regular grid, or to the reason why there is none."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.imaging.dicom_slices import SliceHeader
from pipeline.records.errors import InputError

# Direction cosines may differ by this much between the slices of one series: 0.06 degrees.
COSINE_TOLERANCE = 1e-3
PIXEL_TOLERANCE_MM = 1e-3
# A slice may stand this far from its place in a regular stack: scanners round positions to a tenth of a millimetre.
UNEVEN_SHARE = 0.05
ROUNDING_MM = 0.1
ROUNDING_SHARE = 0.2
# Slices nearer than this share of the usual step, or than positions are written, lie on each other.
DUPLICATE_SHARE = 0.02
DUPLICATE_MM = 1e-3
# The stack may lean by this much before it is called tilted, and stray sideways by this share of a pixel.
TILT_DEGREES = 0.1
SIDEWAYS_PIXELS = 0.5
# MR and CT stacks below this are scouts or scraps, and have no step to measure.
FEWEST_SLICES = 2
# Values that only the volumes of one series have in common; times and acquisitions may vary within a volume.
VOLUME_MARKS = ("image type", "stack", "echo time", "b-value", "temporal position")
RESAMPLE = "or pass --irregular resample"
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class SliceStack:
    """Slices in order along their normal.

    `affine` takes ``(column, row, slice)`` to millimetres in RAS+, which is the array order ``(x, y, z)``.
    """

    slices: tuple[SliceHeader, ...]
    affine: NDArray[np.float64]


@dataclass(frozen=True)
class SlicePlaces:
    """Where the slices of one orientation lie, sorted along their normal; LPS, millimetres.

    Attributes:
        slices: ``n`` of them.
        row, column, normal: unit vectors along a row, down a column, and across the slices.
        pixel_mm: between columns, then between rows, which is the array order ``(x, y)``.
        positions: ``(n, 3)`` centres of the first pixels.
        depths_mm: ``(n,)`` positions along the normal, rising.
    """

    slices: tuple[SliceHeader, ...]
    row: NDArray[np.float64]
    column: NDArray[np.float64]
    normal: NDArray[np.float64]
    pixel_mm: tuple[float, float]
    positions: NDArray[np.float64]
    depths_mm: NDArray[np.float64]

    @property
    def sideways_mm(self) -> NDArray[np.float64]:
        """``(n, 2)``: how far each slice stands from the first one's place, along rows and down columns."""
        moved = self.positions - self.positions[0]
        return np.stack([moved @ self.row, moved @ self.column], axis=1)

    def affine(self, step_mm: float, corner: tuple[float, float] = (0.0, 0.0)) -> NDArray[np.float64]:
        """Returns the RAS+ affine of a grid on the first slice that starts at its pixel `corner` (column, row)."""
        lps = np.eye(4)
        # DICOM's pixel spacing is between rows first, and a column index moves along the row direction.
        lps[:3, 0], lps[:3, 1] = self.row * self.pixel_mm[0], self.column * self.pixel_mm[1]
        lps[:3, 2] = self.normal * step_mm
        lps[:3, 3] = self.positions[0] + lps[:3, 0] * corner[0] + lps[:3, 1] * corner[1]
        # DICOM is LPS; scans here are RAS.
        return LPS_TO_RAS @ lps


def stack_slices(folder: Path, slices: Sequence[SliceHeader]) -> SliceStack:
    """Returns the slices ordered by position along the normal, never by name or instance number.

    Raises:
        InputError: ``missing-geometry``, ``bad-orientation``, ``mixed-orientation``, ``mixed-size``,
            ``mixed-pixel-spacing``, ``too-few-slices``, ``several-volumes``, ``duplicate-slice``, ``missing-slice``,
            ``uneven-spacing``, ``gantry-tilt``, ``shifted-slice``.
    """
    check_placed(folder, slices)
    groups = orientations(slices)
    if len(groups) > 1:
        odd, usual = groups[-1][0], groups[0][0]
        reason = "several-volumes" if _differ(groups[0], groups[-1], "stack") else "mixed-orientation"
        raise _refusal(folder, f"orientation {_rounded(odd.orientation)} in {odd.label} and "
                       f"{_rounded(usual.orientation)} in {len(groups[0])} slices",
                       "one orientation", reason, f"split the series into folders {RESAMPLE}")
    check_alike(folder, slices)
    if len(slices) < FEWEST_SLICES:
        raise too_few(folder, slices)
    places = place_slices(folder, slices)
    _check_steps(folder, places)
    _check_upright(folder, places)
    step_mm = (places.depths_mm[-1] - places.depths_mm[0]) / (len(slices) - 1)
    return SliceStack(places.slices, places.affine(float(step_mm)))


def check_placed(folder: Path, slices: Sequence[SliceHeader]) -> None:
    """Raises unless each slice says where it lies."""
    for item in slices:
        if item.position_mm is None or item.orientation is None or item.pixel_spacing_mm is None:
            raise _refusal(folder, f"no position, orientation or pixel spacing in {item.label}",
                           "all three in every slice", "missing-geometry", "export the series with its geometry")


def orientations(slices: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
    """Returns the slices grouped by direction cosines, the largest group first."""
    groups: list[list[SliceHeader]] = []
    for item in slices:
        for group in groups:
            if _is_near(item.orientation, group[0].orientation):
                group.append(item)
                break
        else:
            groups.append([item])
    return sorted(groups, key=len, reverse=True)


def check_alike(folder: Path, slices: Sequence[SliceHeader]) -> None:
    """Raises unless size and pixel spacing are the same in all slices; names the first odd one."""
    checks: list[tuple[str, str, Callable[[SliceHeader], tuple[float, ...]]]] = [
        ("size", "mixed-size", lambda one: (one.columns, one.rows)),
        ("pixel spacing", "mixed-pixel-spacing", lambda one: _rounded(one.pixel_spacing_mm)),
    ]
    for what, reason, value_of in checks:
        usual = Counter(value_of(item) for item in slices).most_common(1)[0][0]
        for item in slices:
            if not _is_near(value_of(item), usual):
                raise _refusal(folder, f"{what} {value_of(item)} in {item.label} and {usual} in other slices",
                               f"one {what}", reason, "split the series into folders")


def too_few(folder: Path, slices: Sequence[SliceHeader]) -> InputError:
    """Returns the error for what is no volume."""
    return _refusal(folder, f"{len(slices)} slice ({slices[0].label})", f"{FEWEST_SLICES} or more", "too-few-slices",
                    "give the folder of the whole series")


def place_slices(folder: Path, slices: Sequence[SliceHeader]) -> SlicePlaces:
    """Returns where slices of one orientation and size lie; raises ``bad-orientation``."""
    row, column, normal = _axes(folder, slices[0])
    positions = np.array([item.position_mm for item in slices], dtype=np.float64)
    depths_mm = positions @ normal
    order = np.argsort(depths_mm, kind="stable")
    between_rows, between_columns = slices[0].pixel_spacing_mm or (0.0, 0.0)
    return SlicePlaces(tuple(slices[i] for i in order), row, column, normal, (between_columns, between_rows),
                       positions[order], depths_mm[order])


def usual_step_mm(depths_mm: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the step that most slices keep, and how far a slice may stand from its place in a regular stack."""
    steps = np.diff(depths_mm)
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])
    return usual, max(UNEVEN_SHARE * usual, min(ROUNDING_MM, ROUNDING_SHARE * usual))


def are_apart(depths_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns ``(n - 1,)``: which neighbours lie at different places and not on each other."""
    steps = np.diff(depths_mm)
    usual = (depths_mm[-1] - depths_mm[0]) / max(len(steps), 1)
    return np.asarray(steps > max(DUPLICATE_SHARE * usual, DUPLICATE_MM))


def _differ(some: Sequence[SliceHeader], others: Sequence[SliceHeader], mark: str) -> bool:
    return {dict(one.volume).get(mark) for one in some}.isdisjoint({dict(one.volume).get(mark) for one in others})


def _rounded(values: tuple[float, ...] | None) -> tuple[float, ...]:
    return tuple(round(value, 3) + 0.0 for value in values or ())


def _is_near(value: tuple[float, ...] | None, usual: tuple[float, ...] | None) -> bool:
    tolerance = COSINE_TOLERANCE * 1.5
    return all(abs(one - other) <= tolerance for one, other in zip(value or (), usual or (), strict=True))


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
    row = cosines[0] / lengths[0]
    normal = np.cross(row, cosines[1] / lengths[1])
    normal /= np.linalg.norm(normal)
    return row, np.cross(normal, row), normal


def _check_steps(folder: Path, places: SlicePlaces) -> None:
    """Raises unless the depths are one regular stack."""
    depths, names = places.depths_mm, [item.label for item in places.slices]
    _check_single(folder, places)
    steps = np.diff(depths)
    usual, tolerance = usual_step_mm(depths)
    wrong = np.flatnonzero(np.abs(steps - usual) > tolerance)
    if wrong.size:
        first = int(wrong[0])
        where = f"between {names[first]} at {depths[first]:.2f} mm and {names[first + 1]} at {depths[first + 1]:.2f} mm"
        missing = round(steps[first] / usual) - 1
        if missing >= 1 and abs(steps[first] / usual - missing - 1) * usual <= 2 * tolerance:
            raise _refusal(folder, f"{missing} missing {where}", f"a slice every {usual:.2f} mm", "missing-slice",
                           f"export the whole series again {RESAMPLE}")
        raise _uneven(folder, f"a step of {steps[first]:.2f} mm {where}", f"{usual:.2f} mm as in other slices")
    even = depths[0] + (depths[-1] - depths[0]) * np.linspace(0, 1, len(depths))
    strayed = int(np.argmax(np.abs(depths - even)))
    if abs(depths[strayed] - even[strayed]) > tolerance:
        raise _uneven(folder, f"{names[strayed]} at {depths[strayed]:.2f} mm", f"{even[strayed]:.2f} mm in even steps")


def _check_single(folder: Path, places: SlicePlaces) -> None:
    """Raises where slices lie on each other, and names what tells them apart."""
    apart = are_apart(places.depths_mm)
    if apart.all():
        return
    first = int(np.argmin(apart))
    one, other = places.slices[first], places.slices[first + 1]
    found = (f"{one.label} and {other.label} both at {places.depths_mm[first]:.2f} mm "
             f"({int((~apart).sum())} such pairs)")
    marks = [mark for mark in VOLUME_MARKS if _differ([one], [other], mark)]
    if marks:
        raise _refusal(folder, f"{found}, which differ in {' and '.join(marks)}", "one volume", "several-volumes",
                       f"keep one echo, phase or b-value in a folder {RESAMPLE}")
    raise _refusal(folder, found, "one slice a position", "duplicate-slice",
                   f"keep one phase or acquisition in a folder {RESAMPLE}")


def _uneven(folder: Path, found: str, wanted: str) -> InputError:
    return _refusal(folder, found, wanted, "uneven-spacing", f"export the series again {RESAMPLE}")


def _check_upright(folder: Path, places: SlicePlaces) -> None:
    """Raises unless the slices lie on one line along the normal."""
    aside = np.linalg.norm(places.sideways_mm, axis=1)
    depths, names = places.depths_mm - places.depths_mm[0], [item.label for item in places.slices]
    most = SIDEWAYS_PIXELS * min(places.pixel_mm)
    degrees = float(np.degrees(np.arctan(aside[-1] / depths[-1])))
    if degrees > TILT_DEGREES and aside[-1] > most:
        raise _refusal(folder, f"a stack that leans by {degrees:.1f} degrees from {names[0]} to {names[-1]}",
                       "slices straight above each other", "gantry-tilt", f"correct the gantry tilt first {RESAMPLE}")
    strayed = int(np.argmax(aside))
    if aside[strayed] > most:
        raise _refusal(folder, f"{names[strayed]} at {depths[strayed]:.2f} mm from the first slice stands "
                       f"{aside[strayed]:.2f} mm to the side", "slices straight above each other", "shifted-slice",
                       f"export the series again {RESAMPLE}")


def _refusal(folder: Path, found: str, wanted: str, reason: str, remedy: str) -> InputError:
    return InputError(folder, found=found, wanted=wanted, remedy=remedy, reason=reason)
