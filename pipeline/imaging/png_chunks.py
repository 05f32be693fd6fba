"""What a PNG file declares, and whether it is whole: each chunk's checksum, before a pixel is decoded."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.imaging.voxels import CHUNK_BYTES, MOST_INFLATION, refusal

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# Numbers a pixel, by colour type: grey, true colour, palette, grey with alpha, true colour with alpha.
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


@dataclass(frozen=True)
class PngHeader:
    """`depth` is bits a sample; `data_bytes` are packed pixels; `is_animated` where there are several frames."""

    width: int
    height: int
    depth: int
    colour: int
    data_bytes: int
    is_animated: bool

    @property
    def samples(self) -> int:
        """Numbers a pixel, alpha included."""
        return SAMPLES[self.colour]


def read_png_header(path: Path, stream: BinaryIO) -> PngHeader:
    """Walks over all chunks of a PNG, whose signature was read; the stream then stands behind the last one.

    Raises:
        InputError: ``truncated-file``, ``damaged-file``.

    Source: PNG specification, third edition, sections 5 and 11.
    """
    header, data_bytes, is_animated, kind = b"", 0, False, b""
    while kind != b"IEND":
        kind, size, start = _read_chunk(path, stream)
        if not header:
            if kind != b"IHDR" or size != 13:
                raise refusal(path, "a PNG without its header", "a sound file", "damaged-file")
            header = start
        data_bytes += size if kind == b"IDAT" else 0
        is_animated |= kind == b"acTL"
    width, height = (int.from_bytes(header[first : first + 4], "big") for first in (0, 4))
    depth, colour = header[8], header[9]
    if colour not in SAMPLES or depth not in (1, 2, 4, 8, 16) or not width or not height:
        raise refusal(path, "a PNG header that contradicts itself", "a sound file", "damaged-file")
    return PngHeader(width, height, depth, colour, data_bytes, is_animated)


def refuse_impossible_size(path: Path, header: PngHeader) -> None:
    """Refuses a header that declares more pixels than the packed ones can hold.

    Raises:
        InputError: ``truncated-file``.
    """
    needed = header.height * (1 + header.width * header.samples * header.depth // 8)
    if needed > header.data_bytes * MOST_INFLATION:
        raise refusal(path, f"{header.data_bytes} bytes of pixels", f"those of {header.width} x {header.height}",
                      "truncated-file")


def _read_chunk(path: Path, stream: BinaryIO) -> tuple[bytes, int, bytes]:
    """Returns kind, size and first bytes of a chunk."""
    size, kind = int.from_bytes(_exactly(path, stream, 4), "big"), _exactly(path, stream, 4)
    checksum, left, start = zlib.crc32(kind), size, b""
    while left:
        part = _exactly(path, stream, min(left, CHUNK_BYTES))
        start, left, checksum = start or part, left - len(part), zlib.crc32(part, checksum)
    if checksum != int.from_bytes(_exactly(path, stream, 4), "big"):
        raise refusal(path, "a PNG chunk with a wrong checksum", "a sound file", "damaged-file")
    return kind, size, start[:13]


def _exactly(path: Path, stream: BinaryIO, count: int) -> bytes:
    found = stream.read(count)
    if len(found) < count:
        raise refusal(path, "a PNG that ends early", "a complete file", "truncated-file")
    return found
