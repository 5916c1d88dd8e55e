"""What a failed call says of the replica: whether another may answer, and whether this one should be left alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import grpc


class Reason(Enum):
    """Why a call failed; the value is the metric's label."""

    GONE = "gone"  # no connection, shutting down, a dead Python stub, or another build's model
    TIMEOUT = "timeout"  # no answer before the deadline
    REFUSED = "refused"  # it understood and said no: another replica would too


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a reason."""

    reason: Reason
    try_another: bool
    set_aside: bool


_VERDICTS = {
    Reason.GONE: Verdict(Reason.GONE, try_another=True, set_aside=True),
    Reason.TIMEOUT: Verdict(Reason.TIMEOUT, try_another=False, set_aside=True),
    Reason.REFUSED: Verdict(Reason.REFUSED, try_another=False, set_aside=False),
}
_DEAD_STUB = "is not healthy"  # Triton, with INTERNAL: "Stub process 'rm1_tier0_0_0' is not healthy"
_GONE_CODES = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED}


class CallFailedError(Exception):
    """A service gave no answer; the text names service, replica and reason."""

    def __init__(self, text: str, verdict: Verdict) -> None:
        super().__init__(text)
        self.verdict = verdict


def judge(code: grpc.StatusCode, details: str) -> Verdict:
    """The verdict on a call that ended with this status."""
    return _VERDICTS[_reason(code, details)]


def _reason(code: grpc.StatusCode, details: str) -> Reason:
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Reason.TIMEOUT
    if code in _GONE_CODES or _DEAD_STUB in details:
        return Reason.GONE
    return Reason.REFUSED
