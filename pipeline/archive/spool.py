"""Received studies on disk: states are folders, changes of state are renames.

```
spool/incoming/<study>/images/   being received
spool/ready/<study>/images/      complete, waits for its turn
spool/working/<study>/           being segmented and sent: images/, output/, progress.json
spool/sent/<study>/              done; deleted but for the last few
spool/failed/<study>/            kept, with reason.json
spool/aside/                     what is being written or deleted
```

Names of studies and images are keyed pseudonyms of their UIDs. One process owns a spool.
"""

import errno
import fcntl
import os
import secrets
import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pipeline.archive.private_files import make_private_folder, move, sync_folder, write_private, write_private_json
from pipeline.records.errors import InputError

State = Literal["incoming", "ready", "working", "sent", "failed"]
STATES: tuple[State, ...] = ("incoming", "ready", "working", "sent", "failed")
WAITING: tuple[State, ...] = ("incoming", "ready", "working")
IMAGES = "images"
REASON = "reason.json"
GIB = 1 << 30


class SpoolFullError(Exception):
    """The spool takes nothing more for now."""


@dataclass(frozen=True)
class SpoolLimits:
    """What the spool may hold.

    Attributes:
        studies: that wait or are being worked on; one that has begun to arrive is taken to its end.
        free_bytes: that stay free on the disk.
        kept: studies that were sent and are not yet deleted.
    """

    studies: int = 100
    free_bytes: int = 5 * GIB
    kept: int = 0


class Spool:
    """The states of received studies below `root`.

    Args:
        root: a folder of this user alone; made if missing.
        limits: beyond which nothing new is taken.
        retry_failed: whether failed studies wait again.

    Raises:
        InputError: ``not-private``, or ``spool-in-use`` where another process owns it.
    """

    def __init__(self, root: Path, *, limits: SpoolLimits | None = None, retry_failed: bool = False) -> None:
        self.root = root
        self.limits = limits or SpoolLimits()
        self._lock = threading.RLock()
        make_private_folder(root)
        self._owner = _owned(root)
        for name in (*STATES, "aside"):
            make_private_folder(root / name)
        self._recover(retry_failed=retry_failed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        os.close(self._owner)

    def store(self, study: str, image: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Keeps one received object, on disk when this returns; the same object again takes the first one's place.

        Raises:
            SpoolFullError: a limit is reached, or the disk is full.
        """
        self._refuse_if_full(study)
        aside = self._aside()
        try:
            write_private(aside, pieces)
            with self._lock:
                self._refuse_if_full(study)
                make_private_folder(self.images(study, "incoming"))
                move(aside, self.images(study, "incoming") / image)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise SpoolFullError("no space left") from error
            raise
        finally:
            aside.unlink(missing_ok=True)

    def close(self, study: str) -> None:
        """Makes a study that arrived completely wait for its turn, together with what came of it earlier."""
        with self._lock:
            for state in ("ready", "failed", "sent"):
                self._gather(study, state, into="incoming")
            move(self.folder(study, "incoming"), self.folder(study, "ready"))

    def take(self) -> str | None:
        """Returns the study that has waited longest, now being worked on; or None.

        A study of which more is arriving is left until it is complete.
        """
        with self._lock:
            waiting = [study for study in self.studies("ready") if not self.folder(study, "incoming").exists()]
            if not waiting:
                return None
            study = min(waiting, key=lambda name: (self.images(name, "ready").stat().st_mtime_ns, name))
            move(self.folder(study, "ready"), self.folder(study, "working"))
            return study

    def requeue(self, study: str) -> None:
        """Lets a study that was being worked on wait again."""
        with self._lock:
            if not self._reopened(study):
                move(self.folder(study, "working"), self.folder(study, "ready"))

    def finish(self, study: str, failure: dict[str, object] | None = None) -> bool:
        """Ends work on a study: sent, or with `failure` for reason.json failed.

        Returns:
            False if more of it has come meanwhile, so that all of it waits anew.
        """
        with self._lock:
            if self._reopened(study):
                return False
            working = self.folder(study, "working")
            if failure is not None:
                write_private_json(working / REASON, failure)
                move(working, self.folder(study, "failed"))
                return True
            os.utime(working)
            move(working, self.folder(study, "sent"))
            by_age = sorted(self.studies("sent"), key=lambda name: self.folder(name, "sent").stat().st_mtime_ns)
            for old in by_age[: max(0, len(by_age) - self.limits.kept)]:
                self._remove(self.folder(old, "sent"))
            return True

    def studies(self, state: State) -> tuple[str, ...]:
        """Returns the studies in a state, sorted by name."""
        with self._lock:
            return tuple(sorted(path.name for path in (self.root / state).iterdir() if path.is_dir()))

    def folder(self, study: str, state: State) -> Path:
        """Returns where a study lies in this state."""
        return self.root / state / study

    def images(self, study: str, state: State) -> Path:
        """Returns where its received objects lie."""
        return self.folder(study, state) / IMAGES

    def _refuse_if_full(self, study: str) -> None:
        if shutil.disk_usage(self.root).free < self.limits.free_bytes:
            raise SpoolFullError("less free space than asked for")
        with self._lock:
            if not self.folder(study, "incoming").exists():
                waiting = set().union(*(self.studies(state) for state in WAITING))
                if study not in waiting and len(waiting) >= self.limits.studies:
                    raise SpoolFullError("as many studies as it may hold")

    def _reopened(self, study: str) -> bool:
        """Joins a study that was being worked on with what came of it meanwhile, if anything."""
        for state in ("incoming", "ready"):
            if self.folder(study, state).exists():
                self._gather(study, "working", into=state)
                return True
        return False

    def _gather(self, study: str, state: State, *, into: State) -> None:
        """Moves the study's images from one state into another; of one that is in both, the later one stays.

        A kill in between leaves each image in one of the two, and `incoming` is closed once more after it.
        """
        images = self.images(study, state)
        if images.is_dir():
            target = self.images(study, into)
            for image in images.iterdir():
                if not (target / image.name).exists():
                    image.replace(target / image.name)
            sync_folder(target)
        if self.folder(study, state).exists():
            self._remove(self.folder(study, state))

    def _recover(self, *, retry_failed: bool) -> None:
        for leftover in (*(self.root / "aside").iterdir(), *self.root.glob(".status.json.*")):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for study in self.studies("incoming"):
            make_private_folder(self.images(study, "incoming"))
        for study in self.studies("working"):
            self.requeue(study)
        for study in self.studies("failed") if retry_failed else ():
            (self.folder(study, "failed") / REASON).unlink(missing_ok=True)
            move(self.folder(study, "failed"), self.folder(study, "ready"))

    def _remove(self, folder: Path) -> None:
        """Deletes a folder, which from the start of this is no study any more."""
        aside = self._aside()
        move(folder, aside)
        shutil.rmtree(aside)

    def _aside(self) -> Path:
        return self.root / "aside" / secrets.token_hex(16)


def _owned(root: Path) -> int:
    """Returns the locked descriptor of the folder; the system unlocks it when the process ends, however it ends."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise InputError(root, found="another process at work in this folder", wanted="a spool of its own",
                         remedy="stop the other one, or choose another --spool", reason="spool-in-use") from error
    return descriptor
