"""A sweep as JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields

from repo_builder.analysis.sweep import Point, Setting, Sweep


def sweep_json(sweep: Sweep, setting: Setting, points: Sequence[Point]) -> str:
    """The points as the text of a JSON file."""
    document = {
        "spec": setting.spec.name,
        "grouping": setting.grouping,
        "profile": setting.profile.name,
        "field": sweep.field,
        "points": [{**asdict(point), "gain": point.gain} for point in points],
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def sweep_csv(sweep: Sweep, points: Sequence[Point]) -> str:
    """The points as the text of a CSV file, a line each; the first column bears the field's name."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([sweep.field, *(field.name for field in fields(Point) if field.name != "value"), "gain"])
    for point in points:
        writer.writerow(["" if cell is None else cell for cell in (*asdict(point).values(), point.gain)])
    return text.getvalue()
