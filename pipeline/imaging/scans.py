"""A scan in memory: its voxels, where they lie in the patient, and where it came from."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class DicomPlanes:
    """The DICOM objects behind a scan's planes, which a segmentation of it must refer to.

    Attributes:
        files: for each plane ``array[:, :, k]`` the file it came from; one multi-frame file repeats.
        frames: for each plane its frame number in that file, from 1; None where each file holds one plane.
        is_resampled: the array is on a regular grid made from these planes, so plane k is not file k.
    """

    files: tuple[Path, ...]
    frames: tuple[int, ...] | None = None
    is_resampled: bool = False


@dataclass(frozen=True)
class Picture:
    """What a PNG or TIFF says beyond its pixels: whether the spacing is the file's own, else a pixel counts as 1 mm."""

    has_spacing: bool = False


@dataclass(frozen=True)
class Scan:
    """One image volume (or 2D image) or label map.

    Attributes:
        array: ``(x, y, z)`` float32, intensities after the file's scaling (Hounsfield units for CT); a 2D image has z
            of 1. With several channels ``(channel, x, y, z)``.
        affine: ``(4, 4)`` float64, voxel index to millimetres in RAS+. A picture lies in no patient: its columns and
            rows run as those of an axial slice do, to the left and to the back.
        path: the file or folder it was read from. For messages on the terminal only: it may hold a patient's name.
        modality: DICOM code where the file says it, else None.
        shape_on_disk: shape in the file, which a segmentation of this scan takes again: ``(x, y)`` of a 2D NIfTI.
        qform_code, sform_code: NIfTI's codes (1 scanner for DICOM).
        warnings: sentences about what is doubtful, without path, name or id.
        planes: the DICOM objects behind it; None for other formats.
        picture: of a PNG or TIFF; None for formats that say where the image lies in the patient.
    """

    array: NDArray[np.float32]
    affine: NDArray[np.float64]
    path: Path
    modality: str | None
    shape_on_disk: tuple[int, ...]
    qform_code: int = 1
    sform_code: int = 1
    warnings: tuple[str, ...] = ()
    planes: DicomPlanes | None = None
    picture: Picture | None = None

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """Voxels along x, y and z."""
        x, y, z = self.array.shape[-3:]
        return x, y, z

    @property
    def channels(self) -> NDArray[np.float32]:
        """The voxels as ``(channel, x, y, z)``, also of a single channel."""
        return self.array if self.array.ndim == 4 else self.array[None]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along each array axis, in millimetres."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def has_place(self) -> bool:
        """Whether the file says where the scan lies; else its orientation is a guess. A picture lies nowhere."""
        return self.qform_code > 0 or self.sform_code > 0 or self.picture is not None

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres (1 mL is 1000 cubic millimetres)."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0
