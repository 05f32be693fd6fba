"""What makes a folder a trained bundle."""

from pathlib import Path

from pipeline.records.errors import InputError


def require_bundle(folder: Path) -> None:
    """Checks, before seconds go into importing what would run it, that a folder can be a trained bundle.

    Raises:
        InputError: ``not-a-bundle``.
    """
    if not (folder / "configs/inference.yaml").is_file():
        raise InputError(folder, found="no configs/inference.yaml", wanted="the folder of a trained bundle",
                         remedy="give the folder below models/", reason="not-a-bundle")
