"""PNG and TIFF: 2D images of one channel or of three, and label maps, read with every check at the door."""

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.imaging.png_chunks import PNG_MAGIC, read_png_header
from pipeline.imaging.scans import Picture, Scan
from pipeline.imaging.voxels import opened, refusal
from pipeline.records.errors import InputError
from pipeline.records.files import written_aside

PICTURE_SUFFIXES = (".png", ".tif", ".tiff")
RGB = ("red", "green", "blue")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# What Pillow decodes without a warning: 9459 pixels square.
MOST_PIXELS = 89_478_485
PLAIN = ("L", "I;16", "I;16L", "I;16B", "I", "F", "RGB")
WITH_ALPHA = ("LA", "RGBA")
OPAQUE = 255
# Tags of TIFF and EXIF. Source: TIFF 6.0, sections 8 and 9.
ORIENTATION, BITS, SAMPLES, FORMAT, DESCRIPTION = 274, 258, 277, 339, 270
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
INCH_MM = 25.4
MM_OF_UNIT = {2: INCH_MM, 3: 10.0}
# Dots an inch that say how large to print, and nothing about what is shown: these, and all that are no finer than a
# scanner's or a printer's, in whatever unit.
PRINTED = (600, 1200)
COARSEST_MM = 0.05
# ImageJ writes the unit into the description instead.
_IMAGEJ_UNIT = re.compile(r"^unit=(.+)$", re.MULTILINE)
MM_OF_NAME = {"nm": 1e-6, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "microns": 1e-3, "\\u00B5m": 1e-3, "mm": 1.0,
              "cm": 10.0}
DAMAGED = (OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, EOFError, ArithmeticError,
           RuntimeError, struct.error, zlib.error, Image.DecompressionBombError)


def starts_as_picture(start: bytes) -> bool:
    """Returns whether a file that begins so is a PNG or a TIFF."""
    return start.startswith((PNG_MAGIC, *_TIFF))


def is_picture(path: Path) -> bool:
    """Returns whether the file's content is a PNG or a TIFF; False where it cannot be read."""
    try:
        with opened(path) as stream:
            return starts_as_picture(stream.read(len(PNG_MAGIC)))
    except InputError:
        return False


def read_picture(path: Path, *, as_labels: bool = False) -> Scan:
    """Returns the picture: ``(x, y, 1)`` of grey, ``(3, x, y, 1)`` of colours; x is the column, y the row from the top.

    Values are the stored ones. An alpha channel is dropped, with a warning where it hides something. Colours of a
    palette become true colours.

    Args:
        path: a PNG or TIFF, known by its content.
        as_labels: reads a label map: a palette's indices, and of three equal channels one.

    Raises:
        InputError: ``missing-file``, ``unreadable-file``, ``truncated-file``, ``damaged-file``, ``not-an-image``,
            ``not-single-channel``, ``too-large``, ``several-pages``, ``turned-picture``, ``unsupported-encoding``.
    """
    with opened(path) as stream:
        start = stream.read(len(PNG_MAGIC))
        if not start:
            raise refusal(path, "an empty file", "a PNG or TIFF", "truncated-file")
        if not starts_as_picture(start):
            raise refusal(path, "neither PNG nor TIFF, whatever its name says", "a PNG or TIFF", "not-an-image",
                          "convert it")
        read = _read_png if start == PNG_MAGIC else _read_tiff
        pixels, spacing_mm = read(path, stream, as_labels=as_labels)
    pixels, warnings = _without_alpha(pixels)
    if as_labels and pixels.ndim == 3:
        pixels = _one_of_equal(path, pixels)
    return _scan(path, pixels, spacing_mm, warnings)


def write_label_picture(path: Path, labelmap: NDArray[np.integer[Any]]) -> None:
    """Writes ``(x, y, 1)`` of 8 or 16 bits as a PNG of label values, atomically; the same content, the same bytes."""
    with written_aside(path) as aside:
        Image.fromarray(np.ascontiguousarray(labelmap[..., 0].T)).save(aside, format="PNG")


def _read_png(path: Path, stream: BinaryIO, *, as_labels: bool) -> tuple[NDArray[Any], tuple[float, float] | None]:
    header, is_animated = read_png_header(path, stream, _check_size)
    if is_animated:
        raise _several_pages(path, "an animation")
    stream.seek(0)
    with _decoding(path), _picture(stream, "PNG") as picture:
        _refuse_turned(path, picture.getexif().get(ORIENTATION, 1))
        if header.depth == 16 and header.samples > 1:
            # Pillow would halve the depth of several channels.
            return _pixels_by_itk(path), None
        pixels = _pixels(path, picture, as_labels=as_labels)
    if as_labels and header.colour == 0 and header.depth in (2, 4):
        # Pillow stretches them to eight bits.
        pixels = pixels // (OPAQUE // (2**header.depth - 1))
    return pixels, None


def _read_tiff(path: Path, stream: BinaryIO, *, as_labels: bool) -> tuple[NDArray[Any], tuple[float, float] | None]:
    stream.seek(0)
    with _decoding(path), _picture(stream, "TIFF") as picture:
        tags = picture.tag_v2
        _check_size(path, *picture.size)
        if picture.n_frames > 1:
            raise _several_pages(path, f"{picture.n_frames} pages")
        _refuse_turned(path, tags.get(ORIENTATION, 1))
        samples, bits = int(tags.get(SAMPLES, 1)), max(tags.get(BITS, (1,)))
        if samples > 4 or (samples > 1 and bits > 8):
            # Pillow would leave channels out, or half of their depth.
            raise refusal(path, f"{samples} channels of {bits} bits", "grey, or colours of 8 bits",
                          "unsupported-encoding", "save it as PNG, or with 8 bits a channel")
        pixels = _pixels(path, picture, as_labels=as_labels)
        if pixels.dtype == np.int32 and bits == 32 and tags.get(FORMAT, (1,))[0] == 1:
            pixels = pixels.view(np.uint32)
        return pixels, _spacing_mm(tags)


@contextmanager
def _picture(stream: BinaryIO, kind: Literal["PNG", "TIFF"]) -> Iterator[Any]:
    with Image.open(stream, formats=[kind]) as picture:
        yield picture


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turns what goes wrong in decoding into one line."""
    try:
        yield
    except InputError:
        raise
    except DAMAGED as error:
        is_short = "truncated" in str(error).lower() or "expecting to read" in str(error).lower()
        found = "a picture that ends early" if is_short else f"damaged pixels ({type(error).__name__})"
        raise refusal(path, found, "a complete file", "truncated-file" if is_short else "damaged-file") from error


def _pixels(path: Path, picture: Any, *, as_labels: bool) -> NDArray[Any]:
    """Returns ``(row, column)`` or ``(row, column, channel)``, alpha included."""
    mode = picture.mode
    if mode == "P" and not as_labels:
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    elif mode == "PA":
        picture = picture.convert("RGBA")
    elif mode == "1" and not as_labels:
        picture = picture.convert("L")
    elif mode not in (*PLAIN, *WITH_ALPHA, "P", "1"):
        raise refusal(path, f"colours of the kind {mode}", "grey or RGB", "unsupported-encoding", "save it as RGB")
    pixels = np.asarray(picture)
    return pixels.astype(np.uint8) if pixels.dtype == bool else pixels


def _pixels_by_itk(path: Path) -> NDArray[Any]:
    import SimpleITK  # a fifth of a second, and rarely needed

    return np.asarray(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path), imageIO="PNGImageIO")))


def _without_alpha(pixels: NDArray[Any]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Returns the pixels without their alpha channel, and what is to be said about that."""
    if pixels.ndim == 2 or pixels.shape[2] not in (2, 4):
        return pixels, ()
    hidden = float((pixels[..., -1] < np.iinfo(pixels.dtype).max).mean())
    said = (f"the alpha channel is dropped: it makes {hidden:.1%} of the pixels transparent",) if hidden else ()
    return (pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]), said


def _one_of_equal(path: Path, pixels: NDArray[Any]) -> NDArray[Any]:
    if not (pixels == pixels[..., :1]).all():
        raise refusal(path, "a label map in colours", "one label value a pixel", "not-single-channel",
                      "save values (0, 1, 2, ...) instead of colours")
    return np.asarray(pixels[..., 0])


def _scan(path: Path, pixels: NDArray[Any], spacing_mm: tuple[float, float] | None, warnings: tuple[str, ...]) -> Scan:
    height, width = pixels.shape[:2]
    planes = np.ascontiguousarray(np.moveaxis(np.atleast_3d(pixels), 2, 0), dtype=np.float32)
    array = planes.transpose(0, 2, 1)[..., None]
    x_mm, y_mm = spacing_mm or (1.0, 1.0)
    return Scan(array if len(array) > 1 else array[0], np.diag([-x_mm, -y_mm, 1.0, 1.0]), path, None, (width, height),
                0, 0, warnings, picture=Picture(has_spacing=spacing_mm is not None))


def _spacing_mm(tags: Any) -> tuple[float, float] | None:
    """Returns the pixels' distance along x and y, where a TIFF states one that is not about printing."""
    if X_RESOLUTION not in tags or Y_RESOLUTION not in tags:
        return None
    a_unit = float(tags[X_RESOLUTION]), float(tags[Y_RESOLUTION])
    unit = int(tags.get(RESOLUTION_UNIT, 2))
    named = _IMAGEJ_UNIT.search(str(tags.get(DESCRIPTION, "")))
    unit_mm = MM_OF_NAME.get(named[1].strip()) if named else MM_OF_UNIT.get(unit)
    if unit_mm is None or not all(np.isfinite(dots) and dots > 0 for dots in a_unit):
        return None
    spacing_mm = unit_mm / a_unit[0], unit_mm / a_unit[1]
    is_printed = not named and all(step > COARSEST_MM or round(INCH_MM / step) in PRINTED for step in spacing_mm)
    return None if is_printed else spacing_mm


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise refusal(path, f"a header that declares {width} x {height} pixels", f"at most {MOST_PIXELS:,} pixels",
                      "too-large", "cut it into parts or shrink it, or export it again if the header is wrong")


def _refuse_turned(path: Path, orientation: Any) -> None:
    """Refuses pixels that viewers show turned or mirrored: image, mask and result would not be seen alike."""
    if orientation not in (0, 1):
        raise refusal(path, f"an orientation tag of {orientation}: shown turned or mirrored", "upright pixels",
                      "turned-picture", "save it upright, and its mask with it")


def _several_pages(path: Path, found: str) -> InputError:
    return refusal(path, found, "one picture a file", "several-pages", "save each page as a file of its own")
