"""Pictures of validation cases: the same cases each time, outlines at their places, and no effect on a training."""

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from mlflow import MlflowClient
from tiny_training import Fault, make_training

from pipeline.engine.cache import CachedCase
from pipeline.engine.validation_pictures import ValidationPictures, spread
from pipeline.imaging.comparisons import AGREEMENT, PREDICTION, TRUTH
from pipeline.tracking.store import store_uri

PIXELS = 384  # of the longest side


class Validated:
    """An evaluator of cases of zeros whose truth and prediction are given as class indices."""

    def __init__(
        self, truth: np.ndarray, prediction: np.ndarray, *, cases: int = 1, epochs: int = 2, validate_every: int = 1,
        channels: int = 1, spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0),
    ) -> None:
        self.published: list[tuple[str, np.ndarray, int]] = []
        self.evaluator = Engine(lambda *_: [{"image": torch.zeros(channels, *truth.shape), "label": one_hot(truth),
                                             "pred": one_hot(prediction)}])
        self.cases = [CachedCase(f"case{number}", "validation", Path(), "", "") for number in range(cases)]
        ValidationPictures(self.cases, spacing_mm=spacing_mm, epochs=epochs, validate_every=validate_every,
                           steps=10 * epochs, publish=lambda *told: self.published.append(told)).attach(self.evaluator)

    def run(self, epoch: int) -> None:
        """As MONAI's evaluator does."""
        state = self.evaluator.state
        state.max_epochs, state.epoch, state.iteration = epoch, epoch - 1, 0
        self.evaluator.run(self.cases, max_epochs=epoch)


def one_hot(indices: np.ndarray) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.from_numpy(indices).long(), 3).movedim(-1, 0)


def box(first: int, last: int, shape: tuple[int, int, int] = (16, 12, 8)) -> np.ndarray:
    """Returns class 2 in a box that runs from `first` to before `last` along x."""
    array = np.zeros(shape, dtype=np.uint8)
    array[first:last, 3:9, shape[2] // 4 : 3 * shape[2] // 4 + 1] = 2
    return array


def columns(picture: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int]:
    """Returns the first and last column that have a colour."""
    found = (picture == colour).all(axis=2).any(axis=0).nonzero()[0]
    return int(found.min()), int(found.max())


@pytest.mark.parametrize(("depth", "channels"), [(8, 1), (8, 3), (1, 3), (1, 2)])
def test_outlines_are_where_truth_and_prediction_are(depth: int, channels: int) -> None:
    shape = (16, 12, depth)
    validated = Validated(box(10, 13, shape), box(2, 5, shape), channels=channels)
    validated.run(1)
    ((name, picture, step),) = validated.published
    assert (name, step) == ("validation/case0", 10)
    # Right, which is higher x, comes left; 384 pixels are 16 voxels of 24. Truth: 10 to 12, prediction: 2 to 4.
    axial = picture[:, :PIXELS]
    assert columns(axial, TRUTH) == (3 * 24, 6 * 24 - 1)
    assert columns(axial, PREDICTION) == (11 * 24, 14 * 24 - 1)
    assert not (axial == AGREEMENT).all(axis=2).any()


@pytest.mark.parametrize(("spacing_mm", "rows"), [
    ((2.0, 2.0, -1.0), 288), ((2.0, 4.0, -1.0), 384), ((-1.0, -1.0, -1.0), 288), ((-1.0, 3.0, 3.0), 288),
])
def test_an_unknown_spacing_counts_as_the_smallest_known(spacing_mm: tuple[float, ...], rows: int) -> None:
    validated = Validated(box(4, 8), box(4, 8), spacing_mm=spacing_mm)
    validated.run(1)
    # 16 by 12 voxels: as high as 12 / 16 of the width, and of voxels of 2 by 4 mm 24 / 16 of it.
    ((_, picture, _),) = validated.published
    coloured = (picture == AGREEMENT).all(axis=2).any(axis=1).nonzero()[0]
    assert len(picture) == rows
    assert coloured.max() - coloured.min() + 1 == pytest.approx(rows / 2, abs=2)  # 6 of 12 voxels


def test_the_same_three_cases_are_shown_in_each_validation() -> None:
    validated = Validated(box(4, 8), box(4, 8), cases=9, epochs=4, validate_every=2)
    validated.run(2)
    validated.run(4)
    assert [(name, step) for name, _, step in validated.published] == [
        (f"validation/case{number}", step) for step in (20, 40) for number in (2, 5, 8)]


def test_of_many_validations_ten_are_shown_the_last_among_them() -> None:
    validated = Validated(box(4, 8), box(4, 8), epochs=201, validate_every=2)
    for epoch in [*range(2, 201, 2), 201]:
        validated.run(epoch)
    steps = [step for _, _, step in validated.published]
    assert len(steps) == 10
    assert steps[-1] == 2010
    assert set(np.diff(steps)) <= {200, 210, 220}


def test_few_are_all_shown() -> None:
    assert spread(["a", "b"], 3) == ["a", "b"]
    assert spread(range(7), 3) == [1, 3, 6]


@pytest.mark.parametrize("dims", [3, 2])
def test_a_training_that_is_watched_and_stopped_ends_with_the_bytes_of_one_that_nobody_saw(
    dims: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unseen = make_training(tmp_path / "unseen", dims=dims)
    assert unseen.run().exit_code == 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run_id = MlflowClient(store_uri()).create_run(
        MlflowClient(store_uri()).create_experiment("tiny", artifact_location=(tmp_path / "kept").as_uri())
    ).info.run_id
    watched = make_training(tmp_path / "watched", dims=dims, tracking_run_id=run_id)
    watched.run(Fault("BACKWARD_COMPLETED", 10, signal.SIGTERM))
    ended = watched.run()
    assert ended.exit_code == 0
    assert "MLflow" not in ended.output
    assert ended.output.splitlines()[-1].startswith("training: ")
    assert watched.weights.read_bytes() == unseen.weights.read_bytes()
    assert watched.history.read_bytes() == unseen.history.read_bytes()

    client = MlflowClient(store_uri())
    names = [Path(item.path).name for item in client.list_artifacts(run_id, "images") if item.path.endswith("png")]
    # Three epochs of four steps, validated after the second and the last.
    assert sorted(name.split("+timestamp")[0] for name in names) == [
        "validation~c+step+12", "validation~c+step+8"]
    shares = {point.step: point.value for point in client.get_metric_history(run_id, "network_share")}
    assert set(shares) == {4, 8, 12}
    assert all(0 < share <= 1 for share in shares.values())
    assert all(point.value > 0 for point in client.get_metric_history(run_id, "patches_per_second"))
