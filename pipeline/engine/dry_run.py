"""A few real training steps, each way of computing them in a process of its own: what the schedule chooses by.

A process of its own starts afresh: with its own peak of memory, its own threads and compiler; where the system kills it
for want of memory it takes nothing with it.
"""

import multiprocessing
import platform
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from pipeline.bundle import network_of
from pipeline.engine.allocator import keep_freed_memory
from pipeline.engine.losses import loss_named
from pipeline.engine.precision import AutocastInferer, is_safe_in_bfloat16
from pipeline.engine.speeds import reduced_dtype
from pipeline.records.plan import Plan

WARM_UP = 2  # steps: allocations, autotuning, compilation
FEWEST_STEPS, MOST_STEPS = 5, 120  # so many that what else the machine does for a moment leaves the median alone
PATIENCE_S = 20.0  # beyond the time given, for the fewest steps; after it one has to do
START_S = 60.0  # for a process to start and take its first steps, without compiling
COMPILE_FROM_S = 3600.0  # compiling costs 20 to 90 s on two cores, measuring it as much again
COMPILING_SHARE = 1 / 15  # of the budget: what compiles for longer would not pay
ENDING_S = 5.0  # for a process that has reported, or is told to end
WORTH = 0.03  # of the steps: less is noise
FEWEST_THREADS_TO_HALVE = 4
CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Setting:
    """One way of computing a training step, in the words of the schedule; `threads` None leaves them to torch."""

    precision: str
    channels_last: bool = False
    compile: bool = False
    threads: int | None = None


@dataclass(frozen=True)
class Trial:
    """What a setting came to: the median of a step's seconds, those before the first timed one, and the peak memory.

    `failure` is one line and the numbers are 0 where it did not run; `is_out_of_memory` says of a failure that it was.
    """

    setting: Setting
    batch_size: int
    seconds: float = 0.0
    start_s: float = 0.0
    peak_gib: float = 0.0
    failure: str | None = None
    is_out_of_memory: bool = False

    def steps_in(self, budget_s: float) -> float:
        """Returns how many steps it takes in so many seconds, its start included."""
        return (budget_s - self.start_s) / self.seconds


# Runs a setting with a batch size.
Attempt = Callable[[Setting, int], Trial]


def device_at_hand() -> torch.device:
    """Returns the device that the bundle's configs take."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def name_of(device: torch.device) -> str:
    """Returns what the device calls itself."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {torch.get_num_threads()} threads"


def first_setting(plan: Plan) -> Setting:
    """Returns the plainest setting: what every device computes, in the plan's precision if it names one."""
    return Setting(plan.precision or "float32")


def changes_to_try(plan: Plan, device: torch.device, *, budget_s: float) -> list[dict[str, Any]]:
    """Returns, as fields of `Setting`, what may speed training up on the device, the most promising first."""
    changes: list[dict[str, Any]] = []
    reduced = reduced_dtype(device.type)
    if plan.precision is None and reduced is not None:
        changes.append({"precision": str(reduced).removeprefix("torch.")})
    changes.append({"channels_last": True})
    threads = torch.get_num_threads()
    if device.type == "cpu" and threads >= FEWEST_THREADS_TO_HALVE:
        changes.append({"threads": threads // 2})
    if budget_s >= COMPILE_FROM_S:
        changes.append({"compile": True})
    return changes


def why_unsafe(plan: Plan, setting: Setting, device: torch.device) -> str | None:
    """Returns why a setting would train on wrong gradients, or None where it would not."""
    if setting.precision != "bfloat16" or device.type != "cpu":
        return None
    if is_safe_in_bfloat16(network_of(plan), plan.patch_shape):
        return None
    return f"weight gradients are wrong in bfloat16 on CPUs for feature maps as small as of patch {plan.patch_size}"


def attempts_at(plan: Plan, device: torch.device, *, seconds: float, budget_s: float) -> Attempt:
    """Returns what tries a setting for about `seconds`, compiling aside, unless it is unsafe."""
    def attempt(setting: Setting, batch_size: int) -> Trial:
        reason = why_unsafe(plan, setting, device)
        if reason is not None:
            return Trial(setting, batch_size, failure=reason)
        start_s = COMPILING_SHARE * budget_s if setting.compile else START_S
        return try_apart(plan, setting, batch_size, seconds=seconds, start_s=start_s)

    return attempt


def search(
    first: Setting, changes: list[dict[str, Any]], *, batch_size: int, memory_gib: float, budget_s: float,
    attempt: Attempt,
) -> tuple[Trial | None, list[Trial]]:
    """Returns the trial that takes most steps within the budget, or None, and all trials in order.

    The first setting finds the batch: the largest divisor of `batch_size` that fits into the memory, so that batches
    add up to the plan's. Then each change is tried upon what was best so far, and kept where it takes more steps.
    """
    trials = []
    for size in (size for size in range(batch_size, 0, -1) if batch_size % size == 0):
        trials.append(attempt(first, size))
        if _fits(trials[-1], memory_gib):
            break
        if trials[-1].failure and not trials[-1].is_out_of_memory:
            return None, trials
    best = trials[-1]
    if not _fits(best, memory_gib):
        return None, trials
    for change in changes:
        trial = attempt(replace(best.setting, **change), best.batch_size)
        trials.append(trial)
        if _fits(trial, memory_gib) and trial.steps_in(budget_s) > (1 + WORTH) * best.steps_in(budget_s):
            best = trial
    return best, trials


def _fits(trial: Trial, memory_gib: float) -> bool:
    return trial.failure is None and trial.peak_gib <= memory_gib


def try_apart(plan: Plan, setting: Setting, batch_size: int, *, seconds: float, start_s: float = START_S) -> Trial:
    """Returns what a setting comes to, measured for about `seconds` in a process of its own.

    A process that does not run, or that takes longer than that and `start_s`, is a failure of the trial.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.engine.dry_run"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(sender, plan, setting, batch_size, seconds), daemon=True)
    process.start()
    sender.close()
    limit_s = seconds + PATIENCE_S + start_s
    failed = Trial(setting, batch_size, failure=f"took longer than {limit_s:.0f} s")
    try:
        if receiver.poll(limit_s):
            trial: Trial = receiver.recv()
            process.join(ENDING_S)
            return trial
    except EOFError:  # it ended without a word: the system's way to free memory
        process.join()
        failed = replace(failed, failure=f"ended with {process.exitcode}", is_out_of_memory=process.exitcode == -9)
    finally:
        process.terminate()
        process.join(ENDING_S)
        process.kill()
        process.join()
        receiver.close()
    return failed


def _report(sender: Connection, plan: Plan, setting: Setting, batch_size: int, seconds: float) -> None:
    # Ends as if it had come to its end, so that nothing it holds outlives it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        trial = measure(plan, setting, batch_size, seconds=seconds)
    except Exception as error:
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
        memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "memory" in line.lower()
        trial = Trial(setting, batch_size, failure=f"{type(error).__name__}: {line}"[:200], is_out_of_memory=memory)
    sender.send(trial)


def measure(plan: Plan, setting: Setting, batch_size: int, *, seconds: float) -> Trial:
    """Returns what a setting comes to in this process, whose threads and allocator it sets."""
    keep_freed_memory()
    if setting.threads is not None:
        torch.set_num_threads(setting.threads)
    device = device_at_hand()
    began = perf_counter()
    step = _training_step(plan, setting, batch_size, device)
    for _ in range(WARM_UP):
        step()
    ready = perf_counter()
    times = [_timed(step)]
    while len(times) < MOST_STEPS and perf_counter() - ready < seconds + PATIENCE_S * (len(times) < FEWEST_STEPS):
        times.append(_timed(step))
    return Trial(setting, batch_size, median(times), ready - began, _peak_gib(device))


def _training_step(plan: Plan, setting: Setting, batch_size: int, device: torch.device) -> Callable[[], None]:
    """Returns what trains for one step on random patches, and has ended when it returns."""
    torch.manual_seed(plan.seed)
    channels, *spatial = plan.patch_shape
    order = torch.contiguous_format
    if setting.channels_last:
        order = torch.channels_last_3d if len(spatial) == 3 else torch.channels_last
    network = network_of(plan).to(device, memory_format=order).train()
    forward = torch.compile(network) if setting.compile else network
    image = torch.randn(batch_size, channels, *spatial, device=device)
    label = torch.randint(len(plan.labels) + 1, (batch_size, 1, *spatial), device=device)
    loss = loss_named(plan.loss, class_weights=plan.class_weights, recall_weight=plan.recall_weight, device=device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate)
    inferer = AutocastInferer(setting.precision)
    scaler = torch.amp.GradScaler(device.type, enabled=setting.precision == "float16")

    def step() -> None:
        optimizer.zero_grad()
        output = inferer(image.to(memory_format=order), forward)
        # Deep supervision stacks its heads along a second axis.
        heads = output.unbind(1) if output.ndim > image.ndim else (output,)
        scaler.scale(sum(loss(head, label) for head in heads)).backward()
        scaler.step(optimizer)
        scaler.update()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


def _timed(step: Callable[[], None]) -> float:
    began = perf_counter()
    step()
    return perf_counter() - began


def _peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved(device)) / 2**30
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
