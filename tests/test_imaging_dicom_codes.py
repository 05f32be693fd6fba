"""Codes of labels: each one is the standard's, common names find theirs, others get a general one."""

from typing import Any

import pytest
from pydicom.sr.codedict import codes

from pipeline.imaging.dicom_codes import (
    ABNORMAL,
    ANATOMICAL,
    BACKGROUND,
    GENERAL,
    KNOWN_LESIONS,
    KNOWN_STRUCTURES,
    SIDES,
    SUBSTANCE,
    TISSUE,
    Code,
    code_for,
)
from pipeline.records.errors import InputError


def all_codes() -> list[Code]:
    known = [*KNOWN_STRUCTURES.values(), *KNOWN_LESIONS.values(), GENERAL]
    every = {part for code in known for part in (code.category, code.type, code.modifier) if part is not None}
    return sorted(every | set(SIDES.values()) | {ANATOMICAL, ABNORMAL, TISSUE, SUBSTANCE})


def test_every_code_stands_in_the_standards_dictionary_with_that_meaning() -> None:
    dictionary = {(code.value, code.meaning) for name in dir(codes.SCT) if name[0].isupper()
                  for code in [getattr(codes.SCT, name)]}
    assert len(all_codes()) > 60
    for value, scheme, meaning in all_codes():
        assert scheme == "SCT"
        assert (value, meaning) in dictionary, (value, meaning)


def test_background_is_the_standards() -> None:
    assert tuple(codes.DCM.Background)[:3] == BACKGROUND


def test_categories_are_those_of_the_context_group_for_segmentations() -> None:
    # CID 7150, Segmentation Property Category.
    group = {getattr(codes.cid7150, name).value for name in codes.cid7150.dir()}
    for code in (*KNOWN_STRUCTURES.values(), *KNOWN_LESIONS.values(), GENERAL):
        assert code.category[0] in group


@pytest.mark.parametrize(("name", "type_meaning", "modifier"), [
    ("liver", "Liver", None),
    ("kidney_left", "Kidney", "Left"),
    ("Right Kidney", "Kidney", "Right"),
    ("lung_upper_lobe_left", "Upper lobe of lung", "Left"),
    ("lung_middle_lobe_right", "Middle lobe of right lung", None),
    ("left atrium", "Left atrium", None),
    ("heart_atrium_left", "Left atrium", None),
    ("Anterior", "Hippocampus", "Anterior"),
    ("hippocampus posterior", "Hippocampus", "Posterior"),
    ("vertebrae_L1", "Vertebra", None),
    ("rib_left_4", "Rib", "Left"),
    ("PZ", "Peripheral zone of the prostate", None),
    ("colon cancer primaries", "Neoplasm", None),
    ("liver_tumour", "Neoplasm", None),
    ("non-enhancing tumor", "Neoplasm", None),
    ("edema", "Edema", None),
    ("Vessel", "Blood Vessel", None),
    ("widget", "Anatomical Structure", None),
    ("left widget", "Anatomical Structure", None),
    ("", "Anatomical Structure", None),
])
def test_name_finds_its_code(name: str, type_meaning: str, modifier: str | None) -> None:
    code = code_for(name)
    assert code.type[2] == type_meaning
    assert (code.modifier[2] if code.modifier else None) == modifier
    is_lesion = type_meaning in ("Neoplasm", "Edema")
    assert code.category == (ABNORMAL if is_lesion else ANATOMICAL)


def test_given_code_is_taken_as_it_stands() -> None:
    code = code_for("liver", {"category": ["85756007", "SCT", "Tissue"], "type": ("1", "99LOCAL", "Seen here only"),
                              "modifier": ["7771000", "SCT", "Left"], "colour": [1, 2, 255]})
    assert code.category == TISSUE
    assert code.type == ("1", "99LOCAL", "Seen here only")
    assert code.modifier == ("7771000", "SCT", "Left")
    assert code.colour == (1, 2, 255)


LIVER = ["10200004", "SCT", "Liver"]


@pytest.mark.parametrize("given", [
    {}, [], "liver", {"category": LIVER}, {"type": LIVER}, {"category": LIVER, "type": "Liver"},
    {"category": LIVER, "type": ["10200004", "SCT"]}, {"category": LIVER, "type": ["10200004", "SCT", ""]},
    {"category": LIVER, "type": [10200004, "SCT", "Liver"]}, {"category": LIVER, "type": LIVER, "color": [1, 2, 3]},
    {"category": LIVER, "type": LIVER, "colour": [1, 2, 256]},
    {"category": LIVER, "type": LIVER, "colour": [1, 2, True]},
    {"category": LIVER, "type": ["1" * 17, "SCT", "Liver"]}, {"category": LIVER, "type": ["1", "SCT", "a\\b"]},
    {"category": LIVER, "type": LIVER, "modifier": None},
])
def test_given_code_of_another_shape_is_refused(given: Any) -> None:
    with pytest.raises(InputError) as caught:
        code_for("liver", given)
    assert caught.value.reason == "invalid-codes"
    assert "liver" not in caught.value.found
    assert "\n" not in str(caught.value)
