"""Memory for the voxels of a scan."""

import errno

import numpy as np
import pytest
import torch

from pipeline.imaging import voxels
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


def test_no_memory_is_no_fault_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(voxels.mmap, "mmap", full)
    with pytest.raises(MemoryError, match=r"no memory for 2000000 voxels"):
        unset_voxels(2_000_000)
