"""Broken input for every command: documents, files and words that are wrong at random, the same for the same seed."""

from __future__ import annotations

import argparse
import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from elasticrec.command_line import add_whole

NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    0.5,
    1e-308,
    -1e308,
    1e308,
    float("nan"),
    float("inf"),
    2**31 - 1,
    2**31,
    2**63,
    10**30,
    10**400,
)
TEXTS = (
    "",
    " ",
    "x" * 3000,
    "ünï\u202ecödé",
    "a\nb",
    "\x1b[31m",
    "\ud800",
    "a\0b",
    "/",
    "..",
    "../../x",
    "1e5",
    "null",
)
VALUES = (*NUMBERS, *TEXTS, None, True, False, [], {}, [[]], [{}], {"a": {"b": []}}, [None] * 50)
WORDS = (
    "", "0", "1", "-1", "2", "0.5", "nan", "inf", "1e308", "-1e308", "99999999999999999999", "x", "ü", "x" * 300,
    "x" * 5000, "/", ".", "..", "a/b", "http://[::1", "http://h:x", "[::1", ":80", "h:99999999", "a:b:c", "1:2:3",
    "1:0:0", "1:1e9:1e-9", "tier0=1", "tier0=99999999", "=", "s3://", "pvc:", "init:", "rows=1..2",
    "target_qps=1..1e308:3",    "\x1b[31m", "x.json", "no/such/x.json", "x.png", "x.csv", "x.npz", "x.parquet",
)  # fmt: skip


def mutated(document: Any, rng: random.Random) -> Any:
    """The document with one to three things in it wrong."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 2, 3))):
        document = _mutated_once(document, rng)
    return document


def _mutated_once(document: Any, rng: random.Random) -> Any:
    places = list(_places(document))
    if not places or rng.random() < 0.03:
        return rng.choice(VALUES)
    holder, key = rng.choice(places)
    action = rng.randrange(8)
    numbers = [each for each in places if type(each[0][each[1]]) in (int, float) and abs(each[0][each[1]]) < 1e18]
    if numbers and rng.random() < 0.5:  # what a schema lets pass
        holder, key = rng.choice(numbers)
        number = holder[key]
        holder[key] = type(number)(
            rng.choice((1, 2, number * 1000, number * 1e6, number / 1000, 65536, 10**5, 1e-6, 10**9))
        )
    elif action <= 3:
        holder[key] = copy.deepcopy(rng.choice(VALUES))
    elif action == 4:
        del holder[key]
    elif action == 5 and isinstance(holder, dict):
        holder[f"{key}{rng.choice(TEXTS)}x"] = holder.pop(key)
    elif action == 6 and isinstance(holder, list):
        holder.extend(copy.deepcopy(holder[key]) for _ in range(rng.choice((1, 1000))))
    elif isinstance(holder, dict):
        holder[rng.choice(TEXTS)] = copy.deepcopy(rng.choice(VALUES))
    else:
        for _ in range(rng.choice((1, 150))):
            holder[key] = [holder[key]]
    return document


def _places(value: Any) -> Any:
    """Every (holder, key) below a value."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield value, key
            yield from _places(item)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes cut short, flipped, doubled or with others between them."""
    at = rng.randrange(len(data) + 1)
    action = rng.randrange(5)
    if action == 0:
        return data[:at]
    if action == 1:
        return (
            data[:at]
            + rng.choice((b"\xff", b"\0", b"[" * 2000, b"{" * 150, b"\n", b"- ", b'"', b"&a [*a]"))
            + data[at:]
        )
    if action == 2:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if action == 3:
        return data[at:] + data[:at]
    return data + data


def bomb() -> bytes:
    """Nine aliases a level, seven levels."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 8)]
    return "\n".join(lines).encode()


def break_document(path: Path, rng: random.Random) -> None:
    """Spoil a YAML or JSON file, in its values mostly, in its bytes at times."""
    if rng.random() < 0.2:
        path.write_bytes(damaged(path.read_bytes(), rng))
    elif rng.random() < 0.04:
        path.write_bytes(bomb())
    else:
        is_json = path.suffix == ".json"
        document = mutated(json.loads(path.read_text()) if is_json else yaml.safe_load(path.read_text()), rng)
        text = json.dumps(document) if is_json else yaml.safe_dump(document, sort_keys=False)
        path.write_text(text, encoding="utf-8", errors="surrogatepass")


def break_csv(path: Path, rng: random.Random) -> None:
    """Spoil a CSV file in its cells or in its bytes."""
    rows = [line.split(",") for line in path.read_text().splitlines()]
    if rng.random() < 0.3:
        path.write_bytes(damaged(path.read_bytes(), rng))
        return
    row = rng.choice(rows)
    row[rng.randrange(len(row))] = str(rng.choice([str(number) for number in NUMBERS] + ["", "x", '"', "\0"]))
    if rng.random() < 0.3:
        row.append("7")
    path.write_text("\n".join(",".join(each) for each in rows))


def break_npz(path: Path, rng: random.Random) -> None:
    """Spoil a `.npz`: its bytes, its names, or an array's shape, type or values."""
    if rng.random() < 0.4:
        path.write_bytes(damaged(path.read_bytes(), rng))
        return
    with np.load(path) as file:
        arrays = dict(file)
    name = rng.choice(sorted(arrays))
    array = arrays[name]
    action = rng.randrange(6)
    if action == 0:
        del arrays[name]
    elif action == 1:
        arrays[name] = array.reshape(-1)[: rng.randrange(array.size)]
    elif action == 2:
        arrays[name] = array.astype(
            rng.choice(("f2", "f8", "i1", "u8", "c16", "U3", "?", ">i4", "M8[s]")), casting="unsafe"
        )
    elif action == 3:
        arrays[name] = np.full_like(array, rng.choice((-2, 2**31 - 1, -(2**31))))
    elif action == 4:
        arrays[f"{name}{rng.choice(('x', '/x', '..', 'ü'))}"] = arrays.pop(name)
    else:
        arrays[name] = rng.choice((np.array(1), np.empty((0, 3)), np.zeros((2, 2, 2)), array[None]))
    with path.open("wb") as out:
        np.savez(out, **arrays)


def options_of(command: str) -> list[argparse.Action]:
    """A command's options, but for help and for what names the file to write."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    add_whole(command, commands)
    own = commands.choices[command]
    nested = [a for a in own._actions if isinstance(a, argparse._SubParsersAction)]
    own = next(iter(nested[0].choices.values())) if nested else own
    return [a for a in own._actions if a.option_strings and a.dest not in ("help", "output", "log_file")]


def random_words(options: list[argparse.Action], rng: random.Random) -> list[str]:
    """One to three options with values that are right by chance."""
    words: list[str] = []
    for action in rng.sample(options, min(len(options), rng.choice((1, 1, 2, 3)))):
        value = rng.choice([*map(str, action.choices or ()), *WORDS])
        words += [action.option_strings[-1]] if action.nargs == 0 else [f"{action.option_strings[-1]}={value}"]
    return words
