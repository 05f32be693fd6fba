"""A trained bundle as MLflow's model registry hands it out; MLflow enters at `_load_pyfunc`, and nothing is pickled."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.bundle import open_segmenter, series_rule_of
from pipeline.imaging.discovery import find_scans
from pipeline.imaging.locations import Found, Refused, ScanLocation, named
from pipeline.records.errors import InputError
from pipeline.records.folders import segmentation_in

if TYPE_CHECKING:
    import pandas

# Where results go of scans that come without an `output_dir`, below the working directory.
OUTPUT_DIR = "segmented"


class RegisteredBundle:
    """What `mlflow.pyfunc.load_model` returns the wrapper of; the network stays loaded between two calls."""

    def __init__(self, root: Path) -> None:
        self.segmenter, self.rule = open_segmenter(root), series_rule_of(root)

    def predict(self, table: "pandas.DataFrame", params: Mapping[str, Any] | None = None) -> "pandas.DataFrame":  # noqa: ARG002
        """Segments the scans in a table.

        Args:
            table: `scan` is the path of a file, archive or folder; `output_dir`, which may be missing, is where its
                results go, a folder for each scan that was found.
            params: MLflow's; there are none.

        Returns:
            A row for each scan that was found or refused, those of one row of `table` together: `scan` as it was given,
            `input` its path below that, `status` ``ok`` or ``failed``, `reason` and `message` of a failure,
            `segmentation` the path of the label map, `volumes_ml` by label (none of pictures), `low_confidence`.
        """
        import pandas

        given = [str(scan) for scan in table["scan"]]
        folders = [_folder_of(entry) for entry in table.get("output_dir", [None] * len(given))]
        rows: dict[int, list[dict[str, Any]]] = {}
        # Scans with one folder for their results are segmented together: none takes another's name.
        for folder in dict.fromkeys(folders):
            own = [number for number, one in enumerate(folders) if one == folder]
            rows |= self._segment({number: given[number] for number in own}, folder)
        # As objects: what is missing stays None.
        return pandas.DataFrame([row for number in range(len(given)) for row in rows[number]], dtype=object)

    def _segment(self, scans: Mapping[int, str], output_dir: Path) -> dict[int, list[dict[str, Any]]]:
        """Returns the answers to each of some rows."""
        found = {number: self._find(scan) for number, scan in scans.items()}
        # In the order in which results come: what was refused, then the scans.
        origins = [number for number, one in found.items() for _ in one.refused]
        origins += [number for number, one in found.items() for _ in one.scans]
        together = Found(named(_all_scans(found)), {}, tuple(one for each in found.values() for one in each.refused))
        rows: dict[int, list[dict[str, Any]]] = {number: [] for number in scans}
        for number, result in zip(origins, self.segmenter.segment_found(together, output_dir), strict=True):
            rows[number].append({
                "scan": scans[number], "input": result.relative, "status": result.status, "reason": result.reason,
                "message": result.message,
                "segmentation": str(segmentation_in(result.folder)) if result.folder else None,
                "volumes_ml": dict(result.volumes_ml), "low_confidence": result.low_confidence})
        return rows

    def _find(self, scan: str) -> Found:
        try:
            return find_scans(Path(scan), rule=self.rule, may_be_none=True)
        except InputError as error:  # one bad path stops no other
            return Found((), {}, (Refused(Path(scan).name, error),))


def _all_scans(found: Mapping[int, Found]) -> list[ScanLocation]:
    return [scan for one in found.values() for scan in one.scans]


def _folder_of(entry: object) -> Path:
    return Path(entry if isinstance(entry, str) and entry else OUTPUT_DIR)


def _load_pyfunc(data_path: str) -> RegisteredBundle:
    """Where MLflow enters: it calls this by name with the folder of the registered bundle."""
    return RegisteredBundle(Path(data_path))
