"""The mean of several networks, worked out by hand, and weights that are all verified before they vote."""

from math import log
from pathlib import Path

import pytest
import torch

from pipeline.engine.ensemble import Ensemble, ensemble_of
from pipeline.engine.weights import load_weights
from pipeline.records.bundles import member_numbers, members_of, recorded_digests
from pipeline.records.errors import InputError
from pipeline.records.files import sha256_of_file, sha256_of_text

CPU = torch.device("cpu")


class Constant(torch.nn.Module):
    """Gives every voxel the same class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = torch.nn.Parameter(torch.zeros(3))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.scores[None, :, None].expand(len(image), 3, image.shape[-1])


def write_weights(folder: Path, *members: list[float]) -> Path:
    """Writes the scores of each member with their digests; returns where one network's weights would be."""
    for number, scores in enumerate(members):
        path = folder / f"model.fold{number}.pt"
        torch.save({"scores": torch.tensor(scores)}, path)
        path.with_name(f"{path.name}.sha256").write_text(f"{sha256_of_file(path)}  {path.name}\n")
    return folder / "model.pt"


def test_probabilities_are_averaged_and_not_scores(tmp_path: Path) -> None:
    # Probabilities 0.8, 0.1, 0.1 and 0.1, 0.4, 0.5, the second with scores ten higher, which mean nothing.
    path = write_weights(tmp_path, [log(8), 0.0, 0.0], [10.0, 10 + log(4), 10 + log(5)])
    network = ensemble_of(Constant(), [0, 1])
    load_weights(network, path, device=CPU)
    found = network(torch.zeros(2, 1, 4))
    assert found.shape == (2, 3, 4)
    torch.testing.assert_close(found[0, :, 0].exp(), torch.tensor([0.45, 0.25, 0.30]))
    torch.testing.assert_close(found.softmax(1), found.exp())


def test_impossible_classes_stay_finite(tmp_path: Path) -> None:
    path = write_weights(tmp_path, [500.0, 0.0, 0.0], [400.0, 0.0, 0.0])
    network = ensemble_of(Constant(), [0, 1])
    load_weights(network, path, device=CPU)
    assert torch.isfinite(network(torch.zeros(1, 1, 1))).all()


def test_members_are_chosen_and_the_digest_is_of_those_that_vote(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    path = write_weights(tmp_path / "models", [log(8), 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, log(2)])
    digests = list(recorded_digests(tmp_path).values())
    assert members_of(path) == [0, 1, 2]
    third = ensemble_of(Constant(), 2)
    assert load_weights(third, path, device=CPU) == digests[2]
    torch.testing.assert_close(third(torch.zeros(1, 1, 1)).exp().flatten(), torch.tensor([0.25, 0.25, 0.5]))
    assert load_weights(ensemble_of(Constant(), [0, 2]), path, device=CPU) == sha256_of_text(digests[0] + digests[2])


def test_one_network_is_left_as_it_is() -> None:
    network = Constant()
    assert ensemble_of(network, None) is network


def test_a_member_that_was_changed_is_not_loaded(tmp_path: Path) -> None:
    path = write_weights(tmp_path, [0.0, 0.0, 0.0], [1.0, 0.0, 0.0])
    torch.save({"scores": torch.ones(3)}, tmp_path / "model.fold1.pt")
    with pytest.raises(InputError, match=r"model\.fold1\.pt: SHA-256") as caught:
        load_weights(Ensemble(Constant(), (0, 1)), path, device=CPU)
    assert caught.value.reason == "changed-weights"


def test_a_member_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--members: member 0; expected none: this bundle holds one network"):
        load_weights(Ensemble(Constant(), (0,)), tmp_path / "model.pt", device=CPU)
    path = write_weights(tmp_path, [0.0, 0.0, 0.0], [1.0, 0.0, 0.0])
    with pytest.raises(InputError, match="--members: member 7; expected some of 0, 1"):
        load_weights(Ensemble(Constant(), (0, 7)), path, device=CPU)


@pytest.mark.parametrize(("given", "numbers"), [
    (0, (0,)), ("0", (0,)), ("0,2", (0, 2)), ("[0, 2]", (0, 2)), ((2, 0), (2, 0)), ([1], (1,)),
])
def test_members_as_they_are_given(given: object, numbers: tuple[int, ...]) -> None:
    assert member_numbers(given) == numbers


@pytest.mark.parametrize("given", ["", "all", "0,0", "-1", [], None, "0,,1", 1.5, "[]"])
def test_members_that_cannot_be_meant(given: object) -> None:
    with pytest.raises(InputError, match="numbers of an ensemble's networks") as caught:
        member_numbers(given)
    assert caught.value.reason == "unknown-member"
