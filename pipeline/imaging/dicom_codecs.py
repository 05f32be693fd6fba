"""Compressed DICOM frames, decoded to stored values by the codec for their transfer syntax.

RLE and JPEG-LS go through pydicom's decoders (pyjpegls), JPEG 2000 and its high-throughput form through openjpeg, JPEG
through GDCM inside SimpleITK. Each is the one that refuses a damaged stream; a second try with another would now and
then turn damage into values.

Source: DICOM PS3.5, annex A.4 encapsulated transfer syntaxes; ISO 10918-1 B.2.2 and ISO 14495-1 C.2.2 frame headers;
ISO 15444-1 A.5.1 image size.
"""

import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

from pipeline.imaging.dicom_slices import SliceHeader

Stored = NDArray[Any]
_JPEG_STARTS = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7))


class UndecodableError(Exception):
    """No codec here gives this frame's values."""


def decode_frame(data: bytes, header: SliceHeader) -> Stored:
    """Returns the stored values ``(row, column)`` of one compressed frame.

    Raises:
        UndecodableError: unknown transfer syntax, or data that no codec accepts.
    """
    decode = _DECODERS.get(header.pixels.transfer_syntax)
    if decode is None:
        raise UndecodableError(f"transfer syntax {header.pixels.transfer_syntax}")
    shape = _coded_shape(data)
    # A few bytes can state gigapixels; a codec would believe them.
    if shape is not None and shape != (header.rows, header.columns):
        raise UndecodableError(f"{shape[0]} x {shape[1]} pixels where the header says {header.rows} x {header.columns}")
    try:
        stored = decode(data, header)
    except Exception as error:  # codecs raise what they like
        raise UndecodableError(f"the codec says {error}") from error
    if stored.shape != (header.rows, header.columns):
        raise UndecodableError(f"decoded to shape {stored.shape}")
    return stored


def _coded_shape(data: bytes) -> tuple[int, int] | None:
    """Returns the rows and columns that a JPEG, JPEG-LS or JPEG 2000 stream states, None for other data."""
    if data[:4] == b"\xff\x4f\xff\x51" and len(data) >= 24:
        right, bottom, left, top = struct.unpack_from(">4L", data, 8)
        return bottom - top, right - left
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in _JPEG_STARTS:
            rows, columns = struct.unpack_from(">2H", data, at + 5)
            return rows, columns
        # A marker may be padded with bytes of ones.
        at += 1 if data[at + 1] == 0xFF else 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _by_pydicom(data: bytes, header: SliceHeader) -> Stored:
    pixels = header.pixels
    array, _ = get_decoder(pixels.transfer_syntax).as_array(
        encapsulate([data]), raw=True, rows=header.rows, columns=header.columns, number_of_frames=1,
        samples_per_pixel=1, photometric_interpretation="MONOCHROME2", bits_allocated=pixels.bits_allocated,
        bits_stored=pixels.bits_stored, pixel_representation=int(pixels.is_signed), pixel_keyword="PixelData",
    )
    return np.asarray(array)


def _by_openjpeg(data: bytes, header: SliceHeader) -> Stored:
    from openjpeg import utils as openjpeg

    stored = np.asarray(openjpeg.decode(data))
    stated = openjpeg.get_parameters(data)
    if bool(stated["is_signed"]) == header.pixels.is_signed:
        return stored
    # The stream and the header disagree on the sign; the bits are the same and the header decides.
    kind = "i" if header.pixels.is_signed else "u"
    spare = 8 * stored.itemsize - int(stated["precision"])
    return np.asarray(stored.view(f"{kind}{stored.itemsize}") << spare >> spare)


def _by_gdcm(data: bytes, header: SliceHeader) -> Stored:
    """Decodes through a file of its own: GDCM would apply some of the original's slopes and all of its oddities."""
    # Imported here: a tenth of a second that a scan without JPEG need not spend.
    import SimpleITK

    pixels = header.pixels
    content = Dataset()
    content.file_meta = FileMetaDataset()
    content.file_meta.TransferSyntaxUID = pixels.transfer_syntax
    content.file_meta.MediaStorageSOPClassUID = content.SOPClassUID = SecondaryCaptureImageStorage
    content.file_meta.MediaStorageSOPInstanceUID = content.SOPInstanceUID = generate_uid(entropy_srcs=["frame"])
    content.Rows, content.Columns, content.SamplesPerPixel = header.rows, header.columns, 1
    content.PhotometricInterpretation, content.PixelRepresentation = "MONOCHROME2", int(pixels.is_signed)
    content.BitsAllocated, content.BitsStored, content.HighBit = (
        pixels.bits_allocated, pixels.bits_stored, pixels.bits_stored - 1)
    content.PixelData = encapsulate([data])
    content["PixelData"].VR, content["PixelData"].is_undefined_length = "OB", True
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.dcm"
        content.save_as(path, enforce_file_format=True)
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetGlobalWarningDisplay(False)
        reader.SetFileName(str(path))
        return np.asarray(np.asarray(SimpleITK.GetArrayFromImage(reader.Execute()))[0])


_DECODERS: dict[str, Callable[[bytes, SliceHeader], Stored]] = {
    "1.2.840.10008.1.2.5": _by_pydicom,  # RLE
    "1.2.840.10008.1.2.4.80": _by_pydicom, "1.2.840.10008.1.2.4.81": _by_pydicom,  # JPEG-LS
    "1.2.840.10008.1.2.4.50": _by_gdcm, "1.2.840.10008.1.2.4.51": _by_gdcm,  # JPEG baseline, extended
    "1.2.840.10008.1.2.4.57": _by_gdcm, "1.2.840.10008.1.2.4.70": _by_gdcm,  # JPEG lossless
    "1.2.840.10008.1.2.4.90": _by_openjpeg, "1.2.840.10008.1.2.4.91": _by_openjpeg,  # JPEG 2000
    "1.2.840.10008.1.2.4.201": _by_openjpeg, "1.2.840.10008.1.2.4.202": _by_openjpeg,  # high throughput
    "1.2.840.10008.1.2.4.203": _by_openjpeg,
}
