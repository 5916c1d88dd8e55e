"""A thousand malformed requests to each layout, over both protocols, while a good client's scores stay right."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import triton_to_np_dtype

from repo_builder.serving.server import Server, stubs
from repo_builder.spec import Spec
from tests.integration.fleets import Load, load, running_fleet
from tests.integration.malformed import (
    Draft,
    Input,
    garble,
    grpc_message,
    http_binary,
    http_json,
    misfill,
    read_back,
    tell,
)
from tests.integration.models import make_repository, pytorch_scores, random_query, score
from tests.servers import serving
from triton_backends.router.router import Router

pytestmark = [pytest.mark.server, pytest.mark.slow]

REQUESTS = 1000
VERSIONS = ("", "-1", "1", "1.0", " 1")  # -1 is the latest; the server reads a number and leaves the rest
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Model:
    """One that may be asked: a good request, and what any arrays that keep the contract must give."""

    good: Arrays
    answers: Callable[[Arrays], Arrays]


@dataclass
class Target:
    """A server, its models by name, and what its answers were."""

    server: Server
    models: Mapping[str, Model]
    channel: grpc.Channel
    refused: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    faults: list[str] = field(default_factory=list)


# ---- what is right ----


def tables_sums(spec: Spec, arrays: Arrays) -> np.ndarray:
    """(B, tables * dim): each table's bags, an id at a time."""
    state, begin, sums = torch.load(spec.dlrm.weights.path, weights_only=True), 0, []
    for t, table in enumerate(spec.dlrm.tables):
        weights, ids = state[f"emb_l.{t}.weight"].numpy(), arrays["indices"][:, begin : begin + table.pooling]
        begin += table.pooling
        sums.append(np.where(ids[..., None] >= 0, weights[ids], 0).sum(axis=1))
    return np.hstack(sums)


def divided(arrays: Arrays, ends: np.ndarray, means: Sequence[bool]) -> Arrays:
    """What bags are divided by: the ids of those that are averaged and have any, else 1."""
    counts = [(bags >= 0).sum(axis=1) for bags in np.split(arrays["indices"], ends, axis=1)]
    columns = [np.maximum(n, 1) if mean else n * 0 + 1 for n, mean in zip(counts, means, strict=True)]
    return {"divisors": np.stack(columns, axis=1)}


def whole(spec: Spec) -> Model:
    good = dict(zip(("dense", "indices"), random_query(spec, 3, seed=1), strict=True))
    return Model(good, lambda arrays: {"score": pytorch_scores(spec, arrays["dense"], arrays["indices"])})


def fan_out(spec: Spec) -> Model:
    ends, means = (
        np.cumsum([table.pooling for table in spec.dlrm.tables])[:-1],
        [t.mode == "mean" for t in spec.dlrm.tables],
    )
    return Model(whole(spec).good, lambda arrays: {"sums": tables_sums(spec, arrays), **divided(arrays, ends, means)})


def router(spec: Spec, folder: Path) -> Model:
    opened = Router.open(folder / "1")
    return Model(whole(spec).good, lambda arrays: opened.route({"indices": arrays["indices"]}).tensors)


def shard(folder: Path) -> Model:
    (version,) = folder.glob("[0-9]*")
    described = json.loads((version / "shard.json").read_text())
    (matrix,), (group,) = described["matrices"], described["groups"]
    dim, sides = matrix["dim"], [unit["bags"] for unit in group["units"]]  # 0 bags: rows as they are
    weights = np.fromfile(version / "weights.bin", np.float32).reshape(matrix["rows"], dim)
    side = sum(sides)
    lengths = np.concatenate([np.full(3 * bags if bags else 1, 2) for bags in sides])[None].astype(np.int32)
    ids = np.random.default_rng(2).integers(0, len(weights), (1, lengths.sum())).astype(np.int32)

    def answers(arrays: Arrays) -> Arrays:
        ids, lengths = arrays["ids"].reshape(-1), arrays["lengths"].reshape(-1)
        rows, left = divmod(lengths.size - sides.count(0), side)
        if (lengths < 0).any() or lengths.sum() != ids.size or left or not 0 <= rows <= 4096:
            raise IndexError("no query's bags")
        if ids.size and not 0 <= ids.min() <= ids.max() < len(weights):
            raise IndexError("no row")
        totals = np.vstack([np.zeros((1, dim)), np.cumsum(weights[ids], axis=0, dtype=np.float64)])
        ends, found = np.cumsum(lengths), {"sums": [], "rows": []}
        for bags in sides:
            mine, ends = np.split(ends, [rows * bags if bags else 1])
            counts = lengths[lengths.size - ends.size - mine.size : lengths.size - ends.size]
            if bags:
                found["sums"].append((totals[mine] - totals[mine - counts]).reshape(rows, bags * dim))
            else:
                found["rows"].append(weights[ids[mine[0] - counts[0] : mine[0]]].reshape(1, -1))
        return {name: np.hstack(parts) for name, parts in found.items() if parts}

    return Model({"ids": ids, "lengths": lengths}, answers)


def dense(folder: Path) -> Model:
    session = onnxruntime.InferenceSession(folder / "1/model.onnx", providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(3)
    good = {item.name: rng.standard_normal((3, item.shape[1])).astype(np.float32) for item in session.get_inputs()}
    return Model(good, lambda arrays: {"score": session.run(["score"], dict(arrays))[0]})


def right(target: Target, draft: Draft) -> Arrays | None:
    """What must come of a request that keeps the contract; None for one that does not."""
    model, arrays = target.models.get(draft.model), draft.arrays()
    if model is None or arrays is None or arrays.keys() != model.good.keys() or draft.version not in VERSIONS:
        return None
    for name, array in arrays.items():
        good = model.good[name]
        if (
            array.dtype != good.dtype
            or array.ndim != 2
            or (name not in ("ids", "lengths") and array.shape[1] != good.shape[1])
        ):
            return None
    rows = {len(array) for array in arrays.values()}
    if len(rows) != 1 or not 1 <= rows.pop() <= 4096 or ("lengths" in arrays and len(arrays["ids"]) > 64):
        return None
    if "indices" in arrays and ((arrays["indices"] < -1).any() or not np.isfinite(arrays["dense"]).all()):
        return None
    try:
        with np.errstate(all="ignore"):
            return model.answers(arrays)
    except (IndexError, ValueError):
        return None


# ---- asking ----


def judge(target: Target, draft: Draft | None, outputs: Arrays | None, error: str) -> None:
    """An error that says something, or what is right."""
    if outputs is None:
        if len(error) < 5 or "std::" in error:
            target.faults.append(f"no clear error: {error!r} for {draft}")
        target.refused[error[:70]] += 1
        return
    target.answered += 1
    expected = right(target, draft) if draft else None
    if expected is None:
        target.faults.append(f"answered, instead of refused: {draft}")
        return
    for name, array in outputs.items():
        numbers = array.dtype != np.object_  # else classes, which are Triton's own
        if numbers and not (
            array.shape == expected[name].shape
            and np.allclose(array, expected[name], rtol=1e-5, atol=1e-5, equal_nan=True)
        ):
            target.faults.append(f"wrong: {array} for {draft}")


def ask_http(target: Target, draft: Draft, body: bytes, json_bytes: int | None) -> None:
    connection = http.client.HTTPConnection(target.server.host, target.server.ports.http, timeout=60)
    version = f"/versions/{urllib.parse.quote(draft.version, safe='')}" if draft.version else ""
    headers = {} if json_bytes is None else {"Inference-Header-Content-Length": str(json_bytes)}
    try:
        connection.request(
            "POST", f"/v2/models/{urllib.parse.quote(draft.model, safe='')}{version}/infer", body, headers
        )
        answer = connection.getresponse()
        content = answer.read()
    except (http.client.RemoteDisconnected, ConnectionResetError):
        # Triton may hang up on a body that it cannot read; whether it is still there is looked at in the end
        judge(target, None, None, "closed the connection")
        return
    finally:
        connection.close()
    if answer.status != 200:
        text = content.decode(errors="replace")  # it may repeat bytes of ours
        judge(target, draft, None, json.loads(text)["error"] if text.startswith("{") else f"{answer.status} {text}")
        return
    json_bytes = int(answer.headers.get("Inference-Header-Content-Length", len(content)))
    text, rest, outputs = content[:json_bytes], content[json_bytes:], {}
    for output in json.loads(text)["outputs"]:
        kind = np.dtype(np.object_ if output["datatype"] == "BYTES" else triton_to_np_dtype(output["datatype"]))
        size = output.get("parameters", {}).get("binary_data_size", 0)
        if kind == np.object_:
            array = np.empty(0, np.object_)
        elif "data" in output:
            array = np.array(output["data"], kind).reshape(output["shape"])
        else:
            array = np.frombuffer(rest[:size], kind).reshape(output["shape"])
        outputs[output["name"]], rest = array, rest[size:]
    judge(target, draft, outputs, "")


def ask_grpc(target: Target, data: bytes) -> None:
    call = target.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    try:
        answer = pb.ModelInferResponse.FromString(call(data))  # without a deadline: see malformed.py
    except grpc.RpcError as exc:
        judge(target, None, None, f"{exc.code().name} {exc.details()}")
        return
    try:
        draft = read_back(data)
    except DecodeError:
        draft = None
    outputs = {}
    for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        kind = np.dtype(triton_to_np_dtype(output.datatype))
        array = np.empty(0, np.object_) if kind == np.object_ else np.frombuffer(raw, kind).reshape(output.shape)
        outputs[output.name] = array
    judge(target, draft, outputs, "")


def ask(target: Target, rng: np.random.Generator) -> None:
    """One malformed request, over one of the protocols."""
    name = sorted(target.models)[rng.integers(len(target.models))]
    draft = Draft(name, "", [Input.of(key, array) for key, array in target.models[name].good.items()])
    honest = rng.random() < 0.15  # what is told is good, and how it is told is not
    if not honest:
        tell(draft, rng)
    match rng.integers(4):
        case 0 if (body := http_json(draft)) is not None:
            cut = int(rng.integers(len(body))) if honest else len(body)
            ask_http(target, draft if cut == len(body) else Draft("cut", "", []), body[:cut], None)
        case 1:
            body, json_bytes = http_binary(draft, rng, lie=honest)
            ask_http(target, draft, body, json_bytes)
        case _:
            message = grpc_message(draft)
            if honest and rng.random() < 0.5:
                misfill(message, rng)
            data = message.SerializeToString()
            ask_grpc(target, garble(data, rng) if honest else data)


@contextmanager
def asking(server: Server, models: Mapping[str, Model]) -> Iterator[Target]:
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.grpc, options) as channel:
        yield Target(server, models, channel)


def flood(targets: list[Target], spec: Spec, front: Server, seed: int, requests: int = REQUESTS) -> Load:
    """So many requests, in turn over the targets, beside a client that sends good queries to `front`."""
    rng = np.random.default_rng(seed)
    with load(spec, front, clients=1) as seen:
        for number in range(requests):
            ask(targets[number % len(targets)], rng)
    return seen


def check(targets: list[Target], seen: Load, spec: Spec, front: Server) -> None:
    assert not seen.errors and not seen.wrong and seen.answers > 50, (seen.errors[:3], seen.wrong[:3], seen.answers)
    for target in targets:
        assert target.server.process.poll() is None
        assert not target.faults, f"{len(target.faults)} faults:\n" + "\n".join(
            each[:1500] for each in target.faults[:10]
        )
        assert all(stub.is_running() and stub.status() != "zombie" for stub in stubs(target.server))
    for protocol in ("grpc", "http"):
        query = random_query(spec, 4, seed=5)
        address = getattr(front, protocol)
        np.testing.assert_allclose(score(protocol, address, spec.name, *query), pytorch_scores(spec, *query), atol=1e-5)
    told = sum((target.refused for target in targets), Counter())
    assert sum(told.values()) > REQUESTS / 2 and len(told) > 30, told


@pytest.mark.parametrize("shard_backend", ["python", "native"])
def test_a_single_server(tmp_path: Path, shard_backend: str) -> None:
    spec, plan = make_repository(tmp_path, "tiered", "int64", shard_backend)
    folder = tmp_path / "repository"
    services = {f"small_{service.name}": shard(folder / f"small_{service.name}") for service in plan.embedding_services}
    steps = {"small_router": router(spec, folder / "small_router"), "small_dense": dense(folder / "small_dense")}
    with (
        serving(folder, tmp_path / "log") as server,
        asking(server, {"small": whole(spec), **steps, **services}) as target,
    ):
        check([target], flood([target], spec, server, seed=11), spec, server)


@pytest.mark.parametrize("shard_backend", ["python", "native"])
def test_a_fleet(tmp_path: Path, shard_backend: str) -> None:
    """A thousand to the front end, and by turns as many to its shards."""
    with running_fleet(tmp_path, "tiered", 3, shard_backend=shard_backend) as fleet, ExitStack() as stack:
        steps = {"small_router": fan_out(fleet.spec), "small_dense": dense(fleet.folder / "frontend/small_dense")}
        front = stack.enter_context(asking(fleet.frontend, {"small": whole(fleet.spec), **steps}))
        targets = []
        for name, (server, *_) in fleet.shards.items():
            model = shard(fleet.folder / name / f"small_{name}")
            targets += [front, stack.enter_context(asking(server, {f"small_{name}": model}))]
        check(
            targets,
            flood(targets, fleet.spec, fleet.frontend, seed=12, requests=2 * REQUESTS),
            fleet.spec,
            fleet.frontend,
        )
