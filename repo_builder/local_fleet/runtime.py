"""The folder beside a fleet's repository where a running fleet keeps its files, and the lock that says that it runs.

DIR.run/lock            held by `elasticrec up`
DIR.run/control.sock    how `ps`, `scale` and `down` reach it
DIR.run/addresses.json  every service's ready replicas, HOST:PORT of gRPC: front ends follow it, and clients may
DIR.run/targets.json    what Prometheus scrapes
DIR.run/prometheus/     its configuration and data
DIR.run/rules/          the ScaledObjects that were rendered for --autoscale
DIR.run/logs/           a file a replica, `fleet.log` and `prometheus.log`; they stay when the fleet ends
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from repo_builder.errors import InputError

_KEPT = {"lock", "logs"}
_SWEPT = {
    "control.sock",
    "addresses.json",
    "targets.json",
    "prometheus",
    "rules",
    ".addresses.json.part",
    ".targets.json.part",
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


def swap(path: Path, text: str) -> None:
    """Replace a file's content at once: whoever reads it sees the old or the new."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.rename(path)


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
    if strangers := sorted(found - _KEPT - _SWEPT):
        raise InputError(f"{folder}: expected a fleet's own files alone, got {strangers[0]} too; move it away")


def _sweep(run: RunFolder) -> None:
    for path in run.path.iterdir():
        if path.name not in _SWEPT:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
