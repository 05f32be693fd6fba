"""Training steps with and without `keep_freed_memory`, in turn, each in a process of its own; prints the ratio.

    python benchmarks/allocator.py
"""

import argparse
import statistics
import subprocess
import sys
from time import perf_counter

ROUNDS, WARM_UP, STEPS = 3, 3, 10


def seconds_per_step(*, keep: bool) -> float:
    """Returns the median seconds of a training step of the hippocampus plan's network on its patch and batch."""
    import torch
    from monai.losses import DiceCELoss
    from monai.networks.nets import UNet

    from pipeline.engine.allocator import keep_freed_memory

    if keep:
        keep_freed_memory()
    torch.manual_seed(0)
    network = UNet(3, 1, 3, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=2, norm="instance")
    optimizer = torch.optim.AdamW(network.parameters())
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    image, label = torch.rand(4, 1, 40, 56, 40), torch.randint(3, (4, 1, 40, 56, 40))
    seconds = []
    for _ in range(WARM_UP + STEPS):
        start = perf_counter()
        optimizer.zero_grad()
        loss(network(image), label).backward()
        optimizer.step()
        seconds.append(perf_counter() - start)
    return statistics.median(seconds[WARM_UP:])


def main() -> None:
    """Runs the two variants in turn, so that a change of the machine's mood falls on both."""
    times: dict[str, list[float]] = {"default": [], "keep": []}
    for _ in range(ROUNDS):
        for variant, found in times.items():
            result = subprocess.run([sys.executable, __file__, variant], capture_output=True, text=True, check=True)
            found.append(float(result.stdout))
    default, keep = (statistics.median(found) for found in times.values())
    print(f"step: glibc's default {default:.3f} s, keep_freed_memory {keep:.3f} s, ratio {default / keep:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", nargs="?", choices=("default", "keep"), help="that one alone, in this process")
    chosen = parser.parse_args().variant
    if chosen is None:
        main()
    else:
        print(seconds_per_step(keep=chosen == "keep"))
