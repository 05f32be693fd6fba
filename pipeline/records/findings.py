"""What the audit looks for, and how it words and writes what it found."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pipeline.records.errors import InputError
from pipeline.records.files import write_json

# warning: the case is kept. error: the case is left out. fatal: nothing can go on.
Severity = Literal["warning", "error", "fatal"]


@dataclass(frozen=True)
class Finding:
    """One fault. `file` is POSIX and relative to the dataset's root; `case_id` is None for what belongs to no case."""

    check: str
    severity: Severity
    case_id: str | None
    file: str
    found: str
    wanted: str
    remedy: str


@dataclass(frozen=True)
class Check:
    """One thing that can be wrong: `sentence` says why it matters, `remedy` what to do about it."""

    name: str
    severity: Severity
    sentence: str
    remedy: str

    def finding(self, file: str, case_id: str | None = None, *, found: str, wanted: str) -> Finding:
        """Returns this check's fault in `file`."""
        return Finding(self.name, self.severity, case_id, file, found, wanted, self.remedy)


_AGAIN = "export or copy the file again"
CHECKS = {check.name: check for check in (
    Check("missing-file", "error", "A file that the dataset lists does not exist.",
          "copy the dataset again, or take the entry out"),
    Check("unpaired-file", "error", "A file belongs to no case: its partner is missing, or the pair is not listed.",
          "add its partner and list the pair, or delete the file"),
    Check("no-label", "error", "An image has no label map: nothing can be learned or measured.", "add its label map"),
    Check("unreadable-file", "error", "The file cannot be opened.", "check its kind and permissions"),
    Check("truncated-file", "error", "The file ends before its content does.", _AGAIN),
    Check("damaged-file", "error", "The file's content is damaged.", _AGAIN),
    Check("not-an-image", "error", "The file is no image that can be read.", "convert it to NIfTI"),
    Check("not-single-channel", "error", "The file holds several channels.", "give each channel its own file"),
    Check("other-channels", "error", "The image has another number of channels than most.",
          "convert it to what the others are"),
    Check("several-pages", "error", "The file holds several pages or an animation.",
          "save each page as a file of its own"),
    Check("turned-picture", "error", "A tag says that the picture is shown turned or mirrored.",
          "save it upright, and its mask with it"),
    Check("unsupported-encoding", "error", "The pixels are encoded in a way that would lose some of them.",
          "save it as PNG with 8 or 16 bits a channel"),
    Check("too-large", "error", "The header declares more than can be held.", "crop it, or cut it into parts"),
    Check("alpha-dropped", "warning", "The image hides pixels by an alpha channel, which is not looked at.",
          "make sure that what is below it may be seen"),
    Check("bad-affine", "error", "The header gives no usable spacing and orientation.", _AGAIN),
    Check("not-millimetres", "error", "The header measures in another unit.", "convert the header to millimetres"),
    Check("unknown-sides", "error", "data.yaml declares `left_right`, and the header does not say which side is left.",
          "set qform and sform in the header, or take `left_right` out of data.yaml"),
    Check("shape-mismatch", "error", "Image and label map are different in size: voxels do not correspond.",
          "resample the label map to the image's grid"),
    Check("affine-mismatch", "error", "Image and label map lie at different places in the patient.",
          "find out which is right, and resample or copy the header"),
    Check("not-finite", "error", "Voxels are NaN or infinite; they would spread through the network.", _AGAIN),
    Check("constant-image", "error", "All voxels have the same value.", _AGAIN),
    Check("fractional-label", "error", "A label map holds values between labels, as smooth resampling leaves them.",
          "resample label maps by nearest neighbour"),
    Check("unexpected-label", "error", "A label map holds values that the dataset does not declare.",
          "declare the label, or correct the label map"),
    Check("empty-label", "warning", "A label map is all background; the case is kept as one without the structure.",
          "make sure that the structure is truly absent"),
    Check("doubtful-header", "warning", "The header is readable but doubtful; the case is kept.",
          "compare it with the original scan"),
    Check("no-sound-case", "fatal", "No case is left.", "mend the files named here"),
    Check("empty-split", "fatal", "Training, validation or test would have no patient.",
          "add patients, or lower the fractions"),
)}


def finding_from(error: InputError, file: str, case_id: str | None = None) -> Finding:
    """Returns a reader's refusal as a finding; its reason is the check, and its own remedy is kept."""
    check = CHECKS.get(error.reason)
    return Finding(error.reason, check.severity if check else "error", case_id, file, error.found, error.wanted,
                   error.remedy)


def write_findings(path: Path, findings: Sequence[Finding]) -> None:
    """Writes the findings as a JSON list, atomically."""
    write_json(path, [asdict(finding) for finding in findings])


def counts_by_check(findings: Iterable[Finding]) -> str:
    """Returns ``shape-mismatch 2, not-finite 1``: the most frequent first."""
    return ", ".join(f"{check} {count}" for check, count in Counter(item.check for item in findings).most_common())


def findings_as_markdown(findings: Sequence[Finding]) -> str:
    """Returns one section for each check that found something, with a table of its findings."""
    if not findings:
        return "Nothing was found amiss.\n"
    return "\n".join(_section(name, findings) for name in dict.fromkeys(finding.check for finding in findings))


def _section(name: str, findings: Sequence[Finding]) -> str:
    chosen = [finding for finding in findings if finding.check == name]
    sentence = CHECKS[name].sentence if name in CHECKS else "The file was refused."
    lines = [f"### {name} ({chosen[0].severity}, {len(chosen)})", "", sentence, "",
             "| case | file | found | expected | what to do |", "|---|---|---|---|---|"]
    for item in chosen:
        cells = (item.case_id or "", item.file, item.found, item.wanted, item.remedy)
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
