"""The door for `.onnx` files: a model is cut at the Gathers on its tables."""

from repo_builder.export.onnx_file.door import open_onnx

__all__ = ["open_onnx"]
