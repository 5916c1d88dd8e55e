"""`elasticrec init`."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from elasticrec import tables_model
from elasticrec.commands.common import Commands, add_command, out, warn
from elasticrec.first_spec import dlrm_spec, model_file_spec
from elasticrec.tables import size
from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.analysis.baselines import model_wise
from repo_builder.errors import InputError, PlanError
from repo_builder.export import open_model_file
from repo_builder.model.source import FileSource, ModelFile
from repo_builder.model.types import Model
from repo_builder.partition.cost import DEFAULT_PROFILE
from repo_builder.partition.planner import make_plan
from repo_builder.spec import Access, Serving, Spec
from repo_builder.words import count
from repo_builder.writing import write_whole

# As the spec that is written says
_ACCESS = Access("powerlaw", None, 0.9)
_SERVING = Serving(100.0, 32, 400.0)


def add(commands: Commands) -> None:
    """The command's words and help."""
    parser = add_command(
        commands,
        "init",
        "Look into a model file, print its tables and look-ups, what would be cut and what stays dense, and write a\n"
        "first spec of it. What the file cannot say is guessed and marked in the spec.",
        "elasticrec init ranker.pt2 -o ranker.yaml",
    )
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="a program of torch.export (.pt2), an ONNX file (.onnx), or a state dict of a DLRM or of TorchRec's (.pt, "
        ".pth, .safetensors, .safetensors.index.json)",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="SPEC", required=True, help="the spec to write, YAML")
    parser.add_argument("--name", help="the model's name in Triton (default: the file's)")
    parser.add_argument("--force", action="store_true", help="write over a spec that is there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what they ask for."""
    if args.output.exists() and not args.force:
        raise InputError(f"{args.output}: expected no file yet, so that no spec is lost; give another, or --force")
    name = args.name or _name(args.model)
    if not re.fullmatch(_LEGAL, name):
        raise InputError(f"--name: expected a letter, then up to 63 letters, digits or underscores, got {name!r}")
    if not args.model.exists():
        raise InputError(f"{args.model}: expected a model file, found none; check the path")
    write = next((each for suffix, each in _KINDS.items() if args.model.name.endswith(suffix)), None)
    if args.model.is_dir():
        write = _state_dict  # which says what to do with a folder
    if write is None:
        known = ", ".join(_KINDS)
        raise InputError(f"{args.model}: expected a name ending in {known}, got {args.model.name!r}; {_EXPORT}")
    text, spec = write(args.model, name, args.output)
    _print(spec.model)
    out.print(_saving(spec), markup=False, soft_wrap=True)
    write_whole(args.output, text)
    out.print(f"wrote {args.output}; next: elasticrec plan {args.output}", markup=False, soft_wrap=True)


def _model_file(source: FileSource) -> Callable[[Path, str, Path], tuple[str, Spec]]:
    def write(path: Path, name: str, target: Path) -> tuple[str, Spec]:
        form = ModelFile(source, path)
        opened = open_model_file(name, form)
        for note in opened.notes:
            warn(note)
        return model_file_spec(name, source, _from(target, path)), Spec(name, form, opened.model, _ACCESS, _SERVING)

    return write


def _state_dict(path: Path, name: str, target: Path) -> tuple[str, Spec]:
    from repo_builder.export.dlrm.trained import read_dlrm_of  # reading a .pt imports torch, for seconds

    dlrm, ordered = read_dlrm_of(path)
    return dlrm_spec(name, dlrm, _from(target, path), ordered), Spec.of_dlrm(name, dlrm, _ACCESS, _SERVING)


_KINDS: Mapping[str, Callable[[Path, str, Path], tuple[str, Spec]]] = {
    ".pt2": _model_file("exported"),
    ".onnx": _model_file("onnx"),
    **dict.fromkeys((".pt", ".pth", ".safetensors", ".safetensors.index.json"), _state_dict),
}
_EXPORT = "torch.export.save(torch.export.export(model, inputs), 'model.pt2') makes one of any PyTorch model"


_LEGAL = "[A-Za-z][A-Za-z0-9_]{0,63}"


def _name(path: Path) -> str:
    """A legal model's name after the file's."""
    stem = re.sub(r"\W", "_", path.name.split(".")[0], flags=re.ASCII)
    return (stem if stem[:1].isalpha() else f"model_{stem}")[:64]


def _from(spec: Path, path: Path) -> Path:
    """A file's path as a spec names it: from the spec's own folder, or absolute where the user gave it so."""
    return path if path.is_absolute() else Path(os.path.relpath(path, spec.parent))


def _print(model: Model) -> None:
    printed = [tables_model.tensors_table, tables_model.tables_table, tables_model.lookups_table]
    for table in (*printed, *([tables_model.kept_table] if model.kept else [])):
        out.print(table(model))
        out.print()


def _saving(spec: Spec) -> str:
    """What a plan at the guessed traffic takes, beside replicating the whole model."""
    try:
        plan = make_plan(spec, PowerLawHotness(0.9, 0), DEFAULT_PROFILE, "tiered", 4)
        whole = model_wise(spec, DEFAULT_PROFILE)
    except PlanError as exc:
        return f"no plan at the guessed traffic: {exc}"
    replicas = whole.replicas(spec.serving.target_qps).replicas
    whole_bytes = replicas * whole.memory_bytes
    verdict = "" if plan.memory_bytes < whole_bytes else ": at this traffic a cut does not pay"
    return (
        f"at {spec.serving.target_qps:g} queries/s of {count(spec.serving.batch, 'row')}, with guessed service times: "
        f"{size(plan.memory_bytes)} cut, {size(whole_bytes)} as {count(replicas, 'whole replica')}{verdict}"
    )
