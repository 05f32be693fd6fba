"""A team's MLflow: `mlflow server` over HTTP with a PostgreSQL behind it, on loopback, that can be killed and started.

Needs Debian's package `postgresql`.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

DEADLINE_S = 90.0
PROGRAMS = ("initdb", "postgres", "pg_isready")


def postgres_programs() -> Path | None:
    """Returns the folder of PostgreSQL's own programs, which Debian keeps off the PATH; None without them."""
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *map(Path, os.get_exec_path())]
    return next((one for one in folders if all((one / name).is_file() for name in PROGRAMS)), None)


needs_postgres = pytest.mark.skipif(postgres_programs() is None, reason="no PostgreSQL (Debian's package postgresql)")


@contextmanager
def postgres() -> Iterator[str]:
    """Runs a PostgreSQL in a folder of its own; yields SQLAlchemy's address of its database, by a Unix socket."""
    programs = postgres_programs()
    assert programs is not None
    # A socket's path is short, and pytest's folders are closed to other users: PostgreSQL refuses to be root.
    folder = Path(tempfile.mkdtemp(prefix="segline-pg-", dir="/tmp"))
    user = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
    if user:
        shutil.chown(folder, user["user"], user["group"])
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **user}
    try:
        subprocess.run([programs / "initdb", "-D", folder / "data", "-U", "segline", "--auth", "trust", "--no-sync",
                        "--encoding", "UTF8", "--locale", "C"], check=True, **options)
        server = subprocess.Popen([programs / "postgres", "-D", folder / "data", "-k", folder,
                                   "-c", "listen_addresses=", "-c", "fsync=off"], **options)
        try:
            _until_true(lambda: subprocess.run([programs / "pg_isready", "-h", folder], **options).returncode == 0)
            yield f"postgresql+psycopg2://segline@/postgres?host={folder}"
        finally:
            server.send_signal(signal.SIGINT)  # "fast": connections are ended
            server.wait(DEADLINE_S)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class TeamServer:
    """An `mlflow server` that keeps runs in `database` and artifacts below `folder`, at `url` whenever it runs."""

    def __init__(self, database: str, folder: Path) -> None:
        self.database, self.folder = database, folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits for its answer."""
        self.folder.mkdir(exist_ok=True)
        words = ["--backend-store-uri", self.database, "--artifacts-destination", str(self.folder / "artifacts"),
                 "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *words], stdout=log, stderr=log, cwd=self.folder,
                env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}, start_new_session=True)
        _until_true(self._answers)

    def kill(self) -> None:
        """Ends it and its workers at once."""
        if self.process is not None:
            with suppress(ProcessLookupError):  # it ended by itself
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(DEADLINE_S)
            self.process = None

    def log(self) -> str:
        """Returns what it has printed."""
        return (self.folder / "log").read_text()

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()[-3000:]
        # Loopback is reached without a proxy.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            return bool(opener.open(f"{self.url}/health", timeout=5).status == 200)
        except OSError:
            return False


@contextmanager
def team_server(folder: Path) -> Iterator[TeamServer]:
    """Runs both and stops both."""
    with postgres() as database:
        server = TeamServer(database, folder)
        try:
            server.start()
            yield server
        finally:
            server.kill()


def _until_true(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain for the server"
        time.sleep(0.1)
