"""Faults of tritonserver itself that end it, by the release that mended them; and what to say of a server with them.

From upstream's sources: server pull requests 7840 (2.53) and 8078 (2.57) for calls that are given up, 8174 (2.59) for
shapes. Seen here on 2.51 alone.
"""

from __future__ import annotations

import http.client
import json
import re
from dataclasses import dataclass

ADVISED = "26.04"
"""The container to use: 2.68, the first that checks sizes in JSON requests for overflow too (pull request 8676)."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What ends a server older than `mended`, which is in NVIDIA's container of that name."""

    mended: tuple[int, int]
    container: str
    what: str


FAULTS = (
    Fault((2, 57), "25.04", "gRPC calls that clients give up, by deadline or cancellation"),
    Fault((2, 59), "25.06", "an HTTP request whose JSON announces a huge shape"),
)


def warning(version: str) -> str | None:
    """One line on what may end a server of this version, with the remedy; None where nothing known does."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        return None
    own = (int(found[1]), int(found[2]))
    known = [
        f"{fault.what} (mended in {fault.mended[0]}.{fault.mended[1]}, container {fault.container})"
        for fault in FAULTS
        if own < fault.mended
    ]
    if not known:
        return None
    return (
        f"warning: tritonserver {version} can be ended by {', and by '.join(known)}; serve production traffic with "
        f"NVIDIA's container {ADVISED} or later, and until then see README, When a process dies"
    )


def version_of(address: str) -> str | None:
    """What the server at HOST:PORT of HTTP says of itself; None where it does not."""
    connection = http.client.HTTPConnection(address, timeout=2)
    try:
        connection.request("GET", "/v2")
        found = json.loads(connection.getresponse().read())
        return str(found["version"])
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return None
    finally:
        connection.close()
