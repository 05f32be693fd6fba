"""A dataset of pictures for tests: bright blobs on dark ground in colour, each with a value of its own in the mask."""

from pathlib import Path

import numpy as np
from PIL import Image

ROWS, COLUMNS = 40, 48
BLOBS = ((8, 10), (25, 14), (20, 38))  # row and column of the middle
RADIUS = 6


def blob_labels(number: int = 0) -> np.ndarray:
    """Returns ``(row, column)`` with 100, 101, ... in the blobs, whose places depend on the picture's number."""
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    labels = np.zeros((ROWS, COLUMNS), dtype=np.uint16)
    for i, (row, column) in enumerate(BLOBS):
        labels[(rows - row - number % 5) ** 2 + (columns - column + number % 7) ** 2 <= RADIUS**2] = 100 + i
    return labels


def blob_picture(number: int = 0) -> np.ndarray:
    """Returns ``(row, column, 3)``, 8 bits: reddish blobs on a bluish ground."""
    is_blob = blob_labels(number)[..., None] > 0
    noise = np.random.default_rng(number).integers(0, 30, (ROWS, COLUMNS, 3))
    return (noise + np.where(is_blob, (200, 120, 60), (20, 40, 90))).astype(np.uint8)


def write_pictures(root: Path, names: list[str]) -> Path:
    """Writes `images` (with an opaque alpha channel in every second file) and `labels`; returns `root`."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        picture = Image.fromarray(blob_picture(number))
        (picture.convert("RGBA") if number % 2 else picture).save(root / f"images/{name}.png")
        Image.fromarray(blob_labels(number)).save(root / f"labels/{name}.png")
    return root
