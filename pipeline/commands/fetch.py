"""Brings a dataset into `data/raw/`: from a folder, from an archive, or over the network; checked, and whole or not."""

import argparse
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.records.archives import unpack
from pipeline.records.cases import RawDataset
from pipeline.records.errors import InputError
from pipeline.records.files import folder_written_aside
from pipeline.records.folders import RAW
from pipeline.sources.copies import copy_folder, top_folder
from pipeline.sources.downloads import Download, download
from pipeline.sources.layouts import guess_layout, read_dataset
from pipeline.sources.masks_apart import has_masks_apart, merge_masks

# Medical Segmentation Decathlon, Task04, CC-BY-SA 4.0. Source of address and MD5: monai.apps.DecathlonDataset.
KNOWN = {
    "hippocampus": Download("https://msd-for-monai.s3-us-west-2.amazonaws.com/Task04_Hippocampus.tar",
                            "9d24dba78a72977dbd1d2e110310f31b"),
}
# Public, but not as one archive with a digest that its publishers give: where to get them, and as what.
BY_HAND = {
    "nuclei": "it is BBBC038 (https://bbbc.broadinstitute.org/BBBC038, CC0): give its stage1_train.zip with --from",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `python -m pipeline fetch` takes."""
    parser.add_argument("dataset", help=f"name of the folder below {RAW}; can be downloaded: {', '.join(KNOWN)}")
    parser.add_argument("--from", dest="source", type=Path, metavar="PATH",
                        help="folder or archive (tar, tar.gz, zip), instead of the network: in MSD layout, or images/ "
                             "and labels/ with PNG or TIFF")
    parser.add_argument("--force", action="store_true", help="replace data that is already there")


def run(arguments: argparse.Namespace) -> None:
    """Fetches one dataset; until all of it is there and checked, `data/raw/<dataset>` stays as it was.

    Raises:
        InputError: the name, the source or what lies in it cannot be used, or the download failed.
    """
    target = RAW / _plain_name(arguments.dataset)
    if not arguments.force and target.exists() and (target.is_file() or any(target.iterdir())):
        raise InputError(target, found="data from before", wanted="no such folder",
                         remedy="use it as it is, or replace it with --force", reason="already-fetched")
    with _refusing_failed_writes(target):
        if arguments.source is None:
            dataset = _fetch_known(arguments.dataset, target)
        else:
            dataset = _fetch_local(arguments.source, target)
    labels = ", ".join(f"{value} {name}" for name, value in dataset.labels.items())
    known = f"modality {dataset.modality}, labels {labels}, licence {dataset.licence}"
    if dataset.are_pictures:
        known = "PNG or TIFF with masks; data.yaml says what their values mean"
    orphans = f"; {len(dataset.orphans)} file(s) without a case, which the audit will list" if dataset.orphans else ""
    print(f"{target}: {len(dataset.cases)} cases, {known}{orphans}")


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise InputError(f"dataset {name!r}", found="a name with other signs", wanted="letters, digits, `_`, `-`, `.`",
                         remedy="choose a plain name", reason="odd-name")
    return name


def _fetch_known(name: str, target: Path) -> RawDataset:
    if name in BY_HAND:
        raise InputError(f"dataset `{name}`", found="no address to download it from", wanted="--from PATH",
                         remedy=BY_HAND[name], reason="unknown-dataset")
    if name not in KNOWN:
        raise InputError(f"dataset `{name}`", found="no address to download it from", reason="unknown-dataset",
                         wanted=f"one of {', '.join(KNOWN)}",
                         remedy="give a folder or archive of your own with --from PATH")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as folder:
        archive = Path(folder) / KNOWN[name].url.rsplit("/", 1)[-1]
        download(KNOWN[name], archive)
        return _take_archive(archive, target, named=KNOWN[name].url)


def _fetch_local(source: Path, target: Path) -> RawDataset:
    if source.is_dir():
        return _take_folder(top_folder(source), target)
    if source.is_file():
        return _take_archive(source, target, named=str(source))
    raise InputError(source, found="no such file or folder", wanted="a dataset's folder or archive",
                     remedy="check the path after --from", reason="missing-source")


def _take_folder(source: Path, target: Path) -> RawDataset:
    if source.resolve() in target.resolve().parents:
        raise InputError(source, found=f"a folder that holds {target} itself", wanted="a folder elsewhere",
                         remedy="point at the dataset's own folder", reason="source-holds-target")
    is_apart = has_masks_apart(source)
    dataset = None if is_apart else _checked(source, named=str(source))
    with folder_written_aside(target) as aside:
        copy_folder(source, aside)
        if is_apart:
            merge_masks(aside)
        return dataset or _checked(aside, named=str(source))


def _take_archive(archive: Path, target: Path, *, named: str) -> RawDataset:
    with folder_written_aside(target) as aside:
        unpack(archive, aside)
        if has_masks_apart(aside):
            merge_masks(aside)
        return _checked(aside, named=named)


def _checked(folder: Path, *, named: str) -> RawDataset:
    """Returns the dataset in `folder`; complaints about it give the name that the user knows it by."""
    try:
        dataset = read_dataset(guess_layout(folder), folder)
    except InputError as error:
        raise InputError(error.where.replace(str(folder), named), found=error.found, wanted=error.wanted,
                         remedy=error.remedy, reason=error.reason) from error
    if not dataset.cases:
        raise InputError(named, found=f"no complete case ({len(dataset.orphans)} file(s) without a partner)",
                         wanted="at least one image with its label", reason="no-case",
                         remedy="check that imagesTr and labelsTr hold what dataset.json lists, or images and labels "
                                "files of equal names")
    return dataset


@contextmanager
def _refusing_failed_writes(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(error.filename or target, found=f"a failed copy ({error.strerror or error})",
                         wanted="readable files and space to write them", reason="failed-copy",
                         remedy="check permissions and free space; nothing was changed") from error
