"""cache, plan -> work/<exp>/bundle (configs and weights) and history.csv."""

from pipeline import tracking
from pipeline.bundle import assemble_bundle, run_training
from pipeline.records.files import folder_written_aside
from pipeline.records.folders import TEMPLATE, ExperimentFolders
from pipeline.records.lineage import lineage_of_training


def run(experiment: str) -> None:
    """Trains the bundle of one experiment; its curves go to MLflow while they grow."""
    folders = ExperimentFolders(experiment)
    run_id = tracking.start_run(experiment, lineage=lineage_of_training(experiment))
    overrides = {
        "dataset_dir": str(folders.cache),
        "history_file": str(folders.history),
        "tracking_run_id": run_id,
    }
    # Aside until the training has ended: an older bundle never gets new configs, nor new configs old weights.
    with folder_written_aside(folders.bundle) as aside:
        assemble_bundle(TEMPLATE, aside, plan=folders.plan)
        run_training(aside, overrides=overrides)
