"""The seam for raw data: a layout's name to the function that reads datasets laid out that way."""

from collections.abc import Callable
from pathlib import Path

from pipeline.records.cases import RawDataset
from pipeline.records.errors import InputError
from pipeline.records.settings import FolderSettings
from pipeline.sources.folders import read_folders
from pipeline.sources.msd import DESCRIPTION, read_msd

# A new layout is one module beside this one and one line here.
LAYOUTS: dict[str, Callable[[Path, FolderSettings | None], RawDataset]] = {
    "msd": lambda root, folders: read_msd(_refusing_folders(root, folders)),
    "folders": lambda root, folders: read_folders(root, folders or FolderSettings()),
}


def read_dataset(layout: str, root: Path, folders: FolderSettings | None = None) -> RawDataset:
    """Returns the cases below `root`, found as `layout` arranges them; no scan is opened.

    Raises:
        InputError: ``unknown-layout``, ``missing-folder``, ``unused-key``, or what the layout's own reader refuses.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout `{layout}`", found="an unknown layout", wanted=f"one of {', '.join(sorted(LAYOUTS))}",
                         remedy="set `layout` in data.yaml to one of these", reason="unknown-layout")
    if not root.is_dir():
        raise InputError(root, found="a file" if root.exists() else "no such folder", wanted="a dataset's folder",
                         remedy="check the path", reason="missing-folder")
    return LAYOUTS[layout](root, folders)


def guess_layout(root: Path) -> str:
    """Returns the layout whose marks a folder bears; ``msd`` where it bears none, whose reader then says what lacks."""
    usual = FolderSettings()
    is_pair = (root / usual.images).is_dir() and (root / usual.labels).is_dir()
    return "folders" if is_pair and not (root / DESCRIPTION).is_file() else "msd"


def _refusing_folders(root: Path, folders: FolderSettings | None) -> Path:
    if folders is not None:
        raise InputError("data.yaml", found="`folders` for another layout", wanted="`layout: folders`",
                         remedy="correct the layout or remove `folders`", reason="unused-key")
    return root
