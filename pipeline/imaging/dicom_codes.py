"""Coded names of structures for DICOM: what a label is, in words that other tools look up instead of guess.

The codes are SNOMED CT's as the standard's context groups list them; a test compares each with pydicom's dictionary.
A name that is not in the table gets a true but general code, never a guessed one, and keeps its own text as label.

Source: DICOM PS3.16, CID 7150 (categories), 7151 (types), 244 (laterality).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.records.errors import InputError

SNOMED = "SCT"
# PS3.5, 6.2: SH holds 16 characters, LO 64.
LONGEST_VALUE, LONGEST_MEANING = 16, 64

# Value, coding scheme, meaning.
Code = tuple[str, str, str]


@dataclass(frozen=True)
class LabelCode:
    """What one label stands for.

    Attributes:
        category: kind of thing, for instance anatomical structure.
        type: the thing itself, for instance kidney.
        modifier: which of them, for instance left; None where there is one.
        colour: recommended red, green, blue from 0 to 255; None leaves it to the writer.
    """

    category: Code
    type: Code
    modifier: Code | None = None
    colour: tuple[int, int, int] | None = None


ANATOMICAL: Code = ("91723000", SNOMED, "Anatomical Structure")
ABNORMAL: Code = ("49755003", SNOMED, "Morphologically Abnormal Structure")
TISSUE: Code = ("85756007", SNOMED, "Tissue")
SUBSTANCE: Code = ("91720002", SNOMED, "Body Substance")
BACKGROUND: Code = ("125040", "DCM", "Background")
LEFT: Code = ("7771000", SNOMED, "Left")
RIGHT: Code = ("24028007", SNOMED, "Right")
ANTERIOR: Code = ("255549009", SNOMED, "Anterior")
POSTERIOR: Code = ("255551008", SNOMED, "Posterior")

# Names as data sets write them, in small letters with single spaces | value | meaning.
_ANATOMY = """
liver|10200004|Liver
spleen|78961009|Spleen
kidney,kidneys|64033007|Kidney
pancreas|15776009|Pancreas
lung,lungs|39607008|Lung
lung upper lobe,upper lobe|45653009|Upper lobe of lung
lung lower lobe,lower lobe|90572001|Lower lobe of lung
lung middle lobe right,lung middle lobe|72481006|Middle lobe of right lung
heart|80891009|Heart
left atrium,heart atrium left,atrium left|82471001|Left atrium
right atrium,heart atrium right,atrium right|73829009|Right atrium
left ventricle,heart ventricle left,ventricle left|87878005|Left ventricle
right ventricle,heart ventricle right,ventricle right|53085002|Right ventricle
heart myocardium,myocardium|49848007|Left Ventricle Myocardium
hippocampus|5366008|Hippocampus
prostate|41216001|Prostate
pz,peripheral zone|279706003|Peripheral zone of the prostate
tz,transition zone|399384005|Transition zone of the prostate
colon|71854001|Colon
duodenum|38848004|Duodenum
small bowel,small intestine|30315005|Small intestine
esophagus,oesophagus|32849002|Esophagus
stomach|69695003|Stomach
gallbladder|28231008|Gallbladder
urinary bladder,bladder|89837001|Bladder
adrenal gland|23451007|Adrenal gland
aorta|15825003|Aorta
inferior vena cava,postcava|64131007|Inferior vena cava
superior vena cava|48345005|Superior vena cava
portal vein|32764006|Portal vein
hepatic vein|8993003|Hepatic vein
pulmonary artery|81040000|Pulmonary artery
pulmonary vein|122972007|Pulmonary vein
vessel,vessels,blood vessel,hepatic vessel,hepatic vessels,liver vessel,liver vessels|59820001|Blood Vessel
brain|12738006|Brain
brainstem,brain stem|119238007|Brain Stem
cerebellum|113305005|Cerebellum
trachea|44567001|Trachea
thyroid,thyroid gland|69748006|Thyroid
bone|272673000|Bone
vertebra,vertebrae|51282000|Vertebra
rib|113197003|Rib
sternum|56873002|Sternum
sacrum|54735007|Sacrum
clavicle,clavicula|51299004|Clavicle
scapula|79601000|Scapula
humerus|85050009|Humerus
femur|71341001|Femur
spinal cord|2748008|Spinal cord
rectum|34402009|Rectum
uterus|35039007|Uterus
breast|76752008|Breast
lymph node,lymph nodes|59441001|Lymph Node
nucleus,nuclei|84640000|Nucleus
cell,cells|4421005|Cell
"""
_LESIONS = """
tumor,tumors,tumour,tumours,neoplasm,neoplasms,cancer,cancers,carcinoma|108369006|Neoplasm
lesion,lesions|52988006|Lesion
metastasis,metastases|14799000|Neoplasm, metastatic (morphologic abnormality)
edema,oedema|79654002|Edema
necrosis|6574001|Necrosis
cyst,cysts|367643001|Cyst
nodule,nodules|27925004|Nodule
mass,masses|4147007|Mass
hemorrhage,haemorrhage|50960005|Hemorrhage
"""


def _table(text: str, category: Code) -> dict[str, LabelCode]:
    found = {}
    for line in text.strip().splitlines():
        names, value, meaning = line.split("|")
        for name in names.split(","):
            found[name] = LabelCode(category, (value, SNOMED, meaning))
    return found


KNOWN_STRUCTURES: dict[str, LabelCode] = {
    **_table(_ANATOMY, ANATOMICAL),
    "fat": LabelCode(TISSUE, ("55603005", SNOMED, "Fat")),
    "muscle": LabelCode(TISSUE, ("71616004", SNOMED, "Muscle")),
    # The two parts of the Medical Segmentation Decathlon's hippocampus; no code is for one part alone.
    "anterior": LabelCode(ANATOMICAL, ("5366008", SNOMED, "Hippocampus"), ANTERIOR),
    "posterior": LabelCode(ANATOMICAL, ("5366008", SNOMED, "Hippocampus"), POSTERIOR),
}
KNOWN_LESIONS: dict[str, LabelCode] = _table(_LESIONS, ABNORMAL)
SIDES: dict[str, Code] = {"left": LEFT, "right": RIGHT, "anterior": ANTERIOR, "posterior": POSTERIOR}
GENERAL = LabelCode(ANATOMICAL, ANATOMICAL)


def code_for(name: str, given: Mapping[str, Any] | None = None) -> LabelCode:
    """Returns the code of a label: the given one, else the table's for its name, else a general one.

    ``kidney_left``, ``Left Kidney`` and ``left-kidney`` are one name. A word for a lesion decides over a word for an
    organ: ``liver tumour`` is a neoplasm.

    Args:
        name: the label's name as its data set writes it.
        given: a person's entry: ``category`` and ``type``, optionally ``modifier``, each ``[value, scheme, meaning]``,
            optionally ``colour`` as ``[red, green, blue]``.

    Raises:
        InputError: ``invalid-codes`` where `given` has another shape.
    """
    if given is not None:
        return _given(name, given)
    words = re.sub(r"[^a-z0-9]+", " ", name.lower()).split()
    lesion = next((KNOWN_LESIONS[word] for word in words if word in KNOWN_LESIONS), None)
    if lesion is not None:
        return lesion
    whole = KNOWN_STRUCTURES.get(" ".join(words))
    if whole is not None:
        return whole
    sides = [word for word in words if word in SIDES]
    # vertebrae_L1, rib_left_4: the kind is known, the number stays in the label's own text.
    rest = " ".join(word for word in words if word not in SIDES and not re.fullmatch(r"[ctls]?\d+", word))
    found = KNOWN_STRUCTURES.get(rest, GENERAL)
    if len(sides) != 1 or found is GENERAL or found.modifier is not None:
        return found
    return LabelCode(found.category, found.type, SIDES[sides[0]], found.colour)


def cielab(colour: tuple[int, int, int]) -> list[int]:
    """Returns an sRGB colour as DICOM writes CIELab (PS3.3, C.10.7.1.1), with the white point of ICC profiles, D50."""
    share = np.asarray(colour) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    # sRGB adapted to D50 (Bradford), divided by the white point.
    xyz = np.array([[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169],
                    [0.0139322, 0.0971045, 0.7141733]]) @ linear / [0.9642, 1.0, 0.8251]
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    scaled = [(116 * y - 16) / 100, (500 * (x - y) + 128) / 255, (200 * (y - z) + 128) / 255]
    return [int(value) for value in np.rint(np.clip(scaled, 0, 1) * 65535)]


def _given(name: str, given: Any) -> LabelCode:
    allowed = {"category", "type", "modifier", "colour"}
    if not isinstance(given, Mapping) or not {"category", "type"} <= set(given) <= allowed:
        raise _invalid(name, "an entry that is no mapping with category and type, and perhaps modifier and colour")
    codes = [_code(name, key, given[key]) for key in ("category", "type", "modifier") if key in given]
    colour = given.get("colour")
    if colour is not None and not _is_colour(colour):
        raise _invalid(name, "a colour that is not three whole numbers from 0 to 255")
    return LabelCode(codes[0], codes[1], codes[2] if len(codes) > 2 else None,
                     None if colour is None else (colour[0], colour[1], colour[2]))


def _code(name: str, key: str, value: Any) -> Code:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 3 or not all(
            isinstance(part, str) and part.strip() and part.isprintable() and "\\" not in part for part in value):
        raise _invalid(name, f"a {key} that is not three texts")
    code, scheme, meaning = (part.strip() for part in value)
    if len(code) > LONGEST_VALUE or len(scheme) > LONGEST_VALUE or len(meaning) > LONGEST_MEANING:
        raise _invalid(name, f"a {key} longer than {LONGEST_VALUE}, {LONGEST_VALUE} and {LONGEST_MEANING} characters")
    return code, scheme, meaning


def _is_colour(value: Any) -> bool:
    return (isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 3
            and all(isinstance(part, int) and not isinstance(part, bool) and 0 <= part <= 255 for part in value))


def _invalid(name: str, found: str) -> InputError:
    return InputError(f"codes of label {name!r}", found=found, reason="invalid-codes",
                      wanted="category and type, each [value, scheme, meaning]",
                      remedy='write for instance type: ["10200004", "SCT", "Liver"]')
