"""Voxels from a file into float32, a few megabytes at a time: inflated, checked and scaled without a second copy."""

import mmap
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.records.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
STEP_BYTES = 1 << 22
# Packed bytes read at once.
CHUNK_BYTES = 1 << 17
# One byte of deflate cannot hold more than this.
MOST_INFLATION = 1032
# Bytes after the voxels that are still read, for the checksum at the end; a longer tail is left where it is.
SLACK_BYTES = 1 << 20
# Window size that lets zlib tell its own frame from gzip's.
EITHER_FRAME = 32 + zlib.MAX_WBITS
LONGER = "the file is longer than its header says"


class Source(Protocol):
    """Bytes in order; `read` returns fewer than asked for only at the end."""

    def read(self, count: int, /) -> bytes: ...

    def tell(self) -> int: ...


class Inflated:
    """What a gzip or zlib stream holds, inflated only as far as it is read.

    Raises:
        EOFError: the stream ends early.
        zlib.error: it is damaged.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._packed, self._position = stream, b"", 0
        self._engine = zlib.decompressobj(EITHER_FRAME)

    def tell(self) -> int:
        """Returns how many inflated bytes were read."""
        return self._position

    def read(self, count: int, /) -> bytes:
        """Returns `count` bytes, fewer where the stream ends."""
        parts: list[bytes] = []
        missing = count
        while missing and self._continues():
            parts.append(self._engine.decompress(self._packed, missing))
            if not parts[-1] and not self._packed:
                raise EOFError
            self._packed = self._engine.unconsumed_tail
            missing -= len(parts[-1])
        self._position += count - missing
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _continues(self) -> bool:
        """Returns whether there may be more, having seen to it that the engine has something to work on."""
        if self._engine.eof:
            # Several gzip members one after the other are one stream; zeros may fill up its last block.
            rest = (self._engine.unused_data or self._stream.read(CHUNK_BYTES)).lstrip(b"\0")
            if not rest.startswith(GZIP_MAGIC):
                return False
            self._engine, self._packed = zlib.decompressobj(EITHER_FRAME), rest
        self._packed = self._packed or self._stream.read(CHUNK_BYTES)
        return True


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Yields a regular file for reading; what goes wrong with it or its compression becomes one line.

    Raises:
        InputError: ``missing-file``, ``unreadable-file``, ``truncated-file``, ``damaged-file``.
    """
    try:
        if path.exists() and not path.is_file():
            # Opening a pipe would wait for someone to write into it.
            raise _unreadable(path, "no regular file")
        with path.open("rb") as stream:
            yield stream
    except FileNotFoundError as error:
        raise refusal(path, "no such file", "an existing image file", "missing-file", "check the path") from error
    except EOFError as error:
        raise refusal(path, "a compressed stream that ends early", "a complete file", "truncated-file") from error
    except zlib.error as error:
        raise refusal(path, f"a damaged compressed stream ({error})", "a sound file", "damaged-file") from error
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from error


def read_voxels(path: Path, source: Source, *, dtype: np.dtype[Any], count: int, slope: float | None = None,
                intercept: float | None = None) -> tuple[NDArray[np.float32], bool]:
    """Returns the next `count` voxels in file order, scaled, and whether much more follows them.

    Memory is taken only where the file is long enough to hold so many. What float32 cannot hold becomes infinite.

    Args:
        path: the file behind `source`.
        source: stands at the first voxel.
        dtype: of the stored numbers, with their byte order.
        count: of voxels.
        slope, intercept: take stored numbers to intensities; None leaves them as they are.

    Raises:
        InputError: ``truncated-file``.
    """
    at_hand, before = path.stat().st_size, source.tell()
    needed = before + count * dtype.itemsize
    if needed > at_hand * (MOST_INFLATION if isinstance(source, Inflated) else 1):
        raise refusal(path, f"{at_hand} bytes", f"{needed} bytes", "truncated-file")
    voxels = unset_voxels(count)
    a_step = STEP_BYTES // dtype.itemsize
    for first in range(0, count, a_step):
        wanted = min(a_step, count - first) * dtype.itemsize
        stored = source.read(wanted)
        if len(stored) < wanted:
            raise refusal(path, f"{source.tell()} bytes", f"{needed} bytes", "truncated-file")
        _scale(np.frombuffer(stored, dtype=dtype), slope, intercept, into=voxels[first : first + a_step])
    return voxels, len(source.read(SLACK_BYTES)) == SLACK_BYTES


def unset_voxels(count: int) -> NDArray[np.float32]:
    """Returns so many voxels that are still to be set, in memory of their own.

    Not numpy's: of arrays as large as scans it asks the kernel for huge pages, and where memory is cut up the kernel
    first moves about what is in the way, which takes longer than reading the scan.
    """
    if sys.platform == "win32" or count * np.dtype(np.float32).itemsize < STEP_BYTES:
        return np.empty(count, dtype=np.float32)
    try:
        memory = mmap.mmap(-1, count * np.dtype(np.float32).itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:  # which readers take for trouble with their file
        raise MemoryError(f"no memory for {count} voxels") from error
    return np.frombuffer(memory, dtype=np.float32)


def refusal(path: Path, found: str, wanted: str, reason: str, remedy: str = "export or copy it again") -> InputError:
    """Returns the error for a file that is not what it should be."""
    return InputError(path, found=found, wanted=wanted, remedy=remedy, reason=reason)


def _unreadable(path: Path, why: str) -> InputError:
    return refusal(path, f"unreadable ({why})", "a readable image file", "unreadable-file",
                   "check its kind and permissions")


def _scale(stored: NDArray[Any], slope: float | None, intercept: float | None, *, into: NDArray[np.float32]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        if slope is None or (slope, intercept) == (1.0, 0.0):
            into[:] = stored
            return
        # float32 holds 16-bit numbers exactly; wider ones are scaled before they are rounded.
        working: NDArray[np.floating[Any]] = stored.astype(np.float32 if stored.dtype.itemsize <= 2 else np.float64)
        working *= slope
        working += intercept or 0.0
        into[:] = working
