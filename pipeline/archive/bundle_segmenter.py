"""The one place where the archive's service meets a trained bundle."""

import errno
import os
from contextlib import redirect_stdout
from pathlib import Path

from pipeline.archive.outcomes import SegmentStudy, StudyOutcome, without_paths
from pipeline.records.bundles import require_bundle
from pipeline.records.errors import InputError

SEGMENTATION = "segmentation.dcm"
# Archives send much that a bundle has no use for; that there is nothing for it is no failure.
NOTHING_FOR_IT = {"no-images", "not-matching"}
DISK_FULL = "disk-full"


def open_bundle(bundle_root: Path) -> SegmentStudy:
    """Returns what segments the DICOM files in a study's folder by the bundle, with the network loaded once.

    What is returned takes the folder of the files and an empty output folder; there, each series that the bundle's
    rule chooses gets a folder with `segmentation.dcm`. A study without such a series gives neither files nor
    failures. Where the disk gets full it raises `OSError` with ``ENOSPC``: the study is to be tried again. To be called
    and used in one thread: torch keeps autocast and inference mode thread by thread.

    Raises:
        InputError: as `require_bundle` and `load_weights`.
    """
    require_bundle(bundle_root)
    # torch and MONAI: seconds, and only here
    from pipeline.bundle import open_segmenter, series_rule_of
    from pipeline.imaging.discovery import find_scans

    segmenter, rule = open_segmenter(bundle_root, dicom_seg="binary"), series_rule_of(bundle_root)
    segmenter.load()  # weights that cannot be used are said now, not with the first study

    def segment_study(study_folder: Path, output_dir: Path) -> StudyOutcome:
        try:
            found = find_scans(study_folder, series="all", rule=rule, strict=True)
        except InputError as error:
            if error.reason in NOTHING_FOR_IT:
                return StudyOutcome(())
            raise
        # What is printed is for the person who typed a command and may name series; here it would go to a log.
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            results = segmenter.segment_found(found, output_dir)
        if any(result.reason == DISK_FULL for result in results):
            # It passes, unlike what is wrong with a series: the caller is to try the whole study again.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        failures = tuple((result.reason, without_paths(result.message))
                         for result in results if result.status == "failed")
        return StudyOutcome(tuple(sorted(output_dir.glob(f"*/{SEGMENTATION}"))), failures)

    return segment_study
