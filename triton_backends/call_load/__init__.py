"""Where the library of the load on embedding services is; `repo_builder/profiling/call_load.py` calls it."""

from pathlib import Path

LIBRARY = Path(__file__).with_name("call_load.so")
