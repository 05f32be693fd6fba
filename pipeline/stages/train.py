"""cache, plan, schedule -> work/<exp>/bundle (configs and weights) and history.csv; goes on where it was killed."""

import gc
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pipeline.bundle import assemble_bundle, run_training
from pipeline.engine.cache import count_folds
from pipeline.engine.launch import START_AGAIN, launch
from pipeline.engine.memory import is_out_of_memory
from pipeline.engine.ranks import is_writer, launched_processes, of_all_ranks, process_group, rank, ranks
from pipeline.engine.smaller_batches import Batches, remember, remembered
from pipeline.records.errors import InputError, input_error_behind
from pipeline.records.files import ASIDE, folder_written_aside
from pipeline.records.folders import TEMPLATE, ExperimentFolders
from pipeline.records.lineage import lineage_of_training
from pipeline.records.plan import read_plan
from pipeline.records.schedule import read_schedule
from pipeline.records.trainings import Training, refuse_other_folds, training_named
from pipeline.tracking import live


def run(name: str, *, processes: int | None = None) -> None:
    """Trains the bundle of an experiment, or of one of its folds (`liver_3d.fold0`); MLflow sees its curves grow.

    With more than one process, of the plan or of `processes`, each takes `batch_size` patches a step. Where a launcher
    such as torchrun has started this process among others, they are as many as it has started.

    Raises:
        InputError: ``invalid-value``: `processes` is no number of processes; as `refuse_other_folds`.
    """
    if processes is not None and processes < 1:
        raise InputError("--processes", found=str(processes), wanted="1 or more", remedy="leave it out for the plan's",
                         reason="invalid-value")
    training = training_named(name)
    folders = ExperimentFolders(training.experiment, training.fold)
    refuse_other_folds(training, count_folds(folders.cache))
    processes = processes or read_plan(folders.plan).processes
    if processes > 1 and not launched_processes():
        launch(["train", "--experiment", name], processes=processes)
        return
    with process_group():
        _train(training, folders)


def _train(training: Training, folders: ExperimentFolders) -> None:
    experiment, fold = training.experiment, training.fold
    lineage = lineage_of_training(experiment)
    _check_alike(lineage)
    run_id = live.start_run(experiment, lineage=lineage, fold=fold) if is_writer() else None
    overrides = {
        "dataset_dir": str(folders.cache),
        "fold": fold,
        "history_file": str(folders.history),
        "tracking_run_id": run_id,
        # Named by all that could change the weights, so that no other training goes on from it.
        "resume_file": str(folders.resume / lineage),
    }
    with _bundle_aside(folders.bundle) as aside, live.feeding(run_id):
        _train_in_parts(folders, aside, parts_file=folders.resume / f"{lineage}.json", overrides=overrides)
    # Not before the bundle is in its place; checkpoints of other plans have had their time as well.
    if is_writer():
        shutil.rmtree(folders.resume, ignore_errors=True)


def _check_alike(lineage: str) -> None:
    """Several machines have to train the same.

    Raises:
        InputError: ``other-lineage``: data, code, configuration or packages differ between the processes.
    """
    if len(set(of_all_ranks(lineage))) > 1:
        raise InputError("training", found="data, code, configuration or packages that differ between the processes",
                         wanted="the same on all machines", reason="other-lineage",
                         remedy="bring them to one state: `dvc repro` and `pip list` on each")


@contextmanager
def _bundle_aside(bundle: Path) -> Iterator[Path]:
    """Yields where to train: beside `bundle`, whose place it takes at the end; of ranks but 0, where it is forgotten.

    Aside until the training has ended: an older bundle never gets new configs, nor new configs old weights.
    """
    if not is_writer():
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    _remove_left_aside(bundle)
    with folder_written_aside(bundle) as aside:
        yield aside


def _train_in_parts(folders: ExperimentFolders, root: Path, *, parts_file: Path, overrides: dict[str, Any]) -> None:
    """Trains with the schedule's batch, or in as small parts as the memory has room for; the bundle says which."""
    schedule = read_schedule(folders.schedule)
    batches = remembered(parts_file, Batches(schedule.batch_size, schedule.accumulation))
    while True:
        changes = {"processes": ranks(), **asdict(batches)}
        assemble_bundle(TEMPLATE, root, plan=folders.plan, schedule=folders.schedule, changes=changes)
        try:
            run_training(root, overrides=overrides)
        except (RuntimeError, MemoryError) as error:
            if input_error_behind(error) is not None or not is_out_of_memory(error):
                raise
            # What the failed attempt holds is freed after this block, with the error.
            batches = batches.halved()
        else:
            return
        remember(parts_file, batches)
        print(f"out of memory{f' on rank {rank()}' if ranks() > 1 else ''}: training goes on with the same batch in "
              f"{batches.accumulation} parts of {batches.batch_size}", file=sys.stderr, flush=True)
        if ranks() > 1:
            # The others wait for this one, in the middle of a step: all start again.
            raise SystemExit(START_AGAIN)
        gc.collect()
        torch.cuda.empty_cache()


def _remove_left_aside(bundle: Path) -> None:
    """Removes what killed trainings left of a bundle, and nothing that another stage is writing beside it."""
    for left in bundle.parent.glob(f"{ASIDE}*/{bundle.name}"):
        shutil.rmtree(left.parent, ignore_errors=True)
