"""What fits where is forecast from what the system says is free."""

from pathlib import Path

import pytest
import torch

from pipeline.engine import memory
from pipeline.engine.memory import free_bytes, room_for
from pipeline.records.errors import InputError

HOST = torch.device("cpu")


def test_free_memory_is_what_the_kernel_calls_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemFree: 5 kB\nMemAvailable:   40 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    assert free_bytes(HOST) == 40 * 1024
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "nothing")
    assert free_bytes(HOST) is None


@pytest.mark.parametrize(("free", "fits"), [(37_500, True), (37_400, False)])
def test_scores_that_do_not_fit_are_refused_before_they_are_made(
    monkeypatch: pytest.MonkeyPatch, free: int, fits: bool
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: free)
    volume = torch.zeros(1, 10, 10, 10)
    # 3 channels of 1000 voxels of 4 bytes, two and a half times, in four fifths of what is free.
    if fits:
        assert room_for(volume, 3) == HOST
        return
    with pytest.raises(InputError) as caught:
        room_for(volume, 3)
    assert caught.value.reason == "out-of-memory"


def test_a_full_gpu_leaves_the_scores_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu:
        """Stands for a tensor on a GPU, which this machine need not have."""

        device = torch.device("cuda")

        def __getitem__(self, _: int) -> torch.Tensor:
            return torch.zeros(10, 10, 10)

    free = {"cuda": 50_000, "cpu": 10**9}
    monkeypatch.setattr(memory, "free_bytes", lambda device: free[device.type])
    assert room_for(OnGpu(), 3).type == "cuda"  # type: ignore[arg-type]
    assert room_for(OnGpu(), 9).type == "cpu"  # type: ignore[arg-type]
