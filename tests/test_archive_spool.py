"""The spool: what was received is on disk in exactly one state, through restarts, late images and full disks."""

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_archive import NO_LIMITS, names_below

from pipeline.archive import spool as spool_module
from pipeline.archive.spool import Spool, SpoolFullError, SpoolLimits
from pipeline.records.errors import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def received(spool: Spool, study: str, **images: bytes) -> None:
    for name, content in images.items():
        spool.store(study, f"{name}.dcm", [content[:1], content[1:]])


def work_begun(root: Path, **limits: int) -> Spool:
    """Returns a spool in which study s with image a is being worked on."""
    spool = Spool(root, limits=SpoolLimits(**{"free_bytes": 0, **limits}))
    received(spool, "s", a=b"first")
    spool.close("s")
    assert spool.take() == "s"
    return spool


def images_in(spool: Spool, study: str, state: spool_module.State) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in spool.images(study, state).iterdir()}


def states_of(spool: Spool, study: str) -> list[str]:
    return [state for state in spool_module.STATES if study in spool.studies(state)]


def test_a_study_goes_through_its_states(root: Path) -> None:
    with Spool(root, limits=NO_LIMITS) as spool:
        received(spool, "s", a=b"first", b=b"second")
        assert states_of(spool, "s") == ["incoming"]
        assert spool.take() is None
        spool.close("s")
        assert states_of(spool, "s") == ["ready"]
        assert spool.take() == "s"
        assert states_of(spool, "s") == ["working"]
        assert images_in(spool, "s", "working") == {"a": b"first", "b": b"second"}
        assert spool.finish("s")
        assert states_of(spool, "s") == []
    assert names_below(root) == ["aside", "failed", "incoming", "ready", "sent", "working"]


def test_only_the_owner_can_read(root: Path) -> None:
    mask = os.umask(0)
    try:
        with Spool(root, limits=NO_LIMITS) as spool:
            received(spool, "s", a=b"x")
    finally:
        os.umask(mask)
    modes = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")]}
    assert modes == {True: 0o700, False: 0o600}


def test_the_same_object_twice_is_kept_once_as_it_came_last(root: Path) -> None:
    with Spool(root, limits=NO_LIMITS) as spool:
        received(spool, "s", a=b"old")
        received(spool, "s", a=b"new")
        assert images_in(spool, "s", "incoming") == {"a": b"new"}


def test_the_study_that_waited_longest_comes_first(root: Path) -> None:
    with Spool(root, limits=NO_LIMITS) as spool:
        for study, second in (("a", 30), ("b", 10), ("c", 20)):
            received(spool, study, x=b"x")
            spool.close(study)
            os.utime(spool.images(study, "ready"), (second, second))
        assert [spool.take(), spool.take(), spool.take(), spool.take()] == ["b", "c", "a", None]


def test_a_failed_study_is_kept_with_its_reason(root: Path) -> None:
    with work_begun(root) as spool:
        assert spool.finish("s", {"failures": ["tilt"]})
        assert states_of(spool, "s") == ["failed"]
        assert json.loads((root / "failed/s/reason.json").read_text()) == {"failures": ["tilt"]}
        assert images_in(spool, "s", "failed") == {"a": b"first"}


def test_the_last_sent_studies_are_kept(root: Path) -> None:
    with work_begun(root, kept=2) as spool:
        kept = []
        for second, study in enumerate(("s", "t", "u")):
            if study != "s":
                received(spool, study, x=b"x")
                spool.close(study)
                assert spool.take() == study
            spool.finish(study)
            os.utime(root / "sent" / study, (second, second))
            kept.append(spool.studies("sent"))
    assert kept == [("s",), ("s", "t"), ("t", "u")]


# --- late images


def test_images_that_come_during_the_work_let_all_of_it_wait_anew(root: Path) -> None:
    with work_begun(root) as spool:
        received(spool, "s", b=b"late")
        assert spool.finish("s") is False
        assert states_of(spool, "s") == ["incoming"]
        spool.close("s")
        assert images_in(spool, "s", "ready") == {"a": b"first", "b": b"late"}


def test_images_that_came_completely_during_the_work(root: Path) -> None:
    with work_begun(root) as spool:
        (root / "working/s/progress.json").write_text("{}")
        received(spool, "s", a=b"sent again", b=b"late")
        spool.close("s")
        assert states_of(spool, "s") == ["ready", "working"]
        assert spool.finish("s") is False
        assert states_of(spool, "s") == ["ready"]
        assert images_in(spool, "s", "ready") == {"a": b"sent again", "b": b"late"}
        assert not (root / "ready/s/progress.json").exists(), "what was known of the smaller study"


def test_images_after_a_study_was_sent_and_deleted_are_a_study_of_their_own(root: Path) -> None:
    with work_begun(root) as spool:
        spool.finish("s")
        received(spool, "s", b=b"late")
        spool.close("s")
        assert images_in(spool, "s", "ready") == {"b": b"late"}


@pytest.mark.parametrize(("failure", "state"), [(None, "sent"), ({"failures": []}, "failed")])
def test_images_after_a_study_that_is_kept_join_it(root: Path, failure: dict[str, object] | None, state: str) -> None:
    with work_begun(root, kept=1) as spool:
        spool.finish("s", failure)
        assert states_of(spool, "s") == [state]
        received(spool, "s", b=b"late")
        spool.close("s")
        assert states_of(spool, "s") == ["ready"]
        assert names_below(root / "ready/s") == ["images", "images/a.dcm", "images/b.dcm"]


def test_a_study_of_which_more_arrives_is_not_taken(root: Path) -> None:
    with Spool(root, limits=NO_LIMITS) as spool:
        received(spool, "s", a=b"x")
        spool.close("s")
        received(spool, "s", b=b"y")
        assert spool.take() is None
        spool.close("s")
        assert spool.take() == "s"
        assert images_in(spool, "s", "working") == {"a": b"x", "b": b"y"}


# --- restarts


def test_a_restart_puts_work_back_and_keeps_all_else(root: Path) -> None:
    with work_begun(root) as spool:
        (root / "working/s/progress.json").write_text("{}")
        received(spool, "t", x=b"x")
        (root / "aside/half").write_bytes(b"hal")
        (root / "aside/deleted").mkdir()
    with Spool(root, limits=NO_LIMITS) as spool:
        assert (states_of(spool, "s"), states_of(spool, "t")) == (["ready"], ["incoming"])
        assert images_in(spool, "s", "ready") == {"a": b"first"}
        assert (root / "ready/s/progress.json").exists()
        assert list((root / "aside").iterdir()) == []


def test_a_restart_after_a_kill_between_two_moves(root: Path) -> None:
    with Spool(root, limits=NO_LIMITS) as spool:
        received(spool, "s", a=b"old", b=b"old")
        spool.close("s")
        # Of the images that were to join the new one, the first was moved before the kill.
        received(spool, "s", a=b"old", c=b"new")
        (root / "ready/s/images/a.dcm").unlink()
    with Spool(root, limits=NO_LIMITS) as spool:
        assert spool.take() is None
        spool.close("s")
        assert images_in(spool, "s", "ready") == {"a": b"old", "b": b"old", "c": b"new"}


def test_a_restart_after_a_kill_before_the_first_image(root: Path) -> None:
    with Spool(root, limits=NO_LIMITS):
        (root / "incoming/s").mkdir(mode=0o700)
    with Spool(root, limits=NO_LIMITS) as spool:
        spool.close("s")
        assert spool.take() == "s"


@pytest.mark.parametrize(("is_asked", "states"), [(True, ["ready"]), (False, ["failed"])])
def test_failed_studies_wait_again_only_when_asked(root: Path, is_asked: bool, states: list[str]) -> None:
    with work_begun(root) as spool:
        spool.finish("s", {"failures": []})
    with Spool(root, limits=NO_LIMITS, retry_failed=is_asked) as spool:
        assert states_of(spool, "s") == states
        assert (root / "ready/s/reason.json").exists() is False


# --- limits


def test_more_studies_than_the_spool_may_hold(root: Path) -> None:
    with work_begun(root, studies=2) as spool:
        received(spool, "t", a=b"x")
        with pytest.raises(SpoolFullError):
            received(spool, "u", a=b"x")
        received(spool, "t", b=b"a study that has begun is taken to its end")
        received(spool, "s", b=b"and so is one at work")
        assert states_of(spool, "u") == []
        assert list((root / "aside").iterdir()) == []
        assert spool.finish("s") is False
        spool.close("s")
        spool.take()
        assert spool.finish("s")
        received(spool, "u", a=b"x")


def test_less_free_space_than_asked_for(root: Path) -> None:
    with Spool(root, limits=SpoolLimits(free_bytes=1 << 62)) as spool, pytest.raises(SpoolFullError):
        received(spool, "s", a=b"x")


@pytest.mark.parametrize(("number", "expected"), [(errno.ENOSPC, SpoolFullError), (errno.EIO, OSError)])
def test_a_write_that_fails_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch, number: int,
                                           expected: type[Exception]) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(number, "no")

    with Spool(root, limits=NO_LIMITS) as spool:
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(expected):
            received(spool, "s", a=b"x")
        assert names_below(root) == ["aside", "failed", "incoming", "ready", "sent", "working"]


# --- whose spool it is


def test_two_processes_cannot_share_a_spool(root: Path) -> None:
    with Spool(root, limits=NO_LIMITS):
        with pytest.raises(InputError) as caught:
            Spool(root, limits=NO_LIMITS)
        assert caught.value.reason == "spool-in-use"
    Spool(root, limits=NO_LIMITS).__exit__(None, None, None)


def make_readable(root: Path) -> None:
    root.mkdir()
    root.chmod(0o755)


def make_link(root: Path) -> None:
    (root.parent / "elsewhere").mkdir(mode=0o700)
    root.symlink_to(root.parent / "elsewhere")


def make_linked_state(root: Path) -> None:
    root.mkdir(mode=0o700)
    (root.parent / "elsewhere").mkdir(mode=0o700)
    (root / "incoming").symlink_to(root.parent / "elsewhere")


@pytest.mark.parametrize("make", [make_readable, make_link, make_linked_state, Path.touch])
def test_a_place_that_is_not_private(root: Path, make: Callable[[Path], None]) -> None:
    make(root)
    with pytest.raises(InputError) as caught:
        Spool(root, limits=NO_LIMITS)
    assert caught.value.reason == "not-private"
