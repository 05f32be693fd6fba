"""The layout of two folders: pictures (PNG, TIFF) in one, their masks under the same names in the other."""

from collections import defaultdict
from pathlib import Path, PurePosixPath

from pipeline.imaging.pictures import PICTURE_SUFFIXES
from pipeline.records.cases import RawCase, RawDataset
from pipeline.records.errors import InputError
from pipeline.records.settings import FolderSettings

DATA_YAML = "data.yaml, folders"
LABEL_VALUES = ("classes", "instances")


def read_folders(root: Path, settings: FolderSettings) -> RawDataset:
    """Returns the pairs of equal name but for the suffix, ordered by it, which is the case id.

    Orphans are pictures without a mask, masks without a picture, names that stand for several files, and files of
    another kind. Hidden files do not count.

    Raises:
        InputError: ``missing-folder``, ``outside-dataset``, ``invalid-value``.
    """
    _check(settings)
    images, labels = (_by_stem(_folder(root, name)) for name in (settings.images, settings.labels))
    paired = sorted(stem for stem in images.keys() & labels.keys() if len(images[stem]) == len(labels[stem]) == 1
                    and stem and _is_picture(images[stem][0]) and _is_picture(labels[stem][0]))
    cases = tuple(RawCase(stem, images[stem][0], labels[stem][0]) for stem in paired)
    orphans = sorted(path for files in (images, labels) for stem, paths in files.items() for path in paths
                     if stem not in set(paired))
    spacing = tuple(settings.spacing_mm) if settings.spacing_mm is not None else None
    return RawDataset(
        root=root, modality=settings.modality, labels=dict(settings.label_names), cases=cases, orphans=tuple(orphans),
        licence=settings.licence, are_pictures=True, are_instances=settings.label_values == "instances",
        spacing_mm=(float(spacing[0]), float(spacing[1])) if spacing else None,
    )


def _folder(root: Path, name: str) -> Path:
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise InputError(DATA_YAML, found=f"the folder {name!r}", wanted="a folder below the dataset's",
                         remedy="move it into the dataset", reason="outside-dataset")
    if not (root / relative).is_dir():
        raise InputError(root / relative, found="no such folder", wanted="a folder of pictures or of masks",
                         remedy="name it as data.yaml does, or set `folders` there", reason="missing-folder")
    return root / relative


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            found[path.stem].append(path)
    return found


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES


def _check(settings: FolderSettings) -> None:
    names, spacing = settings.label_names, settings.spacing_mm
    are_values = isinstance(names, dict) and bool(names) and all(
        isinstance(name, str) and type(value) is int and 0 < value < 2**16 for name, value in names.items())
    is_spacing = spacing is None or (isinstance(spacing, (list, tuple)) and len(spacing) == 2 and all(
        type(step) in (int, float) and step > 0 for step in spacing))
    is_text = all(isinstance(value, str) and value for value in (settings.images, settings.labels, settings.modality,
                                                                 settings.licence))
    claims = {
        "images, labels, modality, licence": (is_text, "text", "no text"),
        "label_values": (settings.label_values in LABEL_VALUES, " or ".join(LABEL_VALUES), settings.label_values),
        "label_names": (are_values and len(set(names.values())) == len(names),
                        "names with values, such as {tumour: 1}", names),
        "label_names with instances": (settings.label_values != "instances" or (are_values and len(names) == 1),
                                       "one name, which all objects get", names),
        "spacing_mm": (is_spacing, "two numbers above 0, along x and y", spacing),
    }
    for key, (holds, wanted, found) in claims.items():
        if not holds:
            raise InputError(DATA_YAML, found=f"`{key}: {found}`", wanted=wanted, remedy="correct it",
                             reason="invalid-value")
