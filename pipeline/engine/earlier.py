"""What earlier runs left in the output folder: whose folder is whose, and what need not be done again."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.engine.outputs import REPORT
from pipeline.engine.results import ScanResult, sizes_of
from pipeline.imaging.discovery import ScanLocation
from pipeline.imaging.unpacked import archive_of
from pipeline.records.files import sha256_of_file

# Their voxels lie in another file of the same folder.
DETACHED_HEADERS = (".nhdr", ".mhd")


@dataclass(frozen=True)
class EarlierResults:
    """The reports of scans that are done, by the state of their input files."""

    reports: Mapping[str, tuple[Path, dict[str, Any]]]

    def result_of(self, location: ScanLocation, *, settings: Mapping[str, Any], model_sha256: str) -> ScanResult | None:
        """Returns the earlier result of a scan, None where it is to be done again.

        It holds where the input's files are as they were, model and settings are the same, and all that was written is
        still what it was.
        """
        folder, report = self.reports.get(state_of(location), (None, {}))
        if folder is None or report.get("model_sha256") != model_sha256 or report.get("settings") != settings:
            return None
        if not all(_is_intact(folder / name, digest) for name, digest in report["files"].items()):
            return None
        return ScanResult(location.name, location.relative, "ok", folder, None, None, {}, *sizes_of(report["labels"]),
                          tuple(report["warnings"]), low_confidence=report["low_confidence"],
                          expected_dice=report["expected_dice"], is_earlier=True)


def find_earlier(output_dir: Path) -> EarlierResults:
    """Reads the reports in an output folder; what is no whole report is passed over."""
    reports = {}
    for path in sorted(output_dir.glob(f"*/{REPORT}")):
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            wanted = ("input_state", "model_sha256", "settings", "files", "labels", "warnings", "low_confidence",
                      "expected_dice")
            if all(key in report for key in wanted):
                reports[str(report["input_state"])] = path.parent, report
        except (OSError, ValueError, TypeError):
            continue
    return EarlierResults(reports)


def state_of(location: ScanLocation) -> str:
    """Returns a digest of place, size and time of change of a scan's files: as long as it stays, so do they.

    What was unpacked from an archive counts by the archive and the place in it.
    """
    digest = hashlib.sha256()
    for path in _files_of(location):
        archive = archive_of(path)
        place = str(path.resolve()) if archive is None else f"{archive[0].resolve()}\0{archive[1]}"
        status = (path if archive is None else archive[0]).stat()
        digest.update(f"{place}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _files_of(location: ScanLocation) -> list[Path]:
    if location.series is not None:
        return sorted({item.path for item in location.series.slices})
    if location.path.suffix.lower() in DETACHED_HEADERS:
        return sorted(path for path in location.path.parent.iterdir() if path.is_file())
    return [location.path]


def free_folder(output_dir: Path, name: str, *, content_digest: Callable[[], str], taken: set[str]) -> Path:
    """Returns `output_dir`/`name`, or with a suffix where that belongs to another scan of this name.

    An earlier result of the same scan, known by its content, is to be replaced; anything else stays as it is.

    Args:
        output_dir: where the scans' folders are.
        name: the wanted folder.
        content_digest: returns that of the scan; asked only where there is a result to compare it with.
        taken: casefolded names of the other scans of this run.
    """
    chosen, count = name, 1
    while chosen.casefold() in taken or not _is_free(output_dir / chosen, content_digest):
        count += 1
        chosen = f"{name}-{count}"
    return output_dir / chosen


def _is_free(folder: Path, content_digest: Callable[[], str]) -> bool:
    if not folder.exists():
        return True
    try:
        return bool(json.loads((folder / REPORT).read_text(encoding="utf-8"))["input_sha256"] == content_digest())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_intact(path: Path, digest: str) -> bool:
    try:
        return sha256_of_file(path) == digest
    except OSError:
        return False
