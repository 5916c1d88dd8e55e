"""The commands, a module each, under the command's name."""

from __future__ import annotations

from collections.abc import Mapping

SUMMARIES: Mapping[str, str] = {
    "init": "look into a model file and write a first spec of it",
    "check": "check a spec, and its weights and accesses against it",
    "plan": "cut the tables into shards and print the plan",
    "profile": "measure what services cost on this machine",
    "compare": "beside replicating the whole model: memory, utility, price",
    "simulate": "play hours of traffic against the scaling rules, in seconds",
    "build": "write a Triton model repository",
    "verify": "check a repository's files against its manifest",
    "serve": "run tritonserver on a repository",
    "query": "send sample rows to a served model",
    "workload": "write queries for load tests",
    "loadtest": "measure a served repository with perf_analyzer",
    "report": "load tests as one HTML page, side by side",
    "k8s": "render Kubernetes manifests of a fleet",
    "up": "run a whole fleet on this machine",
    "ps": "list the replicas of a running fleet",
    "scale": "change the replicas of a running fleet",
    "logs": "print the logs of a fleet's replicas",
    "down": "stop a running fleet",
    "demo": "train-free tour: build, serve, query, compare, measure",
}
"""What each command does, in the order of the list of commands; here, so that the list costs no imports."""
