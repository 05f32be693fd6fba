"""The two steps of the bundle's preprocessing that MONAI has no fitting transform for."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from pipeline.imaging.discovery import read_scan
from pipeline.imaging.scans import Scan
from pipeline.records.errors import InputError

SCHEMES = ("ct", "z-score")
CT_FIELDS = {"scheme", "low", "high", "mean", "std"}
# Below this a standard deviation is rounding, and the image constant.
SMALLEST_STD = 1e-6


class ReadScand(MapTransform):
    """Replaces each path by its image: a MetaTensor ``(1, x, y, z)``, float32, in the file's own grid.

    Its ``meta`` has MONAI's affine and the scan's facts: ``spacing_mm``, ``modality`` ("" where the file does not say),
    ``shape_on_disk``, ``qform_code``, ``sform_code`` and ``warnings`` (one a line).

    Raises:
        InputError: as `read_nifti` and `read_series`, and ``non-finite-voxels``.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = _as_tensor(read_scan(Path(result[key])))
        return result


class NormalizeIntensityByPland(MapTransform):
    """Brings intensities to about zero mean and unit deviation, by the scheme that the plan chose.

    Args:
        keys: the images.
        intensity: ``{"scheme": "ct", "low": ..., "high": ..., "mean": ..., "std": ...}`` clips to low and high and then
            subtracts mean and divides by std, all from the training data; ``{"scheme": "z-score"}`` takes mean and std
            from each image itself. A constant image becomes zero.

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
            result[key] = self._normalised(result[key])
        return result

    def _normalised(self, image: torch.Tensor) -> torch.Tensor:
        if self.intensity["scheme"] == "ct":
            image = image.clamp(float(self.intensity["low"]), float(self.intensity["high"]))
            mean, std = float(self.intensity["mean"]), float(self.intensity["std"])
        else:
            # Sums over millions of voxels lose digits in float32.
            voxels = torch.as_tensor(image).as_subclass(torch.Tensor).double()
            mean, std = float(voxels.mean()), float(voxels.std(correction=0))
        return (image - mean) / (std if std > SMALLEST_STD else 1.0)


def _as_tensor(scan: Scan) -> MetaTensor:
    array = np.ascontiguousarray(scan.array)
    if not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise InputError(scan.path, found=f"{count} voxels that are not finite", wanted="numbers only",
                         remedy="replace NaN and infinity first", reason="non-finite-voxels")
    meta: dict[str, Any] = {
        "spacing_mm": scan.spacing_mm,
        "modality": scan.modality or "",
        "shape_on_disk": scan.shape_on_disk,
        "qform_code": scan.qform_code,
        "sform_code": scan.sform_code,
        "warnings": "\n".join(scan.warnings),
    }
    return MetaTensor(torch.from_numpy(array)[None], affine=torch.from_numpy(scan.affine.copy()), meta=meta)


def scan_of(image: MetaTensor, path: Path) -> Scan:
    """Returns the scan that `ReadScand` put into `image`, before any other transform changed it.

    The array shares the tensor's memory.
    """
    meta = image.meta
    return Scan(
        array=image.as_tensor()[0].numpy(),
        affine=image.affine.numpy().astype(np.float64),
        path=path,
        modality=meta["modality"] or None,
        shape_on_disk=tuple(meta["shape_on_disk"]),
        qform_code=int(meta["qform_code"]),
        sform_code=int(meta["sform_code"]),
        warnings=tuple(line for line in str(meta["warnings"]).split("\n") if line),
    )
