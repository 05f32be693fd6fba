from pathlib import Path

import pytest

from pipeline.records.bundles import batches_of_training, require_bundle
from pipeline.records.errors import InputError


def test_a_bundle_says_in_what_batches_it_was_trained(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/train.yaml").write_text("batch_size: 2\naccumulation: 4\nprocesses: 1\nseed: 0\n")
    assert batches_of_training(tmp_path) == {"batch_size": 2, "accumulation": 4, "processes": 1}


def test_a_bundle_without_its_training_says_nothing(tmp_path: Path) -> None:
    assert batches_of_training(tmp_path) == {}


def test_a_folder_without_the_inference_config_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        require_bundle(tmp_path)
    assert caught.value.reason == "not-a-bundle"
