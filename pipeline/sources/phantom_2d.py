"""The 2D phantom: radiograph-like chests with lung and heart, which share their intensities with what lies around."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from pipeline.sources.phantom_chest import Chest, attenuation, draw_chest
from pipeline.sources.phantom_dataset import PhantomDescription, PhantomScan
from pipeline.sources.phantom_fields import Field, capsule

LUNG, HEART = 1, 2
DESCRIPTION_2D = PhantomDescription(
    name="phantom_2d", modality="DX", labels={"lung": LUNG, "heart": HEART}, dimensions=2,
    description="Synthetic radiograph-like chests: lung and the heart's silhouette")
PATIENTS_2D = 44
LARGEST_SIDE = 176
SECOND_IMAGE_ODDS = 0.1
DETECTOR_MAX = 4095


def make_phantom_2d(seed: int, patients: int = PATIENTS_2D, *, largest_side: int = LARGEST_SIDE
                    ) -> Iterator[PhantomScan]:
    """Yields the images of `patients` patients, one or two each, ordered by case id.

    Args:
        seed: decides everything; a patient does not change when more patients are asked for.
        patients: how many.
        largest_side: the most pixels along each axis. A smaller one gives coarser pixels, not less anatomy.
    """
    for number in range(1, patients + 1):
        rng = np.random.default_rng([seed, 2, number])
        chest = draw_chest(rng)
        images = "ab" if rng.random() < SECOND_IMAGE_ODDS else "a"
        for image in images:
            yield _exposed(rng, chest, name=(f"p{number:03d}", image), largest_side=largest_side)


def _exposed(rng: np.random.Generator, chest: Chest, *, name: tuple[str, str], largest_side: int) -> PhantomScan:
    """Projects the patient onto a detector of its own spacing, size and exposure."""
    spacing_mm = round(float(rng.uniform(1.5, 2.0)) * LARGEST_SIDE / largest_side, 3)
    shape = np.minimum(np.rint(rng.uniform((248, 240), (284, 268)) / spacing_mm), largest_side).astype(int)
    affine = _affine(spacing_mm, shape)
    straight = _chest_points(rng, shape, spacing_mm=spacing_mm)
    points = chest.warp(straight)
    label = np.zeros(points.shape[1:], dtype=np.uint8)
    label[chest.lung_level(points) < 0] = LUNG
    label[chest.heart_level(points) < 0] = HEART
    values = _developed(rng, attenuation(chest, points, straight=straight), spacing_mm=spacing_mm)
    _add_marker(rng, values, straight)
    closed = _collimated(rng, straight)
    values[closed] = rng.uniform(0, 60)
    label[closed] = 0
    return PhantomScan(patient=name[0], scan=name[1], image=np.rint(values).astype(np.int16)[..., None],
                       label=label[..., None], affine=affine)


def _affine(spacing_mm: float, shape: NDArray[np.int_]) -> NDArray[np.float64]:
    """Returns the affine that ITK gives a radiograph, which has no orientation of its own: axes to left and to back.

    The first axis truly runs to the patient's left. The second, down the image, is the second axis of the file.
    """
    affine = np.diag([-spacing_mm, -spacing_mm, 1.0, 1.0])
    affine[:2, 3] = spacing_mm * (shape - 1) / 2
    return affine.astype(np.float32).astype(np.float64)


def _chest_points(rng: np.random.Generator, shape: NDArray[np.int_], *, spacing_mm: float) -> Field:
    """Returns where each pixel lies in the chest, ``(axis, x, y)`` millimetres; no patient stands straight."""
    across, down = np.meshgrid(*((np.arange(size) - (size - 1) / 2) * spacing_mm for size in shape), indexing="ij")
    turn = np.deg2rad(rng.normal(0, 2.5))
    shift = rng.uniform((-8, 2), (8, 16))
    x, z = -across, -down
    turned = np.stack([x * np.cos(turn) - z * np.sin(turn) + shift[0], x * np.sin(turn) + z * np.cos(turn) + shift[1]])
    return turned.astype(np.float32)


def _developed(rng: np.random.Generator, integral: Field, *, spacing_mm: float) -> Field:
    """Turns attenuation into detector values: scatter, blur, quantum noise, then exposure and contrast.

    Bones are bright, as radiographs are displayed.
    """
    primary = np.exp(-integral)
    scatter = rng.uniform(0.15, 0.4) * gaussian_filter(primary, 40 / spacing_mm)
    arriving = gaussian_filter(primary, 1.1 / spacing_mm) + scatter
    photons = rng.uniform(9e3, 3e4)
    noise = gaussian_filter(rng.standard_normal(arriving.shape, dtype=np.float32), 0.55)
    noise *= np.float32(1 / noise.std())
    darkness = -np.log(np.clip(arriving * (1 + noise / np.sqrt(photons * arriving)), 1e-4, None))
    low, high = np.percentile(darkness, (2, 98))
    gamma, bottom, top = rng.uniform(0.8, 1.25), rng.uniform(150, 600), rng.uniform(2600, 3700)
    shown = np.clip((darkness - low) / (high - low), 0, 1.3) ** gamma
    values: Field = np.clip(bottom + (top - bottom) * shown, 0, DETECTOR_MAX).astype(np.float32)
    return values


def _collimated(rng: np.random.Generator, points: Field) -> NDArray[np.bool_]:
    """Returns which pixels the collimator's blades keep dark; some images have none."""
    margins_mm = np.where(rng.random(4) < 0.55, rng.uniform(0, 12, 4), -30)
    turn = np.deg2rad(rng.normal(0, 1.5))
    x = points[0] * np.cos(turn) - points[1] * np.sin(turn)
    z = points[0] * np.sin(turn) + points[1] * np.cos(turn)
    closed: NDArray[np.bool_] = ((x < x.min() + margins_mm[0]) | (x > x.max() - margins_mm[1])
                                 | (z < z.min() + margins_mm[2]) | (z > z.max() - margins_mm[3]))
    return closed


def _add_marker(rng: np.random.Generator, values: Field, points: Field) -> None:
    """Lays a lead letter L beside the left shoulder, where a technician would."""
    x, z = float(points[0].min() + rng.uniform(22, 32)), float(points[1].max() - rng.uniform(20, 40))
    upright = capsule(points, (x, z), end=(x, z - 14), radius=1.6)
    foot = capsule(points, (x, z - 14), end=(x - 8, z - 14), radius=1.6)
    values[np.minimum(upright, foot) < 0] = DETECTOR_MAX
