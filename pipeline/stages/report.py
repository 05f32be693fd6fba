"""tables, index, plan, predictions -> reports/<exp>/index.html, report.md: how good, where it fails, on what."""

import base64
import json
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter, methodcaller
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from pipeline.imaging.comparisons import (
    AGREEMENT,
    PREDICTION,
    TRUTH,
    Comparison,
    draw_comparison,
    png_bytes,
    read_comparison,
)
from pipeline.imaging.preview import Voxel
from pipeline.records.bundles import WEIGHTS, batches_of_training, history_of_member, members_of, recorded_digests
from pipeline.records.files import write_text
from pipeline.records.folders import ExperimentFolders, segmentation_in
from pipeline.records.index import Index, Split, main_split, read_index
from pipeline.records.lineage import package_versions
from pipeline.records.plan import COMMENTS
from pipeline.records.postprocessing import postprocessing_of
from pipeline.records.schedule import COMMENTS as SCHEDULE_COMMENTS
from pipeline.records.settings import EvaluationSettings, read_evaluation_settings
from pipeline.records.statistics import RESAMPLES
from pipeline.records.strict_yaml import read_yaml
from pipeline.records.summaries import (
    CaseSummary,
    rank_cases,
    size_class,
    size_classes,
    summarise_group,
    summarise_label,
    verdict,
    worst_and_best,
)
from pipeline.records.tables import CaseScore, LesionScore, TrainingPoint, read_metrics, read_table

SHOWN_OF_SCHEDULE = ("iterations", "epochs", "validate_every", "batch_size", "accumulation", "precision",
                     "channels_last", "compile", "threads")
# The audit's own report holds the rest.
MOST_FINDINGS = 50


@dataclass(frozen=True)
class Axis:
    """A chart's axis: round numbers as ticks, and where values lie between its ends (0 to 1)."""

    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Returns 0 at the first tick and 1 at the last."""
        return (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])


@dataclass(frozen=True)
class Picture:
    """The planes of one scan with both outlines as a PNG data URI; `text` says what they show."""

    case_id: str
    text: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Units:
    """What lengths and sizes are given in; `a_ml` of `size` are a millilitre, a picture being 1 mm thick."""

    length: str = "mm"
    size: str = "mL"
    a_ml: float = 1.0
    digits: int = 3

    def shown(self, volume_ml: float, digits: int) -> str:
        """Returns a size for people."""
        return _score(volume_ml * self.a_ml, min(digits, self.digits))


def units_of(index: Index) -> Units:
    """Returns millimetres and millilitres; of pictures an area, and pixels where nobody knows their spacing."""
    if not index.are_pictures:
        return Units()
    return Units(size="mm²", a_ml=1000.0) if index.has_spacing else Units("pixels", "pixels", 1000.0, 0)


def run(experiment: str) -> None:
    """Writes the report of one experiment, the same bytes for the same results.

    Raises:
        InputError: a table of an earlier stage is missing or damaged.
    """
    folders = ExperimentFolders(experiment)
    content = collect_content(experiment, folders)
    environment = Environment(loader=PackageLoader("pipeline.stages", "."), undefined=StrictUndefined,
                              autoescape=lambda name: bool(name) and ".html" in str(name),
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"score": _score, "signed_percent": _signed_percent, "plain": _plain_text,
                            "size": content["units"].shown}
    for name, template in (("index.html", "report.html.j2"), ("report.md", "report.md.j2")):
        write_text(folders.report / name, environment.get_template(template).render(content))
    print(f"report: {folders.report / 'index.html'}")


def collect_content(experiment: str, folders: ExperimentFolders) -> dict[str, Any]:
    """Returns what both templates are filled with."""
    index = read_index(folders.index)
    settings = read_evaluation_settings(experiment)
    scores = read_table(folders.case_table, CaseScore)
    main = main_split(index)
    histories = [history_of_member(folders.bundle, fold) for fold in members_of(folders.bundle / WEIGHTS)]
    return {
        "experiment": experiment, "index": index, "units": units_of(index),
        "metrics": read_metrics(folders.metrics), "main": main,
        "kind": "test" if main == "test" else "out-of-fold",
        "rows": sorted(scores, key=lambda row: (math.isnan(row.dice), row.dice, row.case_id, row.label)),
        **_content_of_scored(index, settings, folders, main=main,
                            scored=[row for row in scores if row.split == main]),
        **_curves(read_table(folders.history, TrainingPoint), [read_table(path, TrainingPoint) for path in histories]),
        "groups": [summarise_group(name, cases, index) for name, cases in index.groups.items()], "facts": _facts(index),
        "plan": _plan_and_schedule(folders), "plan_comments": {**COMMENTS, **SCHEDULE_COMMENTS},
        "findings": json.loads(folders.audit_json.read_text(encoding="utf-8")), "most_findings": MOST_FINDINGS,
        "weights_sha256": recorded_digests(folders.bundle), "postprocessing": postprocessing_of(folders.bundle),
        "packages": {"Python": platform.python_version(), **package_versions()},
    }


def _plan_and_schedule(folders: ExperimentFolders) -> dict[str, Any]:
    """Returns both as one: the schedule fills what the plan leaves open, and the training has the last word."""
    schedule = {name: value for name, value in read_yaml(folders.schedule).items() if name in SHOWN_OF_SCHEDULE}
    return {**read_yaml(folders.plan), **schedule, **batches_of_training(folders.bundle)}


def _content_of_scored(index: Index, settings: EvaluationSettings, folders: ExperimentFolders, *, main: Split,
                       scored: list[CaseScore]) -> dict[str, Any]:
    """Returns what is said about the test cases, or where there are none about those of the folds."""
    ranked = rank_cases(scored)
    labels = [summarise_label(label, scored) for label in index.labels]
    lesions = [lesion for lesion in read_table(folders.lesion_table, LesionScore) if lesion.split == main]
    missed = sorted((lesion for lesion in lesions if not lesion.found), key=lambda lesion: -lesion.diameter_mm)
    defined = sorted((row for row in scored if not math.isnan(row.dice)), key=lambda row: row.dice)
    return {
        "ranked": ranked, "labels": labels, "lesions": lesions, "missed": missed,
        "verdict": verdict(labels, ranked, found=len(lesions) - len(missed), lesions=len(lesions),
                           kind="test" if main == "test" else "out-of-fold"),
        "dice_groups": [(summary, [row for row in defined if row.label == summary.label]) for summary in labels],
        "dice_axis": axis_over([row.dice for row in defined] + [1.0]),
        "sizes": {label: _sizes([lesion for lesion in lesions if lesion.label == label], settings.lesion_diameters_mm,
                                units_of(index))
                  for label in settings.lesion_labels},
        "resamples": RESAMPLES, "tolerances": _tolerances(index, settings),
        "is_flat": all(case.shape[2] == 1 for case in index.cases),
        "outline_colours": {"truth": TRUTH, "prediction": PREDICTION, "both at one place": AGREEMENT},
        "losses": _losses(folders.predictions / "summary.json", index),
        **_pictures(ranked, missed, index=index, predictions=folders.predictions, count=settings.pictures),
    }


def _tolerances(index: Index, settings: EvaluationSettings) -> str:
    """Returns the tolerance of the surface Dice in words, label by label where they differ."""
    unit = units_of(index).length
    by_label = {label: f"{settings.tolerance_mm(label):g} {unit}" for label in index.labels}
    if len(set(by_label.values())) == 1:
        return next(iter(by_label.values()))
    return ", ".join(f"{tolerance} ({label})" for label, tolerance in by_label.items())


def axis_over(values: list[float], most_ticks: int = 6) -> Axis:
    """Returns an axis with ticks at round numbers (1, 2 or 5 times a power of ten) that spans the finite values."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span))
    for step in (power * factor for factor in (0.1, 0.2, 0.5, 1, 2, 5, 10)):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        last = max(last, first + 1)
        if last - first < most_ticks:
            break
    return Axis(tuple(round(step * number, 10) for number in range(first, last + 1)))


def _curves(points: tuple[TrainingPoint, ...], folds: list[tuple[TrainingPoint, ...]]) -> dict[str, Any]:
    """Returns the curves as points (iteration, value) with their axes; of an ensemble the mean and the folds' own."""

    def curve(name: str, rows: tuple[TrainingPoint, ...]) -> list[tuple[int, float]]:
        return [(row.iteration, getattr(row, name)) for row in rows if math.isfinite(getattr(row, name))]

    loss, dice = curve("train_loss", points), curve("validation_dice", points)
    losses, dices = ([curve(name, rows) for rows in folds] for name in ("train_loss", "validation_dice"))
    return {
        "iteration_axis": axis_over([0.0] + [float(point.iteration) for point in points]),
        "loss_curve": loss, "loss_axis": axis_over([value for one in (loss, *losses) for _, value in one]),
        "best_validation": max(dice, key=lambda point: point[1], default=None),
        "dice_curve": dice, "dice_curve_axis": axis_over([value for one in (dice, *dices) for _, value in one]),
        "loss_of_folds": losses, "dice_of_folds": dices,
    }


def _sizes(lesions: list[LesionScore], edges_mm: tuple[float, ...], units: Units) -> list[tuple[str, int, int]]:
    """Returns (size class, lesions found, lesions) of the classes that have lesions, smallest first."""
    rows = []
    for name in size_classes(edges_mm):
        group = [lesion.found for lesion in lesions if size_class(lesion.diameter_mm, edges_mm) == name]
        if group:
            rows.append((name.replace("mm", units.length), sum(group), len(group)))
    return rows


def _pictures(ranked: tuple[CaseSummary, ...], missed: list[LesionScore], *, index: Index, predictions: Path,
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


def _losses(summary: Path, index: Index) -> dict[str, str]:
    """Returns why inference lost a scan, by case; the summary knows scans by their files' names."""
    scans = json.loads(summary.read_text(encoding="utf-8"))["scans"]
    messages = {scan["input"]: scan["message"] for scan in scans if scan["status"] == "failed"}
    names = {case.case_id: Path(case.image).name for case in index.cases}
    return {case_id: messages[name] for case_id, name in names.items() if name in messages}


def _picture(case_id: str, text: str, rgb: NDArray[np.uint8]) -> Picture:
    height, width = rgb.shape[:2]
    encoded = base64.b64encode(png_bytes(rgb)).decode("ascii")
    return Picture(case_id, text, f"data:image/png;base64,{encoded}", width, height)


def _missed(lesion: LesionScore, units: Units) -> str:
    size = f"{units.shown(lesion.volume_ml, 2)} {units.size}"
    return f"missed: {lesion.label} of {lesion.diameter_mm:.1f} {units.length}, {size}"


def _dice_by_label(case: CaseSummary) -> str:
    return "Dice " + ", ".join(f"{row.label} {_score(row.dice)}" for row in case.scores)


def _facts(index: Index) -> dict[str, str]:
    """Returns what the geometry of all cases has in common, in words."""

    def ranges(attribute: str) -> str:
        columns = zip(*(getattr(case, attribute) for case in index.cases), strict=True)
        ends = [(f"{min(column):g}", f"{max(column):g}") for column in columns]
        return " × ".join(low if low == high else f"{low} to {high}" for low, high in ends)

    if index.are_pictures:
        spacing = f"{ranges('spacing_mm')} mm" if index.has_spacing else "not stated"
        return {"Shape": f"{ranges('shape')} pixels", "Channels": ", ".join(index.channels), "Spacing": spacing}
    orientations = sorted({case.orientation for case in index.cases})
    return {"Shape": f"{ranges('shape')} voxels", "Spacing": f"{ranges('spacing_mm')} mm",
            "Axes point": ", ".join(orientations)}


def _score(value: float | None, digits: int = 3) -> str:
    """Returns a number for people; a dash where it is not defined."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _signed_percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:+.1f} %".replace("-", "−")


def _plain_text(value: Any) -> str:
    """Returns a value of the plan without brackets and braces."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_plain_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return f"[{', '.join(_plain_text(item) for item in value)}]"
    return "none" if value is None else str(value)
