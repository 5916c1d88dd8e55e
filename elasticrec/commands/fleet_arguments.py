"""What the commands of the local fleet share: the argument SERVICE=N, and --force."""

from __future__ import annotations

import argparse


def service_replicas(text: str) -> tuple[str, int]:
    """An argument type: a service's name and its number of replicas."""
    service, equals, number = text.partition("=")
    if not (service and equals and number.isascii() and number.isdigit() and len(number) <= 5 and int(number) >= 1):
        raise argparse.ArgumentTypeError(f"expected SERVICE=N with N from 1 to 99999, got {text}")
    return service, int(number)


def add_force(parser: argparse.ArgumentParser) -> None:
    """The option --force."""
    parser.add_argument(
        "--force", action="store_true", help="start more replicas than this machine's memory and cores hold"
    )
