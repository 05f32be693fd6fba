"""The DICOM series among listed files: surveyed over all of them, chosen study by study, located by their folders."""

import os
import posixpath
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from pipeline.imaging.dicom_headers import Series, Survey, survey_files
from pipeline.imaging.file_kinds import DICOM_SUFFIXES
from pipeline.imaging.file_listing import ListedFile, Listing
from pipeline.imaging.locations import Found, Refused, ScanLocation
from pipeline.imaging.series_choice import Candidate, SeriesRule, choose_series, series_number
from pipeline.records.errors import InputError

# From so many files on, looking at their headers takes long enough to show that it goes on.
MANY_FILES = 2000
INCOMPLETE = "a file in the same folder cannot be read: slices at an end of this series may be missing"


def find_series(path: Path, listing: Listing, *, root: str, series: str | None, rule: SeriesRule | None,
                strict: bool) -> Found:
    """Returns the DICOM series among the listed files that `choose_series` takes; their names are the series' UIDs.

    Args:
        path: what the user gave; `root` is its last part.
        listing: of `path`.
        root: begins the `relative` of series that are not alone in `path` itself.
        series, rule, strict: as `choose_series` has them.

    Raises:
        InputError: ``not-an-image`` where `path` is a single slice, ``no-such-series``.
    """
    folder_of = {file.path: _folder(file.relative) for file in listing.others}
    survey = survey_files(_shown(folder_of))
    damaged = _damaged(listing.others, survey)
    candidates = sorted((Candidate(one, frozenset(folder_of[item.path] for item in one.slices))
                         for one in survey.series), key=_order)
    _refuse_single_slice(path, listing, candidates)
    choice = choose_series(candidates, where=path, wanted=series, rule=rule, strict=strict)
    refused = [Refused(_place(*refusal.candidates), refusal.error) for refusal in choice.refused]
    several = {folder for folder, count in Counter(f for one in candidates for f in one.folders).items() if count > 1}
    broken = [*damaged, *(one for one in listing.refused if one.relative.lower().endswith(DICOM_SUFFIXES))]
    doubtful = {_folder(one.relative) for one in broken}
    scans = [_location(path, candidate, root=root, several=several, doubtful=doubtful) for candidate in choice.chosen]
    return Found(_told_apart(scans), survey.set_aside | dict(choice.set_aside), (*refused, *damaged))


def _shown(paths: Collection[Path]) -> Iterable[Path]:
    return tqdm(paths, desc="reading headers", unit="file", disable=None if len(paths) > MANY_FILES else True)


def _folder(relative: str) -> str:
    return relative.rpartition("/")[0]


def _order(candidate: Candidate) -> tuple[list[str], str, int, str]:
    number = series_number(candidate.series)
    return _place(candidate).split("/"), candidate.series.study_uid, int(number or 0), candidate.series.uid


def _place(*candidates: Candidate) -> str:
    """Returns the innermost folder that holds all files of the candidates, empty for the given path itself."""
    return posixpath.commonpath([folder for candidate in candidates for folder in candidate.folders])


def _refuse_single_slice(path: Path, listing: Listing, candidates: Sequence[Candidate]) -> None:
    """A slice alone is a mistake of who gave it; a file with many frames is a scan."""
    if [file.path for file in listing.others] == [path] and candidates and candidates[0].series.slices[0].frame is None:
        raise InputError(path, found="a single DICOM slice", wanted="the folder of its series",
                         remedy="give the folder it lies in", reason="not-an-image")


def _location(path: Path, candidate: Candidate, *, root: str, several: Collection[str],
              doubtful: Collection[str]) -> ScanLocation:
    series, relative = candidate.series, _place(candidate)
    folder = Path(os.path.commonpath([item.path.parent for item in series.slices]))
    if path.is_file() and series.slices[0].path == path:
        folder, relative = path, path.name
    if candidate.folders & set(several):
        relative = f"{relative or root}#{series_number(series) or '?'}"
    warnings = (INCOMPLETE,) if candidate.folders & set(doubtful) else ()
    return ScanLocation(series.uid, folder, relative, series, warnings)


def _told_apart(scans: Iterable[ScanLocation]) -> tuple[ScanLocation, ...]:
    """Gives series of the same folder and number, which are of different studies, a count of their own."""
    seen: Counter[str] = Counter()
    result = []
    for scan in scans:
        seen[scan.relative] += 1
        count = seen[scan.relative]
        result.append(scan if count == 1 else replace(scan, relative=f"{scan.relative}-{count}"))
    return tuple(result)


def _damaged(files: Iterable[ListedFile], survey: Survey) -> list[Refused]:
    """Returns one refusal for each folder with files that cannot be read; those that a series names are its own."""
    relative_of = {str(file.path): file.relative for file in files}
    known = {str(folder / name) for one in survey.series for folder in _folders(one) for name in one.damaged}
    by_folder: dict[str, list[InputError]] = {}
    for error in survey.damaged:
        if error.where not in known:
            by_folder.setdefault(_folder(relative_of[error.where]), []).append(error)
    return [Refused(relative_of[errors[0].where], _and_others(errors)) for errors in by_folder.values()]


def _folders(series: Series) -> set[Path]:
    return {item.path.parent for item in series.slices} if series.damaged else set()


def _and_others(errors: Sequence[InputError]) -> InputError:
    first = errors[0]
    if len(errors) == 1:
        return first
    return InputError(first.where, found=f"{first.found}, as {len(errors) - 1} more in its folder", wanted=first.wanted,
                      remedy=first.remedy, reason=first.reason)
