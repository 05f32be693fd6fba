"""Which DICOM series of a study become scans: those that stand alone, that were asked for, or that a rule picks."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.imaging.dicom_headers import Series
from pipeline.records.errors import InputError

Orientation = Literal["axial", "coronal", "sagittal"]
# The axis of the patient that slices of each orientation follow: left-right, back-front, foot-head.
ORIENTATIONS: tuple[Orientation, ...] = ("sagittal", "coronal", "axial")
ALL = "all"
# Of a long list of series, this many are shown.
MOST_SHOWN = 30
NOT_ASKED = "series not asked for"
# Modalities of images; what a data set may call its modality otherwise is no code to compare with.
# Source: DICOM PS3.3, C.7.3.1.1.1.
IMAGE_MODALITIES = frozenset((
    "BDUS", "BMD", "CFM", "CR", "CT", "DG", "DMS", "DX", "ES", "GM", "IO", "IVOCT", "IVUS", "LS", "MG", "MR", "NM",
    "OCT", "OP", "OPT", "OPTBSV", "OPTENF", "OSS", "OT", "PA", "PT", "PX", "RF", "RTIMAGE", "SM", "TG", "US", "XA",
    "XC"))


@dataclass(frozen=True)
class SeriesRule:
    """What a series must be to be chosen among several of its study.

    Attributes:
        modality: DICOM code; None takes any, as does a word that is none of `IMAGE_MODALITIES`.
        fewest_slices: the fewest that make a scan.
        orientation: of the slices, by the largest part of their normal; None takes any.
        pictures: whether PNG and TIFF files in a folder are scans; else they are set aside.
    """

    modality: str | None = None
    fewest_slices: int = 2
    orientation: Orientation | None = None
    pictures: bool = True

    @property
    def code(self) -> str | None:
        """Returns the modality that is asked for, None where that is no DICOM code."""
        return self.modality if self.modality in IMAGE_MODALITIES else None


@dataclass(frozen=True)
class Candidate:
    """An image series and the folders that its files lie in, as paths from the given input."""

    series: Series
    folders: frozenset[str]


@dataclass(frozen=True)
class Refusal:
    """Candidates that give no scan."""

    candidates: tuple[Candidate, ...]
    error: InputError


@dataclass
class Choice:
    """Which candidates become scans, how many of each kind do not by rule, and which are refused."""

    chosen: list[Candidate] = field(default_factory=list)
    set_aside: Counter[str] = field(default_factory=Counter)
    refused: list[Refusal] = field(default_factory=list)


def choose_series(candidates: Sequence[Candidate], *, where: Path, wanted: str | None = None,
                  rule: SeriesRule | None = None, strict: bool = False) -> Choice:
    """Returns what to segment of each study.

    What was asked for comes first; the rule then chooses among several series of a study, where it leaves any. Series
    in folders of their own are all taken: who put them there meant them. Several that share a folder are refused
    together.

    Args:
        candidates: of one or many studies.
        where: the path that the user gave, for errors.
        wanted: `all`, or a series UID, else a series number, else a part of the description, whichever some series has.
            Digits alone are no part of a description, and digits and dots are a UID.
        rule: of the model.
        strict: the rule also refuses a study's only series.

    Raises:
        InputError: ``no-such-series`` where nothing is as wanted.
    """
    is_wanted = _wish(candidates, wanted, where)
    by_uid = wanted is not None and any(wanted.strip() == candidate.series.uid for candidate in candidates)
    takes_all = wanted is not None and wanted.strip().lower() == ALL
    choice = Choice()
    studies: defaultdict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        studies[candidate.series.study_uid].append(candidate)
    for study in studies.values():
        asked = [candidate for candidate in study if is_wanted(candidate.series)]
        if asked:
            _choose_in_study(asked, choice, where, rule=rule if strict or not takes_all else None, strict=strict,
                             may_share=takes_all)
        elif not by_uid:
            choice.refused.append(Refusal(tuple(study), _no_such_series(study, where, wanted or ALL)))
            continue
        choice.set_aside.update([NOT_ASKED] * (len(study) - len(asked)))
    return choice


def listed(candidates: Sequence[Candidate]) -> str:
    """Returns number, modality and slices of each series, which tell nothing about the patient."""
    shown = [f"number {_number(one.series)} ({_modality(one.series)}, {len(one.series.slices)} slices)"
             for one in candidates[:MOST_SHOWN]]
    return ", ".join(shown) + (f" and {len(candidates) - MOST_SHOWN} more" if len(candidates) > MOST_SHOWN else "")


def _wish(candidates: Sequence[Candidate], wanted: str | None, where: Path) -> Callable[[Series], bool]:
    """Returns what tells whether a series is as wanted; the first kind of answer that fits any series is meant."""
    if wanted is None or wanted.strip().lower() == ALL:
        return lambda _: True
    for is_wanted in _readings(wanted).values():
        if any(is_wanted(candidate.series) for candidate in candidates):
            return is_wanted
    raise _no_such_series(candidates, where, wanted)


def _readings(wanted: str) -> dict[str, Callable[[Series], bool]]:
    """Returns what the text may mean, first the most exact: 7 is not asked for by who finds it in `0.7 mm`."""
    text = wanted.strip()
    readings: dict[str, Callable[[Series], bool]] = {"UID": lambda series: series.uid == text}
    if not re.fullmatch(r"[0-9.]*\.[0-9.]*", text):
        readings["number"] = lambda series: series.number.strip() == text
        if text and not re.fullmatch(r"-?[0-9]+", text):
            readings["part of a description"] = lambda series: text.casefold() in series.description.casefold()
    return readings


def _choose_in_study(study: list[Candidate], choice: Choice, where: Path, *, rule: SeriesRule | None,
                     strict: bool, may_share: bool) -> None:
    reasons = [_against(candidate.series, rule) for candidate in study] if rule else [None] * len(study)
    fitting = [candidate for candidate, reason in zip(study, reasons, strict=True) if reason is None]
    if strict and not fitting:
        choice.refused.append(Refusal(tuple(study), InputError(
            _with_descriptions(where, study), found=listed(study), wanted=_in_words(rule),
            remedy="choose another model, or leave out --strict", reason="not-matching")))
        return
    if fitting and (len(study) > 1 or strict):
        choice.set_aside.update(reason for reason in reasons if reason is not None)
        study = fitting
    for together in _sharing_folders(study):
        if may_share or len(together) == 1:
            choice.chosen += together
            continue
        choice.refused.append(Refusal(tuple(together), InputError(
            _with_descriptions(where, together), found=f"{len(together)} series of a study in one folder: "
            f"{listed(together)}", wanted="one series", reason="several-series",
            remedy="add --series NUMBER, UID or part of the description, or --series all")))


def _against(series: Series, rule: SeriesRule) -> str | None:
    """Returns by what word a series is counted that the rule does not choose, None where it does."""
    if rule.code is not None and series.modality != rule.code:
        return f"{_modality(series)} series (not {rule.code})"
    if len(series.slices) < rule.fewest_slices:
        return f"series of fewer than {rule.fewest_slices} slices"
    orientation = _orientation(series)
    if rule.orientation is not None and orientation != rule.orientation:
        return f"{orientation or 'unplaced'} series (not {rule.orientation})"
    return None


def _in_words(rule: SeriesRule | None) -> str:
    rule = rule or SeriesRule()
    kind = " ".join(word for word in (rule.orientation, rule.code) if word)
    return f"{kind or 'a'} series of {rule.fewest_slices} slices or more"


def _orientation(series: Series) -> Orientation | None:
    """Returns how the first slice lies, by the largest part of its normal."""
    cosines = series.slices[0].orientation
    if cosines is None:
        return None
    normal = np.cross(cosines[:3], cosines[3:])
    return ORIENTATIONS[int(np.argmax(np.abs(normal)))]


def _sharing_folders(study: Sequence[Candidate]) -> Iterator[list[Candidate]]:
    """Yields the candidates in groups, of which no folder holds files of two."""
    waiting = list(study)
    while waiting:
        group, folders = [waiting.pop(0)], set[str]()
        folders |= group[0].folders
        while True:
            joining = [candidate for candidate in waiting if candidate.folders & folders]
            if not joining:
                break
            group += joining
            folders |= frozenset().union(*(candidate.folders for candidate in joining))
            waiting = [candidate for candidate in waiting if candidate not in joining]
        yield group


def _no_such_series(candidates: Sequence[Candidate], where: Path, wanted: str) -> InputError:
    return InputError(_with_descriptions(where, candidates), found=listed(candidates) or "no DICOM series",
                      wanted=f"a series with this {' or '.join(_readings(wanted))}",
                      remedy="choose one of these with --series", reason="no-such-series")


def _with_descriptions(where: Path, candidates: Sequence[Candidate]) -> str:
    """Returns the path with each series' description, which may hold a name: for the terminal alone."""
    numbers = Counter(candidate.series.number for candidate in candidates)
    texts = []
    for candidate in candidates[:MOST_SHOWN]:
        series = candidate.series
        text = f"{_number(series)}: {' '.join(series.description.split()) or 'no text'}"
        texts.append(f"{text} ({series.uid})" if numbers[series.number] > 1 else text)
    return f"{where} [{'; '.join(texts)}]"


def _number(series: Series) -> str:
    return series_number(series) or "?"


def series_number(series: Series) -> str | None:
    """Returns the series' number where it is one: other text might be a name."""
    return series.number.strip() if re.fullmatch(r"\s*-?\d{1,12}\s*", series.number) else None


def _modality(series: Series) -> str:
    return series.modality if re.fullmatch(r"[A-Z]{2,10}", series.modality) else "no modality"
