"""Pictures of cases in three planes, as data URIs that a page carries within itself."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter, methodcaller
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.imaging.comparisons import Comparison, draw_comparison, png_bytes, read_comparison
from pipeline.imaging.preview import Voxel
from pipeline.records.folders import segmentation_in
from pipeline.records.index import Index
from pipeline.records.summaries import CaseSummary, worst_and_best
from pipeline.records.tables import LesionScore
from pipeline.stages.report.wording import Units, score, units_of


@dataclass(frozen=True)
class Picture:
    """The planes of one scan with both outlines as a PNG data URI; `text` says what they show."""

    case_id: str
    text: str
    uri: str
    width: int
    height: int


def pictures_of(ranked: tuple[CaseSummary, ...], missed: list[LesionScore], *, index: Index, predictions: Path,
              count: int) -> dict[str, list[Picture]]:
    """Returns pictures of the worst and best cases, and of the largest missed lesions."""
    cases = {case.case_id: case for case in index.cases}

    def comparison(case_id: str) -> Comparison:
        root, case = Path(index.root), cases[case_id]
        return read_comparison(root / case.image, root / case.label, are_instances=index.are_instances,
                               prediction=segmentation_in(predictions / case_id))

    def drawn(case_id: str, text: str, centre_of: Callable[[Comparison], Voxel]) -> Picture:
        shown = comparison(case_id)
        return _picture(case_id, text, draw_comparison(shown, centre_of(shown)))

    worst, best = worst_and_best(ranked, count)
    lost = [lesion for lesion in missed if segmentation_in(predictions / lesion.case_id).is_file()][:count]
    return {
        "worst": [drawn(case.case_id, _dice_by_label(case), attrgetter("widest_disagreement")) for case in worst],
        "best": [drawn(case.case_id, _dice_by_label(case), attrgetter("widest_truth")) for case in best],
        "missed_pictures": [
            drawn(lesion.case_id, _missed(lesion, units_of(index)),
                  methodcaller("voxel_in_ras_order", (lesion.x, lesion.y, lesion.z))) for lesion in lost],
    }


def _picture(case_id: str, text: str, rgb: NDArray[np.uint8]) -> Picture:
    height, width = rgb.shape[:2]
    encoded = base64.b64encode(png_bytes(rgb)).decode("ascii")
    return Picture(case_id, text, f"data:image/png;base64,{encoded}", width, height)


def _missed(lesion: LesionScore, units: Units) -> str:
    size = f"{units.shown(lesion.volume_ml, 2)} {units.size}"
    return f"missed: {lesion.label} of {lesion.diameter_mm:.1f} {units.length}, {size}"


def _dice_by_label(case: CaseSummary) -> str:
    return "Dice " + ", ".join(f"{row.label} {score(row.dice)}" for row in case.scores)
