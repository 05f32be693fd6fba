"""The cache of preprocessed cases: written by the preprocess stage, read by training.

`<cache>/manifest.json` lists the cases; each has `<case_id>.image.npy` (float32) and `<case_id>.label.npy` (uint8),
both ``(x, y, z)`` in RAS at the plan's spacing, images of several channels ``(channel, x, y, z)``. Label voxels hold
class indices (0 background, 1.. in the order of the label values), which is what a network's channels are numbered by.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from pipeline.records.errors import InputError
from pipeline.records.files import write_json
from pipeline.records.index import Split


@dataclass(frozen=True)
class CachedCase:
    """One preprocessed case, its arrays in `folder`; `fold` is as in the index."""

    case_id: str
    split: Split
    folder: Path
    image_sha256: str
    label_sha256: str
    fold: int | None = None

    @property
    def image(self) -> NDArray[np.float32]:
        """The intensities, ``(x, y, z)`` or ``(channel, x, y, z)``."""
        return np.load(self.folder / f"{self.case_id}.image.npy")  # type: ignore[no-any-return]

    @property
    def label(self) -> NDArray[np.uint8]:
        """The class indices, ``(x, y, z)``."""
        return np.load(self.folder / f"{self.case_id}.label.npy")  # type: ignore[no-any-return]


def write_manifest(folder: Path, cases: Sequence[CachedCase]) -> None:
    """Writes the list of cached cases and the digests of their arrays."""
    entries = [{key: value for key, value in asdict(case).items() if key != "folder" and (key, value) != ("fold", None)}
               for case in cases]
    write_json(folder / "manifest.json", {"cases": entries})


def read_cached_cases(folder: str | Path, split: Split, fold: int | None = None) -> list[CachedCase]:
    """Returns the cached cases of one split, in index order.

    Args:
        folder: the cache.
        split: train or validation.
        fold: its cases are the validation cases of its training, and all others the training cases.

    Raises:
        InputError: there is no cache, or none of its cases is in the split.
    """
    cases = _all_cases(Path(folder))
    if fold is None:
        chosen = [case for case in cases if case.split == split]
    else:
        chosen = [case for case in cases if (case.fold == fold) is (split == "validation")]
    if not chosen:
        raise InputError(Path(folder) / "manifest.json", found=f"no {split} case", wanted="at least one",
                         remedy="raise the fractions in data.yaml or add cases", reason="empty-split")
    return chosen


def count_folds(folder: Path) -> int:
    """Returns how many folds the cached cases are shared among; 0 is none.

    Raises:
        InputError: there is no cache.
    """
    return len({case.fold for case in _all_cases(folder)} - {None})


def _all_cases(folder: Path) -> list[CachedCase]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise InputError(path, found="no cache", wanted="the preprocess stage's manifest", reason="missing-cache",
                         remedy="run `python -m pipeline preprocess --experiment NAME`")
    entries = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return [CachedCase(**entry, folder=folder) for entry in entries]


class CachedVolumes(Dataset[dict[str, torch.Tensor]]):
    """Whole cached cases as tensors, for validation: `image` ``(channel, x, y, z)`` and `label` ``(1, x, y, z)``."""

    def __init__(self, cases: Sequence[CachedCase]) -> None:
        self.cases = cases

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        case = self.cases[position]
        return {"image": torch.from_numpy(with_channel(case.image)), "label": torch.from_numpy(case.label)[None]}


def with_channel(array: NDArray[Any]) -> NDArray[Any]:
    """Returns ``(channel, x, y, z)``, of an array that may lack the channel axis."""
    return array[None] if array.ndim == 3 else array
