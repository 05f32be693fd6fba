"""Writes a segmentation of a DICOM scan as an RT Structure Set: closed contours plane by plane, for planning systems.

Holes are cut out with keyholes in plain CLOSED_PLANAR contours. The standard's other way, contours of the type
CLOSEDPLANAR_XOR, is unknown to older readers; and of several plain contours in a plane some readers (plastimatch by
default) take the union, which would fill the hole. A keyhole reads alike in all of them. Contours follow the pixels'
edges (`pipeline.imaging.contours`), so filling them gives the label map again.

Source: DICOM PS3.3, A.19 RT structure set, C.8.8.5 structure set, C.8.8.6 ROI contour, C.8.8.8 RT ROI observations.
"""

import hashlib
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.charset import default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from pipeline.imaging.contours import Contour, trace_contours
from pipeline.imaging.dicom_codes import ABNORMAL, LabelCode, code_for
from pipeline.imaging.dicom_derived import (
    SegModel,
    SourceScan,
    code_item,
    lps_affine,
    new_object,
    read_source,
    reference_item,
    save,
    short_text,
)
from pipeline.imaging.dicom_seg_frames import Frame, in_plane_order, planes_with
from pipeline.imaging.preview import COLOURS
from pipeline.imaging.scans import Scan
from pipeline.records.errors import InputError
from pipeline.records.files import written_aside

# PS3.4, B.5: the study component class that the retired reference to a study has always named.
STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
CONTOUR_DATA = Tag("ContourData")
LONGEST_LABEL = 16


def write_rtstruct(path: Path, labelmap: NDArray[np.integer | np.bool_], scan: Scan, *, labels: Mapping[str, int],
                   codes: Mapping[str, LabelCode], model: SegModel) -> None:
    """Writes a label map as a structure set of `scan`; nothing is left at `path` if it fails.

    Args:
        path: the file to write.
        labelmap: ``(x, y, z)`` whole numbers on the scan's grid, 0 outside.
        scan: read from DICOM; its files are read again for their headers.
        labels: value of each structure; the order gives the ROI numbers, from 1.
        codes: what the names stand for; a name that is missing here is looked up by `code_for`.
        model: what made it.

    Raises:
        InputError: ``wrong-shape``, ``unknown-label``, and those of `read_source`.
    """
    if labelmap.shape != scan.array.shape:
        raise InputError(path, found=f"a segmentation of shape {labelmap.shape}",
                         wanted=f"the scan's {scan.array.shape}", remedy="bring it to the scan's grid first",
                         reason="wrong-shape")
    source = read_source(scan)
    frames = in_plane_order(labelmap.view(np.uint8) if labelmap.dtype == bool else labelmap)
    try:
        held = dict(planes_with(frames, list(labels.values())))
    except ValueError as error:
        raise InputError(path, found=str(error), wanted=f"the values {sorted(labels.values())}", reason="unknown-label",
                         remedy="name every label of the network in the bundle's metadata") from error
    contours = [list(_contours(source, scan, frames, [plane for plane in held if value in held[plane]], value))
                for value in labels.values()]
    content = _structure_set(source, scan, labels, codes=codes, model=model, contours=contours)
    with written_aside(path) as aside:
        save(content, aside)


def _contours(source: SourceScan, scan: Scan, frames: Frame, planes: list[int], value: int) -> Iterator[Dataset]:
    """Yields the contour items of one structure, plane by plane."""
    affine = lps_affine(scan)
    for plane in planes:
        for contour in _traced(frames[plane] == value):
            item = Dataset()
            if not source.is_resampled:
                item.ContourImageSequence = [reference_item(source.references[plane])]
            item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(contour)
            encoded = _decimals(affine, contour, plane)
            # As bytes, declared to be in the file's encoding: pydicom would make an object of each number.
            item[CONTOUR_DATA] = RawDataElement(CONTOUR_DATA, None, len(encoded), encoded, 0, True, True)
            item.set_original_encoding(True, True, default_encoding)
            yield item


def _traced(mask: NDArray[np.bool_]) -> Iterator[Contour]:
    """Yields the contours of the part of the plane that holds anything."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    yield from (contour + np.array([columns[0], rows[0]]) for contour in trace_contours(part))


def _decimals(affine: NDArray[np.float64], contour: Contour, plane: int) -> bytes:
    """Returns the points in LPS millimetres, to a tenth of a micrometre, padded to an even length."""
    points = contour @ affine[:3, :2].T + affine[:3, 2] * plane + affine[:3, 3]
    text = "\\".join(map("{:.4f}".format, chain.from_iterable(points.tolist())))
    return (text + " " * (len(text) % 2)).encode("ascii")


def _structure_set(source: SourceScan, scan: Scan, labels: Mapping[str, int], *, codes: Mapping[str, LabelCode],
                   model: SegModel, contours: list[list[Dataset]]) -> Dataset:
    coded = [codes.get(name) or code_for(name) for name in labels]
    points = b"|".join(item.get_item(CONTOUR_DATA).value for items in contours for item in items)
    entropy = [repr(model), repr(list(labels)), repr(coded), repr(source.references), repr(scan.affine.tolist()),
               hashlib.sha256(points).hexdigest()]
    # Implicit: with explicit value representations a contour could not be longer than 64 kilobytes.
    content = new_object(source, model, modality="RTSTRUCT", entropy=entropy, sop_class=RTStructureSetStorage,
                         syntax=ImplicitVRLittleEndian)
    content.OperatorsName = ""
    content.StructureSetLabel = short_text("Research use", LONGEST_LABEL)
    content.StructureSetName = short_text(f"Research use only. {model.name} {model.version}")
    content.StructureSetDate, content.StructureSetTime = source.date, source.time
    content.ApprovalStatus = "UNAPPROVED"
    content.ReferencedFrameOfReferenceSequence = [_references(source)]
    numbered = list(enumerate(zip(labels, coded, contours, strict=True), start=1))
    frame_uid = content.FrameOfReferenceUID
    content.StructureSetROISequence = [_roi(number, name, frame_uid, model) for number, (name, _, _) in numbered]
    content.ROIContourSequence = [_drawn(number, code, items) for number, (_, code, items) in numbered]
    content.RTROIObservationsSequence = [_observed(number, name, code) for number, (name, code, _) in numbered]
    return content


def _references(source: SourceScan) -> Dataset:
    """Returns the item that names the frame of reference, the study, the series and all its images."""
    frame, study, series = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = source.series_uid
    series.ContourImageSequence = [reference_item(one) for one in source.instances]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = STUDY_CLASS, source.common.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = source.common.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _roi(number: int, name: str, frame_uid: str, model: SegModel) -> Dataset:
    item = Dataset()
    item.ROINumber, item.ReferencedFrameOfReferenceUID, item.ROIName = number, frame_uid, short_text(name)
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    item.ROIGenerationDescription = short_text(f"{model.name} {model.version}")
    return item


def _drawn(number: int, code: LabelCode, contours: list[Dataset]) -> Dataset:
    item = Dataset()
    item.ReferencedROINumber = number
    item.ROIDisplayColor = list(code.colour or COLOURS[(number - 1) % len(COLOURS)])
    if contours:
        item.ContourSequence = contours
    return item


def _observed(number: int, name: str, code: LabelCode) -> Dataset:
    item, kind = Dataset(), code_item(code.type)
    if code.modifier is not None:
        kind.SegmentedPropertyTypeModifierCodeSequence = [code_item(code.modifier)]
    item.ObservationNumber = item.ReferencedROINumber = number
    item.ROIObservationLabel = short_text(name, LONGEST_LABEL)
    item.RTROIIdentificationCodeSequence = [kind]
    # A lesion is no target volume until somebody says so.
    item.RTROIInterpretedType = "" if code.category == ABNORMAL else "ORGAN"
    item.ROIInterpreter = ""
    return item
