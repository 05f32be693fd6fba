"""Lesions of the 3D phantom: irregular, soft-edged, darker than the organ, and wholly inside it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.phantom_fields import Field, Level, Waves, Window, box_around, draw_waves

SMALLEST_MM, LARGEST_MM = 3.0, 25.0
GAP_MM = 6.0
"""Least distance between two lesions, so that thick slices keep them apart."""
CANDIDATES = 600


@dataclass(frozen=True)
class Lesion:
    """One lesion in body coordinates.

    Attributes:
        centre: millimetres, before the patient's warp: the warp places it but does not stretch it.
        diameter_mm: of the sphere of the same volume.
        bumps: irregularity of the outline, a field on the unit sphere; `roughness` is its share of the radius.
        contrast_hu: how much darker than the organ its middle is.
        edge_mm: width over which the contrast fades at its outline.
    """

    centre: tuple[float, float, float]
    diameter_mm: float
    bumps: Waves
    roughness: float
    contrast_hu: float
    edge_mm: float

    def level(self, points: Field) -> Field:
        """Returns the signed distance along the ray from the centre, millimetres, negative inside."""
        offset = points - np.array(self.centre, dtype=np.float32).reshape(3, *([1] * (points.ndim - 1)))
        distance = np.sqrt((offset**2).sum(axis=0)) + np.float32(1e-4)
        level: Field = distance - self._radius(offset / distance)
        return level

    def surface(self, count: int, margin_mm: float) -> Field:
        """Returns `count` points ``(axis, point)`` that lie `margin_mm` outside the outline, evenly spread."""
        directions = _even_directions(count)
        distance = self._radius(directions) + np.float32(margin_mm)
        points: Field = np.array(self.centre, dtype=np.float32)[:, None] + directions * distance
        return points

    @property
    def reach_mm(self) -> float:
        """Radius of a sphere around the centre that holds the lesion and its faded edge."""
        return float(self._radius(_even_directions(200)).max()) * 1.05 + self.edge_mm

    def _radius(self, directions: Field) -> Field:
        shape = self._shape(directions)
        # The volume of a star-shaped body is the mean of its cubed radius over all directions.
        mean = np.cbrt((self._shape(_even_directions(400)) ** 3).mean())
        radius: Field = shape * np.float32(self.diameter_mm / 2 / mean)
        return radius

    def _shape(self, directions: Field) -> Field:
        shape: Field = np.exp(np.float32(self.roughness) * np.clip(self.bumps(directions), -2, 2))
        return shape


def draw_lesions(rng: np.random.Generator, count: int, *, level: Level) -> tuple[Lesion, ...]:
    """Draws up to `count` lesions that lie inside the organ of which `level` is the level, largest first.

    A lesion that finds no room is drawn smaller until it does, so the count is met in every organ of a sane size.
    """
    sizes_mm = sorted((SMALLEST_MM * (LARGEST_MM / SMALLEST_MM) ** rng.uniform(0, 1, count)).tolist(), reverse=True)
    lesions: list[Lesion] = []
    for size_mm in sizes_mm:
        while size_mm >= SMALLEST_MM:
            lesion = _placed(rng, size_mm, level=level, others=lesions)
            if lesion is not None:
                lesions.append(lesion)
                break
            size_mm *= 0.85
    return tuple(lesions)


def sampled(lesion: Lesion, points_from_index: NDArray[np.float64], *, shape: tuple[int, ...]
            ) -> tuple[Window, Field, Field]:
    """Samples a lesion on a grid finer than the voxels.

    Args:
        lesion: what to sample.
        points_from_index: ``(4, 4)`` voxel index to body millimetres.
        shape: ``(x, y, z)`` of the scan.

    Returns:
        The box of voxels that the lesion touches and, for that box, the share of each voxel's volume inside the outline
        and the mean weight of the contrast (1 in the middle, fading across the edge).
    """
    index_from_body = np.linalg.inv(points_from_index).astype(np.float64)
    box = box_around(lesion.centre, lesion.reach_mm, index_from_body=index_from_body, shape=shape)
    spacing_mm = np.linalg.norm(points_from_index[:3, :3], axis=0)
    steps = np.clip(np.ceil(8 * spacing_mm / lesion.diameter_mm), 3, 8).astype(int)
    fine = [part.start - 0.5 + (np.arange((part.stop - part.start) * step) + 0.5) / step
            for part, step in zip(box, steps, strict=True)]
    index = np.stack(np.meshgrid(*fine, indexing="ij"))
    points = np.tensordot(points_from_index[:3, :3], index, axes=1) + points_from_index[:3, 3].reshape(3, 1, 1, 1)
    level = lesion.level(points.astype(np.float32))
    weight = np.clip(np.float32(0.5) - level / np.float32(lesion.edge_mm), 0, 1)
    return box, _block_means((level < 0).astype(np.float32), steps.tolist()), _block_means(weight, steps.tolist())


def _block_means(fine: Field, steps: list[int]) -> Field:
    x, y, z = (size // step for size, step in zip(fine.shape, steps, strict=True))
    means: Field = fine.reshape(x, steps[0], y, steps[1], z, steps[2]).mean(axis=(1, 3, 5))
    return means


def _placed(rng: np.random.Generator, size_mm: float, *, level: Level, others: list[Lesion]) -> Lesion | None:
    """Returns a lesion of that size in a free place inside the organ, or None where no candidate fits."""
    candidates = rng.uniform((-40, -45, -42), (70, 45, 42), (CANDIDATES, 3)).astype(np.float32)
    deep_enough = candidates[level(candidates.T) < -0.3 * size_mm]
    bumps = draw_waves(rng, 6, longest_mm=6.0, shortest_mm=1.6)
    roughness, contrast_hu = float(rng.uniform(0.08, 0.2)), float(rng.uniform(35, 70))
    edge_mm = float(rng.uniform(0.8, 1.6)) + 0.08 * size_mm
    for centre in deep_enough:
        lesion = Lesion(centre=(float(centre[0]), float(centre[1]), float(centre[2])), diameter_mm=size_mm, bumps=bumps,
                        roughness=roughness, contrast_hu=contrast_hu, edge_mm=edge_mm)
        outline = lesion.surface(100, 0.8)
        if (level(outline) < 0).all() and all((other.level(outline) > GAP_MM).all() for other in others):
            return lesion
    return None


def _even_directions(count: int) -> Field:
    """Returns `count` unit vectors ``(axis, direction)`` spread evenly over the sphere (a Fibonacci lattice)."""
    height = 1 - (2 * np.arange(count) + 1) / count
    turn = np.pi * (1 + np.sqrt(5)) * np.arange(count)
    ring = np.sqrt(1 - height**2)
    return np.stack([ring * np.cos(turn), ring * np.sin(turn), height]).astype(np.float32)
