"""What fits where, forecast before the run: nothing is found out by a crash."""

from pathlib import Path

import torch

from pipeline.records.errors import InputError

# What a network's own activations and the libraries may need on top of what is forecast.
SPARE_SHARE = 0.2
# Scores are held twice for a moment where a scan was padded or labels are taken from them, and windows beside them.
COPIES_OF_SCORES = 2.5
MEMINFO = Path("/proc/meminfo")
# What torch says where it is no error of its own kind: of the host's allocator, and of the libraries for GPUs.
NO_MEMORY = ("can't allocate memory", "not enough memory", "ALLOC_FAILED", "out of memory")


def room_for(volume: torch.Tensor, channels: int) -> torch.device:
    """Returns where ``(channels, x, y, z)`` float32 fits: the volume's device, else the host.

    Raises:
        InputError: ``out-of-memory``: it fits on neither.
    """
    wanted = COPIES_OF_SCORES * 4 * channels * volume[0].numel()
    host = torch.device("cpu")
    if volume.device.type == "cuda" and wanted <= (1 - SPARE_SHARE) * (free_bytes(volume.device) or 0):
        return volume.device
    free = free_bytes(host)
    if free is not None and wanted > (1 - SPARE_SHARE) * free:
        raise InputError("scan", found=f"{free / 2**30:.1f} GiB of free memory",
                         wanted=f"{wanted / 2**30 / (1 - SPARE_SHARE):.1f} GiB for the class scores",
                         remedy="crop the scan, or use a machine with more memory", reason="out-of-memory")
    return host


def is_out_of_memory(error: BaseException | None) -> bool:
    """Returns whether an error, or one that led to it, says that there was no memory left."""
    while error is not None:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            return True
        if isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY):
            return True
        error = error.__cause__
    return False


def free_bytes(device: torch.device) -> int | None:
    """Returns how many bytes can still be taken on a device; None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else None
