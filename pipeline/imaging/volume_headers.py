"""The text headers of NRRD and MetaImage files: fields by name, and where the voxels are."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from pipeline.imaging.voxels import refusal

# Longer than any header, key and value pairs included.
MOST_HEADER_BYTES = 1 << 20
META_END = "elementdatafile"
# Names of a data file that stand for several files, or for a pattern of their names.
_SEVERAL = re.compile(r"^list(\s|$)|%\d*d")


def read_nrrd_header(path: Path, stream: BinaryIO) -> dict[str, str]:
    """Returns the fields in small letters without spaces (``datafile``); the stream then stands at attached voxels.

    Raises:
        InputError: ``not-an-image``, ``damaged-file``.

    Source: https://teem.sourceforge.net/nrrd/format.html, sections 2 to 4.
    """
    lines = _lines(path, stream)
    if not re.fullmatch(r"NRRD000[1-5]", next(lines, "")):
        raise refusal(path, "no NRRD header", "a NRRD file (.nrrd or .nhdr)", "not-an-image")
    fields: dict[str, str] = {}
    for line in lines:
        if not line:
            return fields
        # `key:=value` is a note, `field: value` a field.
        name, colon, value = line.partition(":")
        if line.startswith("#") or value.startswith("="):
            continue
        if not colon:
            raise refusal(path, "a line without a field", "fields and values", "damaged-file")
        _add(path, fields, name, value)
    if "datafile" not in fields:
        raise refusal(path, "a header without end", "an empty line before the voxels", "truncated-file")
    return fields


def read_meta_header(path: Path, stream: BinaryIO) -> dict[str, str]:
    """Returns the keys in small letters; the stream then stands at attached voxels.

    Raises:
        InputError: ``not-an-image``, ``damaged-file``.

    Source: https://docs.itk.org/en/latest/learn/metaio.html
    """
    fields: dict[str, str] = {}
    for line in _lines(path, stream):
        name, equals, value = line.partition("=")
        if not equals:
            if line:
                raise refusal(path, "no MetaImage header", "a MetaImage file (.mha or .mhd)", "not-an-image")
            continue
        _add(path, fields, name, value)
        if META_END in fields:
            return fields
    raise refusal(path, "a header without ElementDataFile", "a MetaImage file (.mha or .mhd)",
                  "truncated-file" if "ndims" in fields else "not-an-image")


def data_file(path: Path, name: str) -> Path:
    """Returns the file beside `path` that its header names as the one with the voxels.

    Raises:
        InputError: ``outside-data-file`` where the name leads elsewhere, ``several-data-files``,
            ``missing-data-file``.
    """
    if _SEVERAL.search(name.lower()):
        raise refusal(path, "a header that lists several data files", "one data file", "several-data-files",
                      "save it as one file")
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        # Whoever wrote the header decides what is read: it must not be a file of the user's elsewhere.
        raise refusal(path, "a header that names a data file elsewhere", "a file in the same folder",
                      "outside-data-file", "put both files into one folder and correct the name in the header")
    found = path.parent / name
    try:
        is_there = found.is_file()
    except OSError:
        is_there = False
    if not is_there:
        raise refusal(path, "a header without its data file", "the data file it names in the same folder",
                      "missing-data-file", "copy the data file beside it")
    return found


def numbers(path: Path, fields: Mapping[str, str], name: str) -> tuple[float, ...] | None:
    """Returns the numbers of a field, None where there is no such field.

    Raises:
        InputError: ``damaged-file``.
    """
    if name not in fields:
        return None
    try:
        return tuple(float(part) for part in fields[name].split())
    except ValueError as error:
        raise refusal(path, f"a field {name} that is not numbers", "numbers", "damaged-file") from error


def extents(path: Path, fields: Mapping[str, str], name: str) -> tuple[int, ...]:
    """Returns the image's size along each axis.

    Raises:
        InputError: ``damaged-file``, ``not-an-image``.
    """
    found = numbers(path, fields, name)
    if found is None or not all(extent.is_integer() for extent in found):
        raise refusal(path, f"no whole numbers in {name}", "the size along each axis", "damaged-file")
    shape = tuple(int(extent) for extent in found)
    if len(shape) < 2 or min(shape) < 1:
        raise refusal(path, f"shape {shape}", "an image of 2 or 3 dimensions", "not-an-image")
    if len(shape) > 3:
        raise refusal(path, f"shape {shape}", "one channel", "not-single-channel", "give each channel its own file")
    return shape


def _lines(path: Path, stream: BinaryIO) -> Iterator[str]:
    """Yields the header's lines; whoever stops asking leaves the stream right behind the last one."""
    left = MOST_HEADER_BYTES
    while line := stream.readline(left):
        left -= len(line)
        yield line.decode("utf-8", "surrogateescape").strip()
        if left <= 0:
            raise refusal(path, "a header without end", "a header and voxels", "damaged-file")


def _add(path: Path, fields: dict[str, str], name: str, value: str) -> None:
    key = "".join(name.lower().split())
    if key in fields:
        # Programs differ in which of the two they take.
        raise refusal(path, "a header that gives a field twice", "each field once", "damaged-file")
    fields[key] = value.strip()
