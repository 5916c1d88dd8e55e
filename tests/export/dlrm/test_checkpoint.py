"""Checkpoint files of every kind a user may bring: read right, or refused with the file, the key and the remedy."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch.distributed.checkpoint import save as save_distributed

from repo_builder.errors import CheckpointError
from repo_builder.export.dlrm.checkpoint import open_checkpoint
from repo_builder.export.dlrm.source import WeightSource, open_weights
from repo_builder.model.dlrm import DlrmTable
from tests.export.dlrm.oracles import dlrm_state, make_spec


def save(state: dict[str, torch.Tensor], path: Path) -> None:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)


def whole(source: WeightSource, table: DlrmTable) -> NDArray[np.float32]:
    return np.concatenate(list(source.table_chunks(table)))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_every_float_dtype_is_read_as_float32(suffix: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / f"m{suffix}"
    spec = make_spec(source="dlrm", path=path)
    state = {key: value.to(dtype) for key, value in dlrm_state(spec).items()}
    save(state, path)
    source = open_weights(spec)
    for i, table in enumerate(spec.tables):
        np.testing.assert_array_equal(whole(source, table), state[f"emb_l.{i}.weight"].float().numpy())
    weight, bias = source.dense().top[1]
    assert weight.dtype == bias.dtype == np.float32
    np.testing.assert_array_equal(weight, state["top_l.2.weight"].float().numpy())
    np.testing.assert_array_equal(bias, state["top_l.2.bias"].float().numpy())


def test_a_training_checkpoint_with_numpy_losses_parameters_and_optimizer_state_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    spec = make_spec(source="dlrm", path=path)
    state = dlrm_state(spec)
    saved = OrderedDict((key, torch.nn.Parameter(value)) for key, value in state.items())
    extra = {"train_loss": np.float64(0.5), "test_acc": np.float32(0.7), "roc": np.zeros(3), "epoch": 3}
    torch.save({"state_dict": saved, **extra, "opt_state_dict": {"state": {}, "param_groups": [{"lr": 0.1}]}}, path)
    np.testing.assert_array_equal(whole(open_weights(spec), spec.tables[1]), state["emb_l.1.weight"].numpy())


def test_views_into_a_shared_storage_are_read_at_their_own_place(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    big = torch.arange(40.0).reshape(10, 4)
    torch.save({"a": big[2:5], "b": big[7:]}, path)
    checkpoint = open_checkpoint(path)
    np.testing.assert_array_equal(checkpoint.whole("a"), big[2:5].numpy())
    np.testing.assert_array_equal(checkpoint.whole("b"), big[7:].numpy())


def test_a_checkpoint_saved_on_a_gpu_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.pt"
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save({"a": torch.arange(6.0)}, path)
    np.testing.assert_array_equal(open_checkpoint(path).whole("a"), np.arange(6, dtype=np.float32))


def test_a_table_of_many_blocks_is_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    table = torch.arange(5_000_000.0).reshape(-1, 5)
    save_file({"a": table}, path)
    blocks = list(open_checkpoint(path).blocks("a"))
    assert len(blocks) == 5
    np.testing.assert_array_equal(np.concatenate(blocks), table.numpy())


def test_sharded_safetensors_are_read_by_their_index(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    spec = make_spec(source="dlrm", path=path)
    state = dlrm_state(spec)
    keys = sorted(state)
    places = {key: f"model-0000{1 + i % 3}-of-00003.safetensors" for i, key in enumerate(keys)}
    for name in set(places.values()):
        save_file({key: state[key] for key in keys if places[key] == name}, tmp_path / name)
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    source = open_weights(spec)
    for i, table in enumerate(spec.tables):
        np.testing.assert_array_equal(whole(source, table), state[f"emb_l.{i}.weight"].numpy())
    np.testing.assert_array_equal(source.dense().top[0][0], state["top_l.0.weight"].numpy())


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../elsewhere.safetensors"}}, "expected the name of a .safetensors file beside it"),
        ({"weight_map": {"a": "/etc/passwd"}}, "expected the name of a .safetensors file beside it"),
        ({"weight_map": {"a": "model.pt"}}, "expected the name of a .safetensors file beside it"),
        (
            {"weight_map": {"a": "none.safetensors"}},
            r"none\.safetensors: expected this file of .*index\.json, found none",
        ),
        ({"weight_map": {"b": "one.safetensors"}}, r"expected b in one\.safetensors, found none"),
        ({"weight_map": ["a"]}, "expected a safetensors index with a weight_map"),
        ([], "expected a safetensors index with a weight_map"),
    ],
)
def test_a_broken_index_is_refused(index: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    save_file({"a": torch.ones(1)}, tmp_path / "elsewhere.safetensors")
    save_file({"a": torch.ones(1)}, tmp_path / "folder/one.safetensors")
    path = tmp_path / "folder/model.safetensors.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_distributed_checkpoint_is_told_how_to_be_merged(tmp_path: Path) -> None:
    """Its index is a pickle, which is not read; the command is torch's own."""
    touched = tmp_path / "touched"
    save_distributed({"emb_l.0.weight": torch.ones(3, 2)}, checkpoint_id=tmp_path / "dcp")
    command = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {tmp_path}/dcp model.pt"
    with pytest.raises(CheckpointError, match=f"{tmp_path}/dcp: .*{re.escape(command)}"):
        open_checkpoint(tmp_path / "dcp")
    (tmp_path / "dcp/.metadata").write_bytes(pickle.dumps(Hostile(touched)))
    with pytest.raises(CheckpointError, match="dcp_to_torch"):
        open_checkpoint(tmp_path / "dcp")
    assert not touched.exists()


def test_a_folder_is_told_which_of_its_files_to_name(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "model-1.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=rf"got a folder; name {tmp_path}/model\.safetensors\.index\.json"):
        open_checkpoint(tmp_path)


class Hostile:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_not_run(zipped: bool, tmp_path: Path) -> None:
    path, touched = tmp_path / "m.pt", tmp_path / "touched"
    torch.save({"state_dict": {"a": torch.ones(1)}, "x": Hostile(touched)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"m\.pt: .*(pathlib|before PyTorch 1\.6)"):
        open_checkpoint(path)
    assert not touched.exists()


def test_a_saved_module_is_refused_with_the_name_of_its_class(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear.*nothing of it was run.*state_dict"):
        open_checkpoint(path)


def test_the_format_from_before_torch_1_6_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"before PyTorch 1\.6.*re-save it: torch\.save\("):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.pt", b"not a checkpoint at all", "written by torch.save, got a file that starts with"),
        ("m.pt", b"", "written by torch.save"),
        ("m.pt", pickle.dumps({"a": 1}), "written by torch.save"),
        ("m.pt", b"PK\x03\x04 and no more", "truncated or damaged"),
        ("m.safetensors", b"", "truncated, damaged or other file"),
        ("m.safetensors", b"not a safetensors file, but long enough", "truncated, damaged or other file"),
        ("m.onnx", b"x", r"ending in \.pt, \.pth, \.safetensors"),
    ],
)
def test_other_files_are_refused(name: str, content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as raised:
        open_checkpoint(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_a_zip_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(CheckpointError, match="state_dict of plain tensors"):
        open_checkpoint(path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(suffix: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / f"m{suffix}"
    save({"a": torch.ones(5000), "b": torch.ones(5000)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(CheckpointError, match="truncated"):
        open_checkpoint(path)


def test_a_file_cut_short_after_it_was_opened_is_refused_while_reading(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.ones(5000, 2)}, path)
    checkpoint = open_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(CheckpointError, match="a: expected 400 more bytes"):
        list(checkpoint.blocks("a"))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_missing_file_and_a_folder_are_refused(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"found none; check weights\.path"):
        open_checkpoint(tmp_path / f"none{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(CheckpointError, match="got a folder"):
        open_checkpoint(tmp_path / f"folder{suffix}")


@pytest.mark.parametrize("content", [[torch.ones(1)], torch.ones(1), {"model": {"a": torch.ones(1)}}, {}])
def test_content_that_is_no_state_dict_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"expected a state_dict of tensors.*save model\.state_dict\(\)"):
        open_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(4, 11).t(), r"contiguous tensor, got strides \(1, 11\).*\.contiguous\(\)"),
        (torch.ones(11, 8)[:, :4], r"contiguous tensor, got strides \(8, 1\)"),
        (torch.ones(11, 4).to_sparse(), r"dense tensor, got torch.sparse_coo.*\.to_dense\(\)"),
        (torch.ones(11, 4, dtype=torch.uint8), r"got uint8 \(11, 4\), the bytes of quantized rows; save the float"),
        (torch.ones(11, 4, dtype=torch.int64), "got int64; quantized"),
    ],
)
def test_tensors_that_cannot_be_read_are_refused_by_key(tensor: torch.Tensor, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    spec = make_spec(source="dlrm", path=path)
    torch.save(dlrm_state(spec) | {"emb_l.0.weight": tensor}, path)
    with pytest.raises(CheckpointError, match=r"emb_l\.0\.weight: expected .*" + message):
        open_weights(spec)


def test_a_record_that_was_compressed_is_refused(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain.pt", tmp_path / "m.pt"
    spec = make_spec(source="dlrm", path=path)
    torch.save(dlrm_state(spec), plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match=r"emb_l\.0\.weight: .*got a compressed record; re-save"):
        open_weights(spec)


def test_a_big_endian_file_is_refused(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain.pt", tmp_path / "m.pt"
    torch.save({"a": torch.ones(2)}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"big" if name.endswith("byteorder") else old.read(name))
    with pytest.raises(CheckpointError, match="little-endian"):
        open_checkpoint(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_table_with_a_value_that_is_not_finite_is_refused_while_reading(value: float, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    spec = make_spec(source="dlrm", path=path)
    state = dlrm_state(spec)
    state["emb_l.1.weight"][5, 2] = value
    save_file(state, path)
    source = open_weights(spec)
    with pytest.raises(CheckpointError, match=r"emb_l\.1\.weight: expected finite .*row 5, column 2"):
        whole(source, spec.tables[1])


def test_layers_that_are_not_finite_are_all_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    spec = make_spec(source="dlrm", path=path)
    state = dlrm_state(spec)
    state["bot_l.0.bias"][1] = float("nan")
    state["top_l.2.weight"][0, 3] = float("inf")
    save_file(state, path)
    with pytest.raises(CheckpointError) as raised:
        open_weights(spec)
    assert [line.split(": ")[1] for line in raised.value.problems] == ["bot_l.0.bias", "top_l.2.weight"]


def test_a_float64_past_the_range_of_float32_is_refused_but_large_sums_are_not(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"a": torch.full((3, 2), 3e38), "b": torch.full((3, 2), 1e39, dtype=torch.float64)}, path)
    checkpoint = open_checkpoint(path)
    assert len(next(checkpoint.blocks("a"))) == 3
    with pytest.raises(CheckpointError, match="b: expected finite float32 values, got inf"):
        list(checkpoint.blocks("b"))


PEAK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from tests.export.dlrm.oracles import make_spec
from repo_builder.repository.weights import write_shards
from repo_builder.export.dlrm.source import open_weights

def peak_bytes() -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024

spec = make_spec(rows=(1_250_000,) * 5, dim=32, source="dlrm", path=sys.argv[2])
baseline = peak_bytes()
source = open_weights(spec)
for table in spec.tables:
    with open("/dev/null", "wb") as nowhere:
        shard_of_row = (np.arange(table.rows) % 4).astype(np.uint8)
        write_shards(source.table_chunks(table), shard_of_row, [nowhere] * 4, ["fp32"] * 4)
print(peak_bytes() - baseline)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_building_from_a_large_checkpoint_keeps_less_than_a_table_and_512_mib(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{suffix}"
    spec = make_spec(rows=(1_250_000,) * 5, dim=32, source="dlrm", path=path)
    save(dlrm_state(spec), path)  # 5 tables of 160 MB
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(Path(__file__).parents[3]), str(path)],
        capture_output=True,
        check=True,
        text=True,
    )
    path.unlink()
    assert int(done.stdout) <= 160_000_000 + 512 * 1024**2
