import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from pipeline.engine import launch as module
from pipeline.engine.launch import START_AGAIN, launch


def test_a_failing_command_fails_as_it_does_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    interrupted = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as caught:
        launch(["audit", "--experiment", "livr"], processes=2)
    assert caught.value.code == 1
    assert signal.getsignal(signal.SIGINT) is interrupted
    said = capfd.readouterr().err
    assert "error: configs/livr/data.yaml: no such file" in said
    assert "Traceback" not in said


def ends(monkeypatch: pytest.MonkeyPatch, *ends: Exception | None) -> list[Sequence[str]]:
    """Makes each start of the processes end so; returns the starts, which grow."""
    starts: list[Sequence[str]] = []

    def elastic_launch(_: object, program: str) -> Callable[..., None]:
        def start(*words: str) -> None:
            starts.append(words)
            error = ends[len(starts) - 1]
            if error is not None:
                raise error

        return start

    monkeypatch.setattr(module, "elastic_launch", elastic_launch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return starts


def failed(*codes: int) -> ChildFailedError:
    failures = {number: SimpleNamespace(exitcode=code, timestamp=0, local_rank=number, pid=1, error_file="",
                                        message="", signal_name=lambda: "", timestamp_isoformat=lambda: "",
                                        error_file_data={}) for number, code in enumerate(codes)}
    error = ChildFailedError.__new__(ChildFailedError)
    error.failures = failures
    return error


def test_where_a_process_asks_for_it_all_are_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = ends(monkeypatch, failed(-signal.SIGTERM, START_AGAIN), failed(1, START_AGAIN), None)
    launch(["train", "--experiment", "x"], processes=2)
    assert starts == [("-m", "pipeline", "train", "--experiment", "x")] * 3


@pytest.mark.parametrize(("end", "code"), [
    (failed(1, -signal.SIGTERM), 1), (failed(-signal.SIGKILL), 1), (failed(143, 143), 143),
    (SignalException("", signal.SIGTERM), 143), (SignalException("", signal.SIGINT), 130),
], ids=["an error", "killed", "stopped by itself", "stopped", "interrupted"])
def test_the_exit_code_says_how_it_ended(monkeypatch: pytest.MonkeyPatch, end: Exception, code: int) -> None:
    ends(monkeypatch, end)
    with pytest.raises(SystemExit) as caught:
        launch(["train"], processes=2)
    assert caught.value.code == code


def test_the_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    ends(monkeypatch, None)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(module.torch, "get_num_threads", lambda: 7)
    launch(["train"], processes=2)
    assert os.environ["OMP_NUM_THREADS"] == "3"
