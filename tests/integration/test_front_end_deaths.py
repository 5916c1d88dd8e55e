"""Front ends of `elasticrec up` die under load, by a signal or of what the PyPI server dies of: clients' deadlines.

Clients do what README says: gRPC asks again, and waits for a front end where there is none.
"""

import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from elasticrec.cli import main
from tests.integration.fleets import Load, at_once, eventually, infer, load
from tests.integration.models import pytorch_scores, random_query
from tests.integration.ups import Built, Up, built, ready

pytestmark = [pytest.mark.server, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
CLIENTS = 3
BACK_S = 90.0  # one that died is there again


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return built(tmp_path_factory.mktemp("deaths"))


@pytest.fixture(scope="module")
def running(fleet: Built) -> Iterator[Up]:
    with ready(fleet) as process:
        yield process


def by_the_readme(addresses: Sequence[str]) -> Callable[[], grpcclient.InferenceServerClient]:
    """How README's clients connect to these front ends."""
    (config,) = re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    options = [
        ("grpc.service_config", config),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.use_local_subchannel_pool", 1),  # several clients in one process: as if each had its own
    ]
    return lambda: grpcclient.InferenceServerClient(f"ipv4:{','.join(addresses)}", channel_args=options)


@pytest.fixture
def front_ends(fleet: Built, running: Up, request: pytest.FixtureRequest) -> list[str]:
    """The addresses of as many front ends as the test asks for."""
    wanted: int = request.param
    assert main(["scale", str(fleet.folder), f"frontend={wanted}"]) == 0
    eventually(lambda: len(fleet.service("frontend")["replicas"]) == wanted == len(fleet.replicas("frontend")), BACK_S)
    return [replica["grpc"] for replica in fleet.replicas("frontend")]


def deaths(fleet: Built) -> int:
    return len(re.findall(r"frontend-\d+: tritonserver was ended by SIG", fleet.events()))


def no_more_than_held(seen: Load, died: int) -> bool:
    """A client has one query under way: a front end that dies holds that at most."""
    return not seen.wrong and len(seen.errors) <= died * CLIENTS


@pytest.mark.parametrize("front_ends", [2, 1], indirect=True)
def test_a_front_end_that_dies_comes_back_where_it_was(fleet: Built, front_ends: list[str]) -> None:
    """With two the other answers meanwhile; with one, clients wait: nobody sees an error beyond what it held."""
    victim, before = fleet.replicas("frontend")[0], deaths(fleet)
    with load(fleet.spec, None, clients=CLIENTS, connect=by_the_readme(front_ends)) as seen:
        eventually(lambda: seen.answers > 20, BACK_S)
        os.kill(victim["pid"], signal.SIGSEGV)
        eventually(lambda: deaths(fleet) > before, BACK_S)
        eventually(lambda: len(fleet.replicas("frontend")) == len(front_ends), BACK_S)
        answers = seen.answers
        eventually(lambda: seen.answers > answers + 20, BACK_S)
    assert no_more_than_held(seen, 1), seen.errors
    assert {replica["grpc"] for replica in fleet.replicas("frontend")} == set(front_ends)
    told = fleet.events().partition(f"{victim['name']}: tritonserver was ended by ")[2].partition("another starts")[0]
    assert told.startswith("SIGSEGV (Segmentation fault)") and " in libc.so.6" in told
    assert "CUDA" not in told and "the process that serves" not in told


@contextmanager
def impatient(fleet: Built, addresses: Sequence[str]) -> Iterator[Load]:
    """Clients whose deadlines fire now and then, in the middle of whatever the front end does just then."""
    seen, stop = Load(), threading.Event()

    def client(number: int) -> None:
        rng, query = random.Random(number), random_query(fleet.spec, 32, seed=number)
        expected = pytorch_scores(fleet.spec, *query)
        sdk = grpcclient.InferenceServerClient(addresses[number % len(addresses)])
        while not stop.is_set():
            try:
                scores = infer(sdk, fleet.spec, query, client_timeout=rng.uniform(0.001, 0.012)).as_numpy("score")
            except InferenceServerException as exc:
                seen.errors.append((0.0, 0.0, str(exc)))
                continue
            seen.answers += 1
            if not np.abs(scores - expected).max() <= 1e-5:
                seen.wrong.append(float(np.abs(scores - expected).max()))
        sdk.close()

    with at_once(client, 4, stop):
        yield seen


@pytest.mark.parametrize("front_ends", [2], indirect=True)
def test_deadlines_end_a_front_end_at_worst_and_never_make_a_score_wrong(fleet: Built, front_ends: list[str]) -> None:
    """It survives them, or is there again; patient clients see no error beyond what it held."""
    before, until = deaths(fleet), time.monotonic() + 10
    with load(fleet.spec, None, clients=CLIENTS, connect=by_the_readme(front_ends)) as patient:
        with impatient(fleet, front_ends) as seen:
            while time.monotonic() < until and deaths(fleet) == before:
                time.sleep(0.1)
        eventually(lambda: len(fleet.replicas("frontend")) == 2, BACK_S)
        answers = patient.answers
        eventually(lambda: patient.answers > answers + 20, BACK_S)
    assert any("Deadline Exceeded" in text for *_, text in seen.errors) and not seen.wrong
    assert no_more_than_held(patient, deaths(fleet) - before), patient.errors
    assert {replica["grpc"] for replica in fleet.replicas("frontend")} == set(front_ends)
