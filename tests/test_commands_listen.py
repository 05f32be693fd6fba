"""listen: what the command line means, what it refuses, and that asking for it is quick."""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.archive.peers import Address
from pipeline.archive.sender import DicomDestination, StowDestination
from pipeline.archive.spool import GIB, SpoolLimits
from pipeline.archive.stopping import stop_on_signals
from pipeline.commands import listen
from pipeline.records.errors import InputError

NEEDED = ("--bundle", "models/x", "--spool", "spool")
BY_STORE = (*NEEDED, "--send-to", "PACS@10.0.0.5:104")


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    listen.add_arguments(parser)
    return parser.parse_args(words)


def refusal(*words: str) -> InputError:
    with pytest.raises(InputError) as caught:
        listen.settings_of(parsed(*words))
    assert "\n" not in str(caught.value)
    return caught.value


def test_loopback_and_limits_by_default() -> None:
    settings = listen.settings_of(parsed(*BY_STORE))
    door = settings.door
    assert (door.host, door.port, door.title, dict(door.peers.networks)) == ("127.0.0.1", 11112, "SEGLINE", {})
    assert (settings.spool, settings.limits) == (Path("spool"), SpoolLimits(100, 5 * GIB, 0))
    assert (settings.quiet_seconds, settings.retry_failed, door.associations) == (10.0, False, 4)


def test_all_that_can_be_said() -> None:
    settings = listen.settings_of(parsed(
        *BY_STORE, "--host", "0.0.0.0", "--port", "104", "--ae-title", "LIVER", "--allow", "CT1,MR1", "--keep", "3",
        "--quiet-seconds", "2.5", "--max-associations", "2", "--max-studies", "7", "--min-free-gib", "0.5", "--retry"))
    door = settings.door
    assert (door.host, door.port, door.title, door.associations) == ("0.0.0.0", 104, "LIVER", 2)
    assert dict(door.peers.networks) == {"CT1": None, "MR1": None}
    assert settings.limits == SpoolLimits(7, GIB // 2, 3)
    assert (settings.quiet_seconds, settings.retry_failed) == (2.5, True)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "pacs.local", ""])
def test_an_open_door_needs_a_list_of_senders(host: str, tmp_path: Path) -> None:
    assert refusal(*BY_STORE, "--host", host).reason == "open-door"
    (tmp_path / "peers.yaml").write_text("CT1: 10.0.0.5\n")
    listen.settings_of(parsed(*BY_STORE, "--host", host, "--peers", str(tmp_path / "peers.yaml")))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.5.0.1", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    assert listen.settings_of(parsed(*BY_STORE, "--host", host)).door.host == host


@pytest.mark.parametrize(("words", "reason"), [
    (("--allow", ""), "odd-ae-title"), (("--ae-title", "A\\B"), "odd-ae-title"), (("--port", "70000"), "odd-number"),
    (("--max-studies", "0"), "odd-number"), (("--keep", "-1"), "odd-number"),
    (("--quiet-seconds", "nan"), "odd-number"), (("--min-free-gib", "inf"), "odd-number"),
])
def test_what_cannot_be_meant(words: tuple[str, ...], reason: str) -> None:
    assert refusal(*BY_STORE, *words).reason == reason


def test_where_results_go() -> None:
    assert listen.destination_of(parsed(*BY_STORE, "--ae-title", "LIVER")) == DicomDestination(
        Address("PACS", "10.0.0.5", 104), "LIVER")
    stow = parsed(*NEEDED, "--stow", "http://127.0.0.1:8042/dicom-web/")
    assert listen.destination_of(stow) == StowDestination("http://127.0.0.1:8042/dicom-web")


@pytest.mark.parametrize("words", [
    NEEDED, (*BY_STORE, "--stow", "http://x/y"), (*BY_STORE, "--allow", "A", "--peers", "p.yaml"), BY_STORE[2:],
])
def test_arguments_that_are_missing_or_too_many(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed(*words)
    assert caught.value.code == 2


def test_a_folder_without_a_bundle_is_named_before_anything_listens(tmp_path: Path) -> None:
    words = ("--bundle", str(tmp_path), "--spool", str(tmp_path / "spool"), "--send-to", "PACS@127.0.0.1:104")
    # In a process of its own: it changes what libraries may log, and the mask of new files.
    code = """
import argparse, sys
from pipeline.commands import listen
parser = argparse.ArgumentParser()
listen.add_arguments(parser)
listen.run(parser.parse_args(sys.argv[1:]))
"""
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert "InputError" in done.stderr.splitlines()[-1]
    assert "no configs/inference.yaml" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "spool").exists()


def test_asking_for_it_does_not_import_torch() -> None:
    code = "import sys, pipeline.commands.listen; print('torch' in sys.modules, 'monai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_without_the_package_for_archives_it_says_which_one() -> None:
    code = "import sys; sys.modules['pynetdicom'] = None; import pipeline.commands.listen"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr == "error: pynetdicom is not installed; run `pip install 'segline[archive]'`\n"


def test_the_first_signal_asks_and_the_second_one_interrupts() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        stop = stop_on_signals()
        assert not stop.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(30.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
