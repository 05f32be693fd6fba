"""Which DICOM objects are scans, and by what word the others are counted: by class, modality and image type.

Source: DICOM PS3.4, B.5 standard SOP classes; PS3.3, C.7.6.1.1.2 image type and C.7.3.1.1.1 modality.
"""

from collections.abc import Collection

SCAN = "scan"
LOCALIZER = "localizer"
SCREEN_CAPTURE = "screen capture"
OTHER = "other object"

_STORAGE = "1.2.840.10008.5.1.4.1.1."
# The longest prefix decides.
_KIND_OF_CLASS = {
    "7": SCREEN_CAPTURE, "11": "presentation state", "88": "report", "104": "report",
    "66": OTHER, "66.4": "segmentation", "66.7": "segmentation", "66.8": "segmentation",
    "481": OTHER, "481.2": "dose", "481.3": "structure set",
    # MR spectra, waveforms, real world value maps, parametric maps, stereometry, lenses, protocols, collections.
    "4.2": OTHER, "9": OTHER, "30": OTHER, "67": OTHER, "68": OTHER, "77.1.5.3": OTHER, "78": OTHER, "79": OTHER,
    "80": OTHER, "90": OTHER, "131": OTHER, "200": OTHER, "201": OTHER,
}
# For private classes, and for objects that lie about their class.
_KIND_OF_MODALITY = {
    "SEG": "segmentation", "RTSTRUCT": "structure set", "RTDOSE": "dose", "RTPLAN": OTHER, "RTRECORD": OTHER,
    "RTIMAGE": OTHER, "PR": "presentation state", "SR": "report", "KO": "report", "DOC": "report", "REG": OTHER,
    "FID": OTHER, "RWV": OTHER, "ECG": OTHER, "PLAN": OTHER, "ANN": OTHER,
}
_LOCALIZER_TYPES = {"LOCALIZER", "SCOUT", "TOPOGRAM", "SCANOGRAM"}
_SCREEN_TYPES = {"SCREEN SAVE", "SCREEN SNAPSHOT", "SCREEN CAPTURE"}


def kind_of(sop_class: str, modality: str, image_type: Collection[str], *, is_placed: bool) -> str:
    """Returns `SCAN`, or the word by which an object that is none is counted.

    Args:
        sop_class: UID of the SOP class.
        modality: DICOM code.
        image_type: values of Image Type.
        is_placed: the object states where it lies in the patient.
    """
    kind = _of_class(sop_class)
    # A capture that says where it lies is an image like others; what it shows is for the reader to refuse.
    if kind == SCREEN_CAPTURE:
        kind = SCAN if is_placed else SCREEN_CAPTURE
    if kind == SCAN:
        kind = _KIND_OF_MODALITY.get(modality, SCAN)
    if kind == SCAN and _LOCALIZER_TYPES & set(image_type):
        return LOCALIZER
    if kind == SCAN and not is_placed and _SCREEN_TYPES & set(image_type):
        return SCREEN_CAPTURE
    return kind


def _of_class(sop_class: str) -> str:
    if not sop_class.startswith(_STORAGE):
        # Directories (DICOMDIR), hanging protocols, colour palettes are standard and no images; private classes may be.
        return OTHER if sop_class.startswith("1.2.840.10008.") else SCAN
    parts = sop_class[len(_STORAGE):].split(".")
    for count in range(len(parts), 0, -1):
        kind = _KIND_OF_CLASS.get(".".join(parts[:count]))
        if kind is not None:
            return kind
    return SCAN
