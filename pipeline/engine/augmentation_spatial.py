"""Rotation, scaling, shift, mirroring and elastic deformation of a batch of patches by one map from voxel to voxel.

A patch is sampled from a larger cut of the scan (`source_size`), so that a rotated or shrunken patch shows the voxels
that really lie there. The map is applied by sums along the axes: a matrix product may round differently as the batch
grows, and a patch must not depend on what else is in its batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.engine.augmentation_sampling import along_axes, linear_weights, sampled
from pipeline.records.errors import InputError
from pipeline.records.sides import LEFT_RIGHT

Floats: TypeAlias = NDArray[np.float64]
ANGLES_TRIED = 25  # about each axis, when the reach of a rotated patch is worked out
NUMBERS_PER_SAMPLE = 14  # two coins, then three each for angles, scales, shifts and mirroring, in 2D as in 3D


@dataclass(frozen=True)
class SpatialMaps:
    """Where the voxels of n patches come from: that at p, in voxels from the centre, from ``matrix @ (±p) + shift``.

    The sign is minus along the axes that are `mirrored`. The displacements between `knots`, a grid that spans the
    patch, are added to it.
    """

    matrix: Floats  # (n, d, d)
    shift: Floats  # (n, d) voxels
    mirrored: NDArray[np.bool_]  # (n, d)
    knots: Sequence[torch.Tensor | None]  # n of (d, *knots) voxels, or None: no displacement

    def moved(self) -> list[bool]:
        """Returns, for each sample, whether more is asked for than cutting and mirroring."""
        is_affine = (self.matrix != np.eye(self.matrix.shape[-1])).any(axis=(1, 2)) | (self.shift != 0).any(axis=1)
        return [bool(affine) or knots is not None for affine, knots in zip(is_affine, self.knots, strict=True)]


class SpatialAugmentation:
    """Moves the voxels of a batch; image linear, label nearest, both by the same map.

    A structure is sampled at steps of its scale factor, as MONAI's RandAffine does it: above 1 it gets smaller. First
    the patch is mirrored and scaled along its own axes, then rotated about z, y, x, then shifted, then deformed.

    Args:
        patch_size: voxels ``(x, y, z)``, 1 along `slice_axis`; or only the axes that there are.
        slice_axis: axis that the patches of a 2D network lack, or None. All other arguments count it.
        spacing_mm: of the voxels, so that a rotation turns millimetres and not voxels; None, or -1 along an axis where
            scans keep their own: as if it was the same along all axes.
        prob: share of the patches that are rotated, scaled and shifted.
        rotation_rad: largest angle about x, y, z (2D: the first counts), at most pi.
        scale: largest departure of the factor from 1; a number: one factor for all axes, a sequence: one for each.
        shift_voxels: largest shift along each axis.
        mirror_axes: each is mirrored in half of the patches. Only what anatomy allows: mirrored left is right.
        exchanged: for each class the one that it becomes where left and right, axis 0, are mirrored; none: itself.
        elastic_prob: share of the patches that are deformed.
        elastic_voxels: largest displacement, in voxels of the finest axis.
        elastic_spacing_voxels: between the knots that are displaced at random, in voxels of the finest axis. Less than
            twice `elastic_voxels` would fold the image.

    Raises:
        InputError: a value is out of its range.
    """

    def __init__(
        self, *, patch_size: Sequence[int], slice_axis: int | None = None, spacing_mm: Sequence[float] | None = None,
        prob: float = 0.7, rotation_rad: Sequence[float] = (0.26, 0.26, 0.26), scale: float | Sequence[float] = 0.15,
        shift_voxels: Sequence[float] | None = None, mirror_axes: Sequence[int] = (), exchanged: Sequence[int] = (),
        elastic_prob: float = 0.2, elastic_voxels: float = 2.0, elastic_spacing_voxels: float = 12.0,
    ) -> None:
        self.full_size = tuple(patch_size)
        self.axes = [axis for axis in range(len(patch_size)) if axis != slice_axis]
        self.size = np.array([patch_size[axis] for axis in self.axes])
        spacing = np.array([1.0 if spacing_mm is None else spacing_mm[axis] for axis in self.axes])
        self.spacing = spacing if (spacing > 0).all() else np.ones(len(self.axes))
        self.prob, self.elastic_prob = prob, elastic_prob
        self.angles = np.array(rotation_rad[: 1 if len(self.axes) == 2 else 3], dtype=np.float64)
        self.has_one_scale = not isinstance(scale, Sequence)
        self.scale = np.array([scale[axis] if isinstance(scale, Sequence) else scale for axis in self.axes])
        self.shift = np.array([0.0 if shift_voxels is None else shift_voxels[axis] for axis in self.axes])
        self.may_mirror = np.array([axis in mirror_axes for axis in self.axes])
        self.exchanged = tuple(exchanged) if tuple(exchanged) != tuple(range(len(exchanged))) else ()
        _check(self, mirror_axes, elastic_voxels, elastic_spacing_voxels)
        finest = self.spacing.min() / self.spacing
        self.elastic = elastic_voxels * finest * (elastic_prob > 0)
        self.knots = tuple(max(1, int((edge - 1) / max(1.0, elastic_spacing_voxels * share))) + 1
                           for edge, share in zip(self.size, finest, strict=True))

    @property
    def source_size(self) -> tuple[int, ...]:
        """Voxels to cut for a patch, about the same centre, so that no point that can be sampled lies outside them."""
        # Slack for points that float32 puts a hair beyond.
        margins = np.ceil(self._reach() - (self.size - 1) / 2 - 1e-4).astype(int)
        larger = dict(zip(self.axes, self.size + 2 * np.maximum(margins, 0), strict=True))
        return tuple(int(larger.get(axis, size)) for axis, size in enumerate(self.full_size))

    def __call__(
        self, image: torch.Tensor, label: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns new tensors, patches of `patch_size`.

        Args:
            image: ``(n, c, *source)`` float, at least `source_size`, the patch in its middle.
            label: ``(n, 1, *source)`` of any type, which the result has too.
            generators: on the CPU, one for each sample; each is drawn from in the same way whatever the others are.
        """
        return self.apply(image, label, self.draw(generators))

    def apply(
        self, image: torch.Tensor, label: torch.Tensor, maps: SpatialMaps
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the patches that `maps` describe."""
        label = self._with_sides(label, maps)
        moved = [i for i, is_moved in enumerate(maps.moved()) if is_moved]
        everything = len(moved) == len(image)
        image_cut, label_cut = (batch if everything else self._cut(batch, maps) for batch in (image, label))
        if not moved:
            return image_cut, label_cut
        points = self._points(maps, moved, image.shape[2:], image.device)
        if everything:
            return sampled(image.float(), label, points)
        image_cut[moved], label_cut[moved] = sampled(image[moved].float(), label[moved], points)
        return image_cut, label_cut

    def _with_sides(self, label: torch.Tensor, maps: SpatialMaps) -> torch.Tensor:
        """Returns the labels with those exchanged that name a side, in samples whose left and right are mirrored."""
        if not self.exchanged or LEFT_RIGHT not in self.axes:
            return label
        swapped = np.flatnonzero(maps.mirrored[:, self.axes.index(LEFT_RIGHT)]).tolist()
        if not swapped:
            return label
        label = label.clone()
        becomes = torch.tensor(self.exchanged, dtype=label.dtype, device=label.device)
        label[swapped] = becomes[label[swapped].long()]
        return label

    def _reach(self) -> Floats:
        """Returns how far from the centre, in voxels along each axis, the farthest point lies that can be sampled."""
        edge_mm = (self.size - 1) / 2 * (1 + self.scale * (self.prob > 0)) * self.spacing
        limits = self.angles * (self.prob > 0)
        tried = [np.linspace(-limit, limit, ANGLES_TRIED if limit else 1) for limit in limits]
        angles = np.stack(np.meshgrid(*tried, indexing="ij"), axis=-1).reshape(-1, len(limits))
        turned_mm = np.abs(rotations(angles)) @ edge_mm
        # Between the angles tried it can be more, by the second order of the step; along axes that rotations change.
        step = (limits / (ANGLES_TRIED - 1)).sum()
        between_mm = 0.5 * step**2 * edge_mm.sum() * (np.ptp(turned_mm, axis=0) > 0)
        reach = (turned_mm.max(axis=0) + between_mm) / self.spacing
        return np.asarray(reach + self.shift * (self.prob > 0) + self.elastic)

    def draw(self, generators: Sequence[torch.Generator]) -> SpatialMaps:
        """Returns a random map for each generator."""
        numbers = np.stack([torch.rand(NUMBERS_PER_SAMPLE, generator=one, dtype=torch.float64).numpy()
                            for one in generators])
        coins, dims = numbers[:, :2], len(self.axes)
        angles, scales, shifts = (2 * numbers[:, first : first + 3] - 1 for first in (2, 5, 8))
        chosen = (coins[:, 0] < self.prob)[:, None]
        scales = scales[:, [0] * dims] if self.has_one_scale else scales[:, :dims]
        turns = rotations(np.where(chosen, angles[:, : len(self.angles)] * self.angles, 0.0))
        factors = np.where(chosen, 1 + scales * self.scale, 1.0)
        return SpatialMaps(
            matrix=turns * (self.spacing / self.spacing[:, None]) * factors[:, None],
            shift=np.where(chosen, shifts[:, :dims] * self.shift, 0.0),
            mirrored=(numbers[:, 11 : 11 + dims] < 0.5) & self.may_mirror,
            knots=[self._draw_knots(one) if coin < self.elastic_prob and self.elastic.any() else None
                   for one, coin in zip(generators, coins[:, 1], strict=True)],
        )

    def _draw_knots(self, generator: torch.Generator) -> torch.Tensor:
        # Uniform and so bounded: what is interpolated between them cannot reach beyond `source_size`.
        uniform = 2 * torch.rand((len(self.knots), *self.knots), generator=generator) - 1
        return uniform * torch.from_numpy(self.elastic).float().reshape(-1, *[1] * len(self.knots))

    def _points(self, maps: SpatialMaps, moved: list[int], source: Sequence[int], device: torch.device) -> torch.Tensor:
        """Returns ``(moved, d, *patch)``: where the voxels come from, in voxels from the source's first one."""
        signs = np.where(maps.mirrored[moved], -1.0, 1.0)
        matrix = torch.from_numpy(maps.matrix[moved] * signs[:, None]).float().to(device)
        centre = torch.from_numpy(maps.shift[moved] + (np.array(source) - 1) / 2).float().to(device)
        dims, sizes = len(self.axes), self.size.tolist()
        points = torch.empty((len(moved), dims, *sizes), device=device)
        for axis in range(dims):
            total = centre[:, axis].reshape(-1, *[1] * dims)
            for other, size in enumerate(sizes):
                along = matrix[:, axis, other, None] * (torch.arange(size, device=device) - (size - 1) / 2)
                total = total + along.reshape(-1, *[size if k == other else 1 for k in range(dims)])
            points[:, axis] = total
        for row, i in enumerate(moved):
            knots = maps.knots[i]
            if knots is not None:
                weights = [linear_weights(torch.linspace(0, count - 1, size), count)
                           for count, size in zip(knots.shape[1:], sizes, strict=True)]
                points[row] += along_axes(knots.to(device), weights)
        return points

    def _cut(self, batch: torch.Tensor, maps: SpatialMaps) -> torch.Tensor:
        """Returns the middle of each sample, mirrored where it is to be."""
        inner = [slice((have - size) // 2, (have - size) // 2 + size)
                 for have, size in zip(batch.shape[2:], self.size.tolist(), strict=True)]
        axes = [[1 + int(axis) for axis in np.flatnonzero(flags)] for flags in maps.mirrored]
        return torch.stack([one[(slice(None), *inner)].flip(flipped) for one, flipped in zip(batch, axes, strict=True)])


def rotations(angles_rad: Floats) -> Floats:
    """Returns rotation matrices ``(n, d, d)``: of angles ``(n, 1)`` in 2D, of ``(n, 3)`` about x, y, z: Rx @ Ry @ Rz.

    A positive angle turns the first of the other two axes towards the second, in the order x, y, z, x.
    """
    cos, sin = np.cos(angles_rad), np.sin(angles_rad)
    if angles_rad.shape[1] == 1:
        return np.stack([cos, -sin, sin, cos], axis=-1).reshape(-1, 2, 2)
    result = np.tile(np.eye(3), (len(angles_rad), 1, 1))
    for axis in range(3):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn = np.tile(np.eye(3), (len(angles_rad), 1, 1))
        turn[:, first, first] = turn[:, second, second] = cos[:, axis]
        turn[:, first, second], turn[:, second, first] = -sin[:, axis], sin[:, axis]
        result = result @ turn
    return result


def _check(
    augmentation: SpatialAugmentation, mirror_axes: Sequence[int], elastic_voxels: float, knots_voxels: float
) -> None:
    claims = {
        "prob, elastic_prob": (0 <= augmentation.prob <= 1 and 0 <= augmentation.elastic_prob <= 1, "0 to 1"),
        "rotation_rad": (bool((np.abs(augmentation.angles - np.pi / 2) <= np.pi / 2).all()), "0 to pi"),
        "scale": (bool(((augmentation.scale >= 0) & (augmentation.scale < 1)).all()), "0 to less than 1"),
        "shift_voxels": (bool((augmentation.shift >= 0).all()), "0 or more"),
        "mirror_axes": (set(mirror_axes) <= set(augmentation.axes), f"some of the axes {augmentation.axes}"),
        "elastic_voxels": (0 <= elastic_voxels <= knots_voxels / 2, "0 to half of elastic_spacing_voxels"),
    }
    for name, (holds, wanted) in claims.items():
        if not holds:
            raise InputError("train.yaml, spatial augmentation", found=f"`{name}` out of range", wanted=wanted,
                             remedy="correct it", reason="invalid-value")
