"""Names that Triton and Kubernetes take, for tables whose names they would not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


def legal_names(tables: Sequence[str]) -> Mapping[str, str]:
    """A name of letters, digits and underscores, a letter first, for each table; all differ.

    Names that are legal stay; of the others each illegal character becomes an underscore, `t_` is put before a first
    one that is no letter, and a number behind what is taken. The same tables get the same names.
    """
    names = {table: table for table in tables if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", table)}
    taken = set(names.values())
    for table in tables:
        if table in names:
            continue
        name = re.sub(r"[^A-Za-z0-9_]", "_", table)
        name = name if name[0].isalpha() else f"t_{name.lstrip('_')}"
        number = 2
        free = name
        while free in taken:
            free, number = f"{name}_{number}", number + 1
        names[table] = free
        taken.add(free)
    return names
