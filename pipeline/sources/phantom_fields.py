"""What the phantoms are drawn with: smooth random fields, soft shapes, and a canvas that mixes tissues by volume.

A shape is a level: a function of position that is negative inside and grows roughly with the distance in millimetres.
Levels are evaluated at continuous positions, so any orientation and spacing of a grid samples the same anatomy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Level = Callable[[Field], Field]
Window = tuple[slice, ...]
EVERYWHERE: Window = (slice(None),)


@dataclass(frozen=True)
class Waves:
    """A smooth random field: a sum of plane waves with about unit variance.

    Attributes:
        vectors: ``(wave, axis)`` radians per millimetre.
        phases: ``(wave,)`` radians.
    """

    vectors: Field
    phases: Field

    def __call__(self, points: Field) -> Field:
        """Returns the field at `points`, ``(axis, ...)`` in millimetres, as an array of shape ``(...)``."""
        angles = np.tensordot(self.vectors, points, axes=1)
        angles += self.phases.reshape(-1, *([1] * (points.ndim - 1)))
        np.sin(angles, out=angles)
        total: Field = angles.sum(axis=0) * np.float32(np.sqrt(2 / len(self.phases)))
        return total


def draw_waves(rng: np.random.Generator, count: int, *, longest_mm: float, shortest_mm: float, axes: int = 3) -> Waves:
    """Draws `count` waves with directions over the sphere (or circle) and lengths between the two limits."""
    directions = rng.standard_normal((count, axes))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths_mm = rng.uniform(shortest_mm, longest_mm, (count, 1))
    return Waves(vectors=(2 * np.pi * directions / lengths_mm).astype(np.float32),
                 phases=rng.uniform(0, 2 * np.pi, count).astype(np.float32))


@dataclass(frozen=True)
class Warp:
    """A smooth displacement, which makes every patient's anatomy bend in its own way.

    Attributes:
        waves: one field per axis.
        amplitude_mm: standard deviation of the displacement along each axis.
    """

    waves: tuple[Waves, ...]
    amplitude_mm: float

    @property
    def reach_mm(self) -> float:
        """The most by which any point can move."""
        return self.amplitude_mm * float(np.sqrt(sum(2 * len(wave.phases) for wave in self.waves)))

    def __call__(self, points: Field) -> Field:
        """Returns displaced `points`, ``(axis, ...)`` in millimetres."""
        amplitude_mm = np.float32(self.amplitude_mm)
        return np.stack([axis + amplitude_mm * wave(points) for axis, wave in zip(points, self.waves, strict=True)])


def draw_warp(rng: np.random.Generator, amplitude_mm: float, *, longest_mm: float, shortest_mm: float,
              axes: int = 3) -> Warp:
    """Draws a warp of four waves per axis."""
    waves = tuple(draw_waves(rng, 4, longest_mm=longest_mm, shortest_mm=shortest_mm, axes=axes) for _ in range(axes))
    return Warp(waves=waves, amplitude_mm=amplitude_mm)


def ellipsoid(points: Field, centre: Sequence[float], *, radii: Sequence[float]) -> Field:
    """Level of an ellipsoid (an ellipse in 2D), in millimetres of its mean radius. An infinite radius is a cylinder."""
    squared = np.zeros(points.shape[1:], dtype=np.float32)
    for axis, middle, radius in zip(points, centre, radii, strict=True):
        if np.isfinite(radius):
            squared += ((axis - np.float32(middle)) * np.float32(1 / radius)) ** 2
    mean_radius = np.mean([radius for radius in radii if np.isfinite(radius)])
    level: Field = (np.sqrt(squared) - np.float32(1)) * np.float32(mean_radius)
    return level


def capsule(points: Field, start: Sequence[float], *, end: Sequence[float], radius: float) -> Field:
    """Level of a tube from `start` to `end` with round ends, in millimetres."""
    first = np.asarray(start, dtype=np.float32).reshape(-1, *([1] * (points.ndim - 1)))
    along = np.asarray(end, dtype=np.float32) - np.asarray(start, dtype=np.float32)
    offset = points - first
    share = np.clip(np.tensordot(along, offset, axes=1) / np.float32(along @ along), 0, 1)
    offset -= along.reshape(first.shape) * share
    level: Field = np.sqrt((offset**2).sum(axis=0)) - np.float32(radius)
    return level


def joined(first: Field, second: Field, *, blend_mm: float) -> Field:
    """Union of two levels with a rounded seam of about `blend_mm`."""
    share = np.clip(np.float32(blend_mm) - np.abs(first - second), 0, None)
    level: Field = np.minimum(first, second) - share**2 * np.float32(0.25 / blend_mm)
    return level


def volume_fraction(level: Field) -> Field:
    """Returns how much of each voxel lies inside the level, 0 to 1: the partial volume of a locally flat boundary.

    The change of the level from voxel to voxel gives the boundary's direction, so anisotropic voxels blur a boundary
    across their long side more than across their short one. A fraction of one half is a level of 0 at the centre.
    """
    change = np.full(level.shape, 1e-4, dtype=np.float32)
    for axis in range(level.ndim):
        if level.shape[axis] > 1:
            change += np.abs(np.gradient(level, axis=axis))
    fraction: Field = np.clip(np.float32(0.5) - level / change, 0, 1)
    return fraction


def box_around(centre: Sequence[float], reach_mm: float, *, index_from_body: NDArray[np.float64],
               shape: tuple[int, ...]) -> Window:
    """Returns the slices of the voxels of a grid that may lie within `reach_mm` of `centre`; possibly empty."""
    middle = index_from_body[:3, :3] @ np.asarray(centre) + index_from_body[:3, 3]
    # The length of a row of the inverse is how many voxels one millimetre spans at most along that array axis.
    reach = reach_mm * np.linalg.norm(index_from_body[:3, :3], axis=1)
    first = np.clip(np.floor(middle - reach), 0, shape).astype(int)
    last = np.clip(np.ceil(middle + reach) + 1, 0, shape).astype(int)
    return tuple(slice(int(start), int(stop)) for start, stop in zip(first, last, strict=True))


@dataclass(frozen=True)
class Canvas:
    """A scan being painted.

    Attributes:
        values: ``(x, y, z)`` Hounsfield units (attenuation in 2D), painted in place.
        points: ``(axis, x, y, z)`` where each voxel lies in the undeformed anatomy, in millimetres.
        index_from_body: ``(4, 4)`` body millimetres to voxel index.
        slack_mm: how far the warp may move a point.
    """

    values: Field
    points: Field
    index_from_body: NDArray[np.float64]
    slack_mm: float

    def window(self, centre: Sequence[float], reach_mm: float) -> Window:
        """Returns the box of voxels that may lie within `reach_mm` of `centre` once warped; possibly empty."""
        return box_around(centre, reach_mm + self.slack_mm, index_from_body=self.index_from_body,
                          shape=self.values.shape)

    def paint(self, level: Level, value: float, *, window: Window = EVERYWHERE) -> None:
        """Mixes `value` into the window's voxels by the fraction of their volume inside `level`."""
        points = self.points[(slice(None), *window)]
        if points.size > 0:
            self.mix(volume_fraction(level(points)), value, window=window)

    def mix(self, fraction: Field, value: float | Field, *, window: Window = EVERYWHERE) -> None:
        """Replaces `fraction` of each of the window's voxels by `value`, both of the window's shape."""
        part = self.values[window]
        part += fraction * (np.asarray(value, dtype=np.float32) - part)
