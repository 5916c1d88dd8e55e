"""What the commands of the local fleet share: the argument SERVICE=N."""

from __future__ import annotations

import argparse

MOST_REPLICAS = 64
"""A slip of the keyboard starts no more servers than that."""


def service_replicas(text: str) -> tuple[str, int]:
    """An argument type: a service's name and its number of replicas."""
    service, equals, number = text.partition("=")
    if not (service and equals and number.isascii() and number.isdigit() and 1 <= int(number) <= MOST_REPLICAS):
        raise argparse.ArgumentTypeError(f"expected SERVICE=N with N from 1 to {MOST_REPLICAS}, got {text}")
    return service, int(number)
