"""What became of a study so far: what segmenting it gave, and which results have been sent. Kept beside its images."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.archive.private_files import write_private_json

PROGRESS = "progress.json"
_ABSOLUTE_PATH = re.compile(r"(?<![\w.])(?:/|[A-Za-z]:\\)[^\s'\",;:]+")
# Reason id and one line without patient data.
Failure = tuple[str, str]


@dataclass(frozen=True)
class StudyOutcome:
    """What segmenting one study gave; nothing at all where no series of it matches the bundle's rule.

    Attributes:
        seg_files: DICOM objects to send.
        failures: for each series that failed its reason id and one line, neither with patient data.
    """

    seg_files: tuple[Path, ...]
    failures: tuple[Failure, ...] = ()


# Takes the folder of a study's images and an empty folder for results.
SegmentStudy = Callable[[Path, Path], StudyOutcome]


@dataclass(frozen=True)
class Progress:
    """How far work on a study has come.

    Attributes:
        starts: how often segmenting was begun and not seen to end, this time included.
        is_segmented: whether `files` and `failures` are known.
        files: results to send, relative to the study's folder, POSIX.
        sent: those that the destination has taken.
        failures: of series.
    """

    starts: int = 0
    is_segmented: bool = False
    files: tuple[str, ...] = ()
    sent: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()

    def unsent(self) -> tuple[str, ...]:
        """Returns the results that are still to be sent."""
        return tuple(file for file in self.files if file not in self.sent)

    def begun(self) -> "Progress":
        """Returns it as segmenting begins; what was sent earlier stays known."""
        return Progress(starts=self.starts + 1, sent=self.sent)

    def segmented(self, outcome: StudyOutcome, folder: Path) -> "Progress":
        """Returns it with what segmenting gave; `folder` is the study's."""
        files = tuple(file.relative_to(folder).as_posix() for file in outcome.seg_files)
        return replace(self, starts=0, is_segmented=True, files=files, failures=outcome.failures)


def without_paths(message: str) -> str:
    """Returns the message on one line without absolute paths, which may hold names."""
    return " ".join(_ABSOLUTE_PATH.sub("(path)", message).split())


def write_progress(folder: Path, progress: Progress) -> None:
    """Writes it into the study's folder."""
    write_private_json(folder / PROGRESS, asdict(progress))


def read_progress(folder: Path) -> Progress:
    """Returns what an earlier process noted; nothing done where it noted nothing, or results have gone since."""
    try:
        content = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        progress = Progress(
            starts=int(content["starts"]), is_segmented=bool(content["is_segmented"]), files=tuple(content["files"]),
            sent=tuple(content["sent"]),
            failures=tuple((str(reason), str(message)) for reason, message in content["failures"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Progress()
    has_all = all((folder / file).is_file() for file in progress.unsent())
    return progress if has_all else replace(progress, is_segmented=False)
