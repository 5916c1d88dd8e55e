"""The router's counters as Triton metrics; the one other module that knows Triton's Python API is `model.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from triton_backends.fanout.counters import COUNTERS


class TritonMetrics:
    """Makes the metrics of `COUNTERS` as their labels come up.

    api: the module triton_python_backend_utils; model: the label `model` of all.
    """

    def __init__(self, api: Any, model: str) -> None:
        kind = api.MetricFamily.COUNTER
        self._families = {
            name: api.MetricFamily(name=name, description=text, kind=kind) for name, text in COUNTERS.items()
        }
        self._metrics: dict[tuple[str, ...], Any] = {}
        self._model = model

    def increment(self, name: str, labels: Mapping[str, str], amount: float) -> None:
        """Add to a metric."""
        key = (name, *labels.values())
        if key not in self._metrics:
            self._metrics[key] = self._families[name].Metric(labels={"model": self._model, **labels})
        self._metrics[key].increment(amount)
