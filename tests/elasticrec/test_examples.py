"""The examples in the verbs' docstrings, run as they stand there, beside a small `rm1.yaml`."""

import doctest
import json
import pathlib
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
import yaml

import elasticrec
from repo_builder.export.examples import write_example_program
from tests.servers import serving

ROOT = Path(__file__).parents[2]
VERBS = [name for name in elasticrec.__all__ if name.islower() and name != "errors"]
WITHOUT = {"profile", "report"}  # minutes; and a run of a load test, with whose example it stands
SERVED = {"serve", "query", "loadtest"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples find beside them: the README's model with fewer rows, our examples, a profile, a program."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "examples").symlink_to(ROOT / "examples")
    spec = yaml.safe_load((ROOT / "examples/rm1.yaml").read_text())
    spec["tables"] = [{"name": "C", "rows": 2_000, "dim": 32, "pooling": 4, "count": 10}]
    (folder / "rm1.yaml").write_text(yaml.safe_dump(spec))
    profile = {
        "format": 2,
        "name": "measured",
        "service_time": {"fixed_s": 2e-5, "per_row_s": 1e-6},
        "min_memory_bytes": 10_000,
        "dense_service_time": {"fixed_s": 1e-4, "per_flop_s": 1e-12},
    }
    (folder / "profile.json").write_text(json.dumps(profile))
    write_example_program(40_000, folder / "ranker.pt2")
    elasticrec.build(elasticrec.load_spec(folder / "rm1.yaml"), folder / "model_repository/rm1")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[elasticrec.Server]:
    with serving(folder / "model_repository/rm1", folder / "log") as server:
        yield server


def run_example(verb: str, names: dict[str, object]) -> None:
    example = getattr(elasticrec, verb)
    text = doctest.DocTestParser().get_doctest(example.__doc__, names, verb, None, None)
    told: list[str] = []
    assert text.examples
    found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(text, out=told.append)
    assert not found.failed, "".join(told)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in SERVED | WITHOUT])
def test_an_example_does_what_it_says(verb: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    run_example(verb, {"elasticrec": elasticrec, "numpy": numpy, "pathlib": pathlib})


@pytest.mark.server
@pytest.mark.parametrize("verb", sorted(SERVED))
def test_an_example_with_a_server(
    verb: str, folder: Path, server: elasticrec.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    run_example(verb, {"elasticrec": elasticrec, "numpy": numpy, "server": server})
