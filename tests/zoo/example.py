"""A model of the zoo as its owner holds it: a module, and how queries of it are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Query = Mapping[str, NDArray]


@dataclass(frozen=True, slots=True)
class Example:
    """A module in eval mode, and its queries.

    draw: a query of so many rows, an array an input, in the order of the module's arguments.
    varying: the axes of each input that vary, where it is not the first alone.
    as_dict: the module takes one dict of all inputs, as torch-rechub's do, named `x`.
    """

    module: nn.Module
    draw: Callable[[np.random.Generator, int], Query]
    outputs: tuple[str, ...]
    varying: Mapping[str, tuple[int, ...]]
    as_dict: bool = False

    def axes(self, name: str) -> tuple[int, ...]:
        """The axes of an input that vary."""
        return self.varying.get(name, (0,))

    def answers(self, query: Query) -> dict[str, NDArray]:
        """The module's own outputs for a query."""
        tensors = {name: torch.from_numpy(array) for name, array in query.items()}
        with torch.no_grad():
            out = self.module(tensors) if self.as_dict else self.module(*tensors.values())
        outs = out if isinstance(out, tuple) else (out,)
        return {name: tensor.numpy() for name, tensor in zip(self.outputs, outs, strict=True)}


def settled(module: nn.Module) -> nn.Module:
    """The module in eval mode with weights so large that one wrong id shows in the outputs: libraries begin near 0.

    Rows of a padding id stay zero, and batch norms get statistics other than 0 and 1.
    """
    numbers = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Embedding | nn.EmbeddingBag):
                part.weight.copy_(0.5 * torch.randn(part.weight.shape, generator=numbers))
                if part.padding_idx is not None:
                    part.weight[part.padding_idx] = 0
            if isinstance(part, nn.BatchNorm1d):
                part.running_mean.copy_(0.1 * torch.randn(part.running_mean.shape, generator=numbers))
                part.running_var.copy_(0.5 + torch.rand(part.running_var.shape, generator=numbers))
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module.eval()
