"""The steps of the bundle's preprocessing: read, bring to the network's grid, normalise.

They work on plain tensors. What a segmentation needs to find back to its scan travels beside the image: `<key>_scan` is
the `Scan` as it was read, `<key>_regrid` the `Regrid` between its grid and the network's.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from pipeline.imaging.discovery import ScanLocation, read_scan
from pipeline.imaging.image_files import read_label_map
from pipeline.imaging.resampling import Regrid, regrid_of, to_network_grid
from pipeline.imaging.scans import Scan
from pipeline.records.errors import InputError

SCHEMES = ("ct", "z-score")
CT_FIELDS = {"scheme", "low", "high", "mean", "std"}
# Below this a standard deviation is rounding, and the image constant.
SMALLEST_STD = 1e-6


class ReadScand(MapTransform):
    """Replaces each path or `ScanLocation` by its image: a tensor ``(channel, x, y, z)``, float32, in its own grid.

    Adds `<key>_scan`, whose array shares the tensor's memory.

    Args:
        keys: the images.
        irregular: ``refuse`` or ``resample`` DICOM series that are no regular volume.
        channels: names of those that the network takes; None takes any.
        pictures: whether it takes PNG and TIFF and nothing else, or anything else; None takes all.
        label_maps: which of the keys are label maps.

    Raises:
        InputError: as `read_scan`, ``non-finite-voxels``, ``not-a-picture``, ``not-a-volume`` and ``other-channels``.
    """

    def __init__(
        self, keys: KeysCollection, irregular: Literal["refuse", "resample"] = "refuse", *,
        channels: Sequence[str] | None = None, pictures: bool | None = None, label_maps: Sequence[str] = ("label",),
    ) -> None:
        super().__init__(keys)
        self.irregular = irregular
        self.channels = channels
        self.pictures = pictures
        self.label_maps = frozenset(label_maps)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            if key in self.label_maps and not isinstance(result[key], ScanLocation):
                scan = read_label_map(result[key])
            else:
                scan = read_scan(result[key], irregular=self.irregular)
                self._refuse_unlike_training(scan)
            _refuse_non_finite(scan)
            result[key], result[f"{key}_scan"] = torch.from_numpy(scan.channels), scan
        return result

    def _refuse_unlike_training(self, scan: Scan) -> None:
        count = len(scan.channels)
        if self.pictures is not None and self.pictures != (scan.picture is not None):
            found, wanted, reason = "a picture (PNG or TIFF)", "volumes (NIfTI, NRRD, MetaImage, DICOM)", "not-a-volume"
            if self.pictures:
                found, wanted, reason = "a volume or a slice of one", "pictures (PNG, TIFF)", "not-a-picture"
            raise InputError(scan.path, found=found, wanted=f"{wanted}, which this model was trained on", reason=reason,
                             remedy="use a model that was trained on such images")
        if self.channels is not None and count != len(self.channels):
            raise InputError(
                scan.path, found=f"{count} channel{'s' if count > 1 else ''}", reason="other-channels",
                wanted=f"{len(self.channels)} ({', '.join(self.channels)}), as this model was trained on",
                remedy="convert the image, or use a model that was trained on such images")


class ResampleToSpacingd(MapTransform):
    """Turns each image's axes nearest to right, front and head, and resamples it to a spacing.

    Adds `<key>_regrid`. Images are interpolated linearly, label maps by the nearest voxel. The mask of a picture goes
    with its image, which alone says how large a pixel is.

    Args:
        keys: the images that `ReadScand` read.
        spacing_mm: along right, front and head; 0 or less keeps the scan's own.
        nearest: which of the keys are label maps.
    """

    def __init__(self, keys: KeysCollection, spacing_mm: Sequence[float], nearest: Sequence[str] = ("label",)) -> None:
        super().__init__(keys)
        self.spacing_mm = tuple(spacing_mm)
        self.nearest = frozenset(nearest)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        of_image: Regrid | None = None
        for key in sorted(self.key_iterator(result), key=lambda key: key in self.nearest):
            scan: Scan = result[f"{key}_scan"]
            regrid = self._regrid(scan)
            if key not in self.nearest:
                of_image = regrid
            elif scan.picture is not None and of_image is not None:
                regrid = of_image
            channels = [to_network_grid(one, regrid, nearest=key in self.nearest) for one in result[key]]
            result[key] = channels[0][None] if len(channels) == 1 else torch.stack(channels)
            result[f"{key}_regrid"] = regrid
        return result

    def _regrid(self, scan: Scan) -> Regrid:
        is_unknown = scan.picture is not None and not scan.picture.has_spacing
        # Pixels of unknown size are taken for those of the training images.
        return regrid_of(scan.grid_shape, scan.affine, spacing_mm=(-1,) * 3 if is_unknown else self.spacing_mm)


class NormalizeIntensityByPland(MapTransform):
    """Brings intensities to about zero mean and unit deviation, by the scheme that the plan chose.

    Args:
        keys: the images.
        intensity: ``{"scheme": "ct", "low": ..., "high": ..., "mean": ..., "std": ...}`` clips to low and high and then
            subtracts mean and divides by std, all from the training data; ``{"scheme": "z-score"}`` takes mean and std
            from each image itself, channel by channel. A constant channel becomes zero.

    Raises:
        InputError: ``invalid-plan`` where the scheme is unknown or one of its numbers is missing.
    """

    def __init__(self, keys: KeysCollection, intensity: Mapping[str, Any]) -> None:
        super().__init__(keys)
        self.intensity = dict(intensity)
        scheme = self.intensity.get("scheme")
        if scheme not in SCHEMES:
            raise InputError("intensity", found=f"scheme `{scheme}`", wanted=f"one of {', '.join(SCHEMES)}",
                             remedy="correct the plan", reason="invalid-plan")
        wanted = CT_FIELDS if scheme == "ct" else {"scheme"}
        if set(self.intensity) != wanted:
            raise InputError("intensity", found=f"{', '.join(sorted(self.intensity))}", reason="invalid-plan",
                             wanted=f"exactly {', '.join(sorted(wanted))}", remedy="correct the plan")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            has_several = image.ndim == 4 and len(image) > 1
            channels = [self._normalised(one) for one in (image if has_several else [image])]
            result[key] = torch.stack(channels) if has_several else channels[0]
        return result

    def _normalised(self, image: torch.Tensor) -> torch.Tensor:
        if self.intensity["scheme"] == "ct":
            normalised = image.clamp(float(self.intensity["low"]), float(self.intensity["high"]))
            mean, std = float(self.intensity["mean"]), float(self.intensity["std"])
            normalised -= mean
        else:
            mean, std = _mean_and_std(image)
            normalised = image - mean
        normalised /= std if std > SMALLEST_STD else 1.0
        return normalised


def _mean_and_std(image: torch.Tensor) -> tuple[float, float]:
    """Returns both in double precision, plane by plane: sums over millions of voxels lose digits in float32."""
    planes = image.unbind(-1)
    mean = sum(float(plane.sum(dtype=torch.float64)) for plane in planes) / image.numel()
    squares = sum(float(((plane.double() - mean) ** 2).sum()) for plane in planes)
    return mean, float(np.sqrt(squares / image.numel()))


def _refuse_non_finite(scan: Scan) -> None:
    if not np.isfinite(scan.array).all():
        count = int((~np.isfinite(scan.array)).sum())
        raise InputError(scan.path, found=f"{count} voxels that are not finite", wanted="numbers only",
                         remedy="replace NaN and infinity first", reason="non-finite-voxels")
