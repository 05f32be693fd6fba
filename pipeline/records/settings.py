"""What a person writes in `configs/<experiment>/`, read strictly: a typing error is an error, not a default."""

from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from pipeline.records.errors import InputError
from pipeline.records.strict_yaml import read_yaml, refuse_unknown_keys

CONFIGS = Path("configs")
DEFAULT_TOLERANCE_MM = 1.0
T = TypeVar("T")


@dataclass(frozen=True)
class SplitSettings:
    """Fractions of patients (0 to 1) for validation and test; training gets the rest.

    With folds `test` alone counts, and may be 0.
    """

    validation: float = 0.1
    test: float = 0.2
    seed: int = 0


@dataclass(frozen=True)
class FolderSettings:
    """`folders:` in `data.yaml`: what two folders of pictures do not say themselves.

    `images` and `labels` are folders of the dataset, whose files belong together by their names without suffix.
    `label_values` is ``classes``, where the values mean what `label_names` says, or ``instances``, where each object
    has its own value and all of them are the one label of `label_names`. `spacing_mm` is along x and y, where the files
    do not state it.
    """

    images: str = "images"
    labels: str = "labels"
    label_values: str = "classes"
    label_names: dict[str, int] = field(default_factory=lambda: {"foreground": 1})
    modality: str = "picture"
    licence: str = "not stated"
    spacing_mm: tuple[float, float] | None = None


@dataclass(frozen=True)
class DataSettings:
    """`data.yaml`: which raw data.

    `dataset` names the folder below `data/raw`. `layout` names the source that understands it. `patient` is a regular
    expression on the case id whose first group is the patient. `left_right` says that cases may be mirrored from left
    to right: ``symmetric``, or pairs of labels that exchange then, ``[[kidney_left, kidney_right]]``. `folds` is how
    many trainings validate each other: each on its own part of the patients, trained on all others; None is one.
    `folders` is for the layout of that name. `attributes` are columns of the dataset's `participants.tsv` by which
    scores are grouped: the scanner, the site.
    """

    dataset: str
    layout: str = "msd"
    patient: str = "(.+)"
    split: SplitSettings = field(default_factory=SplitSettings)
    left_right: Any = None
    folds: int | None = None
    folders: FolderSettings | None = None
    attributes: Any = ()


@dataclass(frozen=True)
class EvaluationSettings:
    """`evaluation.yaml`: what is counted and shown.

    `regions` are unions of labels that are scored like labels, ``{tumour: [core, edema]}``, and are left out of the
    means over labels. `lesion_labels` are scored lesion by lesion as well; `lesion_diameters_mm` are the edges of the
    size classes by which their recall is given. `surface_tolerance_mm` is the distance up to which a surface counts as
    right, one for all labels or one for each. `subgroups` are what scores are shown by, see `records/subgroups.py`;
    None is what is usual there. `low_dice` is up to what a case's mean Dice counts as low; None is the lower quartile
    of the cases. `pictures` is how many of the best and of the worst cases are drawn large; `viewer_cases` of the
    worst, those with missed lesions and the best can be scrolled through.
    """

    regions: dict[str, list[str]] = field(default_factory=dict)
    lesion_labels: tuple[str, ...] = ()
    lesion_diameters_mm: tuple[float, ...] = (0.0, 5.0, 10.0, 20.0)
    surface_tolerance_mm: float | dict[str, float] = DEFAULT_TOLERANCE_MM
    subgroups: tuple[str, ...] | None = None
    low_dice: float | None = None
    pictures: int = 4
    viewer_cases: int = 6

    def tolerance_mm(self, label: str) -> float:
        """Returns the tolerance for a label."""
        tolerance = self.surface_tolerance_mm
        return tolerance.get(label, DEFAULT_TOLERANCE_MM) if isinstance(tolerance, dict) else tolerance


def read_data_settings(experiment: str) -> DataSettings:
    """Reads `configs/<experiment>/data.yaml`."""
    path = CONFIGS / experiment / "data.yaml"
    content = read_yaml(path)
    if "split" in content:
        content["split"] = _build(SplitSettings, content["split"], path)
    if "folders" in content:
        content["folders"] = _build(FolderSettings, content["folders"], path)
    return _build(DataSettings, content, path)


def read_evaluation_settings(experiment: str) -> EvaluationSettings:
    """Reads `configs/<experiment>/evaluation.yaml`."""
    path = CONFIGS / experiment / "evaluation.yaml"
    content = {key: tuple(value) if isinstance(value, list) else value for key, value in read_yaml(path).items()}
    return _build(EvaluationSettings, content, path)


def _build(kind: type[T], content: Any, path: Path) -> T:
    if not isinstance(content, dict):
        raise InputError(path, found=f"a {type(content).__name__}", wanted="`key: value` lines", reason="invalid-yaml",
                         remedy="write one setting a line")
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    refuse_unknown_keys({str(key) for key in content}, known, path)
    for item in fields(kind):  # type: ignore[arg-type]
        if item.name not in content and item.default is MISSING and item.default_factory is MISSING:
            raise InputError(path, found=f"no `{item.name}`", wanted=f"`{item.name}: ...`", remedy="add it",
                             reason="missing-key")
    return kind(**content)
