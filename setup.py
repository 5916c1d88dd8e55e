"""Compiles `kernels.c` into a plain shared library, with the compiler that the build requirements bring along."""

import subprocess
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# an old glibc and a common x86-64 level: the library is copied into repositories that run elsewhere
FLAGS = ["-O3", "-g0", "-s", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
TARGET = ["-target", "x86_64-linux-gnu.2.17", "-mcpu=x86_64_v2"]


class BuildKernels(build_ext):
    """Builds a library for ctypes, not an extension module: no Python headers, no interpreter's tag in its name."""

    def get_ext_filename(self, fullname: str) -> str:
        """The library's place beside its source."""
        return fullname.replace(".", "/") + ".so"

    def build_extension(self, ext: Extension) -> None:
        """Compile the one source."""
        output = self.get_ext_fullpath(ext.name)
        self.mkpath(output.rpartition("/")[0])
        subprocess.run(  # noqa: S603 - our own words
            [sys.executable, "-m", "ziglang", "cc", *FLAGS, *TARGET, *ext.sources, "-o", output], check=True
        )


setup(
    ext_modules=[Extension("triton_backends.kernels.kernels", ["triton_backends/kernels/kernels.c"])],
    cmdclass={"build_ext": BuildKernels},
)
