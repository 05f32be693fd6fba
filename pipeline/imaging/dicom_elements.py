"""The top level of a DICOM file, element by element: only what was asked for is read, the rest is stepped over.

A survey opens thousands of files, which may be hostile: no value is read for being there, a length that the file states
is believed only as far as the file reaches, and deflated data are inflated up to a limit. pydicom would take three
times as long and hold private values in memory.

Source: DICOM PS3.5, 7.1 data elements, 7.5 sequences, annex A transfer syntaxes; PS3.10, 7.1 file meta information.
"""

import struct
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
# Float, double float and integer pixel data; nothing that belongs to an image follows them.
PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
TRANSFER_SYNTAX, STORED_CLASS = 0x00020010, 0x00020002

_LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
# Headers are a few kilobytes; one read fetches most of them whole.
_CHUNK = 16384
# Of a wanted value; texts and numbers of a header are far shorter.
_LONGEST_VALUE = 65536
# Headers of a thousand frames take a few megabytes; no deflated header needs more than this.
_INFLATED_MOST = 2**26
_LONGEST_UID = 64
# At the top level, and within sequences: of real headers none comes near, while zeros look like elements without end.
_MOST_ELEMENTS, _MOST_NESTED = 10_000, 1_000_000
_DEEPEST = 32


class HeaderError(ValueError):
    """A header that breaks off or breaks the rules; its text holds nothing from the file but numbers."""


@dataclass(frozen=True)
class Elements:
    """What was found before the pixels of one file.

    Attributes:
        values: raw bytes of each wanted element that the file has, by tag.
        spans: first byte and length of each wanted sequence's value, in the file or, if deflated, in what it inflates
            to.
        transfer_syntax: UID, empty where the file states none.
        is_explicit: elements state their value representation.
        is_little: numbers are little endian.
        pixel_tag: the tag of the pixels, None where the file ends before it.
        pixel_offset: first byte of the pixel value.
        pixel_length: its length, None where it is undefined, as in encapsulated pixels.
        size: bytes of the file; None if deflated.
        problem: why reading stopped before the pixels; None where it did not.
    """

    values: dict[int, bytes]
    spans: dict[int, tuple[int, int]]
    transfer_syntax: str
    is_explicit: bool
    is_little: bool
    pixel_tag: int | None
    pixel_offset: int
    pixel_length: int | None
    size: int | None
    problem: str | None


class _Source(Protocol):
    def at(self, offset: int, count: int) -> bytes:
        """Returns `count` bytes from `offset` on, fewer at the end."""
        ...


def starts_as_dicom(start: bytes) -> bool:
    """Returns whether a file that begins so is DICOM, with the standard's preamble or, as old files, without."""
    # Without preamble a file starts with an element of group 2 or 8, in either byte order of length.
    return start[128:132] == b"DICM" or (start[:2] in (b"\x02\x00", b"\x08\x00") and start[2:4] < b"\x90\x00")


def read_elements(path: Path, *, wanted: Collection[int], sequences: Collection[int]) -> Elements | None:
    """Returns the wanted elements before the pixels, None where the file does not start as DICOM.

    Args:
        path: a file.
        wanted: tags whose values are read, as far as they are short.
        sequences: tags of which only the place is noted.

    Raises:
        OSError: the file cannot be read.
        struct.error: it breaks off within its first elements.
    """
    with path.open("rb") as stream:
        source = _File(stream)
        if not starts_as_dicom(source.at(0, 132)):
            return None
        meta, offset = _file_meta(source)
        syntax = _text(meta.get(TRANSFER_SYNTAX, b""))
        is_little = syntax != BIG_ENDIAN
        size: int | None = path.stat().st_size
        content: _Source = source
        if syntax == DEFLATED:
            content, offset, size = _Inflated(stream, offset), 0, None
        scan = _Scan(content, is_little, frozenset(wanted), frozenset(sequences))
        end, problem = offset, None
        try:
            end = scan.read(offset)
        except (HeaderError, struct.error, zlib.error) as error:
            problem = str(error)
        if STORED_CLASS in meta:
            scan.values[STORED_CLASS] = meta[STORED_CLASS]
        return Elements(scan.values, scan.spans, syntax, scan.is_explicit, is_little, scan.pixel_tag, end,
                        scan.pixel_length, size, problem)


def inflate(path: Path, *, at_most: int) -> bytes:
    """Returns the first `at_most` bytes of the data set of a deflated file, fewer where it ends before."""
    with path.open("rb") as stream:
        _, offset = _file_meta(_File(stream))
        return _Inflated(stream, offset, most=at_most).at(0, at_most)


class _File:
    """A file of which one chunk is in memory."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._start, self._chunk = stream, 0, b""

    def at(self, offset: int, count: int) -> bytes:
        begin = offset - self._start
        if begin < 0 or begin + count > len(self._chunk):
            self._stream.seek(offset)
            self._start, self._chunk, begin = offset, self._stream.read(max(count, _CHUNK)), 0
        return self._chunk[begin : begin + count]


class _Inflated:
    """Deflated data, inflated as far as they were asked for."""

    def __init__(self, stream: BinaryIO, offset: int, *, most: int = _INFLATED_MOST) -> None:
        stream.seek(offset)
        self._stream, self._most = stream, most
        self._engine, self._data = zlib.decompressobj(-zlib.MAX_WBITS), bytearray()

    def at(self, offset: int, count: int) -> bytes:
        if offset > self._most:
            raise HeaderError("a deflated header beyond the limit")
        while len(self._data) < min(offset + count, self._most) and not self._engine.eof:
            packed = self._engine.unconsumed_tail or self._stream.read(_CHUNK)
            if not packed:
                break
            # One byte of deflated data can stand for a thousand: what comes out is bounded, not only what goes in.
            wanted = min(offset + count, self._most) - len(self._data)
            self._data += self._engine.decompress(packed, max(_CHUNK, wanted))
        return bytes(self._data[offset : offset + count])


def _file_meta(source: _Source) -> tuple[dict[int, bytes], int]:
    """Returns the elements of group 2 and the offset of the first one behind them."""
    offset = 132 if source.at(128, 4) == b"DICM" else 0
    found: dict[int, bytes] = {}
    while source.at(offset, 2) == b"\x02\x00":
        head = source.at(offset, 12)
        if len(head) < 8:
            break
        is_long = head[4:6] in _LONG_VRS
        length = struct.unpack_from("<L", head, 8)[0] if is_long else struct.unpack_from("<H", head, 6)[0]
        offset += 12 if is_long else 8
        tag = 0x00020000 | struct.unpack_from("<H", head, 2)[0]
        if tag in (TRANSFER_SYNTAX, STORED_CLASS):
            value = source.at(offset, min(length, _LONGEST_UID))
            # Half a UID is the UID of something else.
            found[tag] = value if len(value) == length else b""
        offset += length
    return found, offset


class _Scan:
    """One pass over the elements of a data set."""

    def __init__(self, source: _Source, is_little: bool, wanted: frozenset[int], sequences: frozenset[int]) -> None:
        self._at, self._wanted, self._sequences = source.at, wanted, sequences
        self.is_explicit, self._nested = False, 0
        order = "<" if is_little else ">"
        self._tag, self._long, self._short = (struct.Struct(order + form) for form in ("HH", "L", "H"))
        self.values: dict[int, bytes] = {}
        self.spans: dict[int, tuple[int, int]] = {}
        self.pixel_tag: int | None = None
        self.pixel_length: int | None = None

    def read(self, offset: int) -> int:
        """Collects the wanted elements from `offset` on; returns the offset of the pixels or of the end."""
        # Some writers state one value representation and use the other: the first element's letters decide.
        vr = self._at(offset, 6)[4:6]
        self.is_explicit = vr.isalpha() and vr.isupper()
        for _ in range(_MOST_ELEMENTS):
            tag, length, offset = self._element(offset, self.is_explicit)
            if tag is None:
                return offset
            if tag in PIXEL_TAGS:
                self.pixel_tag, self.pixel_length = tag, None if length == _UNDEFINED else length
                return offset
            end = self._past_items(offset, self.is_explicit, 0) if length == _UNDEFINED else offset + length
            if tag in self._sequences:
                self.spans[tag] = (offset, end - offset)
            elif tag in self._wanted and length <= _LONGEST_VALUE:
                value = self._at(offset, length)
                if len(value) < length:
                    raise HeaderError("the file ends inside a value")
                self.values[tag] = value
            offset = end
        raise HeaderError("elements without end")

    def _element(self, offset: int, is_explicit: bool) -> tuple[int | None, int, int]:
        """Returns tag, length and the offset of the value; the tag is None at the end of the file."""
        head = self._at(offset, 12)
        if len(head) < 8:
            return None, 0, offset
        group, number = self._tag.unpack_from(head)
        tag = group << 16 | number
        if group == 0xFFFE or not is_explicit or not head[4:6].isalpha():
            return tag, self._long.unpack_from(head, 4)[0], offset + 8
        if head[4:6] in _LONG_VRS:
            # VR UN may have undefined length too; its items are then encoded as implicit.
            return tag, self._long.unpack_from(head, 8)[0], offset + 12
        return tag, self._short.unpack_from(head, 6)[0], offset + 8

    def _past_items(self, offset: int, is_explicit: bool, depth: int) -> int:
        """Returns the offset behind a value of undefined length, whose items start at `offset`."""
        if depth > _DEEPEST:
            raise HeaderError("sequences nested too deeply")
        while True:
            tag, length, offset = self._element(offset, is_explicit)
            if tag == _SEQUENCE_END:
                return offset
            self._nested += 1
            if tag != _ITEM or self._nested > _MOST_NESTED:
                raise HeaderError("a sequence without its end")
            offset = self._past_item(offset, is_explicit, depth) if length == _UNDEFINED else offset + length

    def _past_item(self, offset: int, is_explicit: bool, depth: int) -> int:
        while True:
            start = offset
            self._nested += 1
            tag, length, offset = self._element(offset, is_explicit)
            if tag == _ITEM_END:
                return offset
            if tag is None or self._nested > _MOST_NESTED:
                raise HeaderError("an item without its end")
            if length == _UNDEFINED:
                is_unknown = self._at(start, 6)[4:6] == b"UN"
                offset = self._past_items(offset, is_explicit and not is_unknown, depth + 1)
            else:
                offset += length


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip("\0 ")
