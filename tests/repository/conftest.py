"""The repository of a manifest by hand, for whoever asks for it."""

from pathlib import Path

import pytest

from tests.repository.manifests import FILES, manifest_document, write


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository as its manifest lists it."""
    folder = tmp_path / "repository"
    for path, content in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    write(folder, manifest_document())
    return folder
