"""The result of an audit, as one line for the terminal and as a page for people."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.records.errors import InputError
from pipeline.records.findings import Finding, counts_by_check, findings_as_markdown
from pipeline.records.index import Index, IndexedCase


@dataclass(frozen=True)
class Audit:
    """What the audit of one dataset gave.

    `listed` counts the pairs that were looked at. `refusal` is why nothing can be trained on them; `index` is then
    None.
    """

    dataset: str
    listed: int
    findings: tuple[Finding, ...]
    index: Index | None
    refusal: InputError | None = None


def summary_line(audit: Audit) -> str:
    """Returns how many cases are sound, and what was left out or is doubtful, by check."""
    if audit.index is None:
        parts = [f"audit FAILED: {audit.refusal.found if audit.refusal else 'no index'}"]
    else:
        counts = audit.index.counts
        parts = [f"audit: {len(audit.index.cases)} of {audit.listed} cases sound ({counts})"]
    for title, severity in (("LEFT OUT", "error"), ("WARNINGS", "warning")):
        chosen = [finding for finding in audit.findings if finding.severity == severity]
        if chosen:
            parts.append(f"{title}: {counts_by_check(chosen)}")
    return "; ".join(parts)


def audit_as_markdown(audit: Audit) -> str:
    """Returns what came through, how it is split, and what was wrong with the rest."""
    lines = [f"# Audit of {audit.dataset}", "", f"{summary_line(audit)}.", ""]
    if audit.index is not None:
        geometry = _of_pictures(audit.index) if audit.index.are_pictures else _geometry(audit.index.cases)
        lines += [f"Modality {audit.index.modality}, licence {audit.index.licence}. {geometry}", "",
                  "| split | patients | cases |", "|---|---|---|"]
        for name, cases in audit.index.groups.items():
            lines.append(f"| {name} | {len({case.patient for case in cases})} | {len(cases)} |")
        lines.append("")
    return "\n".join([*lines, "## Findings", "", findings_as_markdown(audit.findings)])


def _geometry(cases: Sequence[IndexedCase]) -> str:
    """Returns one sentence on sizes, spacings and orientations; sizes along the axes on disk."""
    sizes, spacings = _spans([case.shape for case in cases]), _spans([case.spacing_mm for case in cases])
    orientations = ", ".join(sorted({case.orientation for case in cases}))
    return f"Size {sizes} voxels, spacing {spacings} mm, orientation {orientations}."


def _of_pictures(index: Index) -> str:
    """Returns one sentence on channels and spacing of pictures."""
    spacing = f"{_spans([case.spacing_mm[:2] for case in index.cases])} mm" if index.has_spacing else "not stated"
    return (f"Size {_spans([case.shape[:2] for case in index.cases])} pixels, spacing {spacing}, channels "
            f"{', '.join(index.channels)}; alpha channels are dropped.")


def _spans(rows: Sequence[Sequence[float]]) -> str:
    """Returns ``31-43 x 40-59 x 24-47``: the least and the greatest of each column."""
    columns = [(min(column), max(column)) for column in zip(*rows, strict=True)]
    return " x ".join(f"{low:g}-{high:g}" if low < high else f"{low:g}" for low, high in columns)
