"""`elasticrec k8s` as a user runs it."""

import json
from pathlib import Path

import pytest
import yaml

from elasticrec.cli import main
from tests.k8s.fleets import Made, write_fleet


@pytest.fixture
def built(tmp_path: Path) -> Path:
    (tmp_path / "fleet").mkdir()
    return write_fleet(tmp_path / "fleet")


def run(built: Path, out: Path, *words: str) -> int:
    return main(["k8s", str(built), "-o", str(out), "--repository", "s3://models/v7", *words])


def test_it_writes_what_was_asked_for(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choices = ["--namespace=ranking", "--image=registry/triton:1", "--min-replicas=2", "--priority-class=high"]
    choices += ["--prometheus=http://prom.observe.svc:9090", "--latency-share=0.5", "--tls=rm1-tls", "--json"]
    assert run(built, tmp_path / "out", *choices) == 0
    printed = json.loads(capsys.readouterr().out)
    files = {path.name: yaml.safe_load(path.read_text()) for path in (tmp_path / "out").glob("*.yaml")}
    assert printed == files
    pod = files["rm1-tier0-deployment.yaml"]["spec"]["template"]["spec"]
    assert files["podmonitor.yaml"]["metadata"]["namespace"] == "ranking"
    assert pod["containers"][0]["image"] == "registry/triton:1"
    assert pod["priorityClassName"] == "high"
    scaled = files["rm1-frontend-scaledobject.yaml"]["spec"]
    assert scaled["minReplicaCount"] == 2
    assert scaled["triggers"][0]["metadata"]["serverAddress"] == "http://prom.observe.svc:9090"
    assert scaled["triggers"][0]["metadata"]["threshold"] == "200000"
    assert 'namespace="ranking"' in scaled["triggers"][0]["metadata"]["query"]
    peer = files["rm1-tier0-networkpolicy.yaml"]["spec"]["ingress"][1]["from"][0]["namespaceSelector"]
    assert peer == {"matchLabels": {"kubernetes.io/metadata.name": "observe"}}


def test_it_says_where_to_go_on(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(built, tmp_path / "out") == 0
    told = capsys.readouterr().out
    assert "3 services, 23 files" in told
    assert f"kubectl apply -k {tmp_path / 'out'}" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--repository=ftp://x"], "--repository: expected s3://BUCKET/PREFIX, gs://..."),
        (["--repository=pvc:models/../other"], "--repository: expected"),
        (["--repository=init:"], "--repository: expected"),
        (["--namespace=Ranking"], "--namespace: expected a namespace's name, got 'Ranking'"),
        (["--image=a b"], "--image: expected an image"),
        (["--tls=_"], "--tls: expected a secret's name"),
        (["--priority-class=A"], "--priority-class: expected"),
        (["--prometheus=prometheus:9090"], "--prometheus: expected a URL such as http://"),
    ],
)
def test_bad_choices_leave_nothing(
    words: list[str], told: str, built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(built, tmp_path / "out", *words) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_single_layout_is_refused_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "single").mkdir()
    assert run(write_fleet(tmp_path / "single", Made(layout="single")), tmp_path / "out") == 2
    assert "build --layout fleet" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
