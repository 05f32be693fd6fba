"""Pictures as a web page carries them: WebP, which every browser of today reads."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Outlines of one pixel keep their colours; a picture of three planes takes a seventh of what it does as PNG.
LOSSY_QUALITY = 80
# Of libwebp, 0 to 6. Above 4 it takes several times as long for a few percent.
EFFORT = 4


def exact_bytes(picture: NDArray[np.uint8]) -> bytes:
    """Returns ``(height, width, 3)`` RGB as WebP without loss, half of what it takes as PNG with a palette."""
    return _webp(picture, lossless=True)


def lossy_bytes(picture: NDArray[np.uint8]) -> bytes:
    """Returns ``(height, width, 3)`` RGB as WebP, sharp enough to see where outlines part."""
    return _webp(picture, lossless=False)


def _webp(picture: NDArray[np.uint8], *, lossless: bool) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="WEBP", lossless=lossless, quality=LOSSY_QUALITY, method=EFFORT)
    return stream.getvalue()
