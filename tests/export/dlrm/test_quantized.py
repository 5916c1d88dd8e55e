"""Tables that a checkpoint has in fewer bits: read as they are, whoever quantized them; PyTorch unpacks them too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from repo_builder.errors import CheckpointError
from repo_builder.export.dlrm.reference import reference_scores
from repo_builder.export.dlrm.source import open_weights
from repo_builder.export.dlrm.torch_file import AS_BYTES
from repo_builder.export.dlrm.trained import read_dlrm_of
from repo_builder.model.dlrm import Dlrm
from repo_builder.model.types import RowDtype
from tests.export.dlrm.oracles import OracleTorchRec, bags_of, dlrm_state, make_spec, random_indices
from tests.export.quantized_rows import PACK

BAGS = "sparse_arch.embedding_bag_collection.embedding_bags"
State = dict[str, torch.Tensor]


def fused(key: str, packed: torch.Tensor, _: RowDtype) -> State:
    return {key: packed}


def halves(packed: torch.Tensor, dtype: RowDtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The bytes of a row's numbers, and its scale and bias in float16, (rows, 2)."""
    sides = 8 if dtype == "int8" else 4
    numbers, ends = packed[:, :-sides].contiguous(), packed[:, -sides:].contiguous()
    return numbers, ends.view(torch.float32 if dtype == "int8" else torch.float16).half()


def in_front(key: str, packed: torch.Tensor, dtype: RowDtype) -> State:
    """As TorchRec writes rows: scale and bias in float16, the numbers, zeros up to 16 bytes."""
    numbers, sides = halves(packed, dtype)
    row = torch.cat([sides.view(torch.uint8), numbers], 1)
    return {key: torch.nn.functional.pad(row, (0, -row.shape[1] % 16))}


def beside(key: str, packed: torch.Tensor, dtype: RowDtype) -> State:
    """As TorchRec's split state dict has them."""
    numbers, sides = halves(packed, dtype)
    return {key: numbers, f"{key}_qscale": sides[:, :1].clone(), f"{key}_qbias": sides[:, 1:].clone()}


def quantized(spec: Dlrm, place: Callable[..., State], dtype: RowDtype) -> tuple[State, OracleTorchRec]:
    """A state dict with such tables, and the model with their numbers."""
    torch.manual_seed(5)
    model = OracleTorchRec(spec)
    pack, unpack = PACK[dtype]
    state = model.saved()
    for table in spec.tables:
        packed = pack(model.tables[table.name].weight.detach())
        if place is not fused and dtype == "int8":  # float16 holds these scales and biases
            packed[:, -8:] = packed[:, -8:].contiguous().view(torch.float32).half().float().view(torch.uint8)
        model.tables[table.name].weight = torch.nn.Parameter(unpack(packed))
        key = f"{BAGS}.{table.name}.weight"
        items = {**state, **place(key, packed, dtype)}
        tables = {name: value for name, value in items.items() if name.startswith(BAGS)}
        state = {**tables, **{name: value for name, value in items.items() if name not in tables}}
    return state, model


def of_dtype(spec: Dlrm, dtype: RowDtype) -> Dlrm:
    return replace(spec, tables=tuple(replace(table, dtype=dtype) for table in spec.tables))


WIDE_AS_TORCHRECS = ("int8_half", fused, 12)  # its rows of 12 numbers, with scale and bias in front, are as wide


@pytest.mark.parametrize(
    ("dtype", "place", "dim"),
    [each for each in product(PACK, [fused, in_front, beside], [10, 12, 20, 32]) if each != WIDE_AS_TORCHRECS],
)
def test_rows_are_those_that_pytorch_unpacks(
    dtype: RowDtype, place: Callable[..., State], dim: int, tmp_path: Path
) -> None:
    """Bytes pass as they are, and so do scores."""
    spec = make_spec(source="torchrec", path=tmp_path / "m.pt", dim=dim)
    state, model = quantized(spec, place, dtype)
    torch.save(state, tmp_path / "m.pt")
    spec = of_dtype(spec, dtype)
    weights = open_weights(spec)
    rows = np.concatenate(list(weights.table_chunks(spec.tables[0].stored)))
    unpacked = PACK[dtype][1](torch.from_numpy(rows)).numpy()
    np.testing.assert_array_equal(unpacked, model.tables["C1"].weight.detach().numpy())
    dense, indices = torch.rand(9, 3), random_indices(spec, 9)
    scores = reference_scores(spec, weights, dense.numpy(), indices.numpy())
    expected = torch.sigmoid(model(dense, bags_of(spec, indices))).detach().numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")  # which torch deprecated
def test_torchs_quantized_tensors_are_refused_with_what_to_do(tmp_path: Path) -> None:
    """What the message says gives rows with the numbers that they have."""
    spec = make_spec(source="dlrm", path=tmp_path / "m.pt", dim=16)
    state, taken = dlrm_state(spec), dict[str, torch.Tensor]()
    for i, table in enumerate(spec.tables):
        weight = state[f"emb_l.{i}.weight"]
        low, high = weight.amin(1), weight.amax(1)
        s = (high - low) / 255
        value = torch.quantize_per_channel(weight, s, -low / s, 0, torch.quint8)
        state[f"emb_l.{i}.weight"] = value
        named = {"torch": torch, "value": value}
        told = AS_BYTES.split("; ")
        exec(told[0], named)  # noqa: S102 # our own message
        taken[table.name] = eval(told[1], named)  # noqa: S307 # our own message
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="got quantized ones of torch") as caught:
        open_weights(spec)
    assert len(caught.value.problems) == 1 and AS_BYTES in caught.value.problems[0]
    for i, table in enumerate(spec.tables):
        expected, state[f"emb_l.{i}.weight"] = state[f"emb_l.{i}.weight"].dequantize(), taken[table.name]
        unpacked = PACK["int8"][1](taken[table.name])
        np.testing.assert_allclose(unpacked.numpy(), expected.numpy(), atol=1e-6)
    torch.save(state, tmp_path / "m.pt")
    rows = np.concatenate(
        list(open_weights(of_dtype(spec, "int8")).table_chunks(of_dtype(spec, "int8").tables[0].stored))
    )
    np.testing.assert_array_equal(rows, taken["C1"].numpy())


def beside_in_float32(key: str, packed: torch.Tensor, dtype: RowDtype) -> State:
    return {name: value.float() if name != key else value for name, value in beside(key, packed, dtype).items()}


@pytest.mark.parametrize("dim", [10, 20])
@pytest.mark.parametrize(
    ("place", "dtype", "told"),
    [
        (in_front, "int8", "int8_half"),
        (in_front, "int4", "int4"),
        (beside, "int8", "int8_half"),
        (beside_in_float32, "int8", "int8"),
        (fused, "int8", "int8"),
        (fused, "int8_half", "int8_half"),
        (fused, "int4", "int4"),
    ],
)
def test_a_first_spec_says_what_they_are(
    place: Callable[..., State], dtype: RowDtype, told: RowDtype, dim: int, tmp_path: Path
) -> None:
    """In the fewest bytes that hold them: scales that come in float16 stay so.

    TorchRec's rows of ten numbers are as wide in int4.
    """
    spec = make_spec(source="torchrec", path=tmp_path / "m.pt", dim=dim)
    state, model = quantized(spec, place, dtype)
    torch.save(state, tmp_path / "m.pt")
    found, _ = read_dlrm_of(tmp_path / "m.pt")
    assert [(table.rows, table.dim, table.dtype) for table in found.tables] == [
        (table.rows, dim, told) for table in spec.tables
    ]
    assert found.bottom_mlp == spec.bottom_mlp
    rows = np.concatenate(list(open_weights(of_dtype(spec, told)).table_chunks(found.tables[0].stored)))
    unpacked = PACK[told][1](torch.from_numpy(rows)).numpy()
    np.testing.assert_array_equal(unpacked, model.tables["C1"].weight.detach().numpy())


@pytest.mark.parametrize("dtype", PACK)
def test_the_open_source_dlrms_first_spec_takes_no_scale_in_front(dtype: RowDtype, tmp_path: Path) -> None:
    """Of eight numbers, sixteen bytes would be TorchRec's rows of any kind: there they end with scale and bias."""
    spec = make_spec(source="dlrm", path=tmp_path / "m.pt", dim=8)
    state = dlrm_state(spec)
    torch.save({**state, "emb_l.1.weight": PACK[dtype][0](state["emb_l.1.weight"])}, tmp_path / "m.pt")
    found, _ = read_dlrm_of(tmp_path / "m.pt")
    assert [table.dtype for table in found.tables] == ["fp32", dtype, *["fp32"] * (len(spec.tables) - 2)]


def test_the_open_source_dlrms_may_be_fused_in_safetensors(tmp_path: Path) -> None:
    """Eight numbers in sixteen bytes: here scale and bias are at the end."""
    path = tmp_path / "m.safetensors"
    spec = make_spec(source="dlrm", path=path, dim=8)
    state = dlrm_state(spec)
    packed = PACK["int8"][0](state["emb_l.1.weight"])
    save_file({**state, "emb_l.1.weight": packed}, path)
    spec = replace(spec, tables=(spec.tables[0], replace(spec.tables[1], dtype="int8"), *spec.tables[2:]))
    weights = open_weights(spec)
    assert np.concatenate(list(weights.table_chunks(spec.tables[1].stored))).tobytes() == packed.numpy().tobytes()
    np.testing.assert_array_equal(next(weights.table_chunks(spec.tables[0].stored)), state["emb_l.0.weight"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, r"expected uint8 \(11, 28\) or \(11, 32\) .*, or \(11, 20\) with weight_qscale and weight_qbias beside"),
        ({"_qscale": torch.ones(11, 1)}, "expected uint8"),
        ({"_qscale": torch.ones(11, 1), "_qbias": torch.ones(10, 1)}, "expected uint8"),
        ({"_qscale": torch.ones(11, 1), "_qbias": torch.ones(11, 1, dtype=torch.int32)}, "expected uint8"),
        ({"": torch.ones(11, 27, dtype=torch.uint8)}, "expected uint8"),
        ({"": torch.ones(11, 24, dtype=torch.uint8)}, "expected uint8 .*set dtype: int8_half for table C1 in the spec"),
        ({"": torch.ones(11, 20)}, "expected the bytes of quantized rows for table C1, got float32 .*take dtype: int8"),
        ({"": torch.ones(12, 28, dtype=torch.uint8)}, r"check rows, dim and dtype"),
    ],
)
def test_what_are_no_such_rows_is_told_by_key(change: State, told: str, tmp_path: Path) -> None:
    spec = make_spec(source="torchrec", path=tmp_path / "m.pt", dim=20)
    key = f"{BAGS}.C1.weight"
    state = {key: torch.ones(11, 20, dtype=torch.uint8), **{key + end: value for end, value in change.items()}}
    torch.save(
        {**state, **{name: v for name, v in OracleTorchRec(spec).saved().items() if name != key}}, tmp_path / "m.pt"
    )
    with pytest.raises(CheckpointError, match=told) as raised:
        open_weights(replace(spec, tables=(replace(spec.tables[0], dtype="int8"), *spec.tables[1:])))
    assert raised.value.problems[0].startswith(f"{tmp_path / 'm.pt'}: {key}: ")


def test_scales_that_are_not_finite_are_told_by_row(tmp_path: Path) -> None:
    spec = make_spec(source="torchrec", path=tmp_path / "m.pt", dim=20)
    state, _ = quantized(spec, beside, "int8")
    state[f"{BAGS}.C2.weight_qbias"][5] = float("nan")
    torch.save(state, tmp_path / "m.pt")
    spec = of_dtype(spec, "int8")
    with pytest.raises(CheckpointError, match=r"C2.weight: expected a finite scale and bias, got .* and nan at row 5"):
        list(open_weights(spec).table_chunks(spec.tables[1].stored))


def test_a_scale_beside_numbers_belongs_to_nothing(tmp_path: Path) -> None:
    spec = make_spec(source="torchrec", path=tmp_path / "m.pt")
    torch.save(OracleTorchRec(spec).saved() | {f"{BAGS}.C1.weight_qscale": torch.ones(11)}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"C1.weight_qscale: expected only tables"):
        open_weights(spec)
