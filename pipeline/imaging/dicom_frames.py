"""The planes of a multi-frame object: where each frame lies, how its values scale, which volume it belongs to.

Source: DICOM PS3.3, C.7.6.16 multi-frame functional groups; C.8.4.15 NM reconstruction.
"""

import math
import struct
from collections.abc import Iterable
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
from pydicom.config import disable_value_validation
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_sequence

from pipeline.imaging.dicom_elements import DEFLATED, HeaderError, inflate
from pipeline.imaging.dicom_slices import SliceHeader, Values

SHARED_GROUPS, FRAME_GROUPS, DETECTORS = 0x52009229, 0x52009230, 0x00540022
FRAME_SEQUENCES = (SHARED_GROUPS, FRAME_GROUPS, DETECTORS)
SLICE_GAP, FRAME_POINTER, SLICE_VECTOR = 0x00180088, 0x00280009, 0x00540080
FRAME_TAGS = (SLICE_GAP, FRAME_POINTER, SLICE_VECTOR)
# A thousand frames take a few megabytes; what is longer is no description of frames.
_LONGEST_GROUPS = 2**28
# The groups that say where a frame lies, how it scales and which volume it belongs to, and what of them is read.
_GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "FrameContentSequence": ("StackID", "TemporalPositionIndex", "FrameAcquisitionNumber"),
    "MREchoSequence": ("EffectiveEchoTime",),
    "MRDiffusionSequence": ("DiffusionBValue",),
    "CardiacSynchronizationSequence": ("NominalCardiacTriggerDelayTime",),
    "MRImageFrameTypeSequence": ("FrameType",),
    "CTImageFrameTypeSequence": ("FrameType",),
    "PETFrameTypeSequence": ("FrameType",),
}
# By tag, since pydicom takes ten times as long to look up a name that is not there.
_GROUP_TAGS = {tag_for_keyword(group): {tag_for_keyword(name): name for name in names}
               for group, names in _GROUPS.items()}
_VOLUME_NAMES = {"EffectiveEchoTime": "echo time", "DiffusionBValue": "b-value", "StackID": "stack",
                 "TemporalPositionIndex": "temporal position", "FrameAcquisitionNumber": "acquisition",
                 "NominalCardiacTriggerDelayTime": "trigger time"}


def frames_of(file: SliceHeader, values: Values) -> tuple[SliceHeader, ...]:
    """Returns one plane for each frame of a file; for a classic file the file itself.

    Frames without geometry (ultrasound, cine) come back as one plane without a position.

    Raises:
        HeaderError: the descriptions do not fit the frames.
    """
    spans = values.elements.spans
    if FRAME_GROUPS in spans or SHARED_GROUPS in spans:
        return _functional_groups(file, values)
    if file.pixels.frames == 1:
        return (file,)
    return _reconstructed_slices(file, values) or (replace(file, frame=1, position_mm=None),)


def _functional_groups(file: SliceHeader, values: Values) -> tuple[SliceHeader, ...]:
    frames = _items(file, values, FRAME_GROUPS)
    if len(frames) != file.pixels.frames:
        raise HeaderError(f"{file.pixels.frames} frames and descriptions of {len(frames)}")
    with disable_value_validation():
        shared = _facts(next(iter(_items(file, values, SHARED_GROUPS)), Dataset()))
        # A frame's own group goes before the shared one.
        return tuple(_plane(file, number, shared | _facts(frame)) for number, frame in enumerate(frames, 1))


def _items(file: SliceHeader, values: Values, tag: int) -> list[Dataset]:
    elements = values.elements
    start, length = elements.spans.get(tag, (0, 0))
    if length > _LONGEST_GROUPS:
        raise HeaderError("descriptions of frames beyond the limit")
    if elements.transfer_syntax == DEFLATED:
        content = inflate(file.path, at_most=start + length)[start:]
    else:
        with file.path.open("rb") as stream:
            stream.seek(start)
            content = stream.read(length)
    return list(read_sequence(BytesIO(content), not elements.is_explicit, elements.is_little, len(content), "latin-1"))


def _facts(groups: Dataset) -> dict[str, Any]:
    """Returns the values of the known elements in the functional groups of a frame, by the elements' names."""
    found = {}
    for group in _GROUP_TAGS.keys() & groups.keys():
        items = groups[group].value
        for tag, name in _GROUP_TAGS[group].items() if items else ():
            if tag in items[0] and items[0][tag].value is not None:
                found[name] = items[0][tag].value
    return found


def _plane(file: SliceHeader, number: int, facts: dict[str, Any]) -> SliceHeader:
    volume: dict[str, float | str] = dict(file.volume)
    for name, what in _VOLUME_NAMES.items():
        if name in facts:
            volume[what] = str(facts[name]) if name == "StackID" else float(facts[name])
    if len(facts.get("FrameType", ())) > 2:
        volume["image type"] = "\\".join(facts["FrameType"][2:])
    thickness = facts.get("SliceThickness", file.thickness_mm)
    return replace(
        file, frame=number, position_mm=_numbers(facts.get("ImagePositionPatient"), 3),
        orientation=_numbers(facts.get("ImageOrientationPatient"), 6),
        pixel_spacing_mm=_numbers(facts.get("PixelSpacing"), 2),
        thickness_mm=None if thickness is None else float(thickness),
        slope=float(facts.get("RescaleSlope", file.slope)),
        intercept=float(facts.get("RescaleIntercept", file.intercept)), volume=tuple(volume.items()),
    )


def _numbers(found: Iterable[Any] | None, count: int) -> tuple[float, ...] | None:
    values = tuple(float(one) for one in found) if found is not None and not isinstance(found, str) else ()
    return values if len(values) == count and all(math.isfinite(one) for one in values) else None


def _reconstructed_slices(file: SliceHeader, values: Values) -> tuple[SliceHeader, ...]:
    """Returns the planes of a nuclear medicine volume, empty where its frames are not simply slices one by one."""
    count, step_mm = file.pixels.frames, values.number(SLICE_GAP)
    order = "<" if values.elements.is_little else ">"
    pointer = values.elements.values.get(FRAME_POINTER, b"")
    vector = values.elements.values.get(SLICE_VECTOR, b"")
    # One vector alone: with others the frames differ in time, energy or angle too.
    if step_mm is None or len(vector) != 2 * count or pointer != struct.pack(order + "HH", 0x0054, 0x0080):
        return ()
    detectors = _items(file, values, DETECTORS)
    first = _numbers(detectors[0].get("ImagePositionPatient"), 3) if len(detectors) == 1 else None
    orientation = _numbers(detectors[0].get("ImageOrientationPatient"), 6) if len(detectors) == 1 else None
    if first is None or orientation is None:
        return ()
    # The sign of the step says on which side of the first slice the others lie.
    step = np.cross(orientation[:3], orientation[3:]) * step_mm
    slots = struct.unpack(f"{order}{count}H", vector)
    return tuple(
        replace(file, frame=number, orientation=orientation,
                position_mm=tuple(float(one) for one in np.array(first) + step * (slot - 1)))
        for number, slot in enumerate(slots, 1)
    )
