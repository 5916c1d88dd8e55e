"""Compiles the C sources into plain shared libraries, with the compiler that the build requirements bring along."""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# an old glibc and a common x86-64 level: the libraries are copied into repositories that run elsewhere
# (the second feature set is tuning: without it AVX2 code loads 16 bytes at a time)
GLIBC = (2, 17)
TARGET = ["-target", "x86_64-linux-gnu.{}.{}".format(*GLIBC), "-mcpu=x86_64_v2-slow_unaligned_mem_32"]
# nothing is fused, so that sums have the same bits on all processors
CODE = ["-O3", "-ffp-contract=off", "-g0", "-s"]
COMPILER = [sys.executable, "-m", "ziglang", "cc", *TARGET, *CODE, "-Wall", "-Wextra", "-Werror"]
if words := os.environ.get("SANITIZED_CC"):  # of `make sanitize`: zig has not all of the sanitizers' libraries
    COMPILER = words.split()

KERNELS = sorted(str(path) for path in Path("triton_backends/kernels").glob("*.c"))
NATIVE = "triton_backends/native"
ANSWERS = f"{NATIVE}/answers.c"
WIRE = sorted(str(path) for path in Path("triton_backends/wire").glob("*.c"))
LISTENER = sorted(str(path) for path in Path("triton_backends/listener").glob("*.c"))
FANOUT = sorted(str(path) for path in Path("triton_backends/fanout").glob("*.c"))
CALLING = ("connections", "failures", "grpc", "http2", "messages", "timers", "transport")
CLIENT = [*WIRE, *(f"triton_backends/fanout/{name}.c" for name in CALLING), f"{NATIVE}/files.c", f"{NATIVE}/json.c"]
SHARD = [f"{NATIVE}/shard.c", f"{NATIVE}/shard_model.c"]
ROUTER = [*(f"{NATIVE}/{name}.c" for name in ("queries", "router", "routing")), *KERNELS]

# for GPUs from Volta on; the last word is of other targets alone
GPU_KERNEL = "gpu_bags"
PTX_TARGET = ["-target", "nvptx64-cuda", "-mcpu=sm_70", "-O3", "-S"]
PTX_WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-command-line-argument"]
PTX_COMPILER = [sys.executable, "-m", "ziglang", "cc", *PTX_TARGET, *PTX_WARNINGS]


class BuildLibraries(build_ext):
    """Builds libraries for ctypes and Triton, not extension modules: no Python headers, no tag in their names."""

    def get_ext_filename(self, fullname: str) -> str:
        """The library's place beside its sources; for GPUs a text in PTX, which NVIDIA's driver compiles."""
        return fullname.replace(".", "/") + (".ptx" if fullname.endswith(GPU_KERNEL) else ".so")

    def build_extension(self, ext: Extension) -> None:
        """Compile all sources at once."""
        output = self.get_ext_fullpath(ext.name)
        self.mkpath(output.rpartition("/")[0])
        compiler = PTX_COMPILER if ext.name.endswith(GPU_KERNEL) else [*COMPILER, "-shared", "-fPIC"]
        words = [*compiler, *ext.sources, *ext.extra_compile_args, "-o", output]
        subprocess.run(words, check=True)  # noqa: S603 - our own words


class PlatformWheel(bdist_wheel):
    """Tags a wheel by what its libraries need: that glibc on x86-64, and no Python of any version."""

    def get_tag(self) -> tuple[str, str, str]:
        """For any Python 3, without its ABI."""
        return "py3", "none", "manylinux_{}_{}_x86_64".format(*GLIBC)


def native_backend(library: str, *sources: str) -> Extension:
    """A backend that Triton loads into its own process, whose functions it finds then; `$ORIGIN` is its own folder."""
    shared = [f"{NATIVE}/{name}.c" for name in ("shell", "spare_memory", "loaded_code", "tensors", "files", "json")]
    name = f"{NATIVE}/libtriton_{library}".replace("/", ".")
    return Extension(
        name, [*shared, *sources], extra_compile_args=["-fvisibility=hidden", "-Wl,-rpath,$ORIGIN", "-ldl", "-lpthread"]
    )


setup(
    ext_modules=[
        Extension("triton_backends.kernels.kernels", KERNELS),
        Extension(f"triton_backends.embedding_shard.{GPU_KERNEL}", ["triton_backends/embedding_shard/gpu_bags.c"]),
        Extension(
            "triton_backends.call_load.call_load",
            ["triton_backends/call_load/call_load.c", *CLIENT],
            extra_compile_args=["-fvisibility=hidden", "-ldl", "-lpthread"],
        ),
        native_backend("elasticrec_router", ANSWERS, f"{NATIVE}/router_model.c", *ROUTER),
        native_backend("elasticrec_fanout", *WIRE, *FANOUT, *ROUTER),
        native_backend("elasticrec_shard", ANSWERS, *SHARD, *WIRE, *LISTENER, *KERNELS),
        native_backend(
            "onnxruntime", *(f"{NATIVE}/{name}.c" for name in ("accelerators", "onnxruntime_model", "onnxruntime_run"))
        ),
    ],
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": PlatformWheel},
)
