"""A real Prometheus that scrapes the fleet, on the loopback address; and asking it."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence

import yaml

from repo_builder.errors import NoAnswerError, ServerError
from repo_builder.local_fleet.machine import check_port
from repo_builder.local_fleet.run_folder import Events, RunFolder
from repo_builder.local_fleet.services import Backoff
from repo_builder.scaling.queries import SCRAPE_S
from repo_builder.serving.guardian import ending_with_us
from repo_builder.writing import replace_file

INSTALL = "apt-get install prometheus"
ASK_TIMEOUT_S = 3.0
STOP_S = 10.0
KEEP = "1d"


def find_prometheus() -> str | None:
    """The program, where there is one."""
    return shutil.which("prometheus")


class Prometheus:
    """Follows the run folder's targets while a `with` block lasts; started again when it ends before.

    `tick` must be called now and then from the block's own thread. Entering raises ServerError where the port is taken.
    """

    def __init__(self, binary: str, port: int, run: RunFolder, events: Events) -> None:
        self._port = port
        self.url = f"http://127.0.0.1:{port}"
        self._run = run
        self._events = events
        self._command = [
            binary,
            f"--config.file={run.prometheus / 'prometheus.yml'}",
            f"--storage.tsdb.path={run.prometheus / 'data'}",
            f"--storage.tsdb.retention.time={KEEP}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._backoff = Backoff()

    def __enter__(self) -> Prometheus:
        check_port(self._port, "--prometheus-port")
        self._run.prometheus.mkdir()
        replace_file(self._run.prometheus / "prometheus.yml", _configuration(self._run))
        self.tick()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        self._process.kill()
        self._process.wait()

    def tick(self) -> None:
        """Start it where it does not run and it is time to."""
        now_s = time.monotonic()
        if self._process is not None and (status := self._process.poll()) is not None:
            self._process = None
            self._backoff = self._backoff.failed(now_s, now_s - self._started_s)
            log = self._run.logs / "prometheus.log"
            self._events.tell(f"prometheus: ended with status {status}; it is started again; its log: {log}")
        if self._process is None and self._backoff.may_start(now_s):
            self._started_s = now_s
            try:
                self._process = self._start()
            except OSError as exc:
                self._backoff = self._backoff.failed(now_s, 0.0)
                self._events.tell(f"prometheus: {exc}")

    def _start(self) -> subprocess.Popen[bytes]:
        with (self._run.logs / "prometheus.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - a list of words, no shell
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us alone
                preexec_fn=ending_with_us(signal.SIGKILL),  # its data go with the run folder
            )


def _configuration(run: RunFolder) -> str:
    times = {"scrape_interval": f"{SCRAPE_S}s", "scrape_timeout": f"{SCRAPE_S}s"}
    follow = {"files": [str(run.targets)], "refresh_interval": f"{SCRAPE_S}s"}
    return yaml.safe_dump(
        {"global": times, "scrape_configs": [{"job_name": "elasticrec", "file_sd_configs": [follow]}]}
    )


def ask_prometheus(url: str, query: str) -> Sequence[float]:
    """An instant query's values, one an element.

    Raises ServerError with Prometheus's own words where it refuses, NoAnswerError where it does not answer.
    """
    asked = f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(asked, timeout=ASK_TIMEOUT_S) as answer:  # noqa: S310 - our own server
            result = json.load(answer)["data"]["result"]
        return [float(element["value"][1]) for element in result]
    except urllib.error.HTTPError as exc:
        with exc:
            words = exc.read(500).decode(errors="replace")
        raise ServerError(f"prometheus refused a query: {words}; the query: {query}") from exc
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as exc:
        raise NoAnswerError(f"prometheus does not answer: {exc}") from exc
