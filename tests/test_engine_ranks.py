"""Two processes on CPUs, connected by gloo, train as one process with the doubled batch."""

import csv
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import EPOCH_LENGTH, EPOCHS, Fault, Training, make_training

from pipeline.engine import ranks as module
from pipeline.engine.cache import read_cached_cases
from pipeline.engine.checkpoints import PatchOrder
from pipeline.engine.patches import PatchDataset
from pipeline.engine.ranks import in_parallel, process_group, share_of
from pipeline.records.errors import InputError

# Of weights of about 0.1 after 12 steps: sums over the batch are taken in another order, no more.
TOLERANCE = 1e-6
NEVER_S = 3600.0


def network(dims: int) -> dict[str, Any]:
    """Without dropout, which each rank draws for itself, and without biases before a normalisation: theirs is no
    gradient but rounding, of which AdamW makes steps of full length."""
    return {"_target_": "UNet", "spatial_dims": dims, "in_channels": 1, "out_channels": 2, "channels": [4, 8],
            "strides": [2], "norm": "instance", "bias": False}


def rows(training: Training) -> list[dict[str, str]]:
    with training.history.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize(("dims", "accumulation", "validation"), [(3, 1, "cde"), (2, 2, "c")],
                         ids=["3d, three volumes to validate", "2d, accumulated, one volume"])
def test_two_processes_end_like_one_with_the_doubled_batch(
    tmp_path: Path, dims: int, accumulation: int, validation: str
) -> None:
    chosen = {"dims": dims, "network_def": network(dims), "accumulation": accumulation, "validation": validation}
    one = make_training(tmp_path / "one", batch_size=4, **chosen)
    two = make_training(tmp_path / "two", batch_size=2, processes=2, **chosen)
    assert one.run().exit_code == 0
    assert [outcome.exit_code for outcome in two.run_ranks(count=2)] == [0, 0]
    expected, found = torch.load(one.weights), torch.load(two.weights)
    assert expected.keys() == found.keys()
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, atol=TOLERANCE, rtol=0, msg=name)
    assert [row["iteration"] for row in rows(one)] == ["4", "8", "12"]  # steps, also where one is made of two batches
    for row, wanted in zip(rows(two), rows(one), strict=True):
        for key, text in wanted.items():
            assert (float(row[key]) == pytest.approx(float(text), abs=TOLERANCE)) if text else row[key] == "", key


def test_rank_0_alone_writes_and_prints(tmp_path: Path) -> None:
    training = make_training(tmp_path, processes=2)
    first, second = training.run_ranks(count=2)
    assert first.output.startswith("epoch 1/3: loss ")
    assert second.output == ""
    written = {path.name for path in (tmp_path / "rank1").rglob("*") if path.is_file()}
    assert written == {"train.yaml", "inference.yaml", "metadata.json", "logging.conf", "manifest.json", "log.txt",
                       *(f"{case}.{kind}.npy" for case in "abc" for kind in ("image", "label"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Two processes that nothing happened to, with dropout, so that each rank's random states count."""
    training = make_training(tmp_path_factory.mktemp("whole"), interval_s=NEVER_S, processes=2)
    assert [outcome.exit_code for outcome in training.run_ranks(count=2)] == [0, 0]
    return training


def assert_goes_on_to_the_same_end(training: Training, whole: Training, iteration: int) -> None:
    first, second = training.run_ranks(count=2)
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.output.startswith(f"training goes on from iteration {iteration} of 12\n")
    assert training.weights.read_bytes() == whole.weights.read_bytes()
    assert training.history.read_bytes() == whole.history.read_bytes()


def test_where_one_process_is_killed_the_other_ends_and_both_go_on(whole: Training, tmp_path: Path) -> None:
    training = make_training(tmp_path, processes=2)
    first, second = training.run_ranks(Fault("BACKWARD_COMPLETED", 7, rank=1), count=2)
    assert second.exit_code == -signal.SIGKILL
    assert first.exit_code == 1
    assert "error: training: another process than rank 0 ended; expected all of them" in first.output.splitlines()[-1]
    assert_goes_on_to_the_same_end(training, whole, 6)


def test_a_signal_to_one_process_stops_all_after_the_same_iteration(whole: Training, tmp_path: Path) -> None:
    training = make_training(tmp_path, interval_s=NEVER_S, processes=2)
    outcomes = training.run_ranks(Fault("ITERATION_STARTED", 6, signal.SIGTERM, rank=1), count=2)
    assert [outcome.exit_code for outcome in outcomes] == [128 + signal.SIGTERM] * 2
    assert outcomes[0].output.endswith("training stopped; the same command goes on from iteration 6 of 12\n")
    assert not training.weights.exists()
    assert_goes_on_to_the_same_end(training, whole, 6)


def test_a_checkpoint_of_two_processes_is_not_gone_on_from_by_one(tmp_path: Path) -> None:
    training = make_training(tmp_path, processes=2)
    training.run_ranks(count=2)
    assert [path.name for path in training.checkpoint.parent.iterdir()] == ["key-cpu-2.pt"]
    alone = make_training(tmp_path / "alone")
    (alone.root / "resume").mkdir()
    (training.checkpoint.parent / "key-cpu-2.pt").rename(alone.root / "resume/key-cpu-2.pt")
    assert alone.run().output.startswith("epoch 1/3")


def test_a_loss_of_nan_stops_all_and_names_the_cases_of_the_rank_at_fault(tmp_path: Path) -> None:
    training = make_training(tmp_path, processes=2, seed=3)
    outcomes = training.run_ranks(Fault("ITERATION_COMPLETED", 6, "weights", rank=1), count=2)
    assert [outcome.exit_code for outcome in outcomes] == [1, 1]
    dataset = PatchDataset(read_cached_cases(tmp_path / "cache", "train"), patch_size=(16, 16, 16), slice_axis=None,
                           length=EPOCHS * EPOCH_LENGTH * 4, foreground_fraction=0.75, seed=3, transforms=[])
    # Of the seventh step's patches 24 to 27, the second process has the last two.
    by_rank = [sorted({dataset[i]["case"] for i in numbers}) for numbers in ((24, 25), (26, 27))]
    assert by_rank[0] != by_rank[1], "the seed is chosen so that the cases tell the ranks apart"
    assert f"loss nan in iteration 7, on patches of {', '.join(by_rank[1])};" in outcomes[0].output


def test_patches_are_dealt_out_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engine.checkpoints.ranks", lambda: 2)
    dealt = []
    for number in range(2):
        monkeypatch.setattr("pipeline.engine.checkpoints.rank", lambda number=number: number)
        order = PatchOrder(12, batch_size=2, processes=2)
        assert len(order) == 6
        dealt.append(list(order))
        order.first_iteration = 2
        assert (len(order), list(order)) == (2, dealt[-1][4:])
    assert dealt == [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]


def test_a_bundle_for_two_processes_is_not_trained_by_one() -> None:
    with pytest.raises(InputError, match=r"`processes: 2`, in a training of 1; .*--processes") as caught:
        PatchOrder(12, batch_size=2, processes=2)
    assert caught.value.reason == "other-processes"


@pytest.mark.parametrize(("items", "expected"), [("abcde", ["ace", "bd"]), ("a", ["a", "a"])],
                         ids=["shared out", "fewer than ranks: each has all"])
def test_what_is_validated_is_shared_out(items: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ranks", lambda: 2)
    for number, share in enumerate(expected):
        monkeypatch.setattr(module, "rank", lambda number=number: number)
        assert share_of(items) == share


def test_batch_normalisation_is_refused_on_several_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ranks", lambda: 2)
    with pytest.raises(InputError, match="norm: instance") as caught:
        in_parallel(torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.BatchNorm3d(2)), seed=0)
    assert caught.value.reason == "batch-norm"


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(module.torch.cuda, "device_count", lambda: 2)
    for name, value in {"RANK": "2", "LOCAL_RANK": "2", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="2 GPUs; expected one for each process"), process_group():
        pass
