"""Whether `evaluation.yaml` fits the dataset: said before hours of inference, not after."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from pipeline.records.errors import InputError
from pipeline.records.index import Index
from pipeline.records.settings import EvaluationSettings
from pipeline.records.split_metrics import OVERALL
from pipeline.records.subgroups import columns_of


def check_evaluation_settings(settings: EvaluationSettings, index: Index, path: Path) -> None:
    """Refuses settings that do not fit the dataset.

    Raises:
        InputError: ``bad-region``, ``unknown-label``, ``bad-edges``, ``bad-count``, ``bad-low-dice``,
            ``bad-tolerance`` or ``unknown-column``.
    """
    _check_regions(settings, index.labels, path)
    scored = (*index.labels, *settings.regions)
    names, edges = settings.lesion_labels, settings.lesion_diameters_mm
    if not isinstance(names, tuple) or any(name not in scored for name in names):
        raise InputError(path, found=f"lesion_labels {_shown(names)}", wanted=f"a list of {', '.join(scored)}",
                         remedy="name labels as the dataset does", reason="unknown-label")
    are_numbers = isinstance(edges, tuple) and all(isinstance(edge, (int, float)) for edge in edges)
    if not are_numbers or len(edges) < 2 or any(lower >= upper for lower, upper in pairwise(edges)):
        raise InputError(path, found=f"lesion_diameters_mm {_shown(edges)}", wanted="two or more rising numbers",
                         remedy="write for instance [3, 6, 10]", reason="bad-edges")
    for name, count in (("pictures", settings.pictures), ("viewer_cases", settings.viewer_cases)):
        if not isinstance(count, int) or count < 0:
            raise InputError(path, found=f"{name} {count}", wanted="a whole number, 0 or more",
                             remedy="write for instance 4", reason="bad-count")
    low = settings.low_dice
    if low is not None and (isinstance(low, bool) or not isinstance(low, (int, float)) or not 0 < low < 1):
        raise InputError(path, found=f"low_dice {low}", wanted="a number between 0 and 1",
                         remedy="write for instance 0.7", reason="bad-low-dice")
    _check_tolerance(settings, scored, path)
    columns, chosen = columns_of(index.cases), settings.subgroups
    if chosen is not None and (not isinstance(chosen, tuple) or any(name not in columns for name in chosen)):
        raise InputError(path, found=f"subgroups {_shown(chosen)}", wanted=f"a list of {', '.join(columns)}",
                         remedy="name a column; `attributes` in data.yaml brings more", reason="unknown-column")


def _check_regions(settings: EvaluationSettings, labels: Mapping[str, int], path: Path) -> None:
    regions = settings.regions
    wanted = f"a name with a list of {', '.join(labels)}"
    example = next(iter(labels))
    if not isinstance(regions, dict):
        raise InputError(path, found=f"regions {_shown(regions)}", wanted=wanted, reason="bad-region",
                         remedy=f"write for instance {{whole: [{example}]}}")
    for name, parts in regions.items():
        if not isinstance(name, str) or name in labels or name == OVERALL:
            raise InputError(path, found=f"a region called {name}", wanted=f"a name that is no label, nor `{OVERALL}`",
                             remedy="call it otherwise", reason="bad-region")
        if not isinstance(parts, (list, tuple)) or not parts or any(part not in labels for part in parts):
            raise InputError(path, found=f"region {name}: {_shown(parts)}", wanted=wanted, reason="bad-region",
                             remedy="name labels as the dataset does")


def _check_tolerance(settings: EvaluationSettings, names: tuple[str, ...], path: Path) -> None:
    given = settings.surface_tolerance_mm
    by_name = given if isinstance(given, dict) else dict.fromkeys(names, given)
    are_numbers = all(isinstance(number, (int, float)) and not isinstance(number, bool) and number >= 0
                      for number in by_name.values())
    if not are_numbers or not set(by_name) <= set(names):
        raise InputError(path, found=f"surface_tolerance_mm {given}", reason="bad-tolerance",
                         wanted=f"millimetres, 0 or more, or millimetres for some of {', '.join(names)}",
                         remedy="write for instance 2")


def _shown(setting: object) -> object:
    return list(setting) if isinstance(setting, tuple) else setting
