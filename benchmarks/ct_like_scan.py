"""A CT-like scan with an organ and lesions, as a DICOM series that readers of every kind take the same way."""

from pathlib import Path

import numpy as np

SHAPE, SPACING_MM = (512, 512, 120), (0.7, 0.7, 2.5)
# As CT series are: rows to the left, columns to the back.
AFFINE = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
REPEATS = 4


def make_scan() -> tuple[np.ndarray, np.ndarray]:
    """Returns Hounsfield units and labels ``(x, y, z)``: a body in air, an organ, and lesions in it."""
    rng = np.random.default_rng(0)
    x, y, z = np.meshgrid(*(np.arange(n) * mm for n, mm in zip(SHAPE, SPACING_MM, strict=True)), indexing="ij",
                          sparse=True)

    def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
        return ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 + (
            (z - centre[2]) / radii[2]) ** 2 < 1

    image = np.full(SHAPE, -1000, dtype=np.float32)
    image[ellipsoid((179, 179, 150), (150, 110, 400))] = 0
    label = np.zeros(SHAPE, dtype=np.uint8)
    organ = ellipsoid((120, 170, 160), (60, 50, 70))
    image[organ], label[organ] = 60, 1
    for _ in range(12):
        centre = np.array([120, 170, 160]) + rng.uniform(-1, 1, 3) * (40, 33, 48)
        lesion = ellipsoid(tuple(centre), tuple(rng.uniform(4, 12, 3))) & organ
        image[lesion], label[lesion] = 120, 2
    image += rng.normal(scale=20, size=SHAPE).astype(np.float32)
    return image, label


def repeated(array: np.ndarray) -> np.ndarray:
    """Returns the scan, ``(x, y, z)``, several times one after the other along the patient."""
    return np.tile(array, (1, 1, REPEATS))


def number_by_position(series: Path) -> None:
    """Numbers the slices in order: MONAI's reader goes by that, and takes any other order for the slices' own."""
    import pydicom

    slices = [(path, pydicom.dcmread(path)) for path in series.iterdir()]
    slices.sort(key=lambda item: item[1].ImagePositionPatient[2])
    for number, (path, content) in enumerate(slices, start=1):
        content.InstanceNumber = number
        content.save_as(path)
