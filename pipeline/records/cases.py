"""Cases as they lie in a raw dataset, before the audit; and the axes that every array here follows.

Axes: arrays of one scan are ``(x, y, z)`` in the file's own order, with a channel axis in front where a network sees
them, and where there are several channels: ``(channel, x, y, z)``. Affines take voxel indices to millimetres in RAS+ (x
to the patient's right, y to the front, z to the head). Spacing is in millimetres, in the array's axis order. A 2D image
is a volume of one slice; of a picture (PNG, TIFF), which lies in no patient, x is the column from the left and y the
row from the top.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RawCase:
    """One scan and, where there is one, its label map.

    `image` and `label` are paths on this machine; the index keeps them relative to the dataset's root.
    """

    case_id: str
    image: Path
    label: Path | None


@dataclass(frozen=True)
class RawDataset:
    """What a source found in a dataset's folder.

    `modality` is the DICOM code (``CT``, ``MR``, ``DX``, ...). `labels` maps names to values, background left out.
    `orphans` are files that should be a case and are not: a label without its image, or the other way round.
    `are_pictures`: the images are PNG or TIFF. `are_instances`: each object has a value of its own in the label maps,
    and all of them are the one label. `spacing_mm` is that of pixels along x and y where the files do not state it.
    """

    root: Path
    modality: str
    labels: dict[str, int]
    cases: tuple[RawCase, ...]
    orphans: tuple[Path, ...]
    licence: str
    are_pictures: bool = False
    are_instances: bool = False
    spacing_mm: tuple[float, float] | None = None
