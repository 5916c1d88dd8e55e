"""A first spec for a model that its owner has as a file: it says what the file says, and marks what is guessed."""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from elasticrec.loading import StrPath, log
from repo_builder.access.queries import check_queries
from repo_builder.errors import InputError
from repo_builder.export import open_model_file
from repo_builder.extras import named_extras
from repo_builder.model.dlrm import Dlrm
from repo_builder.model.source import FileSource, ModelFile, Source
from repo_builder.output import Tell
from repo_builder.spec import Access, Serving, Spec
from repo_builder.writing import write_whole

# As the text below says
_ACCESS = Access("powerlaw", None, 0.9)
_SERVING = Serving(100.0, 32, 400.0)
_TRAFFIC = """\
# Not in the file: which rows are hot, and the traffic. Counts or a trace of your own say more than a power law.
access: {source: powerlaw, locality: 0.9}     # guessed: the hottest 10% of rows take 90% of the look-ups
serving: {target_qps: 100, batch: 32, sla_ms: 400}     # guessed: queries/s, rows to score in each, latency bound
"""

_EXPORT = "torch.export.save(torch.export.export(model, inputs), 'model.pt2') makes one of any PyTorch model"
_NAME = "[A-Za-z][A-Za-z0-9_]{0,63}"


@dataclass(frozen=True, slots=True)
class FirstSpec:
    """The text of a spec, what it reads as, and what a build needs beside it."""

    text: str
    spec: Spec
    needs: Sequence[str] = ()


@named_extras()
def first_spec(model: StrPath, target: StrPath, *, name: str | None = None, tell: Tell = log) -> FirstSpec:
    """Look into a model file and draft the spec that is to stand at `target`; writes nothing.

    model: a program of torch.export (.pt2), an ONNX file, or a state dict of a DLRM or of TorchRec's; name: the
    model's in Triton, by default the file's. What the file cannot say is guessed and marked in the text.

    >>> first = elasticrec.first_spec("ranker.pt2", "ranker.yaml")
    >>> first.spec.name, [table.name for table in first.spec.model.tables]
    ('ranker', ['user', 'item'])
    >>> first.text.splitlines()[1]
    'model: {source: exported, path: "ranker.pt2"}'
    """
    path, target = Path(model), Path(target)
    name = name or _name(path)
    if not re.fullmatch(_NAME, name):
        raise InputError(f"--name: expected a letter, then up to 63 letters, digits or underscores, got {name!r}")
    if not path.exists():
        raise InputError(f"{path}: expected a model file, found none; check the path")
    draft = next((each for suffix, each in _KINDS.items() if path.name.endswith(suffix)), None)
    if path.is_dir():
        draft = _of_state_dict  # which says what to do with a folder
    if draft is None:
        known = ", ".join(_KINDS)
        raise InputError(f"{path}: expected a name ending in {known}, got {path.name!r}; {_EXPORT}")
    first = draft(path, name, path if path.is_absolute() else Path(os.path.relpath(path, target.parent)), tell)
    for need in first.needs:
        tell(f"{target}: plans as it is, but a build needs more: {need}")
    return first


def init(model: StrPath, target: StrPath, *, name: str | None = None, force: bool = False, tell: Tell = log) -> Spec:
    """Write the first spec of a model file; force: over a spec that is there.

    >>> elasticrec.init("ranker.pt2", "ranker.yaml").model == elasticrec.load_spec("ranker.yaml").model
    True
    """
    check_target(target, force)
    first = first_spec(model, target, name=name, tell=tell)
    write_whole(Path(target), first.text)
    return first.spec


def check_target(target: StrPath, force: bool) -> None:
    """Raise InputError where a spec would be written over."""
    if Path(target).exists() and not force:
        raise InputError(f"{target}: expected no file yet, so that no spec is lost; give another, or --force")


def _of_model_file(source: FileSource) -> Callable[[Path, str, Path, Tell], FirstSpec]:
    def draft(path: Path, name: str, named: Path, tell: Tell) -> FirstSpec:
        form = ModelFile(source, path)
        opened = open_model_file(name, form)
        for note in opened.notes:
            tell(note)
        needs = _needs(opened)
        spec = Spec(name, form, opened.model, _ACCESS, _SERVING)
        return FirstSpec(model_file_spec(name, source, named, needs), spec, needs)

    return draft


def _needs(opened: Source) -> Sequence[str]:
    """What queries cannot be drawn without."""
    try:
        check_queries(opened.model, _SERVING.batch, opened.samples())
    except InputError as exc:
        return exc.problems
    return ()


def _of_state_dict(path: Path, name: str, named: Path, _: Tell) -> FirstSpec:
    from repo_builder.export.dlrm.trained import read_dlrm_of  # reading a .pt imports torch, for seconds

    dlrm, ordered = read_dlrm_of(path)
    return FirstSpec(dlrm_spec(name, dlrm, named, ordered), Spec.of_dlrm(name, dlrm, _ACCESS, _SERVING))


_KINDS: Mapping[str, Callable[[Path, str, Path, Tell], FirstSpec]] = {
    ".pt2": _of_model_file("exported"),
    ".onnx": _of_model_file("onnx"),
    **dict.fromkeys((".pt", ".pth", ".safetensors", ".safetensors.index.json"), _of_state_dict),
}


def _name(path: Path) -> str:
    """A legal model's name after the file's."""
    stem = re.sub(r"\W", "_", path.name.split(".")[0], flags=re.ASCII)
    return (stem if stem[:1].isalpha() else f"model_{stem}")[:64]


def model_file_spec(name: str, source: FileSource, path: Path, needs: Sequence[str] = ()) -> str:
    """The spec of a model file; `path` as the spec's folder sees it. needs: what a build needs beside it."""
    told = [f"# {line}\n" for need in needs for line in textwrap.wrap(f"A build needs more: {need}", 116)]
    return (
        f"name: {_word(name)}\nmodel: {{source: {source}, path: {_text(str(path))}}}\n"
        f"{''.join(told)}"
        "# samples: requests.npz     # an array per input: requests to prove the cut with, and to draw queries from\n"
        f"{_TRAFFIC}"
    )


def dlrm_spec(name: str, dlrm: Dlrm, path: Path, ordered: bool) -> str:
    """The spec of a state dict; `path` as the spec's folder sees it. ordered: the file keeps the tables' order."""
    return "".join(f"{line}\n" for line in _dlrm_lines(name, dlrm, path, ordered)) + _TRAFFIC


def _dlrm_lines(name: str, dlrm: Dlrm, path: Path, ordered: bool) -> Iterator[str]:
    yield f"name: {_word(name)}"
    yield f"dense_features: {dlrm.dense_features}"
    yield f"bottom_mlp: {_list(dlrm.bottom_mlp)}"
    yield f"top_mlp: {_list(dlrm.top_mlp)}"
    yield f"interaction: {dlrm.interaction.kind}"
    for key, value in dlrm.interaction.keys().items():
        yield f"{key}: {_list(value) if isinstance(value, Sequence) else value}"
    yield "# Not in the file: pooling, how many ids of a table a row brings at most, here 1 each. Where it is more, say"
    yield "# mode: sum or mean too, how their rows are pooled."
    if not ordered and len(dlrm.tables) > 1:
        yield "# Nor the tables' order, on which the interaction depends: list them as the EmbeddingBagCollection does,"
        yield "# and say tables_in_order: true in weights."
    yield "tables:"
    for table in dlrm.tables:
        more = (
            f"pooling: {table.pooling}" if table.dtype == "fp32" else f"dtype: {table.dtype}, pooling: {table.pooling}"
        )
        yield f"  - {{name: {_text(table.name)}, rows: {table.rows}, dim: {table.dim}, {more}}}"
    yield f"weights: {{source: {dlrm.weights.source}, path: {_text(str(path))}}}"


def _word(name: str) -> str:
    """A name that YAML takes for one: of some, such as `true`, only within quotes."""
    return name if yaml.safe_load(name) == name else _text(name)


def _list(widths: Sequence[int]) -> str:
    return f"[{', '.join(map(str, widths))}]"


def _text(value: str) -> str:
    """A YAML string: JSON's is one."""
    return json.dumps(value, ensure_ascii=False)
