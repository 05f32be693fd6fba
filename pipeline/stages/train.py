"""cache, plan -> work/<exp>/bundle (configs and weights) and history.csv."""

from pipeline import tracking
from pipeline.bundle import assemble_bundle, run_training
from pipeline.records.folders import TEMPLATE, ExperimentFolders
from pipeline.records.lineage import lineage_of_training


def run(experiment: str) -> None:
    """Trains the bundle of one experiment; its curves go to MLflow while they grow."""
    folders = ExperimentFolders(experiment)
    assemble_bundle(TEMPLATE, folders.bundle, plan=folders.plan)
    run_id = tracking.start_run(experiment, lineage=lineage_of_training(experiment))
    overrides = {
        "dataset_dir": str(folders.cache),
        "history_file": str(folders.history),
        "tracking_run_id": run_id,
    }
    run_training(folders.bundle, overrides=overrides)
