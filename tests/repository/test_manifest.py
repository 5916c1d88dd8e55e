"""The manifest: what it may say, and how it is read."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from repo_builder.model.types import Columns, Group, Ids, Lookup, Model, Ragged, RowFormat, Table, Tensor
from repo_builder.repository.manifest import (
    AccessEntry,
    FileEntry,
    Manifest,
    Proof,
    describe,
    entry_of,
    load_manifest,
    verify,
)
from repo_builder.spec import Access
from tests.hand_models import COMPUTED, DLRM, RANKER, VARYING, hand_spec
from tests.repository.manifests import FILES, SHA, entry, manifest_document, problems, write


def test_a_manifest_is_read_as_it_was_written(repository: Path) -> None:
    manifest = load_manifest(repository)
    assert manifest == Manifest(
        generator="elasticrec 0",
        name="small",
        layout="single",
        plan_sha256=SHA,
        batch=8,
        batched=True,
        inputs=(
            Tensor("dense", "FP32", ("batch", 3)),
            Tensor("indices", "INT64", ("batch", 2)),
            Tensor("tags", "INT64", ("tags",)),
            Tensor("offsets", "INT32", ("bags",)),
        ),
        outputs=(Tensor("score", "FP32", ("batch", 1)),),
        tables=(Table("users", 3000, RowFormat(8)),),
        groups=(Group("batch"),),
        lookups=(
            Lookup("users", 0, 0, Ids("indices", Columns(0, 2, 2), padding=-1), "sum", 1, ("batch", 8), 2.0),
            Lookup("tags", 0, 0, Ids("tags", Ragged("offsets", "ends")), "sum", 1, ("batch", 8), 2.0),
        ),
        files=tuple(FileEntry(**entry(path, content)) for path, content in FILES.items()),
        sla_ms=400.0,
        access=AccessEntry("powerlaw", 0.8, 0),
        table_access={"users": AccessEntry("powerlaw", 0.5, 1)},
        sampled=True,
        proof=Proof(SHA, 1e-7),
    )
    assert json.loads(manifest.to_json()) == manifest_document()
    assert verify(repository) == manifest


@pytest.mark.parametrize("model", [RANKER, DLRM, COMPUTED, VARYING], ids=lambda model: model.name)
def test_a_model_is_described_whole(model: Model, tmp_path: Path) -> None:
    """All that a client draws its queries by is read back as it was."""
    access, own = Access("counts", tmp_path / "counts.npz", seed=3), {"items": Access("powerlaw", locality=0.5)}
    spec = hand_spec(model, 16, 50.0, access=access, table_access=own)
    files = [FileEntry("b", 1, SHA), FileEntry("a", 2, SHA)]
    manifest = describe(spec, "fleet", SHA, "elasticrec 0", files)
    (tmp_path / "manifest.json").write_text(manifest.to_json())
    found = load_manifest(tmp_path)
    assert found == manifest
    for part in ("name", "inputs", "outputs", "tables", "groups", "lookups"):
        assert getattr(found, part) == getattr(model, part), part
    assert (found.batched, found.batch, found.sla_ms) == (model.dense.batched, 16, 50.0)
    assert found.table_access == {"items": AccessEntry("powerlaw", 0.5, 0)}
    assert found.access == AccessEntry("counts", None, 3) and found.proof is None and not found.sampled
    assert [entry.path for entry in found.files] == ["a", "b"]
    assert "counts.npz" not in manifest.to_json()


@pytest.mark.parametrize("path", FILES)
def test_an_entry_is_the_files_size_and_hash(path: str, repository: Path) -> None:
    assert entry_of(repository, path) == FileEntry(**entry(path, FILES[path]))


@pytest.mark.parametrize("key", manifest_document().keys() - {"format", "generator"})
def test_every_field_is_needed(key: str, repository: Path) -> None:
    document = manifest_document()
    del document[key]
    write(repository, document)
    assert problems(load_manifest, repository) == [f"{repository}/manifest.json: {key}: expected this field, got none"]


@pytest.mark.parametrize(
    ("key", "value"), [("format", 1), ("format", 2), ("format", None), ("generator", None), ("generator", "vite")]
)
def test_another_versions_or_programs_manifest_is_told_as_such(key: str, value: object, repository: Path) -> None:
    """In one line, whatever else is in it."""
    document = {**manifest_document(), "unheard_of": 1, key: value}
    told = {
        "format": f"format: expected 3, got {value}; it was built by elasticrec 0: build it again, into another folder",
        "generator": "expected the manifest of a built repository, got another program's file",
    }
    for each in (document, {name: item for name, item in document.items() if name != key}):
        write(repository, each)
        (problem,) = problems(load_manifest, repository)
        if key in each:
            assert problem == f"{repository}/manifest.json: {told[key]}"


VIOLATIONS = {
    "name": (lambda d: d.update(name="9lives"), "name: expected a name like"),
    "name that is a path": (lambda d: d.update(name="../small"), "name: expected a name like"),
    "layout": (lambda d: d.update(layout="round"), "layout: expected one of single"),
    "plan_sha256": (lambda d: d.update(plan_sha256="0" * 63), "plan_sha256: expected"),
    "batch 2.0": (lambda d: d.update(batch=2.0), "batch: expected an integer, got 2.0"),
    "batched": (lambda d: d.update(batched=1), "batched: expected true or false, got 1"),
    "inputs": (lambda d: d.update(inputs=[]), "inputs: expected at least 1 item"),
    "datatype": (lambda d: d["inputs"][0].update(datatype="BYTES"), "inputs[0].datatype: expected one of BOOL"),
    "a dimension": (lambda d: d["outputs"][0]["shape"].append(0), "outputs[0].shape[2]: expected at least 1, got 0"),
    "a nameless dimension": (lambda d: d["inputs"][2].update(shape=[""]), "inputs[2].shape[0]: expected at least 1"),
    "an input twice": (lambda d: d["inputs"].append(d["inputs"][0]), "inputs[4].name: expected each name once, got"),
    "a table twice": (lambda d: d["tables"].append(d["tables"][0]), "tables[1].name: expected each name once, got"),
    "a table that is not there": (
        lambda d: d["lookups"][1].update(table=1),
        "lookups[1].table: expected a place in tables, below 1, got 1",
    ),
    "a group that is not there": (
        lambda d: d["lookups"][0].update(group=2),
        "lookups[0].group: expected a place in groups, below 1, got 2",
    ),
    "a layout of both kinds": (
        lambda d: d["lookups"][0]["ids"]["layout"].update(bounds="offsets"),
        "lookups[0].ids.layout: expected the fields begin, bag, width, or bounds, kind, block, blocks, got begin,",
    ),
    "a bag of nothing": (
        lambda d: d["lookups"][0]["ids"]["layout"].update(bag=-1),
        "lookups[0].ids.layout.bag: expected at least 1 where the width is told, got -1",
    ),
    "columns beyond the width": (
        lambda d: d["lookups"][0]["ids"]["layout"].update(begin=1),
        "lookups[0].ids.layout: expected columns up to 2, got 3",
    ),
    "a block beyond all": (
        lambda d: d["lookups"][1]["ids"]["layout"].update(block=1),
        "lookups[1].ids.layout.block: expected one below blocks, 1, got 1",
    ),
    "ids of floats": (
        lambda d: d["lookups"][0]["ids"].update(tensor="dense"),
        "lookups[0].ids.tensor: expected an input of INT64 or INT32, got dense of FP32",
    ),
    "ragged ids in two dimensions": (
        lambda d: d["inputs"][2]["shape"].append(3),
        "lookups[1].ids.tensor: expected an input of one dimension, got tags of 2",
    ),
    "ragged bounds without a dimension": (
        lambda d: d["inputs"][3].update(shape=[]),
        "lookups[1].ids.bounds: expected an input of one dimension, got offsets of 0",
    ),
    "bounds of floats": (
        lambda d: d["lookups"][1]["ids"]["layout"].update(bounds="dense"),
        "lookups[1].ids.bounds: expected an input of INT64 or INT32, got dense of FP32",
    ),
    "weights of integers": (
        lambda d: d["lookups"][1]["ids"].update(weights="tags"),
        "lookups[1].ids.weights: expected an input of FP32, got tags of INT64",
    ),
    "mean_ids": (lambda d: d["lookups"][0].update(mean_ids=-1), "lookups[0].mean_ids: expected at least 0, got -1"),
    "table_access": (
        lambda d: d["table_access"]["users"].update(locality=2),
        "table_access.users.locality: expected at most 1, got 2",
    ),
    "sampled": (lambda d: d.update(sampled=None), "sampled: expected true or false, got null"),
    "proof": (lambda d: d["proof"].update(difference="0"), "proof.difference: expected a number"),
    "batch": (lambda d: d.update(batch=True), "batch: expected an integer, got true"),
    "tables": (lambda d: d.update(tables=[]), "tables: expected at least 1 item"),
    "rows": (lambda d: d["tables"][0].update(rows=0), "tables[0].rows: expected at least 1, got 0"),
    "dim": (lambda d: d["tables"][0].pop("dim"), "tables[0].dim: expected this field"),
    "size_bytes": (lambda d: d["files"][1].update(size_bytes=-1), "files[1].size_bytes: expected at least 0, got -1"),
    "sha256": (lambda d: d["files"][0].update(sha256=SHA.upper() + "A"), "files[0].sha256: expected"),
    "path": (lambda d: d["files"][2].update(path=""), "files[2].path: expected at least 1 character"),
    "a list of files": (lambda d: d.update(files={}), "files: expected a list, got {}"),
    "unknown key": (lambda d: d.update(bogus=1), "bogus: unknown field; expected one of format, generator, name"),
    "unknown key of a table": (lambda d: d["tables"][0].update(bogus=8), "tables[0].bogus: unknown field"),
    "unknown key of a file": (lambda d: d["files"][0].update(mode=7), "files[0].mode: unknown field"),
    "a file twice": (
        lambda d: d["files"].append({**d["files"][0], "sha256": SHA}),
        "files[3].path: expected each file once, got 'small/config.pbtxt' twice",
    ),
}


@pytest.mark.parametrize("case", VIOLATIONS)
@pytest.mark.parametrize("call", [load_manifest, verify])
def test_a_violation_names_the_field(call: Callable[[Path], object], case: str, repository: Path) -> None:
    change, told = VIOLATIONS[case]
    document = manifest_document()
    change(document)
    write(repository, document)
    [problem] = problems(call, repository)
    assert problem.startswith(f"{repository}/manifest.json: {told}")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"name": 1, "name": 2}', "\0"])
def test_a_manifest_that_is_none(text: str, repository: Path) -> None:
    (repository / "manifest.json").write_text(text)
    assert all(problem.startswith(f"{repository}/manifest.json: ") for problem in problems(load_manifest, repository))


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "a file", "a folder as manifest"])
def test_no_repository_says_what_to_run(there: str, tmp_path: Path) -> None:
    folder = tmp_path / "it"
    if there == "a file":
        folder.write_text("")
    elif there != "nothing":
        folder.mkdir()
    if there == "a folder as manifest":
        (folder / "manifest.json").mkdir()
    assert problems(load_manifest, folder) == [
        f"{folder}: expected a built repository with a manifest.json, found none; run elasticrec build"
    ]


OUTSIDE = ["../outside", "small/../../outside", "..", "/etc/hostname", "//outside", "TMP/outside"]
UNTIDY = ["small/../empty", "./empty", "small//config.pbtxt", "small/", ".", "a\0b"]


@pytest.mark.parametrize("path", OUTSIDE + UNTIDY)
@pytest.mark.parametrize("call", [load_manifest, verify])
def test_a_path_that_leads_out_is_refused(call: Callable[[Path], object], path: str, repository: Path) -> None:
    """Whether or not such a file exists: whoever deletes or copies by the manifest must be able to trust it."""
    (repository.parent / "outside").write_bytes(b"")
    path = path.replace("TMP", str(repository.parent))
    document = manifest_document()
    document["files"].append(entry(path, b""))
    write(repository, document)
    assert problems(call, repository) == [
        f"{repository}/manifest.json: files[3].path: expected a path below the repository, such as a/b, got {path!r}"
    ]
