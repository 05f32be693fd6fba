"""The fingerprint: what is typical of the training cases, as far as the plan asks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.imaging.image_files import read_image, read_label_map
from pipeline.imaging.intensities import robust_range
from pipeline.records.decisions import Decision
from pipeline.records.errors import InputError
from pipeline.records.index import NO_ORIENTATION, Index, IndexedCase

FOREGROUND_SAMPLES = 10_000  # voxels a case: enough for percentiles, the same weight for every case
CLIP_PERCENTILES = (0.5, 99.5)
RARE_SHARE = 0.01  # of the voxels


@dataclass(frozen=True)
class Fingerprint:
    """Typical geometry of the training cases in RAS axis order, and CT intensities inside the labels.

    `shapes` are voxels as scanned, `spacings_mm` millimetres; `label_voxels` are counts by label name, over all cases.
    `intensity_range` spans the robust ranges of all training scans; it and `foreground` are None unless the modality is
    CT, whose numbers alone have a unit. `channels` are of pictures, by name: the robust range over all training images
    (`low`, `high`), the mean of their deviations (`std`), and the `darkest` and `brightest` of their means.
    """

    cases: tuple[str, ...]
    shapes: tuple[tuple[int, int, int], ...]
    spacings_mm: tuple[tuple[float, float, float], ...]
    label_voxels: dict[str, int]
    intensity_range: tuple[float, float] | None
    foreground: dict[str, float] | None
    channels: dict[str, dict[str, float]] | None = None

    @property
    def means(self) -> str:
        """What the channels' means say about their unit, in words; nothing where they were not looked at."""
        said = ", ".join(f"{name} from {values['darkest']:g} to {values['brightest']:g}"
                         for name, values in (self.channels or {}).items())
        return f"; the images' means go in {said}" if said else ""


def take_fingerprint(index: Index) -> Fingerprint:
    """Returns the fingerprint of the index's training cases."""
    cases = index.in_split("train")
    orders = [_ras_order(case.orientation) for case in cases]
    intensity_range, foreground = _ct_intensities(Path(index.root), cases) if index.modality == "CT" else (None, None)
    return Fingerprint(
        cases=tuple(case.case_id for case in cases),
        shapes=tuple(_reorder(case.shape, order) for case, order in zip(cases, orders, strict=True)),
        spacings_mm=tuple(_reorder(case.spacing_mm, order) for case, order in zip(cases, orders, strict=True)),
        label_voxels={name: sum(case.label_voxels[name] for case in cases) for name in index.labels},
        intensity_range=intensity_range,
        foreground=foreground,
        channels=_of_channels(Path(index.root), cases, index.channels) if index.are_pictures else None,
    )


def _of_channels(root: Path, cases: tuple[IndexedCase, ...], names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Returns what is typical of each channel; reads each image once."""
    # (case, channel, (low, high, mean, std))
    rows = np.array([[(*robust_range(one), one.mean(dtype=np.float64), one.std(dtype=np.float64)) for one in channels]
                     for channels in (read_image(root / case.image).channels for case in cases)])
    return {name: {"low": round(float(low.min()), 3), "high": round(float(high.max()), 3),
                   "std": round(float(std.mean()), 3), "darkest": round(float(mean.min()), 3),
                   "brightest": round(float(mean.max()), 3)}
            for name, (low, high, mean, std) in zip(names, rows.transpose(1, 2, 0), strict=True)}


def _ct_intensities(root: Path, cases: tuple[IndexedCase, ...]) -> tuple[tuple[float, float], dict[str, float]]:
    """Returns the range of all scans and how intensities inside the labels are distributed; reads each scan once."""
    ranges, samples = [], []
    for case in cases:
        image = read_image(root / case.image).array
        ranges.append(robust_range(image))
        samples.append(_sample_foreground(image, read_label_map(root / case.label).array))
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    return (round(low, 3), round(high, 3)), _foreground_intensities(root, np.concatenate(samples))


def _foreground_intensities(root: Path, samples: NDArray[np.float64]) -> dict[str, float]:
    if not len(samples):
        raise InputError(root, found="no labelled voxel in any training case", wanted="labels to learn from",
                         remedy="check the label maps, or set `intensity` in bundle.yaml", reason="empty-labels")
    low, high = np.percentile(samples, CLIP_PERCENTILES)
    clipped = np.clip(samples, low, high)
    values = {"low": low, "high": high, "mean": clipped.mean(), "std": clipped.std()}
    return {name: round(float(value), 3) for name, value in values.items()}


def _sample_foreground(image: NDArray[np.float32], label: NDArray[np.float32]) -> NDArray[np.float64]:
    foreground = image[label > 0].astype(np.float64)
    step = max(1, len(foreground) // FOREGROUND_SAMPLES)
    return np.asarray(np.sort(foreground)[step // 2 :: step])


def _ras_order(orientation: str) -> tuple[int, ...]:
    """Returns, for each RAS axis, the scan's axis that runs along it, whichever way; of pictures their own."""
    if orientation == NO_ORIENTATION:
        return 0, 1, 2
    pairs = ("RL", "AP", "SI")
    return tuple(next(i for i, letter in enumerate(orientation) if letter in pair) for pair in pairs)


def _reorder(values: tuple[Any, ...], order: tuple[int, ...]) -> Any:
    return tuple(values[axis] for axis in order)


def class_weights(fingerprint: Fingerprint, labels: list[str]) -> Decision:
    """Returns weights of background and labels with mean 1: equal, or where a label is rare larger for rarer ones.

    Then they are inverse to the cube root of the shares of the voxels: the inverse share itself would let a label of
    one voxel in ten thousand drown all others. Where none is rare, weights cost Dice (docs/benchmarks.md).
    """
    voxels = float(np.prod(np.array(fingerprint.shapes, dtype=np.float64), axis=1).sum())
    counts = [fingerprint.label_voxels[name] for name in labels]
    shares = np.maximum(np.array([voxels - sum(counts), *counts]), 1.0) / voxels
    is_any_rare = bool(shares.min() < RARE_SHARE)
    weights = shares ** (-1 / 3) if is_any_rare else np.ones_like(shares)
    why = "inverse to the cube root of the share of voxels" if is_any_rare else f"equal, none is below {RARE_SHARE:.0%}"
    named = ", ".join(f"{name} {share:.2%}" for name, share in zip(["background", *labels], shares, strict=True))
    return Decision(tuple(round(float(weight), 3) for weight in weights / weights.mean()),
                    f"{why} ({named}), 1 on average")
