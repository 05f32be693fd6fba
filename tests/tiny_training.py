"""A training in miniature, each run in a process of its own, so that it can be killed, stopped or spoilt on its way.

The template's own train.yaml on two cached cases: three epochs of four iterations, validated after the second and the
last, with dropout, so that the random states count as well.
"""

import multiprocessing
import os
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # optimisers import it when they are made; here the server of processes does, once
import yaml
from ignite.engine import Engine
from monai.bundle import ConfigParser

from pipeline.bundle import run_training
from pipeline.engine.cache import CachedCase, write_manifest
from pipeline.engine.ranks import process_group
from pipeline.records.errors import InputError
from pipeline.tracking.live import feeding

CONFIGS = Path(__file__).parents[1] / "bundles/segmentation/configs"
EPOCHS, EPOCH_LENGTH, BATCH = 3, 4, 2


@dataclass(frozen=True)
class Fault:
    """What befalls a training when `event` is fired in an iteration: `deed` is a signal's number, or what to spoil."""

    event: str
    iteration: int
    deed: int | str = signal.SIGKILL
    is_last: bool = False  # after all other handlers of the event instead of before
    rank: int = 0  # of several processes, which one it befalls

    def attach(self, engine: Engine) -> None:
        """Registers it with the trainer, as a handler."""
        engine.add_event_handler(next(event for event in engine._allowed_events if event.name == self.event), self)

    def __call__(self, engine: Engine) -> None:
        if engine.state.iteration != self.iteration:
            return
        if isinstance(self.deed, int):
            os.kill(os.getpid(), self.deed)
        elif self.deed == "weights":
            next(engine.network.parameters()).data.fill_(torch.inf)
        else:  # the process ends while the next checkpoint is in the file system, but not yet in its place
            os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Outcome:
    """How a process ended, and what it printed."""

    exit_code: int
    output: str


@dataclass(frozen=True)
class Training:
    """A folder with cache, bundle, history and checkpoints."""

    root: Path

    @property
    def weights(self) -> Path:
        """Where the trained weights are."""
        return self.root / "bundle/models/model.pt"

    @property
    def history(self) -> Path:
        """Where the curves are."""
        return self.root / "history.csv"

    @property
    def checkpoint(self) -> Path:
        """Where a training on a CPU goes on from."""
        return self.root / "resume/key-cpu.pt"

    def run(self, *faults: Fault, key: str = "key") -> Outcome:
        """Runs it once in a process of its own."""
        return self.run_ranks(*faults, key=key, count=1)[0]

    def run_ranks(self, *faults: Fault, count: int, key: str = "key") -> list[Outcome]:
        """Runs it once in so many processes that train together; rank r > 0 has its files in `root`/rank<r>."""
        context = multiprocessing.get_context("forkserver")
        # The server imports MONAI once; its children are forks, before any thread was started.
        context.set_forkserver_preload(["tiny_training"])
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ["PYTHONPATH"] = str(Path(__file__).parent)
        roots = [self.root, *(self.root / f"rank{rank}" for rank in range(1, count))]
        for root in roots[1:]:
            shutil.rmtree(root, ignore_errors=True)
            for part in ("cache", "bundle/configs"):
                shutil.copytree(self.root / part, root / part)
        port = _free_port() if count > 1 else 0
        # The server of processes was started before; what a test says to MLflow is passed on.
        told = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
        processes = []
        for rank, root in enumerate(roots):
            launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1",
                        "MASTER_PORT": port} if count > 1 else {}
            launched |= told
            own = [fault for fault in faults if fault.rank == rank]
            processes.append(context.Process(target=_train, args=(root, own, key, root / "log.txt", launched)))
            processes[-1].start()
        for process in processes:
            process.join()
        return [Outcome(int(process.exitcode or 0), (root / "log.txt").read_text())
                for process, root in zip(processes, roots, strict=True)]


def make_training(
    root: Path, *, dims: int = 3, interval_s: float = 0.0, validation: Sequence[str] = ("c",), **overrides: Any
) -> Training:
    """Writes cache and configuration; `interval_s` is the time between two checkpoints."""
    _write_cache(root / "cache", validation)
    config = ConfigParser.load_config_files([str(CONFIGS / name) for name in ("common.yaml", "train.yaml")])
    config |= {
        "spatial_dims": dims, "slice_axis": None if dims == 3 else 2, "patch_size": [16, 16, 16 if dims == 3 else 1],
        "network_def": {"_target_": "UNet", "spatial_dims": dims, "in_channels": 1, "out_channels": 2,
                        "channels": [4, 8], "strides": [2], "norm": "instance", "dropout": 0.2},
        "batch_size": BATCH, "iterations": EPOCHS * EPOCH_LENGTH, "epochs": EPOCHS, "validate_every": 2, "seed": 5,
    } | overrides
    config["train"]["checkpoints"]["interval_s"] = interval_s
    (root / "bundle/configs").mkdir(parents=True)
    (root / "bundle/configs/train.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    inference = ConfigParser.load_config_files([str(CONFIGS / name) for name in ("common.yaml", "inference.yaml")])
    (root / "bundle/configs/inference.yaml").write_text(yaml.safe_dump(inference, sort_keys=False))
    for name in ("metadata.json", "logging.conf"):  # MONAI complains where they are missing
        shutil.copyfile(CONFIGS / name, root / "bundle/configs" / name)
    return Training(root)


def _write_cache(folder: Path, validation: Sequence[str]) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    cases = [CachedCase(name, "train", folder, "", "") for name in ("a", "b")]
    cases += [CachedCase(name, "validation", folder, "", "") for name in validation]
    for case in cases:
        label = np.zeros((20, 18, 16), dtype=np.uint8)
        label[4:12, 5:12, 4:10] = 1
        np.save(folder / f"{case.case_id}.label.npy", label)
        image = (label + 0.3 * rng.standard_normal(label.shape)).astype(np.float32)
        np.save(folder / f"{case.case_id}.image.npy", image)
    write_manifest(folder, cases)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _train(root: Path, faults: Sequence[Fault], key: str, log: Path, launched: dict[str, object]) -> None:
    os.environ |= {name: str(value) for name, value in launched.items()}
    config = root / "bundle/configs/train.yaml"
    overrides = {"dataset_dir": str(root / "cache"), "history_file": str(root / "history.csv"),
                 "resume_file": str(root / "resume" / key)}
    with log.open("w") as stream, redirect_stdout(stream), redirect_stderr(stream):
        if faults:
            content = yaml.safe_load(config.read_text())
            # By reference: the parser leaves objects that are no configuration alone.
            sys.modules["tiny_training_faults"] = type(sys)("tiny_training_faults")
            handlers = content["train"]["handlers"]
            for number, fault in enumerate(faults):
                setattr(sys.modules["tiny_training_faults"], f"make_{number}", lambda fault=fault: fault)
                handlers.insert(len(handlers) if fault.is_last else 0,
                                {"_target_": f"tiny_training_faults.make_{number}"})
            overrides["train#handlers"] = handlers
        try:
            with process_group(), feeding(yaml.safe_load(config.read_text())["tracking_run_id"]):
                run_training(root / "bundle", overrides=overrides)
        except InputError as error:  # as the command line does
            print(f"error: {error}")
            raise SystemExit(1) from error
