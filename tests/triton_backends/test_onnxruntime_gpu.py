"""The stand-in for Triton's ONNX Runtime backend where a model is placed on a GPU, without one.

ONNX Runtime's CUDA provider itself, and scores computed by it, need a GPU and are not tested here.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import json_format

from repo_builder.repository.configs import dense_config
from repo_builder.serving.install import onnxruntime_library
from tests.repository.test_configs import on_gpus
from tests.triton_backends.fake_triton import Backend, BackendError, Model, compile_library
from tests.triton_backends.test_native_onnxruntime import write

SOURCE = Path(__file__).with_name("fake_onnxruntime.c")


def config(*accelerators: object) -> str:
    return json.dumps({"optimization": {"execution_accelerators": {"gpu_execution_accelerator": accelerators}}})


@pytest.fixture(scope="module")
def backend(fake: ctypes.CDLL) -> Backend:
    ctypes.CDLL(str(onnxruntime_library()))
    return Backend(fake, "onnxruntime")


def test_an_onnxruntime_for_the_cpu_alone_refuses_and_names_what_helps(backend: Backend, tmp_path: Path) -> None:
    """The real one: the model is never run on the CPU instead."""
    told = (
        r"^GPU 3: the model is placed there, .* pip install 'onnxruntime-gpu\[cuda,cudnn\]'; or build with --cpu-only. "
        r"ONNX Runtime: CUDA execution provider is not enabled in this build\.$"
    )
    with pytest.raises(BackendError, match=told), Model(backend, write(tmp_path), gpu=3):
        pass


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (config({"name": "tensorrt"}), "gpu_execution_accelerator: expected cuda, got tensorrt: only NVIDIA's own"),
        (config({"name": "cuda"}, {}), "gpu_execution_accelerator: expected cuda, got : only NVIDIA's own"),
        (config({"name": "cuda", "parameters": {"use_tf32": 0}}), "use_tf32: expected a string"),
        (
            config({"name": "cuda", "parameters": {str(i): "" for i in range(33)}}),
            "gpu_execution_accelerator: expected at most 32 parameters",
        ),
        (config({"name": "cuda"})[:-5], "^GPU 0: "),  # ends in the middle: none is found, and nothing is read beyond it
    ],
)
def test_what_a_config_asks_for_and_we_have_not_is_told(backend: Backend, tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(BackendError, match=told), Model(backend, write(tmp_path), text, gpu=0):
        pass


def test_a_cpu_instance_does_not_read_what_is_for_gpus(backend: Backend, tmp_path: Path) -> None:
    with Model(backend, write(tmp_path), config({"name": "tensorrt"})) as model:
        assert model.instance.state is not None


def _told(library: Path, folder: Path, text: str, *gpus: int | None, failure: str = "") -> dict[str, str]:
    """What a process says that has the fake ONNX Runtime, and no other one, and places instances so."""
    program = [sys.executable, "-m", "tests.triton_backends.gpu_instances"]
    words = [*program, library, folder, text, json.dumps(gpus), failure]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_library(SOURCE, tmp_path_factory.mktemp("onnxruntime"), "-Wl,-soname,libonnxruntime.so.1")


def test_each_gpu_has_a_session_with_what_our_own_config_asks_for(library: Path, tmp_path: Path) -> None:
    """TF32 would round to 10 bits what the proof compares to 1e-5; instances on one GPU share the session there.

    An arena in the host's memory would keep what the largest batch took.
    """
    text = json_format.MessageToJson(dense_config(on_gpus(0, 1)), preserving_proto_field_name=True)
    found = _told(library, write(tmp_path), text, 0, 1, 0, None)
    assert found["error"] == ""
    assert found["calls"].splitlines() == [
        *["no arena", "cuda device_id=0 use_tf32=0", "session model.onnx"],
        *["no arena", "cuda device_id=1 use_tf32=0", "session model.onnx"],
        *["no arena", "session model.onnx"],
        *["released"] * 3,
    ]


def test_every_parameter_is_passed_on(library: Path, tmp_path: Path) -> None:
    parameters = {"arena_extend_strategy": "kSameAsRequested", "do_copy_in_default_stream": "0", "gpu_mem_limit": "9"}
    found = _told(library, write(tmp_path), config({"parameters": parameters, "name": "cuda"}), 5)
    line, *_ = found["calls"].splitlines()
    assert line.split()[1:] == ["device_id=5", *(f"{name}={value}" for name, value in parameters.items())]


def test_a_provider_that_fails_is_told_and_no_session_is_opened(library: Path, tmp_path: Path) -> None:
    found = _told(library, write(tmp_path), "{}", 0, failure="libcublasLt.so.13: cannot open shared object file")
    assert re.match(r"GPU 0: .*--cpu-only\. ONNX Runtime: libcublasLt\.so\.13: cannot open", found["error"])
    assert found["calls"] == "cuda device_id=0\n"
