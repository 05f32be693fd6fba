"""Writes a segmentation of a DICOM scan as a DICOM Segmentation object, which archives file beside the scan.

The default kind is BINARY, one bit a pixel and one frame for each plane of each structure: 3D Slicer, OHIF and dcmqi
all read it. LABELMAP is smaller and younger. Empty frames are left out. Same scan, model and labels: same bytes.

pydicom writes it: probabilities then go to disk one class at a time, and no other package is loaded for it. The tests
read every kind back with highdicom and dcmqi.

Source: DICOM PS3.3, A.51 segmentation, C.8.20.2 segmentation image, C.8.20.4 segment description, C.7.6.17 dimensions.
"""

import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless, SegmentationStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from pipeline.imaging.dicom_codes import BACKGROUND, Code, LabelCode, cielab, code_for
from pipeline.imaging.dicom_derived import SegModel as SegModel
from pipeline.imaging.dicom_derived import (
    SourceScan,
    code_item,
    lps_affine,
    new_object,
    read_source,
    reference_item,
    save,
    short_text,
)
from pipeline.imaging.dicom_seg_frames import (
    Frame,
    FramePlace,
    frame_items,
    in_plane_order,
    planes_with,
    run_lengths,
    write_bits,
    write_bytes,
)
from pipeline.imaging.preview import COLOURS
from pipeline.imaging.scans import Scan
from pipeline.records.errors import InputError
from pipeline.records.files import sha256_of_text, written_aside

Kind = Literal["binary", "labelmap"]
LABEL_MAP_STORAGE = UID("1.2.840.10008.5.1.4.1.1.66.7")
ARTIFICIAL_INTELLIGENCE: Code = ("123110", "DCM", "Artificial Intelligence")
FULL_PROBABILITY = 255
# PS3.5, 7.1.1: a length has 32 bits, is even, and all bits set stands for undefined.
LONGEST_VALUE_BYTES, UNDEFINED = 2**32 - 2, 2**32 - 1
SEQUENCE_END = bytes.fromhex("feffdde000000000")
COPIED_BYTES = 2**20


def write_seg(path: Path, labelmap: NDArray[np.integer | np.bool_], scan: Scan, *, labels: Mapping[str, int],
              codes: Mapping[str, LabelCode], model: SegModel, kind: Kind = "binary") -> None:
    """Writes a label map as a segmentation of `scan`; nothing is left at `path` if it fails.

    Args:
        path: the file to write.
        labelmap: ``(x, y, z)`` whole numbers on the scan's grid, 0 outside.
        scan: read from DICOM; its files are read again for their headers.
        labels: value of each structure; the order gives the segment numbers, from 1.
        codes: what the names stand for; a name that is missing here is looked up by `code_for`.
        model: what made it.
        kind: ``binary`` or ``labelmap``.

    Raises:
        InputError: ``wrong-shape``, ``unknown-label``, ``too-large``, and those of `read_source`.
    """
    _check(path, labelmap.shape, scan, labels)
    source = read_source(scan)
    frames = in_plane_order(labelmap.view(np.uint8) if labelmap.dtype == bool else labelmap)
    try:
        held = dict(planes_with(frames, list(labels.values())))
    except ValueError as error:
        raise InputError(path, found=str(error), wanted=f"the values {sorted(labels.values())}", reason="unknown-label",
                         remedy="name every label of the network in the bundle's metadata") from error
    writer = _binary if kind == "binary" else _label_map
    with written_aside(path) as aside, aside.with_name(f"{aside.name}.pixels").open("w+b") as sink:
        places, digest = writer(frames, held, labels, sink)
        content = _segmentation(source, scan, labels, codes=codes, model=model, kind=kind, digest=digest)
        _save(content, _add_frames(content, source, scan, places), aside, sink)


def write_fractional_seg(path: Path, probabilities: Iterable[NDArray[np.floating]], scan: Scan, *,
                         labels: Mapping[str, int], codes: Mapping[str, LabelCode], model: SegModel) -> None:
    """Writes probabilities as a FRACTIONAL segmentation of `scan`, in steps of 1/255.

    Args:
        path: the file to write.
        probabilities: one ``(x, y, z)`` from 0 to 1 for each of `labels` in their order, without the background: an
            array ``(classes, x, y, z)``, or an iterator that gives one class at a time so that one is in memory.
        scan, labels, codes, model: as in `write_seg`.

    Raises:
        InputError: as `write_seg`.
    """
    source = read_source(scan)
    with written_aside(path) as aside, aside.with_name(f"{aside.name}.pixels").open("w+b") as sink:
        places: list[FramePlace] = []
        digest = write_bytes(_fractions(path, probabilities, scan, labels, places), sink)
        content = _segmentation(source, scan, labels, codes=codes, model=model, kind="fractional", digest=digest)
        _save(content, _add_frames(content, source, scan, places), aside, sink)


def _check(path: Path, shape: tuple[int, ...], scan: Scan, labels: Mapping[str, int]) -> None:
    if shape != scan.array.shape:
        raise InputError(path, found=f"a segmentation of shape {shape}", wanted=f"the scan's {scan.array.shape}",
                         remedy="bring it to the scan's grid first", reason="wrong-shape")
    if not labels or len(set(labels.values())) != len(labels) or not all(0 < v < 2**16 for v in labels.values()):
        raise InputError(path, found=f"label values {sorted(labels.values())}", wanted="different ones, 1 to 65535",
                         remedy="name each label once in the bundle's metadata", reason="unknown-label")


def _binary(frames: Frame, held: Mapping[int, set[int]], labels: Mapping[str, int],
            sink: BinaryIO) -> tuple[list[FramePlace], str]:
    """Writes a frame of bits for each structure of each plane that holds it; returns the places and a digest."""
    numbered = list(enumerate(labels.values(), start=1))
    kept = [(plane, number, value) for number, value in numbered for plane in held if value in held[plane]]
    # The standard wants one frame at least: of an empty segmentation the first plane, empty.
    kept = kept or [(0, *numbered[0])]
    digest = write_bits((frames[plane] == value for plane, _, value in kept), sink)
    return [FramePlace(plane, number) for plane, number, _ in kept], digest


def _label_map(frames: Frame, held: Mapping[int, set[int]], labels: Mapping[str, int],
               sink: BinaryIO) -> tuple[list[FramePlace], str]:
    """Writes a run length encoded frame of segment numbers for each plane that holds any."""
    dtype = np.uint8 if len(labels) < 2**8 else np.uint16
    number_of = np.zeros(max(labels.values()) + 1, dtype=dtype)
    number_of[list(labels.values())] = np.arange(1, len(labels) + 1)
    kept = list(held) or [0]
    encoded = [run_lengths(number_of[frames[plane]]) for plane in kept]
    sink.write(encapsulate(encoded))
    return [FramePlace(plane, 0) for plane in kept], sha256_of_text("".join(block.hex() for block in encoded))


def _fractions(path: Path, probabilities: Iterable[NDArray[np.floating]], scan: Scan, labels: Mapping[str, int],
               places: list[FramePlace]) -> Iterator[Frame]:
    """Yields each frame that is not empty and notes its place."""
    given = 0
    for given, one in enumerate(probabilities, start=1):
        _check(path, one.shape, scan, labels)
        for plane, frame in enumerate(_steps(one)):
            if frame.any():
                places.append(FramePlace(plane, given))
                yield frame
    if given != len(labels):
        raise InputError(path, found=f"probabilities of {given} classes", wanted=f"one for each label: {len(labels)}",
                         remedy="leave the background out", reason="wrong-shape")
    if not places:
        places.append(FramePlace(0, 1))
        yield np.zeros(scan.array.shape[1::-1], dtype=np.uint8)


def _steps(probability: NDArray[np.floating]) -> Iterator[Frame]:
    """Yields ``(row, column)`` of each plane in steps of 1/255."""
    scaled = np.empty(probability.shape, dtype=np.uint8)
    for x in range(probability.shape[0]):  # a sheet at a time: no float copy of the volume
        scaled[x] = np.rint(np.clip(np.nan_to_num(probability[x]), 0, 1) * FULL_PROBABILITY)
    yield from in_plane_order(scaled)


def _segmentation(source: SourceScan, scan: Scan, labels: Mapping[str, int], *, codes: Mapping[str, LabelCode],
                  model: SegModel, kind: str, digest: str) -> Dataset:
    """Returns the object without its frames; `digest` is of their pixels."""
    coded = [codes.get(name) or code_for(name) for name in labels]
    entropy = [kind, repr(model), repr(list(labels)), repr(coded), repr(source.references), repr(scan.affine.tolist()),
               digest]
    content = new_object(source, model, modality="SEG", entropy=entropy,
                         sop_class=LABEL_MAP_STORAGE if kind == "labelmap" else SegmentationStorage,
                         syntax=RLELossless if kind == "labelmap" else ExplicitVRLittleEndian)
    _describe_image(content, scan, kind, len(labels))
    content.update(source.lossy)
    content.ContentDate, content.ContentTime = source.date, source.time
    content.ContentLabel, content.ContentCreatorName = "SEGMENTATION", ""
    content.ContentDescription = short_text(f"Research use only. {model.name} {model.version}")
    series = Dataset()
    series.SeriesInstanceUID = source.series_uid
    series.ReferencedInstanceSequence = [reference_item(one) for one in source.instances]
    content.ReferencedSeriesSequence = [series]
    content.SegmentSequence = [
        _segment(number, name, code, model=model, tracking=generate_uid(entropy_srcs=["track", str(number), *entropy]))
        for number, (name, code) in enumerate(zip(labels, coded, strict=True), start=1)]
    if kind == "labelmap":
        content.SegmentSequence.insert(0, _background())
    _add_dimensions(content, generate_uid(entropy_srcs=["dimensions", *entropy]), has_segments=kind != "labelmap")
    return content


def _describe_image(content: Dataset, scan: Scan, kind: str, count: int) -> None:
    bits = 1 if kind == "binary" else 16 if kind == "labelmap" and count >= 2**8 else 8
    content.ImageType = ["DERIVED", "PRIMARY"]
    content.SamplesPerPixel, content.PhotometricInterpretation, content.PixelRepresentation = 1, "MONOCHROME2", 0
    content.Columns, content.Rows = scan.array.shape[:2]
    content.BitsAllocated, content.BitsStored, content.HighBit = bits, bits, bits - 1
    content.PresentationLUTShape, content.BurnedInAnnotation, content.LossyImageCompression = "IDENTITY", "NO", "00"
    content.SegmentationType = kind.upper()
    content.SegmentsOverlap = "UNDEFINED" if kind == "fractional" else "NO"
    if kind == "fractional":
        content.SegmentationFractionalType, content.MaximumFractionalValue = "PROBABILITY", FULL_PROBABILITY
    if kind == "labelmap":
        content.PixelPaddingValue = 0


def _segment(number: int, name: str, code: LabelCode, *, model: SegModel, tracking: str) -> Dataset:
    segment, kind, algorithm = Dataset(), code_item(code.type), Dataset()
    if code.modifier is not None:
        kind.SegmentedPropertyTypeModifierCodeSequence = [code_item(code.modifier)]
    algorithm.AlgorithmFamilyCodeSequence = [code_item(ARTIFICIAL_INTELLIGENCE)]
    algorithm.AlgorithmName, algorithm.AlgorithmVersion = short_text(model.name), short_text(model.version)
    segment.SegmentNumber, segment.SegmentLabel = number, short_text(name)
    segment.SegmentAlgorithmType, segment.SegmentAlgorithmName = "AUTOMATIC", short_text(model.name)
    segment.SegmentationAlgorithmIdentificationSequence = [algorithm]
    segment.SegmentedPropertyCategoryCodeSequence = [code_item(code.category)]
    segment.SegmentedPropertyTypeCodeSequence = [kind]
    segment.TrackingID, segment.TrackingUID = short_text(name), tracking
    segment.RecommendedDisplayCIELabValue = cielab(code.colour or COLOURS[(number - 1) % len(COLOURS)])
    return segment


def _background() -> Dataset:
    """Returns segment 0: in a label map every value that occurs must be described, 0 too (C.8.20.2.3.3)."""
    segment = Dataset()
    segment.SegmentNumber, segment.SegmentLabel = 0, BACKGROUND[2]
    segment.SegmentAlgorithmType, segment.SegmentAlgorithmName = "AUTOMATIC", BACKGROUND[2]
    segment.SegmentedPropertyCategoryCodeSequence = [code_item(BACKGROUND)]
    segment.SegmentedPropertyTypeCodeSequence = [code_item(BACKGROUND)]
    return segment


def _add_dimensions(content: Dataset, uid: str, *, has_segments: bool) -> None:
    organization = Dataset()
    organization.DimensionOrganizationUID = uid
    content.DimensionOrganizationSequence = [organization]
    pointers = [("ReferencedSegmentNumber", "SegmentIdentificationSequence")] if has_segments else []
    content.DimensionIndexSequence = []
    for element, group in [*pointers, ("ImagePositionPatient", "PlanePositionSequence")]:
        index = Dataset()
        index.DimensionOrganizationUID, index.DimensionDescriptionLabel = uid, element
        index.DimensionIndexPointer, index.FunctionalGroupPointer = Tag(element), Tag(group)
        content.DimensionIndexSequence.append(index)


def _add_frames(content: Dataset, source: SourceScan, scan: Scan, places: Sequence[FramePlace]) -> bytes:
    """Adds what all frames share; returns each frame's own place and source, encoded."""
    affine = lps_affine(scan)
    x_mm, y_mm, z_mm = scan.spacing_mm
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = _decimals((y_mm, x_mm))
    measures.SliceThickness = measures.SpacingBetweenSlices = _decimals((z_mm,))[0]
    orientation.ImageOrientationPatient = _decimals((*affine[:3, 0] / x_mm, *affine[:3, 1] / y_mm))
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    content.SharedFunctionalGroupsSequence = [shared]
    content.NumberOfFrames = len(places)
    return frame_items(
        places, position_of=lambda plane: np.asarray((affine @ [0, 0, plane, 1])[:3]),
        reference_of=lambda plane: None if source.is_resampled else source.references[plane])


def _decimals(values: Iterable[float]) -> list[str]:
    return [format_number_as_ds(float(value)) for value in values]


def _save(content: Dataset, items: bytes, aside: Path, sink: BinaryIO) -> None:
    """Writes the object, then the two elements that stand last in it: the frames' groups and the pixels.

    pydicom would take the encoded groups apart again, and hold all pixels in memory.
    """
    size = sink.tell()
    if max(size, len(items)) > LONGEST_VALUE_BYTES:
        raise InputError(aside.name, found=f"{size / 2**30:.1f} GiB of pixels", wanted="less than 4 GiB",
                         remedy="write fewer classes", reason="too-large")
    is_encapsulated = content.file_meta.TransferSyntaxUID.is_encapsulated
    save(content, aside)
    sink.seek(0)
    with aside.open("ab") as stream:
        stream.write(struct.pack("<HH2sHI", 0x5200, 0x9230, b"SQ", 0, len(items)) + items)
        stream.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, UNDEFINED if is_encapsulated else size))
        shutil.copyfileobj(sink, stream, COPIED_BYTES)
        if is_encapsulated:
            stream.write(SEQUENCE_END)
