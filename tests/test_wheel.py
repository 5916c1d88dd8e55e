"""The wheel is what its name says: for any Python 3, on x86-64 with a glibc that its libraries need at most."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("elasticrec", "k8s", "loadtest", "repo_builder", "triton_backends")
TAG = re.compile(r"elasticrec-[\d.]+-py3-none-manylinux_(\d+)_(\d+)_x86_64\.whl")

pytestmark = [pytest.mark.slow, pytest.mark.long]  # it compiles everything anew


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy, so that neither this tree's build folder nor its libraries get in."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("*.so", "*.ptx", "__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    words = ("pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), str(source))
    subprocess.run([sys.executable, "-m", *words], check=True)
    (built,) = target.iterdir()
    return built


def test_it_is_for_any_python_and_says_the_glibc(wheel: Path) -> None:
    tag = TAG.fullmatch(wheel.name)
    assert tag
    with zipfile.ZipFile(wheel) as archive:
        libraries = {name: archive.read(name) for name in archive.namelist() if name.endswith(".so")}
    assert len(libraries) == 6
    for name, content in libraries.items():
        wanted = {tuple(map(int, each)) for each in re.findall(rb"GLIBC_(\d+)\.(\d+)", content)}
        assert wanted and max(wanted) <= (int(tag[1]), int(tag[2])), name
        assert not re.search(rb"PyInit|PyObject|libpython|GLIBCXX", content), name
        assert not re.search(r"cpython|abi3", name)


def test_it_holds_all_that_the_packages_need(wheel: Path) -> None:
    """Every file that git would keep of them, and the licence."""
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    ours = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".so", ".ptx") and path.name != "README.md"
    }
    assert not ours - held
    assert "triton_backends/embedding_shard/gpu_bags.ptx" in held
    assert any(name.endswith("licenses/LICENSE") for name in held)


def test_its_commands_run_from_it(wheel: Path, tmp_path: Path) -> None:
    """A plan, and the libraries by ctypes, out of the unpacked wheel alone."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import elasticrec, triton_backends.kernels; "
        "assert elasticrec.__file__.startswith(sys.path[0]); from elasticrec.cli import console; sys.exit(console())"
    )
    words = ["-c", program, str(tmp_path / "site"), "plan", str(ROOT / "examples/rm1.yaml")]
    done = subprocess.run([sys.executable, "-P", *words], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "tier0" in done.stdout
