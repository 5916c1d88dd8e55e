"""Requests that lie: drawn from good ones by a fixed seed, for HTTP (JSON and binary) and gRPC (protobuf).

Kept out, since the server itself (2.51, not our models) dies of them: JSON tensors of absurd shapes, for which it makes
room before it looks at the data; and gRPC deadlines and cancelled calls.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

MOST_NUMBERS = 1 << 20  # of a tensor, and of a shape in JSON; see above
MOST_ROWS = 4096
DATATYPES = (
    "BOOL",
    "UINT8",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "UINT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
    "INT128",
    "",
)
DIMS = (0, -1, 1, 2, 3, 64, 4097, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
NUMBERS = (-1, -2, 2**31 - 1, -(2**31), 2**31, 2**32, 2**62, -(2**63))
NAMES = ("", "ids", "dense", "sums", "nope", "a" * 5000, "../small", "small/1", "\u00e9\u0000\u2028", "%s%n")
PARAMETERS = ("sequence_id", "sequence_start", "priority", "timeout", "binary_data_output", "headers", "triton_x", "x")
VALUES = (0, -1, 1, 2**31, 2**63 - 1, True, "", "x" * 3000, "-5", 0.5)


@dataclass
class Input:
    """A tensor as it is told, and its bytes, which may be others."""

    name: str
    datatype: str
    shape: list[int]
    raw: bytes = field(repr=False)
    parameters: dict[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, array: np.ndarray) -> Input:
        return cls(name, np_to_triton_dtype(array.dtype), list(array.shape), array.tobytes())

    @property
    def rows(self) -> int:
        return self.shape[0] % 2**32 if self.shape else 0

    @property
    def array(self) -> np.ndarray | None:
        """What it says, if it is no lie."""
        kind = triton_to_np_dtype(self.datatype)
        if (
            "shared_memory_region" in self.parameters
            or kind in (None, np.object_)
            or any(not 0 <= n < 2**31 for n in self.shape)
        ):
            return None
        if math.prod(self.shape) * np.dtype(kind).itemsize != len(self.raw):
            return None
        return np.frombuffer(self.raw, kind).reshape(self.shape).copy()


@dataclass
class Draft:
    """A request for a model, before it is put into bytes."""

    model: str
    version: str
    inputs: list[Input]
    outputs: list[dict[str, object]] = field(default_factory=list)
    parameters: dict[str, object] = field(default_factory=dict)

    def arrays(self) -> Mapping[str, np.ndarray] | None:
        """Its tensors by name, if each is told truly and once.

        As the server reads them, which looks at the last 32 bits of a number of rows, and takes 0 for as many as the
        other tensors have.
        """
        rows = next((item.rows for item in self.inputs if item.rows), 0)
        arrays = {item.name: replace(item, shape=[item.rows or rows, *item.shape[1:]]).array for item in self.inputs}
        if len(arrays) < len(self.inputs) or any(array is None for array in arrays.values()):
            return None
        return {name: array for name, array in arrays.items() if array is not None}


# ---- lies ----


def _item(draft: Draft, rng: np.random.Generator) -> Input:
    return draft.inputs[rng.integers(len(draft.inputs))] if draft.inputs else Input("lost", "FP32", [0], b"")


def _choice(options: Sequence[object], rng: np.random.Generator) -> object:
    return options[rng.integers(len(options))]


def lose_an_input(draft: Draft, rng: np.random.Generator) -> None:
    draft.inputs = [item for item in draft.inputs if item is not _item(draft, rng)]


def add_an_input(draft: Draft, rng: np.random.Generator) -> None:
    twin = _item(draft, rng)
    name = twin.name if rng.random() < 0.5 else str(_choice(NAMES, rng))
    draft.inputs.append(Input(name, twin.datatype, list(twin.shape), twin.raw))


def rename(draft: Draft, rng: np.random.Generator) -> None:
    _item(draft, rng).name = str(_choice(NAMES, rng))


def retype(draft: Draft, rng: np.random.Generator) -> None:
    _item(draft, rng).datatype = str(_choice(DATATYPES, rng))


def reshape(draft: Draft, rng: np.random.Generator) -> None:
    shape = _item(draft, rng).shape
    match rng.integers(5):
        case 0:
            shape.append(int(_choice(DIMS, rng)))
        case 1:
            del shape[int(rng.integers(len(shape) + 1)) :]
        case 2:
            shape.reverse()
        case _ if shape:
            shape[rng.integers(len(shape))] = int(_choice(DIMS, rng))


def resize(draft: Draft, rng: np.random.Generator) -> None:
    item = _item(draft, rng)
    cut = int(rng.integers(len(item.raw) + 1))
    item.raw = (item.raw[:cut], item.raw + bytes(cut), item.raw[1:], b"")[rng.integers(4)]


def _fill(item: Input, rows: int | None, columns: int | None) -> None:
    """Have a tensor tell its numbers again and again, up to so many."""
    array = item.array
    if array is None or array.ndim != 2 or not array.size:
        return
    shape = (array.shape[0] if rows is None else rows, array.shape[1] if columns is None else columns)
    if math.prod(shape) <= MOST_NUMBERS:
        item.shape, item.raw = list(shape), np.resize(array, shape).tobytes()


def rebatch(draft: Draft, rng: np.random.Generator) -> None:
    """All tensors, or one alone, get another number of rows."""
    rows = int(_choice((0, 1, 2, 5000, MOST_ROWS + 1), rng))
    for item in draft.inputs if rng.random() < 0.7 else [_item(draft, rng)]:
        _fill(item, rows, None)


def widen(draft: Draft, rng: np.random.Generator) -> None:
    """The last axis is another: for an embedding service the number of ids or lengths."""
    _fill(_item(draft, rng), None, int(_choice((0, 1, 8, 24, 48, 200_000), rng)))


def misnumber(draft: Draft, rng: np.random.Generator) -> None:
    """Ids that are no rows, lengths below 0, numbers that are not finite."""
    item = _item(draft, rng)
    if (array := item.array) is not None and array.size:
        changed = array.copy().reshape(-1)
        for place in rng.integers(changed.size, size=1 + int(rng.integers(3))):
            if changed.dtype.kind == "f":
                changed[place] = float(_choice((math.nan, math.inf, -math.inf), rng))
            else:
                changed[place] = np.int64(_choice(NUMBERS, rng)).astype(changed.dtype)
        item.raw = changed.tobytes()


def scramble(draft: Draft, rng: np.random.Generator) -> None:
    item = _item(draft, rng)
    item.raw = rng.bytes(len(item.raw))


def share(draft: Draft, rng: np.random.Generator) -> None:
    """Shared memory that nobody registered, for an input or an output."""
    about = {
        "shared_memory_region": str(_choice(("nope", "", "/etc/passwd"), rng)),
        "shared_memory_byte_size": int(_choice((0, 64, 2**31, 2**62), rng)),
        "shared_memory_offset": int(_choice((0, 1, 2**31, 2**62), rng)),
    }
    if rng.random() < 0.6:
        _item(draft, rng).parameters.update(about)
    else:
        draft.outputs.append({"name": "score", "parameters": about})


def ask_for(draft: Draft, rng: np.random.Generator) -> None:
    output: dict[str, object] = {"name": str(_choice(("score", "sums", *NAMES), rng))}
    if rng.random() < 0.6:
        output["parameters"] = {"classification": _choice((-1, 0, 1, 2, 1000, 2**31, "x", True), rng)}
    draft.outputs.append(output)


def ask_twice(draft: Draft, rng: np.random.Generator) -> None:
    ask_for(draft, rng)
    draft.outputs.append(dict(draft.outputs[-1]))


def add_parameter(draft: Draft, rng: np.random.Generator) -> None:
    holder = draft.parameters if rng.random() < 0.7 else _item(draft, rng).parameters
    holder[str(_choice(PARAMETERS, rng))] = _choice(VALUES, rng)


def readdress(draft: Draft, rng: np.random.Generator) -> None:
    if rng.random() < 0.5:
        draft.version = str(_choice(("2", "0", "-1", "x", "9" * 30, "1.0", " 1"), rng))
    else:
        draft.model = str(_choice(NAMES, rng)) or "-"


LIES: tuple[Callable[[Draft, np.random.Generator], None], ...] = (
    lose_an_input, add_an_input, rename, retype, reshape, reshape, resize, rebatch, widen, misnumber, misnumber,
    scramble, share, ask_for, ask_twice, add_parameter, readdress,
)  # fmt: skip


def tell(draft: Draft, rng: np.random.Generator) -> None:
    """One lie, sometimes two or three."""
    for _ in range(1 + int(rng.integers(3) * (rng.random() < 0.3))):
        LIES[rng.integers(len(LIES))](draft, rng)


# ---- bytes ----


def http_json(draft: Draft) -> bytes | None:
    """The body; None where the server would die of it, or JSON cannot hold the bytes."""
    inputs = []
    for item in draft.inputs:
        kind = triton_to_np_dtype(item.datatype)
        kind = np.dtype(np.int32 if kind in (None, np.object_) else kind)
        if math.prod(abs(n) for n in item.shape) > MOST_NUMBERS or len(item.raw) % kind.itemsize:
            return None
        about = {"name": item.name, "datatype": item.datatype, "shape": item.shape}
        numbers = np.frombuffer(item.raw, kind).tolist()
        inputs.append({**about, "data": numbers} | ({"parameters": item.parameters} if item.parameters else {}))
    return json.dumps(_document(draft, inputs)).encode()


def http_binary(draft: Draft, rng: np.random.Generator, lie: bool) -> tuple[bytes, int]:
    """The body, and the length of its JSON; where it is to lie, one of the sizes is another."""
    inputs, liar = [], int(rng.integers(len(draft.inputs) + 1)) if lie else -1
    off = int(_choice((-4, -1, 1, 4, 10**9, 2**31, 2**62, -(10**6)), rng))
    for i, item in enumerate(draft.inputs):
        size = len(item.raw) + (off if i == liar else 0)
        parameters = {"binary_data_size": size, **item.parameters}
        inputs.append({"name": item.name, "datatype": item.datatype, "shape": item.shape, "parameters": parameters})
    text = json.dumps(_document(draft, inputs)).encode()
    body = text + b"".join(item.raw for item in draft.inputs)
    return body, len(text) + (off if liar == len(draft.inputs) else 0)


def _document(draft: Draft, inputs: list[dict[str, object]]) -> dict[str, object]:
    document: dict[str, object] = {"inputs": inputs}
    if draft.outputs:
        document["outputs"] = draft.outputs
    if draft.parameters:
        document["parameters"] = draft.parameters
    return document


def _set_parameters(message: object, parameters: Mapping[str, object]) -> None:
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
        setattr(message.parameters[name], kind, value)


def grpc_message(draft: Draft) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name=draft.model, model_version=draft.version)
    _set_parameters(message, draft.parameters)
    for item in draft.inputs:
        told = message.inputs.add(name=item.name, datatype=item.datatype, shape=item.shape)
        _set_parameters(told, item.parameters)
        if "shared_memory_region" not in item.parameters:
            message.raw_input_contents.append(item.raw)
    for output in draft.outputs:
        asked = message.outputs.add(name=output["name"])
        _set_parameters(asked, output.get("parameters", {}))
    return message


def misfill(message: pb.ModelInferRequest, rng: np.random.Generator) -> None:
    """Contents that do not go with the inputs: too many, too few, or typed ones."""
    match rng.integers(3):
        case 0:
            message.raw_input_contents.append(b"\0" * int(rng.integers(100)))
        case 1:
            del message.raw_input_contents[int(rng.integers(2)) :]
        case _:
            del message.raw_input_contents[:]
            for item in message.inputs:
                fields = ("int_contents", "int64_contents", "fp32_contents", "uint_contents")
                getattr(item.contents, str(_choice(fields, rng))).extend([1] * int(rng.integers(300)))


def garble(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes of the message's first hundred are others, or its end is missing."""
    if rng.random() < 0.3:
        return data[: int(rng.integers(len(data) + 1))]
    changed = bytearray(data)
    for place in rng.integers(min(len(changed), 100), size=3):
        changed[place] = int(rng.integers(256))
    return bytes(changed)


def read_back(data: bytes) -> Draft | None:
    """What a message says, where raw contents are all that it holds; the server ignores those beyond the inputs."""
    message = pb.ModelInferRequest.FromString(data)
    if len(message.raw_input_contents) < len(message.inputs) or any(i.HasField("contents") for i in message.inputs):
        return None
    inputs = [
        Input(item.name, item.datatype, list(item.shape), raw, dict.fromkeys(item.parameters, True))
        for item, raw in zip(message.inputs, message.raw_input_contents, strict=False)
    ]
    return Draft(message.model_name, message.model_version, inputs)
