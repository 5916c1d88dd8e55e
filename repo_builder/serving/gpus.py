"""Whether a repository needs GPUs that this machine does not have."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from repo_builder.errors import RepositoryError


def check_gpus(repository: Path, devices: Path = Path("/dev")) -> None:
    """Raise RepositoryError, with the remedy, where a model is placed on a GPU that `devices` does not show."""
    present = {int(path.name.removeprefix("nvidia")) for path in devices.glob("nvidia[0-9]*")}
    problems = []
    for path in sorted(repository.glob("*/config.pbtxt")):
        try:
            config = text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
        except (text_format.ParseError, UnicodeDecodeError, OSError) as exc:
            raise RepositoryError(f"{path}: expected a Triton model config: {exc}; build the repository again") from exc
        wanted = {
            gpu for group in config.instance_group if group.kind == pb.ModelInstanceGroup.KIND_GPU for gpu in group.gpus
        }
        if wanted - present:
            problems.append(
                f"{path}: {config.name} is placed on GPU {', '.join(map(str, sorted(wanted)))}, but this machine has "
                f"{len(present) or 'none'}; build it for the CPU: elasticrec build SPEC --cpu-only"
            )
    if problems:
        raise RepositoryError(*problems)
