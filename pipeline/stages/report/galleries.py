"""What the page shows of cases, and carries within itself: pictures in three planes, volumes to scroll through."""

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from operator import attrgetter, methodcaller
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.imaging.comparisons import Comparison, draw_comparison, read_comparison
from pipeline.imaging.page_pictures import exact_bytes, lossy_bytes
from pipeline.imaging.page_volumes import PageVolume, pack_volume
from pipeline.imaging.preview import Voxel
from pipeline.records.folders import segmentation_in
from pipeline.records.index import Index
from pipeline.records.settings import EvaluationSettings
from pipeline.records.summaries import CaseSummary, worst_and_best
from pipeline.records.tables import LesionScore
from pipeline.stages.report.wording import Units, score, units_of


@dataclass(frozen=True)
class Shown:
    """A case that is shown, why (``worst``, ``best``, ``missed``), what is said of it, and where its planes pass."""

    case_id: str
    why: str
    text: str
    centre_of: Callable[[Comparison], Voxel]


@dataclass(frozen=True)
class Picture:
    """The planes of one scan with both outlines as a data URI; `text` says what they show."""

    case_id: str
    text: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Scrollable:
    """A case that the page can scroll through."""

    shown: Shown
    volume: PageVolume


@dataclass(frozen=True)
class Galleries:
    """All that is shown: large pictures, volumes, and a small picture of each case that has a segmentation."""

    worst: list[Picture]
    best: list[Picture]
    missed_pictures: list[Picture]
    scrollables: list[Scrollable]
    every_case: list[Picture]


def galleries_of(ranked: Sequence[CaseSummary], missed: Sequence[LesionScore], *, everything: Sequence[CaseSummary],
                 index: Index, predictions: Path, settings: EvaluationSettings) -> Galleries:
    """Returns what is shown; each case is read once.

    Args:
        ranked: the cases whose scores count most, worst first.
        missed: their missed lesions, largest first.
        everything: the cases of all splits, worst first, whose pictures are shown small.
        index: knows the files.
        predictions: the folder of the segmentations.
        settings: how many are shown large (with 0 none is shown small, either), and how many to scroll through.
    """
    kinds = _kinds(ranked, missed, index=index, predictions=predictions,
                   count=max(settings.pictures, settings.viewer_cases))
    large = [shown for kind in kinds.values() for shown in kind[: settings.pictures]]
    scrolled = in_turn(kinds.values())[: settings.viewer_cases]
    pictures: dict[Shown, Picture] = {}
    volumes: dict[Shown, Scrollable] = {}
    small: list[Picture] = []
    for case in everything:
        if not segmentation_in(predictions / case.case_id).is_file():
            continue
        comparison = _comparison(case.case_id, index, predictions)
        pictures |= {shown: _picture(comparison, shown, exact_bytes)
                     for shown in large if shown.case_id == case.case_id}
        volumes |= {shown: Scrollable(shown, pack_volume(comparison, shown.centre_of(comparison), labels=index.labels))
                    for shown in scrolled if shown.case_id == case.case_id}
        if settings.pictures:
            small.append(_picture(comparison, _worst(case), lossy_bytes))
    worst, lost, best = ([pictures[shown] for shown in large if shown.why == name] for name in kinds)
    return Galleries(worst, best, lost, [volumes[shown] for shown in scrolled], small)


def _kinds(ranked: Sequence[CaseSummary], missed: Sequence[LesionScore], *, index: Index, predictions: Path,
           count: int) -> dict[str, list[Shown]]:
    """Returns what may be shown: worst cases, missed lesions, best cases, each with what matters most first."""
    worst, best = worst_and_best(ranked, count)
    lost = [lesion for lesion in missed if segmentation_in(predictions / lesion.case_id).is_file()]
    return {
        "worst": [_worst(case) for case in worst],
        "missed": [Shown(lesion.case_id, "missed", _missed(lesion, units_of(index)),
                         methodcaller("voxel_in_ras_order", (lesion.x, lesion.y, lesion.z))) for lesion in lost],
        "best": [Shown(case.case_id, "best", _dice_by_label(case), attrgetter("widest_truth")) for case in best],
    }


def _worst(case: CaseSummary) -> Shown:
    return Shown(case.case_id, "worst", _dice_by_label(case), attrgetter("widest_disagreement"))


def in_turn(kinds: Iterable[Sequence[Shown]]) -> list[Shown]:
    """Returns the first of each kind, then the second of each, and so on; of each case what comes first."""
    cases: dict[str, Shown] = {}
    for shown in chain.from_iterable(zip_longest(*kinds)):
        if shown is not None:
            cases.setdefault(shown.case_id, shown)
    return list(cases.values())


def _comparison(case_id: str, index: Index, predictions: Path) -> Comparison:
    root, case = Path(index.root), next(case for case in index.cases if case.case_id == case_id)
    return read_comparison(root / case.image, root / case.label, are_instances=index.are_instances,
                           prediction=segmentation_in(predictions / case_id))


def _picture(comparison: Comparison, shown: Shown, encode: Callable[[NDArray[np.uint8]], bytes]) -> Picture:
    rgb = draw_comparison(comparison, shown.centre_of(comparison))
    encoded = base64.b64encode(encode(rgb)).decode("ascii")
    return Picture(shown.case_id, shown.text, f"data:image/webp;base64,{encoded}", rgb.shape[1], rgb.shape[0])


def _missed(lesion: LesionScore, units: Units) -> str:
    size = f"{units.shown(lesion.volume_ml, 2)} {units.size}"
    return f"missed: {lesion.label} of {lesion.diameter_mm:.1f} {units.length}, {size}"


def _dice_by_label(case: CaseSummary) -> str:
    return "Dice " + ", ".join(f"{row.label} {score(row.dice)}" for row in case.scores)
