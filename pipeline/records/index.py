"""The index: the audited list of cases that every later stage reads instead of folders."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.records.errors import InputError
from pipeline.records.files import sha256_of_text, write_json

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
ONE_CHANNEL = ("image",)
# The orientation of pictures, whose axes point nowhere in a patient.
NO_ORIENTATION = "none"


@dataclass(frozen=True)
class IndexedCase:
    """One sound case.

    `image` and `label` are POSIX paths relative to the dataset's root. `shape` is ``(x, y, z)`` as on disk (2D images
    have z of 1), `spacing_mm` follows the same axes, `orientation` is the anatomical direction of those axes (``RAS``),
    or `NO_ORIENTATION`.
    `label_voxels` counts voxels by label name. Digests are SHA-256 of the files' bytes.
    """

    case_id: str
    patient: str
    split: Split
    image: str
    label: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str
    label_voxels: dict[str, int]
    image_sha256: str
    label_sha256: str


@dataclass(frozen=True)
class Index:
    """All sound cases of a dataset with their splits. `root` is POSIX, relative to the repository.

    `channels` are the names of the images' channels. `are_pictures`: the images are PNG or TIFF. `are_instances`: in
    the label maps every value above 0 is an object of the one label. `has_spacing`: millimetres are known, else a pixel
    counts as one.
    """

    dataset: str
    root: str
    modality: str
    licence: str
    labels: dict[str, int]
    cases: tuple[IndexedCase, ...]
    channels: tuple[str, ...] = ONE_CHANNEL
    are_pictures: bool = False
    are_instances: bool = False
    has_spacing: bool = True

    def in_split(self, split: Split) -> tuple[IndexedCase, ...]:
        """Returns the cases of one split, in index order."""
        return tuple(case for case in self.cases if case.split == split)

    @property
    def data_digest(self) -> str:
        """SHA-256 over the contents of all images and labels, in index order."""
        return sha256_of_text("\n".join(f"{c.case_id} {c.image_sha256} {c.label_sha256}" for c in self.cases))


def write_index(path: Path, index: Index) -> None:
    """Writes the index as JSON, atomically."""
    write_json(path, asdict(index))


def read_index(path: Path) -> Index:
    """Reads an index that `write_index` wrote.

    Raises:
        InputError: it is missing.
    """
    if not path.is_file():
        raise InputError(path, found="no such file", wanted="the index that the audit writes", reason="missing-index",
                         remedy="run the audit, or `python -m pipeline run --experiment NAME`")
    content = json.loads(path.read_text(encoding="utf-8"))
    cases = tuple(_case(entry) for entry in content.pop("cases"))
    content["channels"] = tuple(content.get("channels", ONE_CHANNEL))
    return Index(**content, cases=cases)


def _case(entry: dict[str, Any]) -> IndexedCase:
    return IndexedCase(**{**entry, "shape": tuple(entry["shape"]), "spacing_mm": tuple(entry["spacing_mm"])})
