"""cache, plan, schedule -> work/<exp>/bundle (configs and weights) and history.csv; goes on where it was killed."""

import shutil
from pathlib import Path

from pipeline import tracking
from pipeline.bundle import assemble_bundle, run_training
from pipeline.engine.cache import count_folds
from pipeline.records.files import ASIDE, folder_written_aside
from pipeline.records.folders import TEMPLATE, ExperimentFolders
from pipeline.records.lineage import lineage_of_training
from pipeline.records.trainings import refuse_other_folds, training_named


def run(name: str) -> None:
    """Trains the bundle of an experiment, or of one of its folds (`liver_3d.fold0`); MLflow sees its curves grow.

    Raises:
        InputError: as `refuse_other_folds`; what training raises.
    """
    training = training_named(name)
    experiment, fold = training.experiment, training.fold
    folders = ExperimentFolders(experiment, fold)
    refuse_other_folds(training, count_folds(folders.cache))
    lineage = lineage_of_training(experiment)
    overrides = {
        "dataset_dir": str(folders.cache),
        "fold": fold,
        "history_file": str(folders.history),
        "tracking_run_id": tracking.start_run(experiment, lineage=lineage, fold=fold),
        # Named by all that could change the weights, so that no other training goes on from it.
        "resume_file": str(folders.resume / lineage),
    }
    _remove_left_aside(folders.bundle)
    # Aside until the training has ended: an older bundle never gets new configs, nor new configs old weights.
    with folder_written_aside(folders.bundle) as aside:
        assemble_bundle(TEMPLATE, aside, plan=folders.plan, schedule=folders.schedule)
        run_training(aside, overrides=overrides)
    # Not before the bundle is in its place; checkpoints of other plans have had their time as well.
    shutil.rmtree(folders.resume, ignore_errors=True)


def _remove_left_aside(bundle: Path) -> None:
    """Removes what killed trainings left of a bundle, and nothing that another stage is writing beside it."""
    for left in bundle.parent.glob(f"{ASIDE}*/{bundle.name}"):
        shutil.rmtree(left.parent, ignore_errors=True)
