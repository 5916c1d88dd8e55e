"""Opening a model's weights, wherever the spec says that they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from repo_builder.export.dlrm import open_dlrm
from repo_builder.export.layers import DenseWeights, Layer, WeightSource
from repo_builder.export.random_weights import RandomWeights
from repo_builder.export.torchrec import open_torchrec
from repo_builder.spec import Spec, WeightsSource

__all__ = ["DenseWeights", "Layer", "WeightSource", "open_weights"]

_SOURCES: Mapping[WeightsSource, Callable[[Spec], WeightSource]] = {
    "random": RandomWeights,
    "dlrm": open_dlrm,
    "torchrec": open_torchrec,
}


def open_weights(spec: Spec) -> WeightSource:
    """Open the weights named by `spec.weights` and check them against the whole spec.

    Raises CheckpointError with one line a problem: file, key, expected, got, remedy. What only a read of the tables can
    show (a value that is not finite) is raised by `table_chunks`.
    """
    return _SOURCES[spec.weights.source](spec)
