"""Which tritonserver is run, with which backends, and what is said where there is none."""

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata, util
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from repo_builder.errors import ServerError
from repo_builder.serving import install
from repo_builder.serving.install import Installation, installation

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
STUB = f"python_backend_stubs/{VERSION}/triton_python_backend_stub"


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without tritonserver: PATH is `bin`, /opt/tritonserver/bin is `opt`, temporary folders go to `tmp`."""
    for name in ("bin", "opt", "tmp"):
        (tmp_path / name).mkdir()
    search = shutil.which

    def which(name: str, path: str | None = None) -> str | None:
        assert path in (None, "/opt/tritonserver/bin")
        return search(name, path=str(tmp_path / ("opt" if path else "bin")))

    monkeypatch.setattr(shutil, "which", which)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path


@pytest.fixture
def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `pytriton` as PyPI's is laid out, its backend's files behind symbolic links; returns its server's folder."""
    monkeypatch.delitem(sys.modules, "pytriton", raising=False)
    package = tmp_path / "site" / "pytriton"
    server = package / "tritonserver"
    for path in ("backends/python/__pycache__", Path(STUB).parent):
        (server / path).mkdir(parents=True)
    (package / "__init__.py").touch()
    for path in ("backends/python/libtriton_python.so", STUB):
        (tmp_path / Path(path).name).write_text(f"content of {path}")
        (server / path).symlink_to(tmp_path / Path(path).name)
    (server / "backends/python/__pycache__/cached.pyc").touch()
    monkeypatch.syspath_prepend(package.parent)
    pretend_numpy("1.26.4", monkeypatch)
    return server


def pretend_numpy(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    actual = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: version if name == "numpy" else actual(name))


def put_executable(folder: Path) -> Path:
    path = folder / "tritonserver"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def refused() -> str:
    """The message of the ServerError; nothing stays behind."""
    with pytest.raises(ServerError) as caught, installation():
        pass
    assert not list(Path(tempfile.gettempdir()).iterdir())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("folders", [["bin"], ["opt"], ["bin", "opt"]])
def test_a_native_server_wins_and_keeps_its_own_backends(folders: list[str], places: Path, fake_package: Path) -> None:
    """PATH before NVIDIA's container before PyPI."""
    expected, *_ = [put_executable(places / folder) for folder in folders]
    with installation() as found:
        assert found == Installation(expected, None, {})
        assert not list((places / "tmp").iterdir())


def test_a_file_that_cannot_be_run_is_no_server(places: Path, fake_package: Path) -> None:
    (places / "bin" / "tritonserver").write_text("#!/bin/sh\n")
    with installation() as found:
        assert found.binary == fake_package / "bin" / "tritonserver"


PROVIDERS = {path.name for path in install.onnxruntime_library().parent.glob("libonnxruntime_providers_*.so")}


def links(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_symlink()}


def test_backends_are_real_files_for_as_long_as_the_block_lasts(places: Path, fake_package: Path) -> None:
    """Triton refuses backends that are symbolic links out of their directory; what they open themselves may be."""
    with installation() as found:
        assert found.backends is not None and found.backends.parent == places / "tmp"
        assert sorted(path.name for path in found.backends.iterdir()) == ["onnxruntime", "python"]
        assert links(found.backends) == {"libonnxruntime.so.1", *PROVIDERS}
        assert {path.name: path.read_text() for path in (found.backends / "python").iterdir()} == {
            Path(path).name: f"content of {path}" for path in ("backends/python/libtriton_python.so", STUB)
        }
    assert not list((places / "tmp").iterdir())
    with pytest.raises(KeyboardInterrupt), installation():
        raise KeyboardInterrupt
    assert not list((places / "tmp").iterdir())


def test_the_server_is_told_where_its_libraries_and_python_are(
    fake_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/somewhere")
    with installation() as found:
        site = fake_package.parent.parent
        assert found.environment["LD_LIBRARY_PATH"].split(":")[0] == str(site / "nvidia_pytriton.libs")
        assert found.environment["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/somewhere"]


def test_our_onnxruntime_backend_finds_its_library(fake_package: Path) -> None:
    """The link beside it leads to ONNX Runtime, of this environment."""
    with installation() as found:
        folder = found.backends / "onnxruntime"
        libraries = {"libonnxruntime.so.1", "libtriton_onnxruntime.so", *PROVIDERS}
        assert {path.name for path in folder.iterdir()} == libraries
        base = ctypes.CDLL(str(folder / "libonnxruntime.so.1")).OrtGetApiBase
        base.restype = ctypes.POINTER(ctypes.c_void_p)
        version = ctypes.CFUNCTYPE(ctypes.c_char_p)(base()[1])
        assert version().decode() == metadata.version("onnxruntime")


def test_the_cuda_provider_of_onnxruntime_gpu_is_found_with_cudas_libraries(
    fake_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime looks for its providers beside the path by which it was opened itself: seen with onnxruntime-gpu
    1.31.1, which behind a link alone fails for want of libonnxruntime_providers_shared.so.
    """
    site, package = fake_package.parent.parent, tmp_path / "onnxruntime"
    (site / "nvidia" / "cu13" / "lib").mkdir(parents=True)
    (package / "capi").mkdir(parents=True)
    providers = {f"libonnxruntime_providers_{name}.so" for name in ("cuda", "shared")}
    for name in ("libonnxruntime.so.1.31.1", *providers):
        (package / "capi" / name).touch()
    find, other = util.find_spec, ModuleSpec("onnxruntime", None, origin=str(package / "__init__.py"))
    with installation() as found:
        assert "cu13" not in found.environment["LD_LIBRARY_PATH"]
    monkeypatch.setattr(util, "find_spec", lambda name: other if name == "onnxruntime" else find(name))
    with installation() as found:
        beside = found.backends / "onnxruntime"
        assert {path.name for path in beside.glob("libonnxruntime_providers_*")} == providers
        assert all((beside / name).resolve() == package / "capi" / name for name in providers)
        assert str(site / "nvidia/cu13/lib") in found.environment["LD_LIBRARY_PATH"].split(":")


def test_an_onnxruntime_without_its_library_is_told(
    fake_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = util.find_spec
    other = ModuleSpec("onnxruntime", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(util, "find_spec", lambda name: other if name == "onnxruntime" else find(name))
    assert refused().endswith("run: pip install --upgrade onnxruntime")


@pytest.mark.skipif(
    util.find_spec("pytriton") is None, reason="needs nvidia-pytriton: pip install 'elasticrec[server]'"
)
def test_the_package_from_pypi_has_all_that_is_taken_from_it() -> None:
    with installation() as found:
        assert os.access(found.binary, os.X_OK)
        python = found.backends / "python"
        assert os.access(python / "triton_python_backend_stub", os.X_OK)
        for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
            original = found.binary.parent.parent / "backends/python" / name
            assert (python / name).read_bytes() == original.read_bytes()
        assert links(found.backends) == {"libonnxruntime.so.1", *PROVIDERS}
        assert Path(found.environment["LD_LIBRARY_PATH"].split(":")[0]).is_dir()
        done = subprocess.run(
            [found.binary, "--help"], env={**os.environ, **found.environment}, capture_output=True, check=False
        )
        assert b"--backend-directory" in done.stdout + done.stderr


@pytest.mark.parametrize("spec", [None, ModuleSpec("pytriton", None)], ids=["nothing", "a folder without code"])
def test_no_package_is_told_with_the_command_that_installs_it(
    spec: ModuleSpec | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A left-over folder `pytriton` is a package to Python, without an origin, but not the one we need."""
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: spec if name == "pytriton" else find(name))
    assert refused().endswith("no nvidia-pytriton in this environment; run: pip install 'elasticrec[server]'")


def test_a_python_that_the_package_is_not_for_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "pytriton" else find(name))
    monkeypatch.setattr(install, "STUB_VERSIONS", ("3.7", "3.8"))
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert refused().endswith(f"; not for Python {own}: with 3.7 or 3.8 run: pip install 'elasticrec[server]'")


def test_numpy_2_is_refused(fake_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With it the Python backend answers empty tensors instead of failing."""
    pretend_numpy("2.1.0", monkeypatch)
    told = refused()
    assert "NumPy 2.1.0" in told and told.endswith("run: pip install 'numpy<2'")


def test_a_python_without_a_stub_is_refused(fake_package: Path) -> None:
    (fake_package / STUB).unlink()
    assert refused() == (f"nvidia-pytriton has no Python backend stub for Python {VERSION}; use Python 3.11 or 3.12")


def without_libpython(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python whose own library folder is `folder`, on a machine that has no other libpython."""
    actual = sysconfig.get_config_var

    def get(name: str) -> Any:
        return str(folder) if name == "LIBDIR" else actual(name)

    monkeypatch.setattr(sysconfig, "get_config_var", get)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)


def test_a_missing_libpython_is_named(places: Path, fake_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statically linked Python has none beside it; Debian's lies in a package of its own."""
    without_libpython(places / "tmp", monkeypatch)
    assert refused() == (
        f"libpython{VERSION}.so.1.0: the Python backend needs it; run: apt-get install libpython{VERSION}"
    )


def test_the_interpreters_own_libpython_is_enough(
    places: Path, fake_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a Python from python-build-standalone, whose library the system's linker does not know."""
    without_libpython(places / "opt", monkeypatch)
    (places / "opt" / f"libpython{VERSION}.so.1.0").touch()
    with installation() as found:
        assert str(places / "opt") in found.environment["LD_LIBRARY_PATH"].split(":")
