"""index, plan -> work/<exp>/cache: every training and validation case as arrays the training can cut patches from."""

from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver, get_context
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from pipeline.records.errors import InputError, input_error_behind
from pipeline.records.files import folder_written_aside, sha256_of_file
from pipeline.records.folders import TEMPLATE, ExperimentFolders
from pipeline.records.index import IndexedCase, read_index

if TYPE_CHECKING:
    from pipeline.engine.cache import CachedCase

# MONAI takes seconds, and this process can do without.
IMPORTED_BEFORE_FORKS = ["pipeline.stages.preprocess", "pipeline.bundle", "pipeline.engine.cache"]


@dataclass(frozen=True)
class _Job:
    case: IndexedCase
    root: Path
    plan: Path
    labels: tuple[int, ...]
    are_instances: bool
    target: Path


def run(experiment: str) -> None:
    """Preprocesses the cases of one experiment in parallel processes."""
    folders = ExperimentFolders(experiment)
    index = read_index(folders.index)
    # Test cases are segmented from their raw files: nothing may learn from them.
    cases = [case for case in index.cases if case.split != "test"]
    values = tuple(sorted(index.labels.values()))
    # A fork of a process that has run torch can hang; a server that only imported it can fork safely and at once.
    context = get_context("forkserver")
    context.set_forkserver_preload(IMPORTED_BEFORE_FORKS)
    forkserver.ensure_running()
    from pipeline.engine.cache import write_manifest  # torch, meanwhile

    with folder_written_aside(folders.cache) as aside, ProcessPoolExecutor(cpu_count(), mp_context=context) as pool:
        jobs = [_Job(case, Path(index.root), folders.plan, values, index.are_instances, aside) for case in cases]
        try:
            arrived = pool.map(_preprocess, jobs)
            done = list(tqdm(arrived, total=len(jobs), desc="preprocess", unit="case", disable=None))
        except BrokenProcessPool as error:
            raise InputError(folders.cache, found="a process that was killed", wanted="enough memory",
                             remedy="close other programs or plan a coarser spacing", reason="worker-died") from error
        write_manifest(aside, done)


@cache
def _transforms(plan: Path) -> Any:
    import torch

    from pipeline.bundle import preprocessing_of

    torch.set_num_threads(1)  # one case a process: threads would only get in each other's way
    return preprocessing_of(TEMPLATE, plan=plan, keys=["image", "label"])


def _preprocess(job: _Job) -> "CachedCase":
    from pipeline.engine.cache import CachedCase

    try:
        sample = _transforms(job.plan)({"image": job.root / job.case.image, "label": job.root / job.case.label})
    except RuntimeError as error:
        # Causes do not travel from one process to another.
        raise input_error_behind(error) or error from None
    classes = np.zeros(max(job.labels) + 1, dtype=np.uint8)
    classes[list(job.labels)] = np.arange(1, len(job.labels) + 1)
    image = np.asarray(sample["image"], dtype=np.float32)
    image = image[0] if len(image) == 1 else image
    values = np.rint(np.asarray(sample["label"][0])).astype(np.int64)
    label = (values > 0).astype(np.uint8) if job.are_instances else classes[values]
    digests = []
    for name, array in (("image", image), ("label", label)):
        path = job.target / f"{job.case.case_id}.{name}.npy"
        np.save(path, np.ascontiguousarray(array))
        digests.append(sha256_of_file(path))
    return CachedCase(job.case.case_id, job.case.split, job.target, digests[0], digests[1], job.case.fold)
