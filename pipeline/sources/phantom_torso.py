"""Paints a patient's torso, from the skin to the organ, in the order in which tissues cover each other."""

import numpy as np

from pipeline.sources.phantom_anatomy import (
    Patient,
    gallbladder_level,
    liver_level,
    right_kidney_level,
    vena_cava_level,
)
from pipeline.sources.phantom_fields import Canvas, Field, capsule, ellipsoid, joined, volume_fraction

AIR_HU = -1000.0
RIB_PERIOD_MM = 20.0
TISSUE_TEXTURE_HU = 4.0


def paint_torso(canvas: Canvas, patient: Patient) -> Field:
    """Paints everything but the lesions; returns how much of each voxel the organ fills, ``(x, y, z)``, 0 to 1."""
    canvas.values[...] = AIR_HU
    depth_mm = patient.depth_below_skin(canvas.points)
    texture = patient.texture(canvas.points)
    _paint_wall(canvas, patient, depth_mm=depth_mm, texture=texture)
    inside = depth_mm - np.float32(patient.wall_mm)
    _paint_bowel(canvas, patient, inside_mm=inside)
    _paint_lungs(canvas, patient, inside_mm=inside)
    _paint_upper_organs(canvas, patient, inside_mm=inside)
    _paint_back(canvas, patient)
    _paint_ribs(canvas, patient, depth_mm=depth_mm)
    _paint_spine(canvas, patient)
    return _paint_liver(canvas, patient, texture=texture)


def _paint_wall(canvas: Canvas, patient: Patient, *, depth_mm: Field, texture: Field) -> None:
    """Skin, fat under the skin, muscle, and the fat between the organs."""
    tissues = patient.tissues
    canvas.mix(volume_fraction(-depth_mm), 15.0)
    canvas.mix(volume_fraction(np.float32(1.4) - depth_mm), tissues.fat + TISSUE_TEXTURE_HU * texture)
    # Muscle is thinner in front and behind than at the sides, and nowhere even.
    uneven = depth_mm - np.float32(patient.fat_mm) + np.float32(0.8) * texture
    canvas.mix(volume_fraction(-uneven), tissues.muscle + TISSUE_TEXTURE_HU * texture)
    canvas.mix(volume_fraction(np.float32(patient.wall_mm) - depth_mm), tissues.fat + 14 + 8 * texture)


def _paint_bowel(canvas: Canvas, patient: Patient, *, inside_mm: Field) -> None:
    """Loops of bowel below and in front, with soft content and pockets of gas."""
    gut = patient.gut(canvas.points)
    y, z = canvas.points[1], canvas.points[2]
    bounds = np.maximum(np.maximum(z + 4, -15 - y), 2.5 - inside_mm)
    # One unit of the field is a few millimetres of its slope.
    canvas.mix(volume_fraction(np.maximum((0.1 - gut) * 4, bounds)), patient.tissues.bowel)
    canvas.mix(volume_fraction(np.maximum((1.7 - gut - 0.01 * y) * 4, bounds)), -650.0)


def _paint_lungs(canvas: Canvas, patient: Patient, *, inside_mm: Field) -> None:
    """Both lungs above the domes of the diaphragm: low at the wall, high in the middle."""
    points = canvas.points
    x, y, z = points
    low_at_rim = (x / patient.half_width_mm) ** 2 + (y / patient.half_depth_mm) ** 2
    dome = patient.scale * (38 - 34 * low_at_rim) - z
    middle = 16 - np.abs(x + 4) + 0.1 * y
    level = np.maximum(np.maximum(dome, middle), 1.2 - inside_mm)
    bronchi = 45 * patient.gut(points * np.float32(2.2))
    canvas.mix(volume_fraction(level), patient.tissues.lung + bronchi)


def _paint_upper_organs(canvas: Canvas, patient: Patient, *, inside_mm: Field) -> None:
    """Heart, spleen, stomach, kidneys: neighbours whose intensities are those of the organ or near it."""
    tissues = patient.tissues
    soft = (
        ((-8, 12, 52), (33, 26, 21), tissues.blood),
        ((-45, -12, 10), (13, 21, 24), tissues.spleen),
        ((-29, 17, 3), (20, 15, 21), tissues.muscle - 6),
        ((-29, 17, 3), (17, 12, 18), tissues.stomach),
        ((-33, -24, -29), (12, 13, 23), tissues.kidney),
        ((-33, -23, -29), (4.5, 5, 13), tissues.fat + 20),
    )
    for centre, radii, value in soft:
        window = canvas.window(patient.scaled(*centre), max(patient.scaled(*radii)))
        wall = inside_mm[window]
        canvas.paint(lambda p, c=centre, r=radii, w=wall: np.maximum(  # type: ignore[misc]
            ellipsoid(p, patient.scaled(*c), radii=patient.scaled(*r)), 1.0 - w), value, window=window)
    # Supine: gas rises to the front of the stomach, with a flat level under it.
    window = canvas.window(patient.scaled(-29, 17, 3), 18)
    canvas.paint(lambda p: np.maximum(ellipsoid(p, patient.scaled(-29, 17, 3), radii=patient.scaled(16, 11, 17)),
                                      patient.scale * 23 - p[1]), -880.0, window=window)


def _paint_back(canvas: Canvas, patient: Patient) -> None:
    """Muscles along the spine, aorta, right kidney, gallbladder and vena cava."""
    tissues = patient.tissues
    for side in (-1, 1):
        canvas.paint(lambda p, s=side: joined(  # type: ignore[misc]
            ellipsoid(p, patient.scaled(s * 17, -36, 0), radii=(*patient.scaled(14, 7.5), np.inf)),
            ellipsoid(p, patient.scaled(s * 17, -22, -34), radii=patient.scaled(7, 8, 30)), blend_mm=4),
            tissues.muscle - 3)
    canvas.paint(lambda p: ellipsoid(p, patient.scaled(-7, -9, 0), radii=(*patient.scaled(6, 6), np.inf)),
                 tissues.blood + 6)
    canvas.paint(lambda p: right_kidney_level(patient, p), tissues.kidney,
                 window=canvas.window(patient.scaled(33, -25, -33), 24))
    canvas.paint(lambda p: ellipsoid(p, patient.scaled(31, -24, -33), radii=patient.scaled(4.5, 5, 13)),
                 tissues.fat + 20, window=canvas.window(patient.scaled(31, -24, -33), 14))
    canvas.paint(lambda p: gallbladder_level(patient, p), tissues.bile,
                 window=canvas.window(patient.scaled(15, 20, -19), 16))
    canvas.paint(lambda p: vena_cava_level(patient, p), tissues.blood)


def _paint_ribs(canvas: Canvas, patient: Patient, *, depth_mm: Field) -> None:
    """Slanted ribs in the wall's muscle: dense outside, marrow inside, cartilage towards the front."""
    x, y, z = canvas.points
    around = np.arctan2(np.abs(x), -y)
    along = np.mod(z + np.float32(30) * around + np.float32(patient.rib_phase_mm), np.float32(RIB_PERIOD_MM))
    across = depth_mm - np.float32(patient.fat_mm + 0.55 * patient.muscle_mm)
    level = np.sqrt((across / 2.4) ** 2 + ((along - RIB_PERIOD_MM / 2) / 4.6) ** 2) * 3 - 3
    # No ribs beside the breastbone's lower end, nor below the costal arch.
    level = np.maximum(level, np.maximum(7 - np.abs(x), np.maximum(y - 36 - 0.3 * z, -34 - z + 0.6 * y)))
    cartilage = np.clip((y - np.float32(14)) / 10, 0, 1)
    value = patient.tissues.cortex * (1 - cartilage) + 105 * cartilage
    canvas.mix(volume_fraction(level), value)
    canvas.mix(volume_fraction(np.maximum(level + 1.3, 100 * cartilage - 50)), patient.tissues.marrow * 0.8)


def _paint_spine(canvas: Canvas, patient: Patient) -> None:
    """Vertebrae with dense shells, discs between them, the canal, and the processes behind."""
    tissues, scale = patient.tissues, patient.scale
    shells = ((13.5, tissues.cortex), (11.6, tissues.marrow))
    rise = np.mod(canvas.points[2] + np.float32(patient.rib_phase_mm), np.float32(RIB_PERIOD_MM))
    disc = np.abs(rise - RIB_PERIOD_MM / 2) - 7.5
    canvas.paint(lambda p: ellipsoid(p, (0, -25 * scale, 0), radii=(13 * scale, 10.5 * scale, np.inf)), 85.0)
    for radius, value in shells:
        canvas.paint(lambda p, r=radius: np.maximum(  # type: ignore[misc]
            ellipsoid(p, (0, -25 * scale, 0), radii=(r * scale, (r - 3) * scale, np.inf)), disc - (r - 13.5)), value)
    canvas.paint(lambda p: np.maximum(joined(
        ellipsoid(p, (0, -37 * scale, 0), radii=(9 * scale, 6.5 * scale, np.inf)),
        ellipsoid(p, (0, -43 * scale, 0), radii=(2.6 * scale, 6 * scale, np.inf)), blend_mm=3), disc - 1),
        tissues.cortex * 0.8)
    canvas.paint(lambda p: ellipsoid(p, (0, -37 * scale, 0), radii=(6 * scale, 4.5 * scale, np.inf)), 25.0)


def _paint_liver(canvas: Canvas, patient: Patient, *, texture: Field) -> Field:
    """The organ with its vessels; they belong to the organ's label. Returns the fraction of each voxel it fills."""
    fraction = np.zeros_like(canvas.values)
    window = canvas.window(patient.scaled(14, 4, 0), 62 * patient.scale)
    fraction[window] = volume_fraction(liver_level(patient, canvas.points[(slice(None), *window)]))
    canvas.mix(fraction[window], patient.tissues.liver + TISSUE_TEXTURE_HU * texture[window], window=window)
    for start, end, radius in patient.vessels:
        middle, length = (np.asarray(start) + end) / 2, float(np.linalg.norm(np.subtract(end, start)))
        part = canvas.window(middle.tolist(), length / 2 + radius)
        if min(canvas.values[part].shape) > 0:
            tube = volume_fraction(capsule(canvas.points[(slice(None), *part)], start, end=end, radius=radius))
            canvas.mix(tube * fraction[part], patient.tissues.blood, window=part)
    return fraction
