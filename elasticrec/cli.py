"""The command line: runs a command, and turns errors into one line each and an exit code.

Little is imported here, and the rest only once Ctrl-C is one line: reading the commands' modules takes seconds.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from repo_builder.errors import ElasticRecError, InputError
from repo_builder.extras import named_extras

_MOST_LINES = 20
_MOST_CHARS = 1000


def console() -> int:
    """The console script: `main`, and a Ctrl-C that comes after it ends the interpreter without a word."""
    try:
        return main()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 2 bad input, 128 + signal interrupted, 1 anything else."""
    endings = _Endings()
    on_ending(endings.leave)
    from elasticrec.command_line import check_outputs, parse

    args = parse(arguments)
    on_ending(endings.undo)
    try:
        check_outputs(args)
        with named_extras():
            args.run(args)
    except ElasticRecError as exc:
        _say(str(exc), most_lines=_MOST_LINES if isinstance(exc, InputError) else None)
        return exc.exit_code
    except BaseException as exc:
        if endings.came:  # whatever a module that was interrupted made of it
            _say("interrupted; nothing was left behind")
            return 128 + endings.came
        if isinstance(exc, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nothing more to say
            return 1
        if isinstance(exc, OSError | MemoryError):
            _say(str(exc) or "this machine's memory does not suffice")
            return 1
        raise
    return 0


class _Endings:
    """What Ctrl-C and its kin do; `came` is the signal that came while the command ran."""

    def __init__(self) -> None:
        self.came = 0

    def leave(self, number: int, _: FrameType | None) -> None:
        """End at once: nothing is under way, and modules that are being imported take exceptions for their own."""
        os.write(2, b"elasticrec: interrupted\n")
        os._exit(128 + number)

    def undo(self, number: int, _: FrameType | None) -> None:
        """End by an exception, so that what is under way is undone."""
        self.came = number
        raise KeyboardInterrupt


def on_ending(handler: Callable[[int, FrameType | None], object]) -> None:
    """Have the signals that ask for an end handled so.

    SIGINT too where it is ignored, as a shell starts what a script puts into the background; an ignored SIGHUP stays
    ignored: that is nohup.
    """
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if ending != signal.SIGHUP or signal.getsignal(ending) is not signal.SIG_IGN:
            signal.signal(ending, handler)


def _say(text: str, most_lines: int | None = None) -> None:
    """Each line on standard error; of too many the first, and how many more."""
    lines = text.splitlines()
    for line in lines[:most_lines]:
        sys.stderr.write(f"elasticrec: {line if len(line) <= _MOST_CHARS else f'{line[:_MOST_CHARS]}...'}\n")
    if most_lines is not None and len(lines) > most_lines:
        sys.stderr.write(f"elasticrec: and {len(lines) - most_lines:,} more like these\n")


if __name__ == "__main__":
    sys.exit(console())
