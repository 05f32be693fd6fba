"""Copies a dataset's folder, so that what is trained on stays as it was audited."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from pipeline.records.errors import InputError


def copy_folder(source: Path, folder: Path) -> None:
    """Copies all files below `source` into the existing `folder`, without hidden ones.

    Links are followed and copied as what they point to. A copy, not a hard link: a later edit of the original would
    otherwise change the data behind the index's digests. Permissions are not copied: read-only sources are common, and
    a read-only copy could not be replaced.

    Raises:
        InputError: ``not-a-file`` for a dangling link, a device, or a link that leads back to a folder above it.
    """
    for path in tqdm(list(_files_below(source)), desc="copying", unit="file", disable=None):
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def top_folder(source: Path) -> Path:
    """Returns the only folder inside `source` where there is nothing else, else `source` itself."""
    visible = [path for path in source.iterdir() if not path.name.startswith(".")]
    return visible[0] if len(visible) == 1 and visible[0].is_dir() else source


def _files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yields the files in order of their names; `above` are the real paths of the folders on the way here."""
    real = folder.resolve()
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and path.resolve() not in (*above, real):
            yield from _files_below(path, (*above, real))
        elif path.is_file():
            yield path
        else:
            raise InputError(path, found="a link in a circle" if path.is_dir() else "a dangling link or a device",
                             wanted="files and folders", remedy="remove or mend it", reason="not-a-file")
