"""A program: a model's instances on GPUs with the fake ONNX Runtime (`fake_onnxruntime.c`) of the path given.

A process has one ONNX Runtime, so this one is not the test's. It prints what was called, and what was told, in JSON.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

from tests.triton_backends.fake_triton import CPU_KIND, GPU_KIND, Backend, BackendError, Instance, Model, compile_fake


def main(library: str, folder: str, config: str, gpus: str, failure: str) -> None:
    """gpus: a number, or null for the CPU, for each instance; failure: of the CUDA provider, where it is to fail."""
    onnxruntime, failing = ctypes.CDLL(library), failure.encode() or None
    ctypes.c_char_p.in_dll(onnxruntime, "fake_failure").value = failing
    fake = ctypes.CDLL(str(compile_fake(Path(folder))), mode=ctypes.RTLD_GLOBAL)
    backend, error = Backend(fake, "onnxruntime"), ""
    first, *others = json.loads(gpus)
    try:
        with Model(backend, Path(folder), config, first) as model:
            for gpu in others:
                instance = Instance(model.instance.model)
                instance.kind, instance.device = (CPU_KIND, 0) if gpu is None else (GPU_KIND, gpu)
                model.add(instance)
    except BackendError as exc:
        error = str(exc)
    calls = (ctypes.c_char * 4096).in_dll(onnxruntime, "fake_calls").value.decode()
    sys.stdout.write(json.dumps({"calls": calls, "error": error}))


if __name__ == "__main__":
    main(*sys.argv[1:])
