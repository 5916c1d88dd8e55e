"""The libraries that come with an extra (`pip install 'elasticrec[build]'`), and what is said where one is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from repo_builder.errors import MissingExtraError

EXTRAS: Mapping[str, Sequence[str]] = {
    "build": ("onnx", "onnxruntime", "onnxscript", "safetensors", "sympy", "torch"),
    "loadtest": ("locust",),
    "plots": ("jinja2", "markupsafe", "matplotlib", "plotly"),
}
"""Modules by the extra that brings them, as pyproject.toml has them."""


@contextmanager
def named_extras() -> Iterator[None]:
    """Where the block, or the function that this decorates, imports what an extra would bring, and does not find it:
    raise MissingExtraError with the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        library = (exc.name or "").partition(".")[0]
        for extra, modules in EXTRAS.items():
            if library in modules:
                raise MissingExtraError(
                    f"{library}: not installed, and needed for this; run: pip install 'elasticrec[{extra}]'"
                ) from exc
        raise
