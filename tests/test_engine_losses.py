"""Expected values are worked out by hand on four voxels, or are those of MONAI's own loss with the same arguments."""

from collections.abc import Sequence
from math import exp, log

import pytest
import torch
from monai.losses import DiceCELoss

from pipeline.engine.losses import loss_named
from pipeline.records.errors import InputError
from pipeline.records.plan import LOSSES

WEIGHTS = (0.5, 1.0, 3.0)


def random_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 3, 4, 5, 6), generator=generator)
    return logits.requires_grad_(), torch.randint(3, (2, 1, 4, 5, 6), generator=generator)


def loss_of(name: str, truth: Sequence[int], found: Sequence[int], **arguments: float) -> float:
    """Returns the loss of four voxels whose classes are found with certainty."""
    logits = torch.full((1, 3, 4, 1), -50.0)
    for voxel, label in enumerate(found):
        logits[0, label, voxel] = 50.0
    label = torch.tensor(truth).reshape(1, 1, 4, 1)
    return float(loss_named(name, class_weights=WEIGHTS, **arguments)(logits, label))


def test_dice_ce_is_monais_to_the_bit_gradients_included() -> None:
    ours, label = random_batch()
    theirs, _ = random_batch()
    loss = loss_named("dice_ce", class_weights=WEIGHTS)(ours, label)
    reference = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True,
                           weight=torch.tensor(WEIGHTS))(theirs, label)
    loss.backward()
    reference.backward()
    assert torch.equal(loss, reference)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)


def test_dice_and_cross_entropy_are_the_two_parts_of_dice_ce() -> None:
    logits, label = random_batch()
    parts = [loss_named(name, class_weights=WEIGHTS)(logits, label) for name in ("dice", "cross_entropy")]
    both = loss_named("dice_ce", class_weights=WEIGHTS)(logits, label)
    torch.testing.assert_close(parts[0] + parts[1], both)


def test_each_labels_overlap_counts_by_its_weight() -> None:
    # Label 1 is found wholly, label 2 not at all: the mean of 1 * 0 and 3 * 1.
    assert loss_of("dice", [0, 1, 2, 2], [0, 1, 0, 0]) == pytest.approx(1.5, abs=1e-4)
    # Of label 1 one of two voxels is found: Dice 2 / 3, so the mean of 1 * 1/3 and 3 * 0.
    assert loss_of("dice", [1, 1, 2, 2], [1, 0, 2, 2]) == pytest.approx(1 / 6, abs=1e-4)


def test_a_voxels_cross_entropy_counts_by_its_class() -> None:
    # One voxel of each class and one more background, all with scores 1, 0, 0: log(e + 2) less the class's score.
    logits = torch.zeros((1, 3, 4, 1))
    logits[:, 0] = 1.0
    label = torch.tensor([0, 0, 1, 2]).reshape(1, 1, 4, 1)
    of_background, of_label = log(exp(1) + 2) - 1, log(exp(1) + 2)
    wanted = (2 * 0.5 * of_background + (1.0 + 3.0) * of_label) / (2 * 0.5 + 1.0 + 3.0)
    assert float(loss_named("cross_entropy", class_weights=WEIGHTS)(logits, label)) == pytest.approx(wanted)


@pytest.mark.parametrize("classes", [3, 2])
def test_tversky_ce_with_misses_and_false_finds_alike_is_dice_ce(classes: int) -> None:
    logits, label = random_batch()
    logits, label = logits[:, :classes], label.clamp(max=classes - 1)
    found = loss_named("tversky_ce", class_weights=WEIGHTS[:classes], recall_weight=0.5)(logits, label)
    torch.testing.assert_close(found, loss_named("dice_ce", class_weights=WEIGHTS[:classes])(logits, label))


def test_a_miss_costs_as_much_of_the_overlap_as_the_recall_weight_says() -> None:
    # The same but for one voxel of label 1 that is missed, or one of background that is taken for it: Tversky
    # 1 / (1 + 0.8) and 1 / (1 + 0.2). Label 2 is absent and costs nothing. The cross entropy of the voxel, 100, is
    # weighted with the class that it is.
    miss = loss_of("tversky_ce", [0, 0, 1, 1], [0, 0, 1, 0], recall_weight=0.8)
    false_find = loss_of("tversky_ce", [0, 0, 0, 1], [0, 0, 1, 1], recall_weight=0.8)
    assert miss - 100 * 1.0 / 3.0 == pytest.approx((1 - 1 / 1.8) / 2, abs=1e-4)
    assert false_find - 100 * 0.5 / 2.5 == pytest.approx((1 - 1 / 1.2) / 2, abs=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_that_a_plan_can_name_has_gradients_in_2d(name: str) -> None:
    logits = torch.zeros((2, 3, 8, 8), requires_grad=True)
    label = torch.zeros((2, 1, 8, 8), dtype=torch.int64)
    label[:, :, 2:4, 2:4] = 1
    loss_named(name, class_weights=WEIGHTS, recall_weight=0.7)(logits, label).backward()
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())
    assert float(logits.grad.abs().sum()) > 0


@pytest.mark.parametrize("name", ["focal", "tversky_ce"])
def test_an_unknown_loss_or_one_without_its_weight_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="one of dice_ce, dice, cross_entropy, tversky_ce, the last with"):
        loss_named(name, class_weights=WEIGHTS)
