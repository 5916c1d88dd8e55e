"""The commands, in rooms of their kind: each parses its words, calls a verb of `elasticrec`, and prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Command(NamedTuple):
    """The room where a command's `add_NAME` stands, and what it does; here, so that the list costs no imports."""

    room: str
    summary: str


COMMANDS: Mapping[str, Command] = {
    "init": Command("building", "look into a model file and write a first spec of it"),
    "check": Command("building", "check a spec, and its weights and accesses against it"),
    "plan": Command("planning", "cut the tables into shards and print the plan"),
    "profile": Command("profiling", "measure what services cost on this machine"),
    "compare": Command("comparing", "beside replicating the whole model: memory, utility, price"),
    "simulate": Command("comparing", "play hours of traffic against the scaling rules, in seconds"),
    "build": Command("building", "write a Triton model repository"),
    "verify": Command("serving", "check a repository's files against its manifest"),
    "serve": Command("serving", "run tritonserver on a repository"),
    "query": Command("serving", "send sample rows to a served model"),
    "workload": Command("loads", "write queries for load tests"),
    "loadtest": Command("loads", "measure a served repository with perf_analyzer"),
    "report": Command("loads", "load tests as one HTML page, side by side"),
    "k8s": Command("fleets", "render Kubernetes manifests of a fleet"),
    "up": Command("fleets", "run a whole fleet on this machine"),
    "ps": Command("fleets", "list the replicas of a running fleet"),
    "scale": Command("fleets", "change the replicas of a running fleet"),
    "logs": Command("fleets", "print the logs of a fleet's replicas"),
    "down": Command("fleets", "stop a running fleet"),
    "demo": Command("demo", "train-free tour: build, serve, query, compare, measure"),
}
"""By name, in the order of the list of commands."""
