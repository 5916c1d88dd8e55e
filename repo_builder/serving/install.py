"""What this machine serves with: its GPUs, and a `tritonserver`: that on PATH, in /opt/tritonserver (NVIDIA's
container), or in the PyPI package nvidia-pytriton.

The PyPI package carries NVIDIA's server and Python backend but no ONNX Runtime backend; one of ours
(`triton_backends/native/onnxruntime_model.c`), on the library of PyPI's onnxruntime, takes its place, so that the same
repository is served.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata, resources
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from repo_builder.errors import RepositoryError, ServerError
from repo_builder.repository.native import read_config

STUB_VERSIONS = ("3.11", "3.12")
"""Pythons that nvidia-pytriton's Python backend was built for, of those that we run on."""


@dataclass(frozen=True, slots=True)
class Installation:
    """A server's binary; `backends` and `environment` are what it must be told beyond its own defaults."""

    binary: Path
    backends: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def installation() -> Iterator[Installation]:
    """The server to run, for as long as the block lasts. Raises ServerError where there is none, with the remedy."""
    native = shutil.which("tritonserver") or shutil.which("tritonserver", path="/opt/tritonserver/bin")
    if native:
        yield Installation(Path(native))
        return
    found = importlib.util.find_spec("pytriton")
    if found is None or found.origin is None:
        python = _python_version()
        other = "" if python in STUB_VERSIONS else f"not for Python {python}: with {' or '.join(STUB_VERSIONS)} "
        raise ServerError(
            "tritonserver: not on PATH, not in /opt/tritonserver/bin, and no nvidia-pytriton in this environment; "
            f"{other}run: pip install 'elasticrec[server]'"
        )
    package = Path(found.origin).parent
    _check_python(package)
    with tempfile.TemporaryDirectory(prefix="elasticrec-backends-") as folder:
        _assemble_backends(package / "tritonserver", onnxruntime_library(), Path(folder))
        libraries = [str(package.parent / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
        if (onnxruntime_library().parent / "libonnxruntime_providers_cuda.so").is_file():
            libraries += [str(path) for path in sorted(package.parent.glob("nvidia/*/lib"))]  # CUDA's own, of PyPI
        libraries += filter(None, [os.environ.get("LD_LIBRARY_PATH")])
        # the stub finds its interpreter, and with it this environment's packages, by PATH
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        environment = {"LD_LIBRARY_PATH": ":".join(libraries), "PATH": path}
        yield Installation(package / "tritonserver" / "bin" / "tritonserver", Path(folder), environment)


def _check_python(package: Path) -> None:
    """This interpreter must have a stub, a shared libpython for it, and the NumPy that the stub was built for."""
    version = _python_version()
    if not _stub(package / "tritonserver").is_file():
        pythons = " or ".join(STUB_VERSIONS)
        raise ServerError(f"nvidia-pytriton has no Python backend stub for Python {version}; use Python {pythons}")
    numpy = metadata.version("numpy")
    if not numpy.startswith("1."):
        raise ServerError(
            f"nvidia-pytriton's Python backend was built for NumPy 1 (with NumPy {numpy} its outputs come out empty); "
            "run: pip install 'numpy<2'"
        )
    library = f"libpython{version}.so.1.0"
    own = Path(sysconfig.get_config_var("LIBDIR")) / library
    if not own.is_file() and ctypes.util.find_library(f"python{version}") is None:
        raise ServerError(f"{library}: the Python backend needs it; run: apt-get install libpython{version}")


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _stub(server: Path) -> Path:
    version = _python_version()
    return server / "python_backend_stubs" / version / "triton_python_backend_stub"


def onnxruntime_library() -> Path:
    """The shared library in the onnxruntime package."""
    found = importlib.util.find_spec("onnxruntime")
    package = Path(found.origin).parent if found and found.origin else Path()
    libraries = sorted(package.glob("capi/libonnxruntime.so.*"))
    if not libraries:
        raise ServerError(
            "onnxruntime: this environment has none with a libonnxruntime.so; run: pip install --upgrade onnxruntime"
        )
    return libraries[-1]


def _assemble_backends(server: Path, onnxruntime: Path, folder: Path) -> None:
    """Copy the Python backend with this interpreter's stub, and our ONNX Runtime backend; Triton refuses links.

    ONNX Runtime looks for its providers, such as CUDA's, where it was itself opened.
    """
    shutil.copytree(server / "backends" / "python", folder / "python", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(_stub(server), folder / "python")
    (folder / "onnxruntime").mkdir()
    library = "libtriton_onnxruntime.so"
    content = (resources.files("triton_backends") / "native" / library).read_bytes()
    (folder / "onnxruntime" / library).write_bytes(content)
    (folder / "onnxruntime" / "libonnxruntime.so.1").symlink_to(onnxruntime)
    for provider in onnxruntime.parent.glob("libonnxruntime_providers_*.so"):
        (folder / "onnxruntime" / provider.name).symlink_to(provider)


def check_gpus(repository: Path, devices: Path = Path("/dev")) -> None:
    """Raise RepositoryError, with the remedy, where a model is placed on a GPU that `devices` does not show.

    CUDA numbers those that it sees from 0: in a container that is lent nvidia3 alone, that is GPU 0.
    """
    present = len(list(devices.glob("nvidia[0-9]*")))
    problems = []
    for path in sorted(repository.glob("*/config.pbtxt")):
        config = read_config(path)
        wanted = {
            gpu for group in config.instance_group if group.kind == pb.ModelInstanceGroup.KIND_GPU for gpu in group.gpus
        }
        if any(gpu >= present for gpu in wanted):
            problems.append(
                f"{path}: {config.name} is placed on GPU {', '.join(map(str, sorted(wanted)))}, but this machine has "
                f"{present or 'none'}; build it for the CPU: elasticrec build SPEC --cpu-only"
            )
    if problems:
        raise RepositoryError(*problems)
