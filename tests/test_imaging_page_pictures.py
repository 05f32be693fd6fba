"""Pictures for a page: exact where that is said, small elsewhere, the same bytes each time."""

import io

import numpy as np
from PIL import Image

from pipeline.imaging.comparisons import AGREEMENT, PREDICTION, TRUTH
from pipeline.imaging.page_pictures import exact_bytes, lossy_bytes


def picture() -> np.ndarray:
    """Returns noisy grey with a line of each outline colour, three pixels apart from anything else."""
    grey = np.random.default_rng(0).normal(120, 6, (60, 200, 1)).clip(0, 255).astype(np.uint8)
    drawn = np.repeat(grey, 3, axis=2)
    for row, colour in ((10, TRUTH), (30, PREDICTION), (50, AGREEMENT)):
        drawn[row, 20:180] = colour
    return drawn


def shown(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_exact_pictures_keep_every_pixel() -> None:
    assert np.array_equal(shown(exact_bytes(picture())), picture())


def test_lossy_pictures_keep_the_outlines_colours_apart() -> None:
    lossy = shown(lossy_bytes(picture())).astype(int)
    colours = np.array([TRUTH, PREDICTION, AGREEMENT])
    for row, name in ((10, 0), (30, 1), (50, 2)):
        distances = np.abs(lossy[row, 30:170, None] - colours).sum(axis=2)
        assert np.all(distances.argmin(axis=1) == name)
    assert len(lossy_bytes(picture())) < len(exact_bytes(picture())) / 2


def test_the_same_picture_gives_the_same_bytes() -> None:
    assert lossy_bytes(picture()) == lossy_bytes(picture())
    assert exact_bytes(picture()) == exact_bytes(picture())
