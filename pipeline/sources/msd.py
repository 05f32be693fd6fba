"""The layout of the Medical Segmentation Decathlon: `dataset.json` lists pairs in `imagesTr/` and `labelsTr/`."""

import json
import re
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.records.cases import RawCase, RawDataset
from pipeline.records.errors import InputError

DESCRIPTION = "dataset.json"
SUFFIXES = (".nii.gz", ".nii")
FOLDERS = ("imagesTr", "labelsTr")
# DICOM codes and the words by which data sets call them, in capitals; MR goes by its sequences.
# Source of the codes: DICOM PS3.3, C.7.3.1.1.1.
MODALITY_WORDS = {
    "CT": r"CT",
    "MR": r"MR[A-Z]*|T[12][A-Z]*|FLAIR|STIR|ADC|DWI|DTI|SWI|PWI|PDW|PDWI|BSSFP",
    "PT": r"PT|PET",
    "NM": r"NM|SPECT|SCINTIGRAPHY",
    "US": r"US|ULTRASOUND|ULTRASONOGRAPHY|SONOGRAPHY",
    "DX": r"DX|X-?RAYS?|RADIOGRAPHY?|RADIOGRAPHS",
    "CR": r"CR",
    "MG": r"MG|MAMMOGRAPHY|MAMMOGRAMS?",
    "XA": r"XA",
}


def read_msd(root: Path) -> RawDataset:
    """Returns the pairs that `dataset.json` lists and that exist, ordered by case id (the image's name).

    Orphans are files of a pair whose other half is missing, listed files that do not exist, and NIfTI files in
    the folders of the listed ones that `dataset.json` does not name. Hidden files (``._`` of macOS) do not count. The
    unlabelled `test` list is left alone.

    Raises:
        InputError: ``missing-description``, ``invalid-description``, ``outside-dataset``, ``not-single-channel``,
            ``duplicate-case``.
    """
    path = root / DESCRIPTION
    content = _read_description(path)
    pairs = _listed_pairs(content, path)
    cases = tuple(sorted((RawCase(_case_id(image), image, label) for image, label in pairs
                          if image.is_file() and label.is_file()), key=lambda case: case.case_id))
    _refuse_duplicates(cases, path)
    licence = content.get("licence", content.get("license"))
    return RawDataset(root=root, modality=_modality(content, path), labels=_labels(content, path), cases=cases,
                      orphans=_orphans(root, pairs, cases), licence=str(licence or "not stated"))


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(path, found="no such file", wanted="the description of a dataset in MSD layout",
                         remedy="point at the folder that holds dataset.json, imagesTr and labelsTr",
                         reason="missing-description")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: also bytes that are not UTF-8
        raise _invalid(path, f"invalid JSON ({error})", "a JSON object", "copy the dataset again") from error
    if not isinstance(content, dict):
        raise _invalid(path, f"a JSON {type(content).__name__}", "a JSON object", "copy the dataset again")
    return content


def _listed_pairs(content: dict[str, Any], path: Path) -> list[tuple[Path, Path]]:
    entries = content.get("training")
    if not isinstance(entries, list):
        raise _invalid(path, "no list `training`", "`training`: a list of image and label paths", "list the pairs")
    pairs = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("image", "label")):
            raise _invalid(path, f"entry {number} of `training` is {json.dumps(entry)[:80]}",
                           '{"image": "./imagesTr/...", "label": "./labelsTr/..."}', "mend or remove that entry")
        image, label = _inside(entry["image"], path), _inside(entry["label"], path)
        if not _is_hidden(image) and not _is_hidden(label):
            pairs.append((image, label))
    return pairs


def _inside(listed: str, path: Path) -> Path:
    """Returns the path of a listed file, refusing names that lead out of the dataset's folder."""
    relative = PurePosixPath(listed)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts or "\0" in listed:
        raise InputError(path, found=f"the path {listed!r}", wanted="a path below the dataset's folder",
                         remedy="move the file into the dataset and list it there", reason="outside-dataset")
    return path.parent / relative


def _labels(content: dict[str, Any], path: Path) -> dict[str, int]:
    """Returns names to values in order of values; value 0 is background and left out."""
    wanted, remedy = '`labels` like {"0": "background", "1": "tumour"}', "write one value and name for each label"
    declared = content.get("labels")
    if not isinstance(declared, dict):
        raise _invalid(path, "no object `labels`", wanted, remedy)
    for value, name in declared.items():
        if not value.isdecimal() or not isinstance(name, str) or not name.strip():
            raise _invalid(path, f"the label {json.dumps({value: name})}", wanted, remedy)
    names = {int(value): name.strip() for value, name in declared.items() if int(value) > 0}
    if not names or len(set(names.values())) < len(names):
        raise _invalid(path, f"the labels {list(names.values())}", "one label or more, each with its own name", remedy)
    return {names[value]: value for value in sorted(names)}


def _modality(content: dict[str, Any], path: Path) -> str:
    """Returns the DICOM code of the one channel, or its name as it is where that tells none, or several."""
    declared = content.get("modality")
    if not isinstance(declared, dict) or not declared or not all(isinstance(name, str) for name in declared.values()):
        raise _invalid(path, "no object `modality`", '`modality` like {"0": "MRI"}', "name the modality of channel 0")
    if len(declared) > 1:
        raise InputError(path, found=f"{len(declared)} channels ({', '.join(declared.values())})", wanted="one channel",
                         remedy="make a dataset of one of the channels", reason="not-single-channel")
    name = str(next(iter(declared.values()))).strip()
    codes = {code for word in _words(name) for code, spelt in MODALITY_WORDS.items() if re.fullmatch(spelt, word)}
    return codes.pop() if len(codes) == 1 else name


def _words(name: str) -> list[str]:
    return re.findall(r"X-RAYS?|[A-Z0-9]+", re.sub(r"\bX[ _-]RAY", "X-RAY", name.upper()))


def _orphans(root: Path, pairs: list[tuple[Path, Path]], cases: tuple[RawCase, ...]) -> tuple[Path, ...]:
    listed = {path for pair in pairs for path in pair}
    folders = {path.parent for path in listed} | {root / name for name in FOLDERS}
    present = {path for folder in folders if folder.is_dir() for path in folder.iterdir()
               if path.name.endswith(SUFFIXES) and not _is_hidden(path)}
    paired = {path for case in cases for path in (case.image, case.label)}
    return tuple(sorted((listed | present) - paired))


def _refuse_duplicates(cases: tuple[RawCase, ...], path: Path) -> None:
    for one, other in pairwise(cases):
        if one.case_id == other.case_id:
            raise InputError(path, found=f"two cases named `{one.case_id}`", wanted="one image name a case",
                             remedy="remove one of them from `training`, or rename its files", reason="duplicate-case")


def _case_id(image: Path) -> str:
    suffix = next((suffix for suffix in SUFFIXES if image.name.endswith(suffix)), image.suffix)
    return image.name.removesuffix(suffix)


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _invalid(path: Path, found: str, wanted: str, remedy: str) -> InputError:
    return InputError(path, found=found, wanted=wanted, remedy=remedy, reason="invalid-description")
