"""Memory for the voxels of a scan."""

import numpy as np
import pytest
import torch

from pipeline.imaging.voxels import STEP_BYTES, unset_voxels


@pytest.mark.parametrize("count", [0, 1, STEP_BYTES // 4 - 1, STEP_BYTES // 4 + 1])
def test_voxels_are_of_their_own_and_can_be_set_and_shared(count: int) -> None:
    first, second = unset_voxels(count), unset_voxels(count)
    assert first.shape == (count,)
    assert first.dtype == np.float32
    first[:], second[:] = 1, 2
    torch.from_numpy(first).mul_(3)  # as preprocessing does: a view, and no copy
    assert (first == 3).all()
    assert (second == 2).all()
