"""MLPerf's DLRMv2 as an exported program: torchrec's DLRM_DCN with the benchmark's 26 tables, at a scale of your own.

    python examples/mlperf/export.py --scale 0.01 -o dlrm_v2.pt2               # 1 GB, seeded weights: builds and serves
    python examples/mlperf/export.py --scale 1 --hollow -o dlrm_v2.pt2         # 104.5 GB of holes: plans

Needs torchrec: see the project's extra `zoo`. Sizes: mlcommons/training, recommendation_v2/torchrec_dlrm.
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.models.dlrm import DLRM_DCN

ROWS = (
    40000000, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 40000000, 3067956, 405282, 10,
    2209, 11938, 155, 4, 976, 14, 40000000, 40000000, 40000000, 590152, 12973, 108, 36,
)  # fmt: skip
MULTI_HOT = (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1)  # ids of a row
DIM, DENSE = 128, 13
FEATURES = tuple(f"cat_{i}" for i in range(len(ROWS)))
LEAST_ROWS = 1000  # a scaled table keeps so many, where it has them
EXAMPLE_ROWS = 8
ZEROS = bytes(64 << 20)


class Scorer(nn.Module):
    """Dense features, all ids feature by feature, how many ids each bag has -> logits: tensors alone."""

    def __init__(self, model: DLRM_DCN) -> None:
        super().__init__()
        self.model = model

    def forward(self, dense: torch.Tensor, values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """dense [B, 13] float32, values [n] int64, lengths [26, B] int64 -> [B, 1] float32."""
        return self.model(dense, KeyedJaggedTensor(list(FEATURES), values, lengths=lengths.reshape(-1)))


class Sparse(io.FileIO):
    """A file in which a block of ZEROS is a hole."""

    def write(self, data: object) -> int:
        """Skip over ZEROS; whatever is written last must be something else."""
        if data is ZEROS:
            self.seek(len(ZEROS), io.SEEK_CUR)
            return len(ZEROS)
        return super().write(data)


def main() -> None:
    """Make the model, export it, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=0.001, help="of the tables' rows; 1: as in the benchmark")
    parser.add_argument("--hollow", action="store_true", help="tables of zeros that take no memory and no disk")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--onnx", type=Path, help="write it as ONNX too, its bags as loops, as torch does")
    args = parser.parse_args()
    if args.hollow and args.onnx:
        parser.error("--onnx: the tables of --hollow are not there to be written")
    rows = [min(own, max(LEAST_ROWS, round(own * args.scale))) for own in ROWS]
    model = scorer(rows, seeded=not args.hollow)
    program = torch.export.export(
        model, example(rows), dynamic_shapes=({0: Dim.AUTO}, {0: Dim.AUTO}, {1: Dim.AUTO}), strict=False
    )
    if args.hollow:
        write_hollow(program, args.output)
    else:
        torch.export.save(program, args.output)
    if args.onnx:
        torch.onnx.export(program, f=args.onnx, dynamo=True, output_names=["logits"], verbose=False)
    print(f"{args.output}: {sum(rows):,} rows, {4 * DIM * sum(rows):,} bytes of tables")


def scorer(rows: Sequence[int], seeded: bool) -> Scorer:
    """The model: bottom 512-256-128, three crosses of rank 512, over 1024-1024-512-256-1."""
    torch.manual_seed(0)
    tables = [
        EmbeddingBagConfig(name=f"t_{feature}", embedding_dim=DIM, num_embeddings=size, feature_names=[feature])
        for feature, size in zip(FEATURES, rows, strict=True)
    ]
    bags = EmbeddingBagCollection(tables=tables, device=torch.device("meta"))
    model = DLRM_DCN(bags, DENSE, [512, 256, DIM], [1024, 1024, 512, 256, 1], dcn_num_layers=3, dcn_low_rank_dim=512)
    bags.to_empty(device="cpu")  # memory that nothing has touched is none
    if seeded:
        for bag in bags.embedding_bags.values():
            nn.init.normal_(bag.weight, std=0.1)
    return Scorer(model.requires_grad_(requires_grad=False)).eval()


def example(rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A query with the benchmark's number of ids in each bag."""
    numbers = torch.Generator().manual_seed(1)
    values = [
        torch.randint(0, size, (EXAMPLE_ROWS * ids,), generator=numbers)
        for size, ids in zip(rows, MULTI_HOT, strict=True)
    ]
    lengths = torch.tensor(MULTI_HOT).unsqueeze(1).expand(-1, EXAMPLE_ROWS).contiguous()
    return torch.rand(EXAMPLE_ROWS, DENSE, generator=numbers), torch.cat(values), lengths


def write_hollow(program: ExportedProgram, path: Path) -> None:
    """Save the program with its tables on the meta device, then again with a member of holes for each of these."""
    state = program.state_dict
    hollow = {name: weight.nbytes for name, weight in state.items() if ".embedding_bags." in name}
    for name in hollow:
        state[name] = nn.Parameter(torch.empty_like(state[name], device="meta"), requires_grad=False)
    saved = io.BytesIO()
    torch.export.save(program, saved)
    with zipfile.ZipFile(saved) as source, Sparse(path, "w") as file, zipfile.ZipFile(file, "w") as archive:
        for entry in source.infolist():
            folder, _, name = entry.filename.rpartition("/")
            content = source.read(entry)
            if name == "model_weights_config.json":  # torch takes all tensors without memory for one
                config = json.loads(content)
                for i, (table, size) in enumerate(hollow.items()):
                    config["config"][table]["path_name"] = f"weight_t_{i}"
                    write_zeros(archive, f"{folder}/weight_t_{i}", size)
                content = json.dumps(config).encode()
            archive.writestr(zipfile.ZipInfo(entry.filename), content)


def write_zeros(archive: zipfile.ZipFile, name: str, size_bytes: int) -> None:
    """A member of zeros; its checksum is over all of them, so that the archive is a sound one."""
    with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
        for _ in range(size_bytes // len(ZEROS)):
            member.write(ZEROS)
        member.write(bytes(size_bytes % len(ZEROS)))


if __name__ == "__main__":
    main()
