"""Pictures of a scan with truth and prediction outlined, so that a person sees where they part."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from pipeline.imaging.image_files import read_image, read_label_map
from pipeline.imaging.preview import Voxel, draw_planes, in_ras_order, spacing_in_ras_order, widest_section

# Seen apart on grey by colour-blind eyes; where both outlines coincide a third colour says so, instead of the last one.
TRUTH, PREDICTION, AGREEMENT = (64, 176, 255), (255, 122, 0), (255, 255, 255)


@dataclass(frozen=True)
class Comparison:
    """A scan, its truth and its prediction: ``(x, y, z)`` in RAS order, label maps as whole numbers.

    A scan of three channels, which are shown as red, green and blue, is ``(3, x, y, z)``; of others the first is shown.
    `affine` is that of the files, whose voxel order `voxel_in_ras_order` takes.
    """

    image: NDArray[np.float32]
    truth: NDArray[np.int16]
    prediction: NDArray[np.int16]
    affine: NDArray[np.float64]

    @property
    def widest_truth(self) -> Voxel:
        """The voxel whose planes show most of the truth."""
        return widest_section(self.truth > 0)

    @property
    def widest_disagreement(self) -> Voxel:
        """The voxel whose planes show most of the voxels whose labels differ; of the truth where none does."""
        differs = self.truth != self.prediction
        return widest_section(differs) if differs.any() else self.widest_truth

    def voxel_in_ras_order(self, voxel: Voxel) -> Voxel:
        """Returns where a voxel of the file lies in the arrays here."""
        orientation = nib.orientations.io_orientation(self.affine)
        moved = [0, 0, 0]
        for index, (axis, flip) in zip(voxel, orientation, strict=True):
            moved[int(axis)] = index if flip > 0 else self.truth.shape[int(axis)] - 1 - index
        return moved[0], moved[1], moved[2]


def read_comparison(image: Path, truth: Path, *, prediction: Path, are_instances: bool = False) -> Comparison:
    """Reads the three files of one case.

    Args:
        image: the scan.
        truth: its label map.
        prediction: the label map that inference gave.
        are_instances: every value above 0 of the truth is an object of one label.

    Raises:
        InputError: one of them cannot be read.
    """
    scan = read_image(image)

    def label_map(path: Path, most: int) -> NDArray[np.int16]:
        return in_ras_order(np.rint(read_label_map(path).array).clip(max=most), scan.affine).astype(np.int16)

    most = np.iinfo(np.int16).max
    channels = [in_ras_order(channel, scan.affine).astype(np.float32, copy=False) for channel in scan.channels]
    array = np.stack(channels) if len(channels) == 3 else channels[0]
    return Comparison(array, label_map(truth, 1 if are_instances else most), label_map(prediction, most), scan.affine)


def draw_comparison(comparison: Comparison, centre: Voxel) -> NDArray[np.uint8]:
    """Returns the planes through `centre` as ``(height, width, 3)`` RGB, every label outlined.

    Outlines of the truth are `TRUTH`, of the prediction `PREDICTION`, and where they coincide `AGREEMENT`.
    """
    spacing_mm = spacing_in_ras_order(comparison.affine)
    plain = draw_planes(comparison.image, spacing_mm, centre=centre)

    def outlines(label_map: NDArray[np.int16]) -> NDArray[np.bool_]:
        colours = {int(value): TRUTH for value in np.unique(label_map) if value != 0}
        drawn = draw_planes(comparison.image, spacing_mm, labelmap=label_map, colours=colours, centre=centre)
        return np.asarray((drawn != plain).any(axis=2))

    in_truth, in_prediction = outlines(comparison.truth), outlines(comparison.prediction)
    picture = plain.copy()
    picture[in_truth], picture[in_prediction], picture[in_truth & in_prediction] = TRUTH, PREDICTION, AGREEMENT
    return picture
