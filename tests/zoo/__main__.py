"""Write models of the zoo: their files, and queries with the modules' own answers.

    python -m tests.zoo FOLDER NAME... [--times N]

A file `NAME.SUFFIX` has beside it `NAME.SUFFIX.ROWS.npz` for queries of some sizes: arrays `in.INPUT` and `out.OUTPUT`,
named as in the file; an exported program's outputs have no names, so there they are the module's, in order.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
from torch import nn

from tests.zoo import exports
from tests.zoo.catalogue import MODELS, SUFFIXES, example
from tests.zoo.example import Example, Query

ROWS = (1, 3, 33, 1024)
WRITERS = {
    "exported": exports.write_exported,
    "dynamo": exports.write_dynamo,
    "torchscript": exports.write_torchscript,
}


def write(folder: Path, name: str, made: Example) -> None:
    """All files of one model."""
    queries = [made.draw(np.random.default_rng(100 + rows), rows) for rows in ROWS]
    answers = [made.answers(query) for query in queries]
    check_that_tables_show(made, queries[-1])
    for kind in MODELS[name][1]:
        path = folder / (name + SUFFIXES[kind])
        WRITERS[kind](made, path)
        prefix = "x_" if made.as_dict and kind != "torchscript" else ""  # the dict's name in the module's forward
        for rows, query, answer in zip(ROWS, queries, answers, strict=True):
            arrays = {f"in.{prefix}{key}": array for key, array in query.items()}
            arrays |= {f"out.{key}": array for key, array in answer.items()}
            np.savez(path.with_name(f"{path.name}.{rows}.npz"), **arrays)


def check_that_tables_show(made: Example, query: Query) -> None:
    """Another table's rows move some output by far more than what tests let pass."""
    before = made.answers(query)
    for part in made.module.modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag):
            part.weight.neg_()
            moved = max(np.abs(before[name] - answer).max() for name, answer in made.answers(query).items())
            part.weight.neg_()
            assert moved > 1e-3, f"{part} moves the outputs by {moved}"


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+", choices=MODELS, metavar="NAME")
    parser.add_argument("--times", type=int, default=1, help="so many times the rows of all tables")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # the libraries' own
    for name in args.names:
        write(args.folder, name, example(name, args.times))


if __name__ == "__main__":
    main()
