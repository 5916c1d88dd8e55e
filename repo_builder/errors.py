"""Every error that elasticrec raises on purpose.

ElasticRecError
├── InputError            bad input from the user; exit code 2
│   ├── SpecError         the model spec: all of its mistakes at once
│   ├── AccessError       access counts or traces
│   ├── CheckpointError   trained weights
│   ├── ModelFileError    a model's file: unreadable, or of a model that cannot be cut at its look-ups
│   ├── PlanError         a plan or profile file, or one that does not fit the spec
│   ├── ClusterError      a cluster file: all of its mistakes at once
│   ├── PlacementError    services that the cluster's nodes cannot hold, with the smallest change that would fit
│   └── RepositoryError   a built repository: missing, changed, or not servable here
├── ExportError           the dense layers could not become a faithful ONNX file; exit code 1
├── MissingExtraError     a library that one of elasticrec's extras brings is not installed; exit code 1
└── ServerError           tritonserver could not be found, started, reached or stopped; exit code 1
    ├── PortTakenError    another program listens where it should
    └── NoAnswerError     a server that was asked does not answer at all
"""

from __future__ import annotations

from collections.abc import Sequence


class ElasticRecError(Exception):
    """The root of the tree; `exit_code` is what the command line exits with."""

    exit_code = 1


class InputError(ElasticRecError):
    """Bad input: one line per problem, each naming the file, the field and the fix."""

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems: Sequence[str] = problems


class SpecError(InputError):
    """The model spec is wrong."""


class AccessError(InputError):
    """Access counts or a trace are wrong."""


class CheckpointError(InputError):
    """Trained weights cannot be read or do not fit the spec."""


class ModelFileError(InputError):
    """A model's file cannot be read, or its model cannot be cut at its look-ups."""


class PlanError(InputError):
    """A plan or profile file is wrong or does not fit the spec."""


class ClusterError(InputError):
    """A cluster file is wrong."""


class PlacementError(InputError):
    """The nodes of a cluster cannot hold the services."""


class RepositoryError(InputError):
    """A built repository is missing, was changed, or cannot be served on this machine."""


class ExportError(ElasticRecError):
    """The dense layers could not be turned into an ONNX file that computes the same scores."""


class MissingExtraError(ElasticRecError):
    """What is asked for needs a library that is not installed; says how to install it."""


class ServerError(ElasticRecError):
    """tritonserver could not be found, started, reached or stopped."""


class PortTakenError(ServerError):
    """Another program listens on a port that the server should have."""


class NoAnswerError(ServerError):
    """Nobody answers there: asking something else would not help."""
