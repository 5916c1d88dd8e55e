"""`elasticrec compare`: its table, its files, its refusals."""

import json
from pathlib import Path

import pytest
import yaml

from elasticrec.cli import main

EXAMPLES = Path(__file__).parent.parent.parent.parent / "examples"
CPU, GPU = (EXAMPLES / "clusters" / f"{name}.yaml" for name in ("cpu", "gpu"))
PUBLISHED = sorted([*EXAMPLES.glob("paper/*.yaml"), *EXAMPLES.glob("deeprecsys/*.yaml")])


def run(*words: object) -> int:
    return main(["compare", *map(str, words)])


def small(tmp_path: Path, path: Path) -> Path:
    """A published spec with tables of 16 rows, which plan in no time."""
    document = yaml.safe_load(path.read_text())
    document["tables"][0]["rows"] = 16
    shrunk = tmp_path / f"{document['name']}.yaml"
    shrunk.write_text(yaml.safe_dump(document))
    return shrunk


def test_all_published_specs_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    specs = [small(tmp_path, path) for path in PUBLISHED]
    assert len(specs) == 6
    output, picture = tmp_path / "out.json", tmp_path / "compare.png"
    assert run(*specs, "--cluster", GPU, "--replicas", 12, "-o", output, "--plot", picture) == 0
    told = capsys.readouterr().out
    for spec in specs:
        assert spec.stem in told
    assert "traffic of 12 model-wise replicas" in told and "of another machine" in told
    document = json.loads(output.read_text())
    assert [found["spec"] for found in document["comparisons"]] == [spec.stem for spec in specs]
    assert all(found["strategies"]["model-wise"]["replicas"] == 12 for found in document["comparisons"])
    assert document["paper_gains"] == {"memory": 3.3, "utility": 8.1, "price": 1.6}
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_json_is_the_file_and_csv_is_told_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, output = small(tmp_path, PUBLISHED[0]), tmp_path / "out.json"
    assert run(spec, "--cluster", CPU, "--json", "-o", output) == 0
    assert capsys.readouterr().out == output.read_text()
    assert run(spec, "--cluster", CPU, "-o", tmp_path / "out.csv") == 0
    assert (tmp_path / "out.csv").read_text().startswith("spec,model_wise_replicas,target_qps,placed,strategy,")
    assert "has no GPUs" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["--cluster", CPU, "-o", "out.txt"], ["--cluster", CPU, "--replicas", "0"]])
def test_wrong_words_exit_with_two(words: list[object], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        run(small(tmp_path, PUBLISHED[0]), *words)
    assert caught.value.code == 2


def test_a_missing_cluster_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(small(tmp_path, PUBLISHED[0]), "--cluster", tmp_path / "none.yaml") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "none.yaml: expected a file" in lines[0]
