"""Where the stages keep their files. Only stages and commands use this; everything below them is handed paths."""

from pathlib import Path

RAW = Path("data/raw")
TEMPLATE = Path("bundles/segmentation")


def segmentation_in(folder: Path) -> Path:
    """Returns the label map in the folder of a segmented scan: a PNG of a picture, else a NIfTI."""
    picture = folder / "segmentation.png"
    return picture if picture.is_file() else folder / "segmentation.nii.gz"


class ExperimentFolders:
    """The paths of one experiment, relative to the repository.

    With `fold` what a training writes, `bundle`, `history` and `resume`, is that fold's; all else is shared.
    """

    def __init__(self, experiment: str, fold: int | None = None) -> None:
        self.configs = Path("configs") / experiment
        self.work = Path("work") / experiment
        self.report = Path("reports") / experiment
        self.model = Path("models") / experiment
        self.index = self.work / "index.json"
        self.audit_json = self.work / "audit.json"
        self.audit_report = self.work / "audit.md"
        self.fingerprint = self.work / "fingerprint.json"
        self.plan = self.work / "plan.yaml"
        self.schedule = self.work / "schedule.yaml"
        self.cache = self.work / "cache"
        self.folds = self.work / "folds"
        trained = self.work if fold is None else self.folds / f"fold{fold}"
        self.bundle = trained / "bundle"
        self.history = trained / "history.csv"
        self.predictions = self.work / "predictions"
        self.case_table = self.work / "cases.csv"
        self.lesion_table = self.work / "lesions.csv"
        self.calibration_table = self.work / "calibration.csv"
        self.metrics = self.work / "metrics.json"
        self.plots = self.work / "plots"
        self.tracked_run = self.work / "mlflow_run.json"
        # Beside the outputs of the stages: DVC removes those before a stage runs again.
        resume = Path("work/.resume") / experiment
        self.resume = resume if fold is None else resume / f"fold{fold}"
