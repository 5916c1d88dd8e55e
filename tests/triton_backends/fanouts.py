"""The fan-out router in this process, over fake shards: two tables, each in both of two services."""

from __future__ import annotations

import ctypes
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import Structure, c_char, c_double, c_int32
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.triton_backends.fake_shard import FakeShard
from tests.triton_backends.fake_triton import Backend, Model
from tests.triton_backends.tiered import Tiered, draw_indices, make_tiered

DIM = 2  # what a fake shard answers a table: the sum of its rows' numbers, and so much an id
FEATURES = 3


def whole_group(width: int) -> dict[str, object]:
    """A service's first group, whose sums are added as they are."""
    return {"group": 0, "width": width, "dims": [DIM], "pieces": [{"from": 0, "to": 0, "columns": width}]}


class _Metric(Structure):
    _fields_ = (("series", c_char * 256), ("value", c_double), ("alive", c_int32))


@dataclass
class FanOut:
    """A folder of the router's files, and the shards of each service by its name."""

    backend: Backend
    folder: Path
    tiered: Tiered
    shards: Mapping[str, Sequence[FakeShard]]
    settings: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    log_begin: int = 0

    @property
    def addresses(self) -> Path:
        return self.folder / "addresses.json"

    def write(self) -> None:
        """All files as a build writes them, and the address file."""
        self.tiered.write(self.folder / "1")
        settings = {
            "name": "m_router",
            "version": "7",
            "widths": [DIM * len(self.tiered.tables)],
            "deadline_us": 300_000,
            "hedge_quantile_ppm": 0,
            "max_in_flight": 64,
            "degrade": 0,
            "half_sums": 0,
            **{name: value for name, value in self.settings.items() if name != "instances"},
        }
        instances = self.settings.get("instances", 1)
        services = [
            {
                "name": service.name,
                "model": f"m_{service.name}",
                "instances": instances,
                "groups": [whole_group(unit.bags * DIM)],
            }
            for service, unit in zip(self.tiered.services, self.tiered.routing.units, strict=True)
        ]
        (self.folder / "1/fanout.json").write_text(json.dumps({**settings, "services": services}))
        self.write_addresses(**{name: [shard.address for shard in shards] for name, shards in self.shards.items()})

    def write_addresses(self, **entries: object) -> None:
        part = self.addresses.with_suffix(".part")
        part.write_text(json.dumps(entries))
        part.rename(self.addresses)

    @contextmanager
    def running(self) -> Iterator[Model]:
        """The model, loaded; the router's environment is this process's."""
        self.write()
        self.log_begin += len(self.log)
        before = dict(os.environ)
        os.environ.update({"ELASTICREC_ADDRESSES": str(self.addresses), **self.environment})
        try:
            with Model(self.backend, self.folder) as model:
                yield model
        finally:
            os.environ.clear()
            os.environ.update(before)

    def query(self, batch: int, seed: int = 0, dtype: type = np.int64) -> dict[str, np.ndarray]:
        """Of rows without a bag that is the row before's, so that as many rows are asked for."""
        rng = np.random.default_rng(seed)
        indices = draw_indices(rng, self.tiered, batch).astype(dtype)
        indices[0, :2] = [int((self.tiered.shard_of_rows[0] == shard).argmax()) for shard in range(2)]  # an id of each
        for row in range(1, batch):
            while self.repeats(indices[row - 1 : row + 1]):
                indices[row] = draw_indices(rng, self.tiered, 1)[0]
        return {"dense": np.zeros((batch, FEATURES), np.float32), "indices": indices}

    def repeats(self, indices: np.ndarray) -> int:
        """How many bags are the row before's."""
        ends = np.cumsum([lookup.bag for lookup in self.tiered.lookups])[:-1]
        return sum(int((part[1:] == part[:-1]).all(axis=1).sum()) for part in np.split(indices, ends, axis=1))

    def without(self, query: Mapping[str, np.ndarray], service: int) -> dict[str, np.ndarray]:
        """The query with the ids that a service holds taken out."""
        indices, column = query["indices"].copy(), 0
        for lookup, shards in zip(self.tiered.lookups, self.tiered.shard_of_rows, strict=True):
            part = indices[:, column : column + lookup.bag]
            part[(part >= 0) & (shards[part] == service)] = -1
            column += lookup.bag
        return {**query, "indices": indices}

    def sums(self, query: Mapping[str, np.ndarray]) -> np.ndarray:
        """What the answer must be, worked out an id at a time."""
        indices, column = query["indices"], 0
        total = np.zeros((len(indices), len(self.tiered.tables), DIM), np.float32)
        values = [shards[0].value for shards in self.shards.values()]
        for t, (lookup, shards) in enumerate(zip(self.tiered.lookups, self.tiered.shard_of_rows, strict=True)):
            for row, ids in enumerate(indices[:, column : column + lookup.bag]):
                for i in ids[ids >= 0]:
                    place = lookup.shards[shards[i]]  # its unit is its service's only one
                    total[row, t] += place.base + (shards[:i] == shards[i]).sum(), values[place.unit]
            column += lookup.bag
        return total.reshape(len(indices), -1)

    def check(self, model: Model, *seeds: int) -> None:
        """Queries, one after another, and right answers."""
        for seed in seeds or (0,):
            query = self.query(3, seed)
            np.testing.assert_array_equal(model.infer(query)["sums"], self.sums(query))

    def metric(self, name: str, **labels: str) -> float:
        """The sum over a metric's series with these labels; of models that still run."""
        room = c_int32.in_dll(self.backend.fake, "fake_metric_room").value
        metrics = (_Metric * room).in_dll(self.backend.fake, "fake_metrics")
        wanted = [f"{key}={value}" for key, value in labels.items()]
        family = f"elasticrec_{name} " if name.startswith("replicas") else f"elasticrec_{name}_total "
        found = [m for m in metrics if m.alive and m.series.decode().startswith(family)]
        return sum(m.value for m in found if all(w in m.series.decode() for w in wanted))

    @property
    def log(self) -> str:
        """Since it was loaded: other models of this process may have had the same ports."""
        text = ctypes.string_at(ctypes.addressof(c_char.in_dll(self.backend.fake, "fake_log"))).decode()
        return text[self.log_begin :]

    def times_set_aside(self, address: str) -> int:
        """A replica, as the log has it."""
        return len(re.findall(rf"replica {address}: .*; set aside", self.log))


def make(backend: Backend, folder: Path, *shards: Sequence[FakeShard], **settings: object) -> FanOut:
    """A router over the shards of two services."""
    tiered = make_tiered(np.random.default_rng(5), [(40, 3, 2), (9, 2, 2)])
    return FanOut(backend, folder, tiered, {f"tier{k}": replicas for k, replicas in enumerate(shards)}, settings)


def eventually(check: Callable[[], bool], timeout_s: float = 5) -> None:
    until = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.02)
