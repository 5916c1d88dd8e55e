"""Models, checkpoints and plain-PyTorch oracles for the export tests; they share no code with repo_builder.export."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from repo_builder.export.dlrm.layers import DenseWeights
from repo_builder.model.dlrm import Dlrm, DlrmTable, Weights, WeightsSource
from repo_builder.model.interaction import Cross, Dot, Interaction, Projection
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
    interaction: Interaction = Dot(),  # noqa: B008 # frozen
) -> Dlrm:
    """Tables C1, C2, ...; those beyond `modes` are summed."""
    pooled = (*modes, *("sum" for _ in rows[len(modes) :]))
    tables = tuple(
        DlrmTable(f"C{i + 1}", count, dim, pooling, mode)
        for i, (count, mode) in enumerate(zip(rows, pooled, strict=True))
    )
    weights = Weights(source, Path(path) if path else None, seed)
    return Dlrm(dense_features, (*bottom, dim), top, tables, "int64", weights, interaction)


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
        self.over_arch = _linears([self.add_interaction(spec, len(spec.tables) + 1), *spec.top_mlp])

    def forward(self, dense: torch.Tensor, bags: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        return self.logits(dense, [table(*bag) for table, bag in zip(self.tables.values(), bags, strict=True)])

    def score(self, dense: torch.Tensor, pooled: list[torch.Tensor]) -> torch.Tensor:
        return torch.sigmoid(self.logits(dense, pooled))

    def logits(self, dense: torch.Tensor, pooled: list[torch.Tensor]) -> torch.Tensor:
        for layer in self.dense_arch:
            dense = torch.relu(layer(dense))
        x = self.interact(dense, torch.stack([dense, *pooled], dim=1))
        for layer in self.over_arch[:-1]:
            x = torch.relu(layer(x))
        return self.over_arch[-1](x)

    def add_interaction(self, spec: Dlrm, vectors: int) -> int:
        """Make its weights; the numbers that it gives."""
        return spec.dim + vectors * (vectors - 1) // 2

    def interact(self, dense: torch.Tensor, combined: torch.Tensor) -> torch.Tensor:
        """Of the bottom output (B, D) and all vectors (B, F+1, D)."""
        interactions = torch.bmm(combined, combined.transpose(1, 2))
        above = torch.triu_indices(combined.shape[1], combined.shape[1], offset=1)
        return torch.cat((dense, interactions[:, above[0], above[1]]), dim=1)

    def saved_interaction(self, head: str) -> dict[str, torch.Tensor]:
        return {}

    def saved(self, head: str = "") -> dict[str, torch.Tensor]:
        last = len(self.over_arch) - 1
        state = {
            f"{head}sparse_arch.embedding_bag_collection.embedding_bags.{name}.weight": table.weight
            for name, table in self.tables.items()
        }
        for i, layer in enumerate(self.dense_arch):
            state |= _pair(f"{head}dense_arch.model._mlp.{i}._linear", layer)
        state |= self.saved_interaction(f"{head}inter_arch.")
        for i, layer in enumerate(self.over_arch):
            stem = "over_arch.model.1" if i == last else f"over_arch.model.0._mlp.{i}._linear"
            state |= _pair(head + stem, layer)
        return {key: value.detach() for key, value in state.items()}


class OracleDcn(OracleTorchRec):
    """TorchRec's DLRM_DCN, written out number by number."""

    def add_interaction(self, spec: Dlrm, vectors: int) -> int:
        size, cross = vectors * spec.dim, spec.interaction
        assert isinstance(cross, Cross)
        self.W = nn.ParameterList(0.5 * torch.randn(size, cross.rank) for _ in range(cross.layers))
        self.V = nn.ParameterList(0.5 * torch.randn(cross.rank, size) for _ in range(cross.layers))
        self.b = nn.ParameterList(torch.randn(size) for _ in range(cross.layers))
        return size

    def interact(self, dense: torch.Tensor, combined: torch.Tensor) -> torch.Tensor:
        rows = []
        for first in combined.flatten(1):
            x = first
            for w, v, b in zip(self.W, self.V, self.b, strict=True):
                x = first * (w @ (v @ x) + b) + x
            rows.append(x)
        return torch.stack(rows)

    def saved_interaction(self, head: str) -> dict[str, torch.Tensor]:
        kinds = {"W_kernels": self.W, "V_kernels": self.V, "bias": self.b}
        return {f"{head}crossnet.{kind}.{i}": each for kind, stack in kinds.items() for i, each in enumerate(stack)}


class OracleProjection(OracleTorchRec):
    """TorchRec's DLRM_Projection, its products one by one."""

    def add_interaction(self, spec: Dlrm, vectors: int) -> int:
        projection = spec.interaction
        assert isinstance(projection, Projection)
        self.branch1 = _linears([vectors * spec.dim, *projection.branch1])
        self.branch2 = _linears([vectors * spec.dim, *projection.branch2])
        return spec.dim + projection.branch1[-1] * projection.branch2[-1] // spec.dim**2

    def interact(self, dense: torch.Tensor, combined: torch.Tensor) -> torch.Tensor:
        outs = []
        for branch in (self.branch1, self.branch2):
            x = combined.flatten(1)
            for layer in branch:
                x = torch.relu(layer(x))
            outs.append(x)
        dim = dense.shape[1]
        ones, count = outs[0].split(dim, dim=1), outs[1].shape[1] // dim
        others = [outs[1][:, place::count] for place in range(count)]  # a (D, m) matrix's columns
        return torch.cat([dense, *((a * b).sum(1, keepdim=True) for a in ones for b in others)], dim=1)

    def saved_interaction(self, head: str) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = {}
        for n, branch in ((1, self.branch1), (2, self.branch2)):
            for i, layer in enumerate(branch):
                state |= _pair(f"{head}interaction_branch{n}.model._mlp.{i}._linear", layer)
        return state


def torchrec_oracle(spec: Dlrm) -> OracleTorchRec:
    """TorchRec's model with the spec's interaction."""
    return {"dot": OracleTorchRec, "dcn": OracleDcn, "projection": OracleProjection}[spec.interaction.kind](spec)


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


def load_oracle(spec: Dlrm, weights: DenseWeights) -> OracleDlrm | OracleTorchRec:
    """An oracle with the given DenseWeights; its tables keep their own."""
    if spec.interaction.kind != "dot":
        return _load_torchrec(torchrec_oracle(spec), weights)
    model = OracleDlrm(spec)
    for stack, layers in ((model.bot_l, weights.bottom), (model.top_l, weights.top)):
        for i, (weight, bias) in enumerate(layers):
            stack[2 * i].weight.data = torch.from_numpy(weight)
            stack[2 * i].bias.data = torch.from_numpy(bias)
    return model


def _load_torchrec(model: OracleTorchRec, weights: DenseWeights) -> OracleTorchRec:
    linears = [(model.dense_arch, weights.bottom), (model.over_arch, weights.top)]
    if isinstance(model, OracleProjection):
        linears += [(model.branch1, weights.interaction["branch1"]), (model.branch2, weights.interaction["branch2"])]
    for stack, layers in linears:
        for linear, (weight, bias) in zip(stack, layers, strict=True):
            linear.weight.data, linear.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
    if isinstance(model, OracleDcn):
        for i, (down, up, bias) in enumerate(weights.interaction["cross"]):
            model.V[i].data, model.W[i].data, model.b[i].data = map(torch.from_numpy, (down, up, bias))
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
