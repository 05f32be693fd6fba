"""The 3D phantom's patient: who it is, where its torso wall lies, and the shape of the organ.

Body coordinates are millimetres in RAS+ around the middle of a child-sized torso: x to the patient's right, y to the
front, z to the head. The warp of each patient bends all of it. Sizes are in millimetres, intensities in Hounsfield
units (HU).
"""

from dataclasses import dataclass, replace

import numpy as np

from pipeline.sources.phantom_fields import Field, Warp, Waves, draw_warp, draw_waves, ellipsoid, joined
from pipeline.sources.phantom_lesions import Lesion, draw_lesions

Point = tuple[float, float, float]
LESION_COUNTS = (0, 1, 2, 3, 4)
LESION_COUNT_ODDS = (0.22, 0.28, 0.22, 0.16, 0.12)


@dataclass(frozen=True)
class Tissues:
    """Intensities in HU. Enhanced patients have brighter blood, kidneys and organ than unenhanced ones."""

    fat: float
    muscle: float
    liver: float
    spleen: float
    kidney: float
    blood: float
    stomach: float
    bowel: float
    bile: float
    marrow: float
    cortex: float
    lung: float


@dataclass(frozen=True)
class Patient:
    """All that stays the same between two scans of one patient.

    Attributes:
        half_width_mm, half_depth_mm: half axes of the torso's outline.
        fat_mm, muscle_mm: thickness of the two layers of the torso's wall.
        scale: size of the inner organs against the average.
        warp: bends the anatomy; `liver_surface` makes the organ's outline irregular by `roughness_mm`.
        texture: slow variation inside tissues; `gut` decides where loops of bowel lie.
        vessels: start, end and radius of the branches inside the organ.
        rib_phase_mm: where along z the ribs and vertebrae begin.
    """

    half_width_mm: float
    half_depth_mm: float
    fat_mm: float
    muscle_mm: float
    scale: float
    tissues: Tissues
    warp: Warp
    liver_surface: Waves
    roughness_mm: float
    texture: Waves
    gut: Waves
    vessels: tuple[tuple[Point, Point, float], ...]
    rib_phase_mm: float
    lesions: tuple[Lesion, ...] = ()

    def depth_below_skin(self, points: Field) -> Field:
        """Returns the distance from the skin to `points`, positive inside; close to exact near the skin."""
        across, along = points[0] / np.float32(self.half_width_mm), points[1] / np.float32(self.half_depth_mm)
        radius = np.sqrt(across**2 + along**2) + np.float32(1e-3)
        slope = np.sqrt((across / np.float32(self.half_width_mm)) ** 2 + (along / np.float32(self.half_depth_mm)) ** 2)
        depth: Field = (1 - radius) * radius / (slope + np.float32(1e-5))
        return depth

    @property
    def wall_mm(self) -> float:
        """Thickness of the torso's wall."""
        return self.fat_mm + self.muscle_mm

    def scaled(self, *lengths_mm: float) -> tuple[float, ...]:
        """Returns lengths or a position in this patient's size."""
        return tuple(self.scale * length for length in lengths_mm)


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draws one patient with its lesions."""
    scale = float(rng.uniform(0.93, 1.05))
    patient = Patient(
        half_width_mm=float(rng.uniform(61, 66)), half_depth_mm=float(rng.uniform(46, 51)),
        fat_mm=float(rng.uniform(3, 7.5)), muscle_mm=float(rng.uniform(4.5, 6.5)), scale=scale,
        tissues=_draw_tissues(rng), warp=draw_warp(rng, 2.2, longest_mm=150, shortest_mm=80),
        liver_surface=draw_waves(rng, 6, longest_mm=55, shortest_mm=24), roughness_mm=float(rng.uniform(1.0, 2.2)),
        texture=draw_waves(rng, 6, longest_mm=45, shortest_mm=12),
        gut=draw_waves(rng, 7, longest_mm=34, shortest_mm=17), vessels=_draw_vessels(rng, scale),
        rib_phase_mm=float(rng.uniform(0, 20)))
    count = int(rng.choice(LESION_COUNTS, p=LESION_COUNT_ODDS))
    lesions = draw_lesions(rng, count, level=lambda points: liver_level(patient, patient.warp(points)))
    return replace(patient, lesions=lesions)


def liver_level(patient: Patient, points: Field) -> Field:
    """Level of the organ: two joined lobes with a rough surface, against the torso's wall and around its neighbours."""
    right = ellipsoid(points, patient.scaled(28, -1, -1), radii=patient.scaled(30, 35, 34))
    left = ellipsoid(points, patient.scaled(-6, 21, 11), radii=patient.scaled(27, 14, 16))
    level: Field = joined(right, left, blend_mm=14)
    level = level + np.float32(patient.roughness_mm) * patient.liver_surface(points)
    level = np.maximum(level, np.float32(patient.wall_mm + 0.8) - patient.depth_below_skin(points))
    for neighbour in (gallbladder_level, vena_cava_level, right_kidney_level):
        level = np.maximum(level, -neighbour(patient, points))
    return level


def gallbladder_level(patient: Patient, points: Field) -> Field:
    """Level of the gallbladder, which lies in a bay of the organ."""
    return ellipsoid(points, patient.scaled(15, 20, -19), radii=patient.scaled(8, 9, 15))


def vena_cava_level(patient: Patient, points: Field) -> Field:
    """Level of the vena cava, which runs along the organ's back."""
    return ellipsoid(points, patient.scaled(12, -13, 0), radii=(*patient.scaled(7.5, 6.5), np.inf))


def right_kidney_level(patient: Patient, points: Field) -> Field:
    """Level of the right kidney, which dents the organ from below."""
    return ellipsoid(points, patient.scaled(33, -25, -33), radii=patient.scaled(13, 13, 23))


def _draw_tissues(rng: np.random.Generator) -> Tissues:
    enhancement = float(rng.uniform(0.3, 1)) if rng.random() < 0.6 else 0.0
    liver = float(rng.uniform(52, 70)) + 20 * enhancement
    return Tissues(
        fat=float(rng.uniform(-112, -95)), muscle=float(rng.uniform(52, 64)) + 8 * enhancement, liver=liver,
        spleen=liver + float(rng.uniform(-12, 10)), kidney=float(rng.uniform(32, 44)) + 75 * enhancement,
        blood=float(rng.uniform(38, 46)) + 85 * enhancement, stomach=float(rng.uniform(20, 65)),
        bowel=float(rng.uniform(22, 45)) + 15 * enhancement, bile=float(rng.uniform(3, 18)),
        marrow=float(rng.uniform(170, 260)), cortex=float(rng.uniform(480, 700)), lung=float(rng.uniform(-840, -720)))


def _draw_vessels(rng: np.random.Generator, scale: float) -> tuple[tuple[Point, Point, float], ...]:
    """Draws a portal tree: branches from the organ's gate, each with two twigs."""
    gate = np.array([8.0, 4.0, -6.0])
    ends = np.array([[38, 12, 12], [44, -8, -6], [30, -18, 16], [34, 14, -16], [-16, 24, 14]], dtype=float)
    vessels: list[tuple[Point, Point, float]] = []
    for end in ends + rng.normal(0, 4, ends.shape):
        radius = float(rng.uniform(2.0, 3.4))
        fork = gate + (end - gate) * rng.uniform(0.5, 0.7)
        vessels.append((_point(gate * scale), _point(fork * scale), radius))
        for _ in range(2):
            twig = end + rng.normal(0, 8, 3)
            vessels.append((_point(fork * scale), _point(twig * scale), radius * float(rng.uniform(0.45, 0.7))))
    return tuple(vessels)


def _point(position: np.ndarray) -> Point:
    x, y, z = (float(value) for value in position)
    return x, y, z
