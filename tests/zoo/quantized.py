"""Write state dicts of TorchRec's DLRM with quantized tables, and what the quantized models answer.

    python -m tests.zoo.quantized FOLDER

`NAME.pt` of each has beside it `NAME.npz`: `dense`, `indices`, and the `score` of them.
"""

from __future__ import annotations

import copy
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torchrec.inference.modules import quantize_embeddings
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.quant.embedding_modules import quant_prep_enable_quant_state_dict_split_scale_bias
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

KINDS = {
    "int8": (torch.qint8, False),
    "int8_split": (torch.qint8, True),
    "int4": (torch.quint4x2, False),
    "int4_split": (torch.quint4x2, True),
}
ROWS, DIM, POOLING, BATCH = {"a": 500, "b": 200}, 32, 3, 64


def main(folder: Path) -> None:
    """Write all kinds."""
    warnings.simplefilter("ignore")  # the libraries' own
    torch.manual_seed(0)
    configs = [
        EmbeddingBagConfig(name=name, embedding_dim=DIM, num_embeddings=rows, feature_names=[f"of_{name}"])
        for name, rows in ROWS.items()
    ]
    model = DLRM(EmbeddingBagCollection(tables=configs), 5, [16, DIM], [16, 1]).eval()
    for parameter in model.sparse_arch.parameters():
        parameter.data.normal_()
    dense = torch.rand(BATCH, 5)
    ids = [torch.randint(0, rows, (BATCH, POOLING)) for rows in ROWS.values()]
    bags = KeyedJaggedTensor(
        keys=[f"of_{name}" for name in ROWS],
        values=torch.cat([each.reshape(-1) for each in ids]),
        lengths=torch.full((len(ROWS) * BATCH,), POOLING),
    )
    for name, (dtype, split) in KINDS.items():
        own = copy.deepcopy(model)
        if split:
            quant_prep_enable_quant_state_dict_split_scale_bias(own.sparse_arch.embedding_bag_collection)
        small = quantize_embeddings(own, dtype, inplace=False, output_dtype=torch.float32)
        with torch.no_grad():
            score = torch.sigmoid(small(dense, bags))
        plain = {key: getattr(value, "elem", value).clone() for key, value in small.state_dict().items()}
        torch.save(plain, folder / f"{name}.pt")
        indices = torch.cat(ids, 1).numpy()
        np.savez(folder / f"{name}.npz", dense=dense.numpy(), indices=indices, score=score.numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
