"""How fast a training is, and for how much of its time the network works instead of waiting for patches."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from tqdm import tqdm

from pipeline.engine.ranks import ranks

Publish = Callable[[dict[str, float], int], None]
Clock = Callable[[], float]


class Timer(Protocol):
    """Marks moments, and says later how far apart two of them were."""

    def mark(self) -> Any:
        """Returns this moment."""

    def between(self, start: Any, end: Any) -> float:
        """Returns the seconds from one moment to another."""


class HostTimer:
    """Moments of the host's clock, in seconds."""

    def __init__(self, clock: Clock) -> None:
        self.mark = clock

    def between(self, start: float, end: float) -> float:
        """Returns the seconds from one moment to another."""
        return end - start


class GpuTimer:
    """Moments in a GPU's queue of work: marking them waits for nothing, asking how far apart they are does."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def mark(self) -> torch.cuda.Event:
        """Returns the moment at which the GPU has done all that it was asked for until now."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def between(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Returns the seconds from one moment to another, after waiting for the latter."""
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000  # of milliseconds


@dataclass
class Measured:
    """What was counted over some time of training: its seconds, those in the network, and patches."""

    total_s: float = 0.0
    network_s: float = 0.0
    patches: int = 0

    @property
    def patches_per_second(self) -> float:
        """Patches in a second of training."""
        return self.patches / self.total_s

    @property
    def network_share(self) -> float:
        """The network's part of the training time, 0 to 1."""
        return min(1.0, self.network_s / self.total_s)  # two clocks may differ by a little

    def add(self, other: "Measured") -> None:
        """Counts another time as well."""
        self.total_s += other.total_s
        self.network_s += other.network_s
        self.patches += other.patches


class Throughput:
    """Ignite handler: each epoch's speed to `publish`, and that of all of them as a line when training is over.

    `patches_per_second` counts the patches of all ranks. `network_share`, 0 to 1, is the part of the training time that
    this rank spends in forward, loss, backward and optimiser step, ranks' waiting for each other included; in the rest
    it waits for data, augments, and averages weights. Training time is the wall time from each request for a batch to
    the end of its iteration, so that validation and checkpoints are not in it.

    A GPU works behind the host, which meets it wherever something is copied: the host's clock would take that wait for
    augmentation. So the network's time is that between two marks in the GPU's queue, read when the epoch is over; the
    host then waits for the last iteration, which is training time, too.

    Nothing of this is a function of the data: it goes to no file. Attach it after what belongs to an iteration and
    before what validates. A resumed training counts from where it goes on.

    Args:
        device: that trains.
        publish: gets the numbers of each epoch, at its last optimiser step.
        accumulation: iterations that make a step.
        clock: of the host, in seconds.
    """

    def __init__(
        self, *, device: torch.device, publish: Publish, accumulation: int = 1, clock: Clock = time.perf_counter
    ) -> None:
        self.publish = publish
        self.accumulation = accumulation
        self.clock = clock
        self.timer: Timer = GpuTimer(device) if device.type == "cuda" else HostTimer(clock)
        self.asked_at_s = 0.0
        self.entered: Any = None  # a mark of `timer`
        self.in_network: list[tuple[Any, Any]] = []  # in the running epoch
        self.epoch = Measured()
        self.training = Measured()

    def attach(self, engine: Engine) -> None:
        """Registers the handler with the trainer, whose `prepare_batch` from now on says when it is done."""
        prepare = engine.prepare_batch

        def prepare_and_mark(*args: Any, **kwargs: Any) -> Any:
            batch = prepare(*args, **kwargs)
            self.entered = self.timer.mark()
            return batch

        engine.prepare_batch = prepare_and_mark
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._ask)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self._leave_network)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end_iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.COMPLETED, self._tell)

    def _ask(self, _: Engine) -> None:
        self.asked_at_s = self.clock()

    def _leave_network(self, _: Engine) -> None:
        self.in_network.append((self.entered, self.timer.mark()))

    def _end_iteration(self, engine: Engine) -> None:
        self.epoch.total_s += self.clock() - self.asked_at_s
        self.epoch.patches += len(engine.state.batch["image"]) * ranks()

    def _end_epoch(self, engine: Engine) -> None:
        if not self.in_network:
            return  # a resumed training has validation left to do
        read_at_s = self.clock()
        self.epoch.network_s = sum(self.timer.between(start, end) for start, end in self.in_network)
        self.epoch.total_s += self.clock() - read_at_s
        self.training.add(self.epoch)
        values = {"patches_per_second": self.epoch.patches_per_second, "network_share": self.epoch.network_share}
        self.publish(values, engine.state.iteration // self.accumulation)
        self.in_network, self.epoch = [], Measured()

    def _tell(self, _: Engine) -> None:
        if self.training.patches:
            with tqdm.external_write_mode():  # around a bar, where there is one
                print(f"training: {self.training.network_share:.0%} of {_short(self.training.total_s)} s in the "
                      f"network, {_short(self.training.patches_per_second)} patches a second", flush=True)


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.1f}"
