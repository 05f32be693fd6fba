"""The 3D phantom: CT-like scans of a torso with one organ, its lesions, and neighbours that look much the same."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from pipeline.sources.phantom_anatomy import Patient, draw_patient
from pipeline.sources.phantom_dataset import PhantomDescription, PhantomScan
from pipeline.sources.phantom_fields import Canvas, Field
from pipeline.sources.phantom_lesions import sampled
from pipeline.sources.phantom_torso import paint_torso

ORGAN, LESION = 1, 2
DESCRIPTION_3D = PhantomDescription(
    name="phantom_3d", modality="CT", labels={"organ": ORGAN, "lesion": LESION}, dimensions=3,
    description="Synthetic CT-like torsos: a liver-like organ with zero to four lesions of 3 to 25 mm")
PATIENTS_3D = 64
LARGEST_SHAPE = (96, 80, 32)
FIELD_OF_VIEW_MM = (146.0, 116.0, 84.0)
SECOND_SCAN_ODDS = 0.15
# Direction of the array's axes, as columns in RAS+.
ORIENTATIONS = {"RAS": np.diag([1.0, 1, 1]), "LPS": np.diag([-1.0, -1, 1]), "LAS": np.diag([-1.0, 1, 1])}


@dataclass(frozen=True)
class Acquisition:
    """How one scan was taken.

    Attributes:
        affine: ``(4, 4)`` voxel index to millimetres in RAS+.
        points_from_index: ``(4, 4)`` voxel index to body millimetres, which differ by the patient's pose.
        shape: ``(x, y, z)``.
        noise_hu: standard deviation of the noise in the middle of soft tissue.
        blur_mm: standard deviation of the in-plane blur.
    """

    affine: NDArray[np.float64]
    points_from_index: NDArray[np.float64]
    shape: tuple[int, int, int]
    noise_hu: float
    blur_mm: float


def make_phantom_3d(seed: int, patients: int = PATIENTS_3D, *,
                    largest_shape: tuple[int, int, int] = LARGEST_SHAPE) -> Iterator[PhantomScan]:
    """Yields the scans of `patients` patients, one or two each, ordered by case id.

    Args:
        seed: decides everything; a patient does not change when more patients are asked for.
        patients: how many.
        largest_shape: the most voxels along each axis. A smaller one gives coarser voxels, not less anatomy.
    """
    for number in range(1, patients + 1):
        rng = np.random.default_rng([seed, 3, number])
        patient = draw_patient(rng)
        scans = "ab" if rng.random() < SECOND_SCAN_ODDS else "a"
        for scan in scans:
            acquisition = _draw_acquisition(rng, largest_shape)
            yield _scanned(rng, patient, acquisition=acquisition, name=(f"p{number:03d}", scan))


def _draw_acquisition(rng: np.random.Generator, largest_shape: tuple[int, int, int]) -> Acquisition:
    coarser = np.array(LARGEST_SHAPE) / largest_shape
    in_plane_mm = round(float(rng.uniform(1.5, 2.2)), 3)
    spacing_mm = np.array([in_plane_mm, in_plane_mm, rng.choice([2.5, 3.0, 3.5, 4.0, 5.0])]) * coarser
    shape = np.minimum(np.ceil(np.array(FIELD_OF_VIEW_MM) / spacing_mm), largest_shape).astype(int)
    directions = ORIENTATIONS[str(rng.choice(["RAS", "LPS", "LAS"], p=[0.35, 0.45, 0.2]))]
    if rng.random() < 0.35:
        directions = _rotation(rng, smallest_degrees=7, largest_degrees=18) @ directions
    pose = np.eye(4)
    pose[:3, :3] = _rotation(rng, smallest_degrees=0, largest_degrees=5)
    pose[:3, 3] = rng.uniform((-25, -190, -700), (25, -140, -300))
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing_mm
    # The table is never centred perfectly: the middle of the scan misses the middle of the organ by a little.
    middle = pose[:3, :3] @ rng.uniform(-2, 2, 3) + pose[:3, 3]
    affine[:3, 3] = middle - affine[:3, :3] @ (shape - 1) / 2
    # NIfTI keeps affines as float32: round first, so that the file says exactly where the anatomy was sampled.
    affine = affine.astype(np.float32).astype(np.float64)
    return Acquisition(affine=affine, points_from_index=np.linalg.inv(pose) @ affine,
                       shape=(int(shape[0]), int(shape[1]), int(shape[2])),
                       noise_hu=float(rng.uniform(12, 18)), blur_mm=float(rng.uniform(0.8, 1.3)))


def _rotation(rng: np.random.Generator, *, smallest_degrees: float, largest_degrees: float) -> NDArray[np.float64]:
    axis = rng.standard_normal(3)
    angle = np.deg2rad(rng.uniform(smallest_degrees, largest_degrees))
    matrix: NDArray[np.float64] = Rotation.from_rotvec(axis / np.linalg.norm(axis) * angle).as_matrix()
    return matrix


def _scanned(rng: np.random.Generator, patient: Patient, *, acquisition: Acquisition,
             name: tuple[str, str]) -> PhantomScan:
    """Paints the patient onto the acquisition's grid, then blurs and adds noise as a scanner would."""
    index = np.stack(np.meshgrid(*(np.arange(size) for size in acquisition.shape), indexing="ij"))
    matrix = acquisition.points_from_index
    body = (np.tensordot(matrix[:3, :3], index, axes=1) + matrix[:3, 3].reshape(3, 1, 1, 1)).astype(np.float32)
    canvas = Canvas(values=np.empty(acquisition.shape, dtype=np.float32), points=patient.warp(body),
                    index_from_body=np.linalg.inv(matrix).astype(np.float64), slack_mm=patient.warp.reach_mm)
    organ = paint_torso(canvas, patient)
    label = np.where(organ >= 0.5, ORGAN, 0).astype(np.uint8)
    for lesion in patient.lesions:
        box, filled, weight = sampled(lesion, matrix, shape=acquisition.shape)
        canvas.mix(weight * organ[box], patient.tissues.liver - lesion.contrast_hu, window=box)
        _label_lesion(label[box], filled)
    in_plane_voxels = acquisition.blur_mm / float(np.linalg.norm(acquisition.affine[:3, 0]))
    hu = gaussian_filter(canvas.values, (in_plane_voxels, in_plane_voxels, 0.0))
    hu += _noise(rng, acquisition, body=body)
    image = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
    return PhantomScan(patient=name[0], scan=name[1], image=image, label=label, affine=acquisition.affine,
                       lesion_diameters_mm=tuple(lesion.diameter_mm for lesion in patient.lesions))


def _label_lesion(label: NDArray[np.uint8], filled: Field) -> None:
    """Labels, in place, those voxels of the organ that the lesion fills by half or more."""
    if filled.size > 0:
        # A lesion smaller than a voxel may fill none by half: its fullest voxel is labelled, so that no lesion is lost.
        label[(filled >= min(0.5, float(filled.max()))) & (label == ORGAN)] = LESION


def _noise(rng: np.random.Generator, acquisition: Acquisition, *, body: Field) -> Field:
    """Returns noise in HU with the short in-plane correlation of a reconstruction, stronger in the torso's middle."""
    white = rng.standard_normal(acquisition.shape, dtype=np.float32)
    grain = gaussian_filter(white, (0.6, 0.6, 0.0)) - np.float32(0.5) * gaussian_filter(white, (1.6, 1.6, 0.0))
    grain *= np.float32(acquisition.noise_hu) / grain.std()
    central = np.exp(-(body[0] ** 2 / 60**2 + body[1] ** 2 / 45**2))
    noise: Field = grain * (np.float32(0.72) + np.float32(0.4) * central)
    return noise
