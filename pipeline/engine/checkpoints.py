"""What a killed training goes on from: its whole state in one file, written now and then and when it has to stop."""

import os
import random
import signal
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch.utils.data import Sampler

from pipeline.engine.ranks import highest, is_writer, of_all_ranks, of_rank_0, rank, ranks
from pipeline.records.errors import InputError
from pipeline.records.files import remove_unfinished, written_aside

STOPPING = (signal.SIGTERM, signal.SIGINT)
# Steps on GPUs between two questions to all ranks whether to stop or to save: each makes the hosts wait for them.
AGREE_EVERY = 10


class Resumable(Protocol):
    """A part of a training that can hand over its state: tensors, numbers, texts, and lists and dicts of them."""

    def state_dict(self) -> dict[str, Any]:
        """Returns the state."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Takes a state over."""


class PatchOrder(Sampler[int]):
    """Patch numbers in order: iteration k (from 0) takes ``batch_size`` from ``k * batch_size`` on.

    Of N processes, each takes its share: rank r the ``batch_size`` from ``(k * N + r) * batch_size`` on. What a patch
    is depends on its number alone, so `first_iteration` is all that a resumed training has to set.

    Args:
        length: patches of the whole training, of all processes.
        batch_size: patches of one process in an iteration.
        processes: that train together.

    Raises:
        InputError: ``other-processes``: they are not as many as this process is among.
    """

    def __init__(self, length: int, *, batch_size: int, processes: int = 1) -> None:
        if processes != ranks():
            raise InputError("train.yaml", found=f"`processes: {processes}`, in a training of {ranks()}",
                             wanted="the same number", reason="other-processes",
                             remedy="start it with `python -m pipeline train --processes N`")
        self.length = length
        self.batch_size = batch_size
        self.processes = processes
        self.first_iteration = 0

    def __iter__(self) -> Iterator[int]:
        together = self.processes * self.batch_size
        for first in range(self.first_iteration * together + rank() * self.batch_size, self.length, together):
            yield from range(first, min(first + self.batch_size, self.length))

    def __len__(self) -> int:
        return self.length // self.processes - self.first_iteration * self.batch_size


class Checkpoints:
    """Ignite handler: writes the state of a training between two iterations, and goes on from it at the next start.

    Besides the `parts` it keeps the trainer's iteration, the gradient scaler, and the random states of Python, NumPy,
    torch and CUDA. Attach it last, so that a state never lacks what other handlers do after the same iteration. A
    state with a number that is not finite is not written, so the last good one stays. A file that cannot be read is
    named and left aside; one that cannot be written is named, and training goes on.

    Of several ranks, all agree when to save and to stop, rank 0 writes and reads, and each gets its own random states
    back. Iterations are kept as optimiser steps: a training may go on with another `accumulation`.

    Args:
        stem: of the checkpoint's path, one for each state of data, code and configuration; ``-<device type>.pt`` is
            added, of N > 1 ranks ``-<device type>-<N>.pt``. None: no checkpoints.
        device: what is trained on; results of different kinds of device differ.
        parts: what has a state, by name.
        order: of the patches; it is set to the iteration that comes next.
        accumulation: iterations that make an optimiser's step; only between two steps is the state whole.
        evaluator: what validates between two epochs; asked to stop, it does not come to its end. Of several ranks,
            which have not equally much to validate, it does.
        interval_s: seconds between two checkpoints; 0 writes one after each iteration.
    """

    def __init__(self, stem: str | None, *, device: torch.device, parts: Mapping[str, Resumable], order: PatchOrder,
                 accumulation: int = 1, evaluator: Engine | None = None, interval_s: float = 60.0) -> None:
        count = f"-{ranks()}" if ranks() > 1 else ""
        self.path = None if stem is None else Path(f"{stem}-{device.type}{count}.pt")
        self.device = device
        self.parts = parts
        self.order = order
        self.accumulation = accumulation
        self.evaluator = evaluator
        self.interval_s = interval_s
        self.saved_step = 0
        self.saved_at_s = time.monotonic()
        self.signal: int | None = None
        self.is_stopped = False

    def attach(self, engine: Engine) -> None:
        """Registers the handler with the trainer."""
        if self.path is not None:
            engine.add_event_handler(Events.STARTED, self._go_on)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_iteration)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._after_epoch)
            if self.evaluator is not None and ranks() == 1:
                self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._during_validation, engine)

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """Lets SIGTERM and SIGINT end the training after the running iteration; a second one ends it at once.

        Raises:
            SystemExit: the training was stopped so; the code is 128 and the signal's number.
        """
        if self.path is None:
            yield
            return

        def note(number: int, _: object) -> None:
            self.signal = number
            if is_writer():
                print("stopping after this iteration; again: at once, back to the last checkpoint", file=sys.stderr,
                      flush=True)
            signal.signal(number, before[signal.Signals(number)])

        before = {number: signal.signal(number, note) for number in STOPPING}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.is_stopped and self.signal is not None:
            raise SystemExit(128 + self.signal)

    def _go_on(self, engine: Engine) -> None:
        path, state = self._path(), None
        if is_writer():
            remove_unfinished(path.parent)
            state = _read(path)
        state = of_rank_0(state)
        if state is not None:
            self._restore(engine, state)
            print(f"training goes on from iteration {self.saved_step} of {self._length(engine)}", flush=True)
            if state["is_epoch_open"]:
                # Validation and the epoch's row are all that is left of it.
                engine.fire_event(Events.EPOCH_COMPLETED)
        self.saved_at_s = time.monotonic()

    def _after_iteration(self, engine: Engine) -> None:
        self._save_if_due(engine, is_epoch_open=engine.state.iteration % engine.state.epoch_length == 0)

    def _after_epoch(self, engine: Engine) -> None:
        if not self.is_stopped:
            self._save_if_due(engine, is_epoch_open=False)

    def _during_validation(self, evaluator: Engine, trainer: Engine) -> None:
        """Leaves a validation, which changed nothing yet: the epoch is as open as before it."""
        if self.signal is not None:
            self._save(trainer, is_epoch_open=True)
            evaluator.terminate()
            self._stop(trainer)

    def _save_if_due(self, engine: Engine, *, is_epoch_open: bool) -> None:
        if engine.state.iteration % self.accumulation or not self._may_ask(engine):
            return
        is_due = time.monotonic() - self.saved_at_s >= self.interval_s
        number, is_due_somewhere = highest([self.signal or 0, int(is_due and is_writer())])
        if number or is_due_somewhere:
            self._save(engine, is_epoch_open=is_epoch_open)
            self.saved_at_s = time.monotonic()
        if number:
            self.signal = number
            self._stop(engine)

    def _may_ask(self, engine: Engine) -> bool:
        """Returns whether it is time, after a step, to ask the other ranks."""
        if ranks() == 1 or self.device.type == "cpu":
            return True
        iteration = engine.state.iteration
        return bool(iteration // self.accumulation % AGREE_EVERY == 0 or iteration % engine.state.epoch_length == 0)

    def _stop(self, engine: Engine) -> None:
        self.is_stopped = True
        engine.terminate(skip_completed=True)
        if is_writer():
            print(f"training stopped; the same command goes on from iteration {self.saved_step} of "
                  f"{self._length(engine)}", file=sys.stderr, flush=True)

    def _length(self, engine: Engine) -> int:
        return int(engine.state.max_epochs * engine.state.epoch_length) // self.accumulation

    def _save(self, engine: Engine, *, is_epoch_open: bool) -> None:
        parts = {name: part.state_dict() for name, part in self._all_parts(engine).items()}
        state = {"parts": parts, "is_epoch_open": is_epoch_open, "accumulation": self.accumulation,
                 "random": of_all_ranks(_random_state(self.device))}
        if not is_writer() or not _is_finite(parts):  # if not finite, the next loss tells
            return
        try:
            with written_aside(self._path()) as aside, aside.open("wb") as stream:
                torch.save(state, stream)
                stream.flush()
                os.fsync(stream.fileno())  # before the rename: a power cut leaves the old file or the new one
        except (OSError, RuntimeError) as error:  # a full disk is either
            print(f"{self.path}: no checkpoint ({_first_line(error)}); training goes on", file=sys.stderr, flush=True)
        else:
            self.saved_step = engine.state.iteration // self.accumulation

    def _restore(self, engine: Engine, state: dict[str, Any]) -> None:
        trainer, before = state["parts"]["trainer"], state["accumulation"]
        for key in ("iteration", "epoch_length"):
            trainer[key] = trainer[key] // before * self.accumulation
        for name, part in self._all_parts(engine).items():
            part.load_state_dict(state["parts"][name])
        self.order.first_iteration = engine.state.iteration
        self.saved_step = engine.state.iteration // self.accumulation
        _set_random_state(state["random"][rank()])

    def _all_parts(self, engine: Engine) -> dict[str, Resumable]:
        scaler = getattr(engine, "scaler", None)  # made when a trainer with mixed precision starts
        return {**self.parts, "trainer": engine} | ({"scaler": scaler} if scaler is not None else {})

    def _path(self) -> Path:
        assert self.path is not None, "no handler is registered without a path"
        return self.path


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not look at the checksums
            if archive.testzip() is not None:
                raise ValueError("a checksum differs")
        return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
    except Exception as error:  # whatever is wrong with the file, training from the start is right
        print(f"{path}: damaged checkpoint ({_first_line(error)}); training starts anew", file=sys.stderr, flush=True)
        return None


def _is_finite(state: Any) -> bool:
    if isinstance(state, torch.Tensor):
        return bool(torch.isfinite(state).all())
    values = state.values() if isinstance(state, Mapping) else state if isinstance(state, (list, tuple)) else ()
    return all(_is_finite(value) for value in values)


def _random_state(device: torch.device) -> dict[str, Any]:
    """Returns the state of this process's global generators, as types that `torch.load(weights_only=True)` reads."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if device.type == "cuda" else None,
    }


def _set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
