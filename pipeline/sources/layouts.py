"""The seam for raw data: a layout's name to the function that reads datasets laid out that way."""

from collections.abc import Callable
from pathlib import Path

from pipeline.records.cases import RawDataset
from pipeline.records.errors import InputError
from pipeline.sources.msd import read_msd

# A new layout is one module beside this one and one line here.
LAYOUTS: dict[str, Callable[[Path], RawDataset]] = {"msd": read_msd}


def read_dataset(layout: str, root: Path) -> RawDataset:
    """Returns the cases below `root`, found as `layout` arranges them; no scan is opened.

    Raises:
        InputError: ``unknown-layout``, ``missing-folder``, or what the layout's own reader refuses.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout `{layout}`", found="an unknown layout", wanted=f"one of {', '.join(sorted(LAYOUTS))}",
                         remedy="set `layout` in data.yaml to one of these", reason="unknown-layout")
    if not root.is_dir():
        raise InputError(root, found="a file" if root.exists() else "no such folder", wanted="a dataset's folder",
                         remedy="check the path", reason="missing-folder")
    return LAYOUTS[layout](root)
