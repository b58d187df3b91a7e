"""``jirgee push`` and ``pull``: directories, and repositories of a stand-in of the hub, each command in a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jirgee.bundle import Bundle
from jirgee.cli import main
from jirgee.errors import InputError
from jirgee.hub import repo_id

from .hub_stand_in import TOKEN, Hub, serving

Call = Callable[..., "subprocess.CompletedProcess[str]"]
REPO = "owner/tweets"


@pytest.fixture
def hub() -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub")
    with serving() as found:
        yield found


@pytest.fixture
def call(hub: Hub, tmp_path: Path) -> Call:
    """``jirgee ARGS`` with the stand-in for a hub and a token that it takes (or another, or none)."""

    def run(*args: object, token: str = TOKEN, url: str | None = None) -> subprocess.CompletedProcess[str]:
        settings = {"HF_ENDPOINT": url or hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | settings
        env |= {"HF_TOKEN": token, "NO_PROXY": "127.0.0.1"} if token else {"NO_PROXY": "127.0.0.1"}
        command = [sys.executable, "-m", "jirgee.cli", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=120)

    return run


def failed(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode == 1, (run.stdout, run.stderr)
    assert run.stdout == ""
    assert run.stderr.count("\n") == 1, run.stderr
    return run.stderr


@pytest.mark.parametrize(("source", "out"), [("fake", "again.jirgee"), ("fake.jirgee", "again")])
def test_there_and_back(make_bundle: Any, hub: Hub, call: Call, tmp_path: Path, source: str, out: str) -> None:
    bundle = make_bundle(source)
    run = call("push", source, REPO)
    assert run.returncode == 0, run.stderr
    head = hub.heads[REPO]
    assert run.stdout == f"hf:{REPO}: commit {head}, {bundle.size / 1e6:.1f} MB\n"
    assert set(hub.repos[REPO][head]) == {*bundle.files, "manifest.json", "manifest.sha256"}
    run = call("pull", REPO, "-o", out)
    assert run.returncode == 0, run.stderr
    assert f"verified, from commit {head} of hf:{REPO}" in run.stdout
    again = Bundle.load(tmp_path / out)
    assert again.files == bundle.files
    assert again.facts == bundle.facts
    assert set(os.listdir(tmp_path)) - {"hf"} == {source, out}
    if (tmp_path / out).is_dir():
        assert sorted(path.name for path in (tmp_path / out).iterdir()) == sorted(hub.repos[REPO][head])


def test_a_second_push_is_a_second_commit_and_the_first_can_be_pulled(
    make_bundle: Any, hub: Hub, call: Call, tmp_path: Path
) -> None:
    make_bundle("a", labels=["x", "y"])
    make_bundle("b", labels=["n", "m"])
    assert call("push", "a", f"hf:{REPO}", "--private").returncode == 0
    first = hub.heads[REPO]
    assert hub.private == {REPO}
    assert call("push", "b", REPO).returncode == 0
    assert hub.heads[REPO] != first
    assert call("pull", REPO, "-o", "new").returncode == 0
    assert call("pull", REPO, "--revision", first, "-o", "old").returncode == 0
    assert Bundle.load(tmp_path / "new").labels == ("n", "m")
    assert Bundle.load(tmp_path / "old").labels == ("x", "y")
    assert "no such revision" in failed(call("pull", REPO, "--revision", "v9", "-o", "other"))
    assert "exists already; pass --overwrite" in failed(call("pull", REPO, "-o", "new"))
    assert call("pull", REPO, "-o", "new", "--overwrite").returncode == 0
    assert "no such repository" in failed(call("pull", REPO, "-o", "c", token=""))


def test_what_is_wrong_is_one_line(make_bundle: Any, hub: Hub, call: Call, tmp_path: Path) -> None:
    make_bundle("fake")
    assert f"no such repository on {hub.url}, or a private one; set HF_TOKEN" in failed(
        call("pull", "owner/none", "-o", "out")
    )
    assert "no token; set HF_TOKEN" in failed(call("push", "fake", REPO, token=""))
    assert "answered 401" in failed(call("push", "fake", REPO, token="hf_bad"))
    gone = "http://127.0.0.1:9"
    assert f"{gone} cannot be reached" in failed(call("pull", REPO, "-o", "out", url=gone))
    assert f"{gone} cannot be reached" in failed(call("push", "fake", REPO, url=gone))
    hub.fail_with = 500
    assert "answered 500" in failed(call("pull", REPO, "-o", "out"))
    assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "hf") == ["fake"]


def test_only_what_the_manifest_lists_is_taken_and_only_if_it_fits(
    make_bundle: Any, hub: Hub, call: Call, tmp_path: Path
) -> None:
    bundle = make_bundle("fake")
    files = {path.name: path.read_bytes() for path in bundle.path.iterdir()}
    hub.commit(REPO, files | {"evil.pkl": b"cos\nsystem\n", ".gitattributes": b"*.onnx lfs\n"})
    assert call("pull", REPO, "-o", "good").returncode == 0
    assert sorted(os.listdir(tmp_path / "good")) == sorted(files)
    assert not [line for line in hub.asked if "evil" in line]

    bad = {
        "a longer file": ({"README.md": b"x" * 5000}, "README.md has 5000 bytes"),
        "another file as long": ({"model.onnx": bytes(len(files["model.onnx"]))}, "model.onnx is damaged"),
        "a manifest of two megabytes": ({"manifest.json": b" " * (2 << 20)}, "manifest.json has 2097152 bytes"),
        "another manifest": ({"manifest.json": files["manifest.json"] + b"\n"}, "does not match manifest.sha256"),
        "a manifest that leads outside": (
            {"manifest.json": files["manifest.json"].replace(b'"README.md"', b'"../README"')},
            "names a file that a bundle may not hold",
        ),
    }
    for name, (changes, words) in bad.items():
        hub.commit(REPO, files | changes)
        assert words in failed(call("pull", REPO, "-o", "out")), name
    for name in ("manifest.json", "model.onnx"):
        hub.commit(REPO, {other: data for other, data in files.items() if other != name})
        assert f"no {name}: it holds no bundle" in failed(call("pull", REPO, "-o", "out"))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "hf") == ["fake", "good"]


# --- directories ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["push", "fake", "new/place"], ["pull", "fake", "-o", "new/place"]])
def test_a_directory(
    make_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = make_bundle("fake")
    (tmp_path / "new").mkdir()
    assert main(command) == 0
    assert "verified" in capsys.readouterr().out
    for path in bundle.path.iterdir():
        assert (tmp_path / "new" / "place" / path.name).read_bytes() == path.read_bytes()
    assert main(command) == 1
    assert "exists already; pass --overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0


def test_packing_and_unpacking_keep_the_bundle(make_bundle: Any, tmp_path: Path) -> None:
    bundle = make_bundle("fake")
    assert main(["push", str(bundle.path), str(tmp_path / "b.jirgee")]) == 0
    assert main(["pull", str(tmp_path / "b.jirgee"), "-o", str(tmp_path / "c")]) == 0
    manifests = [(tmp_path / name / "manifest.json").read_bytes() for name in ("fake", "c")]
    assert manifests[0] == manifests[1]
    assert json.loads(manifests[0])["recipe"] == "fp32"


def test_a_damaged_bundle_is_not_pushed(make_bundle: Any, tmp_path: Path, capsys: Any) -> None:
    bundle = make_bundle("fake")
    (bundle.path / "pieces.model").write_bytes(b"other")
    for target in (str(tmp_path / "out"), REPO):
        assert main(["push", str(bundle.path), target]) == 1
        assert "pieces.model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for place in ("owner/name", "hf:owner/name"):
        assert repo_id(place) == "owner/name"
    for place in ("name", "./owner/name", "/owner/name", "owner/name.jirgee", "models/new", "a/b/c", "models"):
        assert repo_id(place) is None
    for place in ("hf:", "hf:name", "hf:a/b/c", "hf:../x"):
        with pytest.raises(InputError, match="write hf:OWNER/NAME"):
            repo_id(place)


@pytest.mark.parametrize("args", [["push", "a", "./b", "--private"], ["pull", "./a", "-o", "b", "--revision", "x"]])
def test_flags_of_repositories_only(make_bundle: Any, tmp_path: Path, monkeypatch: Any, args: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    make_bundle("a")
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == 2
