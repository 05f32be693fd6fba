"""What a PNG file declares, and whether it is whole: checksums and number of pixels, before one is decoded.

Pillow, which decodes them, takes a stream that ends early for black rows.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.imaging.voxels import CHUNK_BYTES, STEP_BYTES, refusal

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# Numbers a pixel, by colour type: grey, true colour, palette, grey with alpha, true colour with alpha.
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# First column and row of each pass and the steps to the next ones. Source: PNG specification, section 8.1.
PASSES = {
    0: ((0, 0, 1, 1),),
    1: ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
}


@dataclass(frozen=True)
class PngHeader:
    """`depth` is bits a sample, `interlace` the key of `PASSES`."""

    width: int
    height: int
    depth: int
    colour: int
    interlace: int

    @property
    def samples(self) -> int:
        """Numbers a pixel, alpha included."""
        return SAMPLES[self.colour]

    @property
    def filtered_bytes(self) -> int:
        """Bytes of all rows before they are packed: one for the filter, then the pixels."""
        total = 0
        for column, row, right, down in PASSES[self.interlace]:
            columns, rows = -(-max(0, self.width - column) // right), -(-max(0, self.height - row) // down)
            total += rows * (1 + -(-columns * self.samples * self.depth // 8)) if columns else 0
        return total


@dataclass
class _Pixels:
    """Counts what is left to come of the packed pixels."""

    left: int

    def __post_init__(self) -> None:
        self.engine = zlib.decompressobj()

    def take(self, packed: bytes) -> None:
        while packed and self.left > 0:
            self.left -= len(self.engine.decompress(packed, STEP_BYTES))
            packed = self.engine.unconsumed_tail


def read_png_header(path: Path, stream: BinaryIO,
                    check_size: Callable[[Path, int, int], None]) -> tuple[PngHeader, bool]:
    """Walks over all chunks of a PNG, whose signature was read; returns its header, and whether it is an animation.

    Args:
        path: of the file, for messages.
        stream: ends behind the last chunk.
        check_size: refuses a width and height before anything is unpacked.

    Raises:
        InputError: ``truncated-file``, ``damaged-file``, or what `check_size` raises.
        zlib.error: the packed pixels are damaged.

    Source: PNG specification, third edition, sections 5 and 11.
    """
    header = _read_header(path, stream)
    check_size(path, header.width, header.height)
    pixels, is_animated, kind = _Pixels(header.filtered_bytes), False, b""
    while kind != b"IEND":
        kind = _read_chunk(path, stream, pixels)
        is_animated |= kind == b"acTL"
    if pixels.left > 0:
        raise refusal(path, f"pixels that end {pixels.left} bytes early", f"{header.width} x {header.height} pixels",
                      "truncated-file")
    return header, is_animated


def _read_header(path: Path, stream: BinaryIO) -> PngHeader:
    start = _exactly(path, stream, 8)
    content = _exactly(path, stream, 13) if start == b"\0\0\0\rIHDR" else b""
    is_whole = bool(content) and _exactly(path, stream, 4) == zlib.crc32(start[4:] + content).to_bytes(4, "big")
    width, height = int.from_bytes(content[:4], "big"), int.from_bytes(content[4:8], "big")
    depth, colour, *_, interlace = content[8:] or bytes(5)
    is_known = colour in SAMPLES and depth in (1, 2, 4, 8, 16) and interlace in PASSES
    if not is_whole or not is_known or not width or not height:
        raise refusal(path, "no PNG header that makes sense", "a sound file", "damaged-file")
    return PngHeader(width, height, depth, colour, interlace)


def _read_chunk(path: Path, stream: BinaryIO, pixels: _Pixels) -> bytes:
    """Returns the kind of a chunk, whose content goes to `pixels` where it is some."""
    left, kind = int.from_bytes(_exactly(path, stream, 4), "big"), _exactly(path, stream, 4)
    checksum = zlib.crc32(kind)
    while left:
        part = _exactly(path, stream, min(left, CHUNK_BYTES))
        left, checksum = left - len(part), zlib.crc32(part, checksum)
        if kind == b"IDAT":
            pixels.take(part)
    if checksum != int.from_bytes(_exactly(path, stream, 4), "big"):
        raise refusal(path, "a PNG chunk with a wrong checksum", "a sound file", "damaged-file")
    return kind


def _exactly(path: Path, stream: BinaryIO, count: int) -> bytes:
    found = stream.read(count)
    if len(found) < count:
        raise refusal(path, "a PNG that ends early", "a complete file", "truncated-file")
    return found
