"""An irregular series on a regular grid: slices are moved within their planes and interpolated between, never beyond.

What the scanner measured stays as far as it can: a slice that stands where the grid has one keeps its values, a leaning
stack is straightened plane by plane, and only places between slices are interpolated. Where no slice reaches, the grid
holds the scan's smallest value. Each step leaves a warning.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.imaging.dicom_geometry import (
    FEWEST_SLICES,
    SIDEWAYS_PIXELS,
    VOLUME_MARKS,
    SlicePlaces,
    are_apart,
    check_alike,
    check_placed,
    orientations,
    place_slices,
    too_few,
    usual_step_mm,
)
from pipeline.imaging.dicom_pixels import check_size, read_planes
from pipeline.imaging.dicom_slices import SliceHeader
from pipeline.records.errors import InputError

# What stays irregular in the stack can be put on a grid; what is missing from the headers cannot.
RESAMPLED_REASONS = frozenset(("mixed-orientation", "several-volumes", "duplicate-slice", "missing-slice",
                               "uneven-spacing", "gantry-tilt", "shifted-slice"))
# A gap beyond both is no lost slice but another part of the body, and what lies in it cannot be told.
LARGEST_GAP_STEPS = 4.5
LARGEST_GAP_MM = 15.0
# Of a single plane that does not state its own; whoever asks for a grid at all costs is told.
ASSUMED_THICKNESS_MM = 1.0
# A shift this near to whole pixels is one; positions are written with six digits or so.
WHOLE_PIXELS = 1e-3


@dataclass(frozen=True)
class RegularVolume:
    """A volume made from an irregular series.

    Attributes:
        array: ``(x, y, z)``.
        affine: ``(4, 4)`` voxel index to millimetres in RAS+.
        slices: those that were used, in order along the normal.
        is_resampled: plane k of the array is not slice k.
        warnings: what was done.
    """

    array: NDArray[np.float32]
    affine: NDArray[np.float64]
    slices: tuple[SliceHeader, ...]
    is_resampled: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Levels:
    """The grid's planes along the normal: each between two slices, `share` of the way from `below` to `above`."""

    step_mm: float
    below: NDArray[np.intp]
    above: NDArray[np.intp]
    share: NDArray[np.float64]


def regular_volume(where: Path, slices: Sequence[SliceHeader]) -> RegularVolume:
    """Returns the series as one regular volume, with a warning for each thing that was done to get there.

    Of several orientations the one with most slices is kept, of several slices at one place the first volume's.

    Raises:
        InputError: ``missing-geometry``, ``bad-orientation``, ``mixed-size``, ``mixed-pixel-spacing``,
            ``too-few-slices``, ``missing-slice`` for a gap that is too wide, and those of `read_planes`.
    """
    check_placed(where, slices)
    chosen, warnings = _one_orientation(slices)
    check_alike(where, chosen)
    if len(chosen) < FEWEST_SLICES:
        raise too_few(where, chosen)
    kept, more = _one_a_place(where, place_slices(where, chosen))
    places, warnings = place_slices(where, kept), warnings + more
    if len(kept) < FEWEST_SLICES:
        return _single_plane(where, places, warnings)
    array, affine, more = _on_grid(where, places, _levels(where, places))
    return RegularVolume(array, affine, places.slices, bool(more), warnings + more)


def _one_orientation(slices: Sequence[SliceHeader]) -> tuple[list[SliceHeader], tuple[str, ...]]:
    """Returns the largest group of one orientation; of groups of one size the one that was acquired first."""
    groups = sorted(orientations(slices), key=lambda group: (-len(group), min(map(_turn, group))))
    if len(groups) == 1:
        return groups[0], ()
    left_out = ", ".join(f"{len(group)} {_facing(group[0])}" for group in groups[1:])
    return groups[0], (f"the series mixes {len(groups)} orientations: {len(groups[0])} {_facing(groups[0][0])} slices "
                       f"were kept and left out were {left_out}",)


def _facing(item: SliceHeader) -> str:
    cosines = item.orientation or (1, 0, 0, 0, 1, 0)
    axis = int(np.argmax(np.abs(np.cross(cosines[:3], cosines[3:]))))
    return ("sagittal", "coronal", "axial")[axis]


def _turn(item: SliceHeader) -> tuple[float, float, float, str, int]:
    """Returns what sorts slices by when they were acquired, as far as they say."""
    marks = dict(item.volume)
    acquisition, trigger = (float(marks.get(name, 0.0)) for name in ("acquisition", "trigger time"))
    return acquisition, trigger, item.instance_number or 0, item.path.name, item.frame or 0


def _one_a_place(where: Path, places: SlicePlaces) -> tuple[list[SliceHeader], tuple[str, ...]]:
    """Returns one slice a place, all of one volume; of several such slices the first acquired."""
    starts = np.flatnonzero(np.concatenate([[True], are_apart(places.depths_mm)]))
    ends = (*starts[1:], len(places.slices))
    stacks = [places.slices[start:end] for start, end in zip(starts, ends, strict=True)]
    if len(stacks) == len(places.slices):
        return list(places.slices), ()
    marks = [mark for mark in VOLUME_MARKS if any(len({_mark(one, mark) for one in stack}) > 1 for stack in stacks)]
    volume = _first_volume(stacks, marks)
    sorted_stacks = [sorted((one for one in stack if _marks(one, marks) == volume), key=_turn) for stack in stacks]
    kept = [stack[0] for stack in sorted_stacks if stack]
    if marks:
        why = f"they are of other volumes, told apart by {' and '.join(marks)}"
    else:
        is_same = all(_has_same_pixels(where, stack) for stack in stacks)
        why = f"others lie at the same places with {'the same' if is_same else 'other'} pixels"
    return kept, (f"{len(places.slices) - len(kept)} of {len(places.slices)} slices were left out: {why}; the first "
                  "acquired were kept",)


def _mark(item: SliceHeader, mark: str) -> tuple[int, float, str]:
    """Returns a value that sorts beside missing ones, numbers and texts."""
    value = dict(item.volume).get(mark)
    return (0, 0.0, "") if value is None else (2, 0.0, value) if isinstance(value, str) else (1, value, "")


def _marks(item: SliceHeader, marks: Sequence[str]) -> tuple[tuple[int, float, str], ...]:
    return tuple(_mark(item, mark) for mark in marks)


def _first_volume(stacks: Sequence[Sequence[SliceHeader]], marks: Sequence[str]) -> tuple[tuple[int, float, str], ...]:
    """Returns the marks of the volume that has slices at most places; of several such volumes the first."""
    counts = Counter(found for stack in stacks for found in {_marks(one, marks) for one in stack})
    return min(counts, key=lambda found: (-counts[found], found))


def _has_same_pixels(where: Path, stack: Sequence[SliceHeader]) -> bool:
    pairs = (read_planes(where, [stack[0], other]) for other in stack[1:])
    return all(np.array_equal(pair[:, :, 0], pair[:, :, 1]) for pair in pairs)


def _single_plane(where: Path, places: SlicePlaces, warnings: tuple[str, ...]) -> RegularVolume:
    """Returns the one plane of a series that repeats one place, as thick as its header says."""
    thickness_mm = places.slices[0].thickness_mm or 0.0
    what = "the series repeats one place and makes a single plane, no volume"
    if thickness_mm <= 0:
        thickness_mm = ASSUMED_THICKNESS_MM
        what += f"; its thickness is not stated and was taken for {thickness_mm:g} mm, so no volume in mL holds"
    return RegularVolume(read_planes(where, places.slices), places.affine(thickness_mm), places.slices, False,
                         (*warnings, what))


def _levels(where: Path, places: SlicePlaces) -> _Levels:
    """Returns the planes of the grid: at the usual step, through the slices themselves where only some are missing."""
    usual, tolerance = usual_step_mm(places.depths_mm)
    depths = places.depths_mm - places.depths_mm[0]
    _check_gaps(where, places, usual)
    count = round(depths[-1] / usual)
    slots = np.rint(depths * (count / depths[-1]))
    step = float(depths[-1] / count)
    if (np.diff(slots) > 0).all() and np.abs(depths - slots * step).max() <= tolerance:
        depths = slots * step
    else:
        step = usual
    planes = int(depths[-1] / step + WHOLE_PIXELS) + 1
    check_size(where, (places.slices[0].columns, places.slices[0].rows, planes))
    levels = np.arange(planes) * step
    above = np.clip(np.searchsorted(depths, levels, side="right"), 1, len(depths) - 1)
    share = (levels - depths[above - 1]) / (depths[above] - depths[above - 1])
    whole = np.rint(share)
    return _Levels(step, above - 1, above, np.where(np.abs(share - whole) < WHOLE_PIXELS, whole, share))


def _check_gaps(where: Path, places: SlicePlaces, usual_mm: float) -> None:
    steps = np.diff(places.depths_mm)
    widest = int(np.argmax(steps))
    if steps[widest] > max(LARGEST_GAP_STEPS * usual_mm, LARGEST_GAP_MM):
        first, last = places.slices[widest].label, places.slices[widest + 1].label
        raise InputError(where, found=f"nothing for {steps[widest]:.2f} mm between {first} and {last}",
                         wanted=f"a slice every {usual_mm:.2f} mm", remedy="export the whole series again",
                         reason="missing-slice")


def _on_grid(
    where: Path, places: SlicePlaces, levels: _Levels
) -> tuple[NDArray[np.float32], NDArray[np.float64], tuple[str, ...]]:
    """Returns the array on the grid, its affine, and what was done."""
    shifts = _shifts(places)
    corner, far = np.floor(shifts.min(axis=0)), np.ceil(shifts.max(axis=0))
    columns, rows = (int(one) for one in far - corner)
    slices, planes = read_planes(where, places.slices), len(levels.share)
    shape = (slices.shape[0] + columns, slices.shape[1] + rows, planes)
    check_size(where, shape)
    # x fastest in memory, as `read_planes` has it.
    array = np.empty(shape[::-1], dtype=np.float32).transpose(2, 1, 0)
    for plane in range(planes):
        below, above, share = int(levels.below[plane]), int(levels.above[plane]), float(levels.share[plane])
        if share < 1:
            array[:, :, plane] = _moved(slices[:, :, below], shifts[below] - corner, shape)
        if share == 1:
            array[:, :, plane] = _moved(slices[:, :, above], shifts[above] - corner, shape)
        elif share > 0:
            array[:, :, plane] *= 1 - share
            array[:, :, plane] += share * _moved(slices[:, :, above], shifts[above] - corner, shape)
    warnings = []
    if shifts.any():
        warnings.append(_filled(array, float(slices.min()), places))
    between = int(((levels.share > 0) & (levels.share < 1)).sum())
    if between:
        warnings.append(f"{between} of {planes} planes lie between slices and were interpolated")
    return array, places.affine(levels.step_mm, (float(corner[0]), float(corner[1]))), tuple(warnings)


def _shifts(places: SlicePlaces) -> NDArray[np.float64]:
    """Returns ``(n, 2)`` pixels (columns, rows) by which each slice stands beside the first one."""
    aside = places.sideways_mm
    if np.linalg.norm(aside, axis=1).max() <= SIDEWAYS_PIXELS * min(places.pixel_mm):
        return np.zeros_like(aside)
    shifts = aside / np.array(places.pixel_mm)
    whole = np.rint(shifts)
    return np.asarray(np.where(np.abs(shifts - whole) < WHOLE_PIXELS, whole, shifts), dtype=np.float64)


def _moved(plane: NDArray[np.float32], shift: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Returns the plane ``(x, y)`` moved by `shift` pixels of 0 or more within an area of `shape`; NaN beside it."""
    if not shift.any() and plane.shape == shape[:2]:
        return plane
    whole = np.floor(shift).astype(int)
    part = (shift - whole).astype(np.float32)
    if part[0] > 0:
        plane = part[0] * plane[:-1] + (1 - part[0]) * plane[1:]
    if part[1] > 0:
        plane = part[1] * plane[:, :-1] + (1 - part[1]) * plane[:, 1:]
    # Between two pixels there is one place less than pixels, and it comes after the first of them.
    start = whole + (part > 0)
    moved = np.full(shape[:2], np.nan, dtype=np.float32)
    moved[start[0] : start[0] + plane.shape[0], start[1] : start[1] + plane.shape[1]] = plane
    return moved


def _filled(array: NDArray[np.float32], smallest: float, places: SlicePlaces) -> str:
    """Puts the smallest value where no slice reaches; returns what was done."""
    outside = np.isnan(array)
    array[outside] = smallest
    most_mm = float(np.linalg.norm(places.sideways_mm, axis=1).max())
    return (f"slices stood up to {most_mm:.1f} mm beside the first one and were moved within their planes; "
            f"{outside.mean():.1%} of the volume lies outside of them and holds its smallest value")
