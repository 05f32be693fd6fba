"""The 2D phantom's patient: outlines of lungs, heart and bones, and how much they attenuate the beam.

Chest coordinates are millimetres in the plane of the detector: x to the patient's right, z to the head, around a point
on the spine behind the heart. Attenuation is the line integral along the beam: 0 for air, about 4 through the abdomen.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.phantom_fields import Field, Warp, Waves, capsule, draw_warp, draw_waves, ellipsoid, joined

Tube = tuple[tuple[float, float], tuple[float, float], float]
# Attenuation per millimetre at about 100 kV.
SOFT_PER_MM, LUNG_PER_MM = 0.018, 0.005


@dataclass(frozen=True)
class Chest:
    """One patient.

    Attributes:
        scale: size against the average.
        depth_mm: thickness of the chest along the beam.
        warp: bends the anatomy.
        lung_surface: irregularity of the outlines.
        mottle: fine vessels and fibres in the lungs, which no one can trace.
        dome_mm: height of the right and left dome of the diaphragm.
        heart: centre x, centre z, long half axis, short half axis (millimetres), tilt (radians).
        mediastinum_mm: half width of the middle shadow.
        vessels: branches from both hila.
        opacities: centre x, centre z, radius, attenuation of hazy patches in the lungs.
        rib_phase_mm: where along z the ribs begin.
        breast: attenuation of the breasts' shadow, 0 for none.
    """

    scale: float
    depth_mm: float
    warp: Warp
    lung_surface: Waves
    mottle: Waves
    dome_mm: tuple[float, float]
    heart: tuple[float, float, float, float, float]
    mediastinum_mm: float
    vessels: tuple[Tube, ...]
    opacities: tuple[tuple[float, float, float, float], ...]
    rib_phase_mm: float
    breast: float

    def lung_level(self, points: Field) -> Field:
        """Level of both lungs together, without the part that the heart covers or the diaphragm hides."""
        x, z = points / np.float32(self.scale)
        scaled = np.stack([x, z])
        right = np.maximum(ellipsoid(scaled, (55, 14), radii=(48, 104)), self._dome(x, z, side=0))
        left = np.maximum(ellipsoid(scaled, (-55, 14), radii=(46, 102)), self._dome(x, z, side=1))
        middle = np.float32(self.mediastinum_mm) + np.clip(z - 60, 0, None) * np.float32(0.12) - np.abs(x)
        level = np.maximum(np.minimum(right, left), middle) + np.float32(1.1) * self.lung_surface(points)
        outside: Field = np.maximum(level, -self.heart_level(points)) * np.float32(self.scale)
        return outside

    def heart_level(self, points: Field) -> Field:
        """Level of the heart's silhouette: a tilted ellipse joined with the right atrium, flat on the diaphragm."""
        x, z = points / np.float32(self.scale)
        centre_x, centre_z, long_mm, short_mm, tilt = self.heart
        along = (x - centre_x) * np.cos(tilt) + (z - centre_z) * np.sin(tilt)
        across = (z - centre_z) * np.cos(tilt) - (x - centre_x) * np.sin(tilt)
        body = ellipsoid(np.stack([along, across]), (0, 0), radii=(long_mm, short_mm))
        atrium = ellipsoid(np.stack([x, z]), (12, centre_z + 5), radii=(20, 25))
        # The heart rests on the middle of the diaphragm, which sags a little under it.
        floor = np.float32(self.dome_mm[1] - 9) - ((x - centre_x) / 46) ** 2 * np.float32(6) - z
        level = -joined(-joined(body, atrium, blend_mm=12), -floor, blend_mm=9)
        rested: Field = level * np.float32(self.scale)
        return rested

    def _dome(self, x: Field, z: Field, *, side: int) -> Field:
        """Level of what lies above one dome of the diaphragm."""
        middle = np.float32((48, -48)[side])
        aside = (x - middle) * np.float32(1 / 46)
        level: Field = np.float32(self.dome_mm[side]) - aside * aside * np.float32(21) - z
        return level


def draw_chest(rng: np.random.Generator) -> Chest:
    """Draws one patient."""
    right_dome = float(rng.uniform(-62, -44))
    hazy = int(rng.choice([0, 1, 2], p=[0.55, 0.3, 0.15]))
    opacities = tuple((float(rng.choice([-1, 1]) * rng.uniform(35, 80)), float(rng.uniform(-40, 70)),
                       float(rng.uniform(12, 26)), float(rng.uniform(0.25, 0.6))) for _ in range(hazy))
    return Chest(
        scale=float(rng.uniform(0.88, 1.0)), depth_mm=float(rng.uniform(185, 225)),
        warp=draw_warp(rng, 3.5, longest_mm=260, shortest_mm=120, axes=2),
        lung_surface=draw_waves(rng, 6, longest_mm=90, shortest_mm=35, axes=2),
        mottle=draw_waves(rng, 24, longest_mm=26, shortest_mm=6, axes=2),
        dome_mm=(right_dome, right_dome - float(rng.uniform(3, 13))),
        heart=(float(rng.uniform(-30, -18)), float(rng.uniform(-38, -26)), float(rng.uniform(46, 60)),
               float(rng.uniform(33, 42)), float(rng.uniform(0.4, 0.75))),
        mediastinum_mm=float(rng.uniform(17, 24)), vessels=_draw_vessels(rng), opacities=opacities,
        rib_phase_mm=float(rng.uniform(0, 23)), breast=float(rng.uniform(0.25, 0.6)) if rng.random() < 0.5 else 0.0)


def attenuation(chest: Chest, points: Field, *, straight: Field) -> Field:
    """Returns the line integral of attenuation at `points`, ``(axis, x, y)`` warped millimetres.

    `straight` holds the same points before the warp, for what does not bend with the chest: the skin's outline.
    """
    body_mm = _body_thickness(chest, straight)
    lung, heart = chest.lung_level(points), chest.heart_level(points)
    hidden = _lung_behind(chest, points)
    total = SOFT_PER_MM * body_mm
    total -= (SOFT_PER_MM - LUNG_PER_MM) * np.minimum(_chord(lung, 34, 118) + hidden, 0.75 * body_mm)
    total += 0.14 * chest.mottle(points) * np.clip(-lung / 25, 0, 1)
    total += 0.35 * np.clip(-heart / 22, 0, 1) + _mediastinum(chest, points)
    total += _soft_shadows(chest, points, lung=lung)
    bones = _ribs(chest, points) + _spine(chest, points) + _shoulders(chest, points)
    attenuated: Field = np.where(body_mm > 0, np.clip(total + bones, 0.05, None), 0).astype(np.float32)
    return attenuated


def _chord(level: Field, rise_mm: float, most_mm: float) -> Field:
    """Thickness of a rounded body behind its outline: steep at the edge, flat from `rise_mm` inward."""
    depth = np.clip(-level / rise_mm, 0, 1)
    chord: Field = np.float32(most_mm) * np.sqrt(depth * (2 - depth))
    return chord


def _body_thickness(chest: Chest, points: Field) -> Field:
    x, z = points / np.float32(chest.scale)
    half_width = 122 + 34 / (1 + np.exp(-(z - 78) / 11)) - 75 / (1 + np.exp(-(z - 128) / 7))
    across = np.clip(1 - (x / half_width) ** 2, 0, 1)
    taper = 1 - 0.35 / (1 + np.exp(-(z - 85) / 25))
    thickness: Field = np.float32(chest.depth_mm) * np.sqrt(across) * taper * (1 - 0.12 * np.tanh((z + 60) / 40))
    return thickness


def _lung_behind(chest: Chest, points: Field) -> Field:
    """Lung that lies in front of or behind heart, domes and spine, not labelled because one cannot see its edge."""
    x, z = points / np.float32(chest.scale)
    scaled = np.stack([x, z])
    behind = np.minimum(ellipsoid(scaled, (52, -8), radii=(46, 88)), ellipsoid(scaled, (-52, -8), radii=(46, 86)))
    return _chord(behind, 40, 26)


def _mediastinum(chest: Chest, points: Field) -> Field:
    """Great vessels: the middle shadow with the aortic knob on the left."""
    x, z = points / np.float32(chest.scale)
    width = chest.mediastinum_mm * (0.9 + 0.25 * np.tanh((50 - z) / 30))
    knob = ellipsoid(np.stack([x, z]), (-17, 44), radii=(14, 15))
    shadow: Field = 0.55 * np.exp(-((x / width) ** 4)) + 0.3 * np.clip(-knob / 6, 0, 1)
    return shadow


def _soft_shadows(chest: Chest, points: Field, *, lung: Field) -> Field:
    """Vessels from the hila, hazy patches, breasts, and the gas in the stomach."""
    x, z = points / np.float32(chest.scale)
    scaled = np.stack([x, z])
    shadow: Field = np.zeros_like(x)
    in_lung = np.clip(-lung / 6, 0, 1)
    for start, end, radius in chest.vessels:
        shadow += 0.1 * radius * np.clip(0.5 - capsule(scaled, start, end=end, radius=radius) / 2, 0, 1) * in_lung
    for centre_x, centre_z, radius, strength in chest.opacities:
        shadow += strength * np.exp(-((x - centre_x) ** 2 + (z - centre_z) ** 2) / radius**2) * in_lung
    for side in (-1, 1):
        breast = ellipsoid(scaled, (side * 62, -28), radii=(44, 46))
        shadow += chest.breast * np.sqrt(np.clip(-breast / 45, 0, 1))
    bubble = ellipsoid(scaled, (-52, chest.dome_mm[1] - 20), radii=(24, 12))
    shadow -= 0.8 * np.sqrt(np.clip(-bubble / 12, 0, 1))
    return shadow


def _ribs(chest: Chest, points: Field) -> Field:
    """Ribs behind, falling outwards, and in front, falling inwards; both denser at their edges."""
    x, z = points / np.float32(chest.scale)
    outward = np.abs(x) / 105
    arcs = ((z + 34 * outward**2 - 6 * outward, 23.0, 4.4, 0.34), (z - 62 * outward + 30, 27.0, 5.2, 0.17))
    total = np.zeros_like(x)
    for height, period, half_width, strength in arcs:
        distance = np.abs(np.mod(height + chest.rib_phase_mm, period) - period / 2)
        profile = np.clip(half_width - distance, 0, 1.5) / 1.5
        rim = np.exp(-(((distance - half_width + 1.2) / 1.2) ** 2))
        total += strength * (profile + 0.6 * rim) * (np.abs(x) > 9)
    cage = ellipsoid(np.stack([x, z]), (0, 4), radii=(109, 128))
    edge_on = 0.5 * np.exp(-((cage / 4) ** 2)) * (np.mod(z + chest.rib_phase_mm, 23) < 11)
    caged: Field = (total + edge_on) * np.clip(0.5 - cage / 3, 0, 1)
    return caged


def _spine(chest: Chest, points: Field) -> Field:
    x, z = points / np.float32(chest.scale)
    rise = np.abs(np.mod(z + chest.rib_phase_mm, 23) - 11.5)
    shadow: Field = 0.45 * np.exp(-((x / 13) ** 6)) * (0.65 + 0.35 * np.clip((rise - 2) / 3, 0, 1))
    return shadow


def _shoulders(chest: Chest, points: Field) -> Field:
    """Collar bones and shoulder blades."""
    scaled = points / np.float32(chest.scale)
    total: Field = np.zeros_like(scaled[0])
    for side in (-1.0, 1.0):
        collar = joined(capsule(scaled, (side * 18, 84), end=(side * 62, 92), radius=4.5),
                        capsule(scaled, (side * 62, 92), end=(side * 118, 112), radius=4.5), blend_mm=6)
        total += 0.42 * np.clip(0.5 - collar / 2, 0, 1)
        blade = joined(capsule(scaled, (side * 98, 82), end=(side * 88, 8), radius=9),
                       capsule(scaled, (side * 112, 84), end=(side * 90, 6), radius=8), blend_mm=8)
        total += 0.2 * np.clip(0.5 - blade / 3, 0, 1)
    return total


def _draw_vessels(rng: np.random.Generator) -> tuple[Tube, ...]:
    """Draws branches that fan out from each hilum and thin with each fork."""
    tubes: list[Tube] = []
    for side in (-1.0, 1.0):
        hilum = np.array([side * 24, 12.0])
        for angle in np.linspace(-1.25, 1.25, 7) + rng.normal(0, 0.12, 7):
            direction = np.array([side * np.cos(angle), np.sin(angle)])
            fork = hilum + direction * rng.uniform(22, 34)
            tubes.append((_pair(hilum), _pair(fork), float(rng.uniform(2.4, 3.8))))
            for turn in rng.normal(0, 0.35, 2):
                twig = np.array([side * np.cos(angle + turn), np.sin(angle + turn)])
                tubes.append((_pair(fork), _pair(fork + twig * rng.uniform(20, 38)), float(rng.uniform(1.0, 1.8))))
    return tuple(tubes)


def _pair(position: NDArray[np.float64]) -> tuple[float, float]:
    return float(position[0]), float(position[1])
