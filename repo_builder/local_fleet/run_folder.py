"""The folder beside a repository where a running fleet keeps its files, the lock that says that it runs, its logs.

DIR.run/lock            held by `elasticrec up`
DIR.run/control.sock    how `ps`, `scale` and `down` reach it
DIR.run/addresses.json  where each ready replica takes calls by gRPC, HOST:PORT: front ends follow it, and clients may
DIR.run/targets.json    what Prometheus scrapes
DIR.run/prometheus/     its configuration and data
DIR.run/rules/          the ScaledObjects that were rendered for --autoscale
DIR.run/logs/           a file for each replica, `fleet.log` and `prometheus.log`; they stay when the fleet ends
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from repo_builder.errors import InputError
from repo_builder.writing import PART

_KEPT = {"lock", "logs"}
_SWEPT = {
    "control.sock",
    "addresses.json",
    "targets.json",
    "prometheus",
    "rules",
}
_MARK = b"elasticrec up\n"  # in the lock file: the folder is ours


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a running fleet's files; `repository` is absolute."""

    repository: Path

    @classmethod
    def of(cls, repository: Path) -> RunFolder:
        """The folder that belongs to a repository, whether it runs or not."""
        return cls(repository.resolve())

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.repository.with_name(f"{self.repository.name}.run")

    @property
    def socket(self) -> Path:
        """Of the control interface."""
        return self.path / "control.sock"

    @property
    def addresses(self) -> Path:
        """The file that front ends follow."""
        return self.path / "addresses.json"

    @property
    def targets(self) -> Path:
        """The file that Prometheus follows."""
        return self.path / "targets.json"

    @property
    def prometheus(self) -> Path:
        """Prometheus's own folder."""
        return self.path / "prometheus"

    @property
    def rules(self) -> Path:
        """Manifests rendered for the autoscaler."""
        return self.path / "rules"

    @property
    def logs(self) -> Path:
        """The folder of logs."""
        return self.path / "logs"

    @property
    def events(self) -> Path:
        """The log of what happened to the fleet."""
        return self.logs / "fleet.log"


@contextmanager
def claimed(run: RunFolder) -> Iterator[None]:
    """Hold the folder, emptied, for as long as the block lasts; only the logs stay.

    Raises InputError where another process holds it, where it is not a fleet's, or where it cannot be written.
    """
    try:
        run.path.mkdir(mode=0o700, exist_ok=True)
        _check_ours(run.path)
        run.path.chmod(0o700)  # whoever reaches the socket commands the fleet
        lock = os.open(run.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise InputError(f"{run.path}: expected a folder to run in, but: {exc.strerror}; check its parent") from exc
    try:
        _lock(lock, run)
        os.pwrite(lock, _MARK, 0)
        shutil.rmtree(run.logs, ignore_errors=True)
        _sweep(run)
        run.logs.mkdir()
        try:
            yield
        finally:
            _sweep(run)
    finally:
        os.close(lock)


def is_up(run: RunFolder) -> bool:
    """Whether a process holds the folder."""
    try:
        lock = os.open(run.path / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _lock(lock: int, run: RunFolder) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise InputError(
            f"{run.repository}: is up already; see elasticrec ps {run.repository}, or stop it: "
            f"elasticrec down {run.repository}"
        ) from exc


def _check_ours(folder: Path) -> None:
    """A folder of that name may be somebody else's, who would lose what is in it."""
    found = {path.name for path in folder.iterdir()}
    if not found:
        return
    lock = folder / "lock"
    if not lock.is_file() or lock.read_bytes() != _MARK:
        raise InputError(
            f"{folder}: expected no such folder, or that of a former elasticrec up, got other files; move it away"
        )
    if strangers := sorted(name for name in found - _KEPT if not _is_swept(name)):
        raise InputError(f"{folder}: expected a fleet's own files alone, got {strangers[0]} too; move it away")


def _is_swept(name: str) -> bool:
    return name in _SWEPT or name.endswith(PART)


def _sweep(run: RunFolder) -> None:
    for path in run.path.iterdir():
        if not _is_swept(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


REMEMBERED = 200

Tell = Callable[[str], None]
"""`Events.tell`, for those who need no more."""


class Events:
    """Told from several threads; shown by one."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._lines: deque[str] = deque(maxlen=REMEMBERED)
        self._count = 0
        self._shown = 0

    def tell(self, text: str) -> None:
        """Add an event; of several lines the later ones are indented."""
        line = f"{time.strftime('%H:%M:%S')} {text}".replace("\n", "\n    ")
        with self._lock:
            self._lines.append(line)
            self._count += 1
            with contextlib.suppress(OSError), self._log.open("a", encoding="utf-8") as file:  # a disk may be full
                file.write(f"{line}\n")

    def new(self) -> Sequence[str]:
        """Those since the last call."""
        with self._lock:
            fresh = min(self._count - self._shown, len(self._lines))
            self._shown = self._count
            return list(self._lines)[len(self._lines) - fresh :]

    def last(self, count: int) -> Sequence[str]:
        """The latest ones, oldest first."""
        with self._lock:
            return list(self._lines)[-count:]


POLL_S = 0.25


def log_lines(run: RunFolder, service: str | None, follow: bool) -> Iterator[tuple[str, str]]:
    """The lines of all logs, or of one service's or replica's, each with the log's name; `follow` never ends.

    Raises InputError where there is none.
    """
    read_until: dict[Path, int] = {}
    while True:
        found = _logs(run, service)
        if not found and not read_until:
            raise InputError(_none(run, service))
        for path in found:
            text, read_until[path] = _rest(path, read_until.get(path, 0))
            for line in text.splitlines():
                yield path.stem, line
        if not follow:
            return
        time.sleep(POLL_S)


def _rest(path: Path, begin: int) -> tuple[str, int]:
    """What stands from `begin` on, in whole lines, and where it ends; from the start where the file is a new one."""
    if path.stat().st_size < begin:
        begin = 0
    with path.open("rb") as file:
        file.seek(begin)
        data = file.read()
    data = data[: data.rfind(b"\n") + 1]
    return data.decode(errors="replace"), begin + len(data)


def _logs(run: RunFolder, service: str | None) -> list[Path]:
    paths = sorted(run.logs.glob("*.log"), key=lambda path: path.stat().st_mtime)
    return [path for path in paths if service in (None, path.stem, path.stem.rpartition("-")[0])]


def _none(run: RunFolder, service: str | None) -> str:
    known = sorted({path.stem for path in _logs(run, None)})
    if known:
        return f"{service}: expected a service or one of {', '.join(known)}"
    return f"{run.logs}: expected logs of a fleet, found none; start it: elasticrec up {run.repository}"
