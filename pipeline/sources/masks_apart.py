"""Pictures with a mask file for each object, as BBBC038 is published: turned into one label map of instances a picture.

``<case>/images/<case>.png`` and ``<case>/masks/*.png`` become ``images/<case>.png`` and ``labels/<case>.png``.
"""

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.imaging.image_files import read_label_map
from pipeline.imaging.pictures import PICTURE_SUFFIXES, write_label_picture
from pipeline.records.errors import InputError


def has_masks_apart(folder: Path) -> bool:
    """Returns whether the first case below `folder` has its objects in files of their own."""
    cases = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return bool(cases) and all((cases[0] / name).is_dir() for name in ("images", "masks"))


def merge_masks(folder: Path) -> None:
    """Rearranges the cases in `folder`, which is written to; a case with a mask that cannot be read gets no label map.

    An image that cannot be read keeps its case, for the audit to say so; so do images without masks, and several images
    of one case, whose masks belong to none of them.
    """
    cases = sorted(path for path in folder.iterdir() if any((path / name).is_dir() for name in ("images", "masks")))
    for name in ("images", "labels"):
        (folder / name).mkdir(exist_ok=True)
    for case in tqdm(cases, desc="merging masks", unit="case", disable=None):
        images = _pictures(case / "images")
        for image in images:
            own = "" if len(images) == 1 else f"_{image.stem}"
            image.replace(folder / "images" / f"{case.name}{own}{image.suffix}")
        labels = _merged(_pictures(case / "masks"))
        if labels is not None:
            write_label_picture(folder / "labels" / f"{case.name}.png", labels)
        shutil.rmtree(case)


def _merged(masks: list[Path]) -> NDArray[np.uint16] | None:
    """Returns ``(x, y, 1)`` with 1, 2, ... where the masks are; None where they make no label map."""
    labels: NDArray[np.uint16] | None = None
    for number, path in enumerate(masks, start=1):
        try:
            mask = read_label_map(path).array > 0
        except InputError:
            return None
        if labels is None:
            labels = np.zeros(mask.shape, dtype=np.uint16)
        if mask.shape != labels.shape:
            return None
        labels[mask] = number
    return labels


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in (folder.iterdir() if folder.is_dir() else ())
                  if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith("."))
