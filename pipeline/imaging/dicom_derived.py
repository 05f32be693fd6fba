"""What an object made from a DICOM scan (a segmentation, a structure set) takes over from the scan's own files.

Real archives hold files without a study id, with a patient without a name, with a text where a number belongs. What may
be empty by the standard is then left empty; the patient and the study are taken over letter by letter, because an
archive files by them.

Source: DICOM PS3.3, C.7.1 patient, C.7.2 study, C.7.4.1 frame of reference, C.7.5.2 enhanced equipment.
"""

import re
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from pipeline.imaging.dicom_codes import Code
from pipeline.imaging.scans import DicomPlanes, Scan
from pipeline.records.errors import InputError

# Type 2 elements: written even when nothing is known.
MAY_BE_EMPTY = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
                "AccessionNumber", "ReferringPhysicianName", "StudyID", "PositionReferenceIndicator")
IF_PRESENT = ("IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "PatientIdentityRemoved",
              "DeidentificationMethod", "PatientSpeciesDescription", "ResponsiblePerson", "StudyDescription",
              "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID",
              "ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID",
              "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription")
DATES = ("ContentDate", "AcquisitionDate", "SeriesDate", "StudyDate")
TIMES = ("ContentTime", "AcquisitionTime", "SeriesTime", "StudyTime")
LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
INSTANCE_TAGS = ["SOPClassUID", "SOPInstanceUID", "ImagePositionPatient"]
FIRST_TAGS = [*MAY_BE_EMPTY, *IF_PRESENT, *DATES, *TIMES, *LOSSY, "StudyInstanceUID", "SeriesInstanceUID",
              "FrameOfReferenceUID", "SeriesNumber", "Modality"]
LONGEST_TEXT = 64
HIGHEST_SERIES_NUMBER = 9999
# What a damaged file can raise in pydicom when it is opened or when an element's value is asked for.
UNREADABLE = (ValueError, TypeError, AttributeError, LookupError, OverflowError, RuntimeError, OSError, EOFError,
              struct.error, zlib.error, InvalidDicomError)
# ITK is LPS; NIfTI is RAS.
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class SegModel:
    """The model that made a segmentation: name, version, and the SHA-256 of its weights as hex digits."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True)
class Reference:
    """One source image: its class, its UID and, in a multi-frame object, the frame from 1."""

    sop_class: str
    sop_uid: str
    frame: int | None = None


@dataclass(frozen=True)
class SourceScan:
    """What the files behind a scan say.

    Attributes:
        common: patient, study and frame of reference, ready to be taken over.
        references: of each plane ``array[:, :, k]``; of each source plane in their order where the scan is resampled.
        is_resampled: plane k is not ``references[k]``.
        series_uid, series_number, modality: of the source series; the number is 0 where there is none.
        lossy: what the source says of compression with loss, which its segmentation must repeat.
        date, time: valid DICOM date and time of the source.
    """

    common: Dataset
    references: tuple[Reference, ...]
    is_resampled: bool
    series_uid: str
    series_number: int
    modality: str
    lossy: Dataset
    date: str
    time: str

    @property
    def instances(self) -> list[Reference]:
        """Returns each source object once, without frame."""
        return list(dict.fromkeys(Reference(one.sop_class, one.sop_uid) for one in self.references))


def read_source(scan: Scan) -> SourceScan:
    """Returns what an object derived from `scan` must say about its source.

    Raises:
        InputError: ``not-dicom`` for a scan of another format; ``undecodable`` where a file cannot be read any more;
            ``plane-mismatch`` where a plane does not lie where its file says.
    """
    planes = scan.planes
    if planes is None or not planes.files:
        raise InputError(scan.path, found="a scan without DICOM headers", wanted="a DICOM series",
                         remedy="give the DICOM series itself, or ask for NIfTI output", reason="not-dicom")
    first = _read(planes.files[0], FIRST_TAGS)
    with disable_value_validation():
        references = _references(scan, planes)
        uid = references[0].sop_uid
        return SourceScan(
            common=_common(first, uid), references=references, is_resampled=planes.is_resampled,
            series_uid=_text(first, "SeriesInstanceUID") or generate_uid(entropy_srcs=["series", uid]),
            series_number=_number(_text(first, "SeriesNumber")), modality=_text(first, "Modality"),
            lossy=_taken_over(first, LOSSY), date=_first_like(first, DATES, r"(19|20)\d{6}", "19700101"),
            time=_first_like(first, TIMES, r"[012]\d[0-5]\d[0-5]\d(\.\d{1,6})?", "000000"))


def new_object(source: SourceScan, model: SegModel, *, sop_class: UID, modality: str, entropy: Sequence[str],
               syntax: UID = ExplicitVRLittleEndian) -> Dataset:
    """Returns a dataset with patient, study, series, equipment and UIDs; the same `entropy` gives the same UIDs."""
    content = Dataset()
    content.update(source.common)
    content.SpecificCharacterSet = "ISO_IR 192"
    content.SOPClassUID, content.SOPInstanceUID = sop_class, generate_uid(entropy_srcs=["instance", *entropy])
    content.SeriesInstanceUID = generate_uid(entropy_srcs=["series", *entropy])
    content.Modality, content.InstanceNumber = modality, 1
    # Beside the source's own number, so that archives list it next to the source.
    content.SeriesNumber = min(100 * source.series_number + 99, HIGHEST_SERIES_NUMBER)
    content.SeriesDescription = short_text(f"Research use only: {model.name}")
    content.SeriesDate, content.SeriesTime = source.date, source.time
    content.Manufacturer, content.ManufacturerModelName = "Segline", short_text(model.name)
    content.SoftwareVersions, content.DeviceSerialNumber = short_text(model.version), short_text(model.digest)
    content.file_meta = FileMetaDataset()
    content.file_meta.MediaStorageSOPClassUID, content.file_meta.TransferSyntaxUID = sop_class, syntax
    content.file_meta.MediaStorageSOPInstanceUID = content.SOPInstanceUID
    return content


def save(content: Dataset, path: Path) -> None:
    """Writes the object as a DICOM file, odd values of the source as they are."""
    with disable_value_validation():
        content.save_as(path, enforce_file_format=True)


def code_item(code: Code) -> Dataset:
    """Returns the item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item


def reference_item(reference: Reference) -> Dataset:
    """Returns the item that names a source image."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference.sop_class, reference.sop_uid
    if reference.frame is not None:
        item.ReferencedFrameNumber = reference.frame
    return item


def short_text(text: str, longest: int = LONGEST_TEXT) -> str:
    """Returns the text as one DICOM value: no separators or control characters, at most `longest` characters."""
    clean = "".join(" " if char == "\\" or not char.isprintable() else char for char in text)
    return clean.strip()[:longest].strip() or "unknown"


def lps_affine(scan: Scan) -> NDArray[np.float64]:
    """Returns ``(4, 4)`` voxel index to millimetres in LPS+."""
    return np.asarray(LPS_FROM_RAS @ scan.affine, dtype=np.float64)


def frame_of_reference(scan: Scan) -> str:
    """Returns the UID of the scan's frame of reference; empty where it has none."""
    if scan.planes is None or not scan.planes.files:
        return ""
    return _text(_read(scan.planes.files[0], ["FrameOfReferenceUID"]), "FrameOfReferenceUID")


def _read(path: Path, tags: Sequence[str]) -> Dataset:
    try:
        with disable_value_validation():
            return pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(tags))
    except UNREADABLE as error:
        raise InputError(path, found=f"a header that cannot be read ({type(error).__name__})",
                         wanted="the source image", remedy="keep the series in place until its segmentation is written",
                         reason="undecodable") from error


def _references(scan: Scan, planes: DicomPlanes) -> tuple[Reference, ...]:
    """Returns the source of each plane, after a check that it lies there."""
    tags = INSTANCE_TAGS if planes.frames is None else [*INSTANCE_TAGS, "PerFrameFunctionalGroupsSequence"]
    headers = {file: _read(file, tags) for file in dict.fromkeys(planes.files)}
    frames = planes.frames or (None,) * len(planes.files)
    found = []
    for index, (file, frame) in enumerate(zip(planes.files, frames, strict=True)):
        header = headers[file]
        uid = _text(header, "SOPInstanceUID")
        if not uid:
            raise InputError(file, found="no SOP instance UID", wanted="an image that can be referred to",
                             remedy="ask for NIfTI output", reason="undecodable")
        found.append(Reference(_text(header, "SOPClassUID"), uid, frame))
        if not planes.is_resampled:
            _check_place(scan, index, file, _position(header, frame))
    return tuple(found)


def _check_place(scan: Scan, index: int, file: Path, position: Sequence[float] | None) -> None:
    """Raises where the plane is nearer to another one's place: a segmentation at the wrong height harms silently."""
    if position is None:
        return
    expected = (lps_affine(scan) @ [0, 0, index, 1])[:3]
    distance_mm = float(np.linalg.norm(np.asarray(position) - expected))
    if not distance_mm <= 0.5 * scan.spacing_mm[2]:
        raise InputError(file, found=f"plane {index} of the array {distance_mm:.2f} mm away from its image",
                         wanted="planes in the order of the files", remedy="report this as a fault of the reader",
                         reason="plane-mismatch")


def _position(header: Dataset, frame: int | None) -> Sequence[float] | None:
    """Returns ImagePositionPatient of the image or of its frame, None where it is not to be had."""
    try:
        if frame is not None:
            header = header.PerFrameFunctionalGroupsSequence[frame - 1].PlanePositionSequence[0]
        values = [float(value) for value in header.ImagePositionPatient]
    except UNREADABLE:
        return None
    return values if len(values) == 3 else None


def _common(first: Dataset, sop_uid: str) -> Dataset:
    """Returns patient, study and frame of reference as texts that any archive takes."""
    content = _taken_over(first, (*MAY_BE_EMPTY, *IF_PRESENT))
    for keyword in MAY_BE_EMPTY:
        if keyword not in content:
            setattr(content, keyword, "")
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        setattr(content, keyword, _text(first, keyword) or generate_uid(entropy_srcs=[keyword, sop_uid]))
    return content


def _taken_over(first: Dataset, keywords: Sequence[str]) -> Dataset:
    """Returns the elements that are there and can be read."""
    content = Dataset()
    for keyword in keywords:
        value = _text(first, keyword)
        # Setting a text that is no number where a number belongs raises.
        with suppress(*UNREADABLE):
            if value:
                setattr(content, keyword, value)
    return content


def _text(header: Dataset, keyword: str) -> str:
    """Returns an element's value as text, empty where it is missing or damaged."""
    try:
        value: Any = header.get(keyword)
        if value is None:
            return ""
        parts = value if isinstance(value, MultiValue) else [value]
        text = "\\".join(part.decode("latin-1") if isinstance(part, bytes) else str(part) for part in parts)
    except UNREADABLE:
        return ""
    return "".join(char for char in text if char.isprintable()).strip()


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"\d{1,6}", text) else 0


def _first_like(header: Dataset, keywords: Sequence[str], pattern: str, otherwise: str) -> str:
    texts = (_text(header, keyword) for keyword in keywords)
    return next((text for text in texts if re.fullmatch(pattern, text)), otherwise)
