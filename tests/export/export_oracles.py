"""Models, checkpoints and plain-PyTorch oracles for the export tests; they share no code with repo_builder.export."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from repo_builder.export.layers import DenseWeights
from repo_builder.model.dlrm import Dlrm, DlrmTable, Weights, WeightsSource
from repo_builder.model.types import PoolingMode


def make_spec(
    rows: tuple[int, ...] = (11, 7, 5),
    dim: int = 4,
    bottom: tuple[int, ...] = (6,),
    top: tuple[int, ...] = (8, 1),
    source: WeightsSource = "random",
    path: Path | None = None,
    dense_features: int = 3,
    pooling: int = 3,
    seed: int = 0,
    modes: tuple[PoolingMode, ...] = (),
) -> Dlrm:
    """Tables C1, C2, ...; those beyond `modes` are summed."""
    pooled = (*modes, *("sum" for _ in rows[len(modes) :]))
    tables = tuple(
        DlrmTable(f"C{i + 1}", count, dim, pooling, mode)
        for i, (count, mode) in enumerate(zip(rows, pooled, strict=True))
    )
    weights = Weights(source, Path(path) if path else None, seed)
    return Dlrm(dense_features, (*bottom, dim), top, tables, "int64", weights)


class OracleDlrm(nn.Module):
    """The open-source DLRM's forward with its key names; `order` lists the interaction's pairs one by one."""

    def __init__(self, spec: Dlrm) -> None:
        super().__init__()
        self.emb_l = nn.ModuleList(
            nn.EmbeddingBag(table.rows, table.dim, mode=table.mode, include_last_offset=True) for table in spec.tables
        )
        self.bot_l = _mlp([spec.dense_features, *spec.bottom_mlp], nn.ReLU())
        count = len(spec.tables)
        self.top_l = _mlp([spec.dim + count * (count + 1) // 2, *spec.top_mlp], nn.Sigmoid())

    def forward(self, dense: torch.Tensor, bags: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        return self.score(dense, [table(*bag) for table, bag in zip(self.emb_l, bags, strict=True)])

    def score(self, dense: torch.Tensor, pooled: list[torch.Tensor]) -> torch.Tensor:
        x = self.bot_l(dense)
        vectors = [x, *pooled]
        rows = []
        for b in range(len(x)):
            row = list(x[b])
            for i in range(len(vectors)):
                for j in range(i):
                    row.append(torch.dot(vectors[i][b], vectors[j][b]))
            rows.append(torch.stack(row))
        return self.top_l(torch.stack(rows))


class OracleTorchRec(nn.Module):
    """TorchRec's DLRM forward (upper triangle, logits), with its key names."""

    def __init__(self, spec: Dlrm) -> None:
        super().__init__()
        self.tables = nn.ModuleDict(
            {
                table.name: nn.EmbeddingBag(table.rows, table.dim, mode=table.mode, include_last_offset=True)
                for table in spec.tables
            }
        )
        self.dense_arch = _linears([spec.dense_features, *spec.bottom_mlp])
        count = len(spec.tables)
        self.over_arch = _linears([spec.dim + count * (count + 1) // 2, *spec.top_mlp])

    def forward(self, dense: torch.Tensor, bags: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        for layer in self.dense_arch:
            dense = torch.relu(layer(dense))
        sparse = [table(*bag) for table, bag in zip(self.tables.values(), bags, strict=True)]
        combined = torch.stack([dense, *sparse], dim=1)
        interactions = torch.bmm(combined, combined.transpose(1, 2))
        above = torch.triu_indices(combined.shape[1], combined.shape[1], offset=1)
        x = torch.cat((dense, interactions[:, above[0], above[1]]), dim=1)
        for layer in self.over_arch[:-1]:
            x = torch.relu(layer(x))
        return self.over_arch[-1](x)

    def saved(self, head: str = "") -> dict[str, torch.Tensor]:
        last = len(self.over_arch) - 1
        state = {
            f"{head}sparse_arch.embedding_bag_collection.embedding_bags.{name}.weight": table.weight
            for name, table in self.tables.items()
        }
        for i, layer in enumerate(self.dense_arch):
            state |= _pair(f"{head}dense_arch.model._mlp.{i}._linear", layer)
        for i, layer in enumerate(self.over_arch):
            stem = "over_arch.model.1" if i == last else f"over_arch.model.0._mlp.{i}._linear"
            state |= _pair(head + stem, layer)
        return {key: value.detach() for key, value in state.items()}


def dlrm_state(spec: Dlrm) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {key: value.detach() for key, value in OracleDlrm(spec).state_dict().items()}


def bags_of(spec: Dlrm, indices: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The wire's padded indices as (values, offsets with the last) a table."""
    bags, start = [], 0
    for table in spec.tables:
        values, offsets = [], [0]
        for row in indices[:, start : start + table.pooling].tolist():
            values += [i for i in row if i != -1]
            offsets.append(len(values))
        bags.append((torch.tensor(values, dtype=torch.int64), torch.tensor(offsets)))
        start += table.pooling
    return bags


def random_indices(spec: Dlrm, batch: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    columns = []
    for table in spec.tables:
        ids = torch.randint(0, table.rows, (batch, table.pooling), generator=generator)
        empty = torch.rand((batch, table.pooling), generator=generator) < 0.3
        columns.append(ids.masked_fill(empty, -1))
    columns[0][0] = -1  # an empty bag
    return torch.cat(columns, dim=1)


def load_oracle(spec: Dlrm, weights: DenseWeights) -> OracleDlrm:
    """An OracleDlrm with the given DenseWeights; its tables keep their own."""
    model = OracleDlrm(spec)
    for stack, layers in ((model.bot_l, weights.bottom), (model.top_l, weights.top)):
        for i, (weight, bias) in enumerate(layers):
            stack[2 * i].weight.data = torch.from_numpy(weight)
            stack[2 * i].bias.data = torch.from_numpy(bias)
    return model


def _mlp(widths: list[int], last: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, linear in enumerate(_linears(widths)):
        layers += [linear, last if i == len(widths) - 2 else nn.ReLU()]
    return nn.Sequential(*layers)


def _linears(widths: list[int]) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))


def _pair(stem: str, layer: nn.Linear) -> dict[str, torch.Tensor]:
    return {f"{stem}.weight": layer.weight, f"{stem}.bias": layer.bias}
