"""What makes a folder a trained bundle, and what it says about its training."""

from pathlib import Path
from typing import Any

from pipeline.records.errors import InputError
from pipeline.records.strict_yaml import read_yaml


def require_bundle(folder: Path) -> None:
    """Checks, before seconds go into importing what would run it, that a folder can be a trained bundle.

    Raises:
        InputError: ``not-a-bundle``.
    """
    if not (folder / "configs/inference.yaml").is_file():
        raise InputError(folder, found="no configs/inference.yaml", wanted="the folder of a trained bundle",
                         remedy="give the folder below models/", reason="not-a-bundle")


def batches_of_training(folder: Path) -> dict[str, Any]:
    """Returns `batch_size`, `accumulation` and `processes` as a bundle was trained; nothing where it does not say.

    They differ from plan and schedule where memory ran out, or where a launcher started more processes.
    """
    config = folder / "configs/train.yaml"
    content = read_yaml(config) if config.is_file() else {}
    return {name: content[name] for name in ("batch_size", "accumulation", "processes") if name in content}
