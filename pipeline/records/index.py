"""The index: the audited list of cases that every later stage reads instead of folders."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
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
    or `NO_ORIENTATION`. `label_voxels` counts voxels by label name. Digests are SHA-256 of the files' bytes. `fold` is
    the number, from 0, of the training that does not see the case; None where it is tested on or the experiment has no
    folds. `attributes` are what the dataset's own table says of it, by column: `records/attributes.py`.
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
    fold: int | None = None
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Index:
    """All sound cases of a dataset with their splits. `root` is POSIX, relative to the repository.

    `left_right` has the pairs of labels that exchange when a case is mirrored from left to right, None where
    `data.yaml` does not say that it may be.
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
    left_right: tuple[tuple[str, str], ...] | None = None
    channels: tuple[str, ...] = ONE_CHANNEL
    are_pictures: bool = False
    are_instances: bool = False
    has_spacing: bool = True

    def in_split(self, split: Split) -> tuple[IndexedCase, ...]:
        """Returns the cases of one split, in index order."""
        return tuple(case for case in self.cases if case.split == split)

    @property
    def folds(self) -> int:
        """How many trainings the cases are shared among; 0 where there is one and its validation cases."""
        return len({case.fold for case in self.cases} - {None})

    @property
    def groups(self) -> dict[str, tuple[IndexedCase, ...]]:
        """The cases by what they are for: `train`, `validation` and `test`, or `fold 0`, `fold 1`, ... and `test`."""
        if not self.folds:
            return {split: self.in_split(split) for split in SPLITS}
        folds = {f"fold {fold}": tuple(case for case in self.cases if case.fold == fold) for fold in range(self.folds)}
        return {**folds, "test": self.in_split("test")}

    @property
    def counts(self) -> str:
        """How many cases there are for what: `50 train, 5 validation, 10 test` or `55 in 5 folds, 10 test`."""
        if not self.folds:
            return ", ".join(f"{len(self.in_split(split))} {split}" for split in SPLITS)
        tested = len(self.in_split("test"))
        return f"{len(self.cases) - tested} in {self.folds} folds{f', {tested} test' if tested else ''}"

    @property
    def data_digest(self) -> str:
        """SHA-256 over the contents of all images and labels, in index order."""
        return digest_of(self.cases)


def digest_of(cases: Iterable[IndexedCase]) -> str:
    """Returns the SHA-256 over the contents of the cases' images and labels, in their order."""
    return sha256_of_text("\n".join(f"{c.case_id} {c.image_sha256} {c.label_sha256}" for c in cases))


def main_split(index: Index) -> Split:
    """Returns whose scores count most: those of the test cases, or without any the out-of-fold scores."""
    return "test" if index.in_split("test") or not index.folds else "validation"


def write_index(path: Path, index: Index) -> None:
    """Writes the index as JSON, atomically; cases without a fold or attributes do not mention them."""
    content = asdict(index)
    for case in content["cases"]:
        if case["fold"] is None:
            del case["fold"]
        if not case["attributes"]:
            del case["attributes"]
    write_json(path, content)


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
    pairs = content.pop("left_right")
    left_right = None if pairs is None else tuple((first, second) for first, second in pairs)
    content["channels"] = tuple(content.get("channels", ONE_CHANNEL))
    return Index(**content, cases=cases, left_right=left_right)


def _case(entry: dict[str, Any]) -> IndexedCase:
    return IndexedCase(**{**entry, "shape": tuple(entry["shape"]), "spacing_mm": tuple(entry["spacing_mm"])})
