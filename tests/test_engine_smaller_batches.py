"""Out of memory: the same batch in smaller parts is the same training, from where it was."""

import csv
import signal
from pathlib import Path

import pytest
import torch
import yaml
from ignite.engine import Engine
from tiny_training import Fault, Training, make_training

from pipeline.engine.memory import is_out_of_memory
from pipeline.engine.smaller_batches import Batches, ValidationMemory, remember, remembered
from pipeline.records.errors import InputError


@pytest.mark.parametrize(("size", "accumulation", "expected"), [
    (4, 1, (2, 2)), (2, 2, (1, 4)), (12, 1, (6, 2)), (9, 1, (3, 3)), (7, 2, (1, 14)),
])
def test_the_parts_add_up_to_the_same_batch(size: int, accumulation: int, expected: tuple[int, int]) -> None:
    halved = Batches(size, accumulation).halved()
    assert (halved.batch_size, halved.accumulation) == expected


def test_what_is_remembered_is_read_again(tmp_path: Path) -> None:
    path, planned = tmp_path / "lineage.json", Batches(4, 1)
    assert remembered(path, planned) == planned
    remember(path, Batches(2, 2))
    assert remembered(path, planned) == Batches(2, 2)


@pytest.mark.parametrize(("error", "expected"), [
    (torch.OutOfMemoryError("CUDA out of memory"), True),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"), True),
    (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
    (MemoryError(), True),
    (RuntimeError("shapes differ"), False),
    (KeyError("out of memory"), False),
])
def test_a_lack_of_memory_is_known_by_what_torch_says(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
    wrapped = RuntimeError("Failed to evaluate")
    wrapped.__cause__ = error
    assert is_out_of_memory(wrapped) is expected


def test_the_cpu_allocator_itself_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("accumulation", [1, 2], ids=["whole, then in two", "in two, then in four"])
def test_half_way_in_smaller_parts_a_training_ends_as_it_would_have(tmp_path: Path, accumulation: int) -> None:
    # Cross entropy is a mean over patches, whatever the parts; without dropout and biases, see test_engine_ranks.
    network = {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8],
               "strides": [2], "norm": "instance", "bias": False}
    whole, parted = (make_training(tmp_path / name, batch_size=4 // accumulation, accumulation=accumulation,
                                   network_def=network) for name in ("whole", "parted"))
    for training in (whole, parted):
        _change(training, loss={"_target_": "DiceCELoss", "to_onehot_y": True, "softmax": True, "lambda_dice": 0.0})
    assert whole.run().exit_code == 0
    assert parted.run(Fault("BACKWARD_COMPLETED", 6 * accumulation + 1)).exit_code == -signal.SIGKILL
    _change(parted, batch_size=2 // accumulation, accumulation=2 * accumulation)
    assert parted.run().output.startswith("training goes on from iteration 6 of 12\n")
    expected, found = torch.load(whole.weights), torch.load(parted.weights)
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, atol=1e-6, rtol=0, msg=name)
    for row, wanted in zip(_rows(parted), _rows(whole), strict=True):
        assert [float(text or -1) for text in row.values()] == pytest.approx(
            [float(text or -1) for text in wanted.values()], abs=1e-6)


def _change(training: Training, **values: object) -> None:
    path = training.root / "bundle/configs/train.yaml"
    config = yaml.safe_load(path.read_text())
    if "loss" in values:
        config["train"]["loss"] = values.pop("loss")
    path.write_text(yaml.safe_dump(config | values, sort_keys=False))


def _rows(training: Training) -> list[dict[str, str]]:
    with training.history.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize(("error", "expected"), [
    (torch.OutOfMemoryError("CUDA out of memory"), "validation: no memory for one of its volumes; .*patch_size"),
    (RuntimeError("shapes differ"), "shapes differ"),
])
def test_no_memory_for_a_validation_is_no_matter_of_the_batch(error: Exception, expected: str) -> None:
    def fail(*_: object) -> None:
        raise error

    evaluator = Engine(fail)
    ValidationMemory().attach(evaluator)
    with pytest.raises(type(error) if "shapes" in expected else InputError, match=expected):
        evaluator.run([0])
