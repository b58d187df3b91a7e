"""What ``import jirgee`` promises: the listed names, and nothing heavy."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

import jirgee

HEAVY = ["torch", "transformers", "onnxruntime", "sentencepiece", "tqdm", "sklearn", "onnx", "optimum", "tokenizers"]


def loaded_after(code: str) -> list[str]:
    """Top-level modules in a fresh interpreter after ``code``."""
    code += "; import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not result.stderr
    return json.loads(result.stdout)


def test_all_is_the_public_names() -> None:
    public = {name for name, value in vars(jirgee).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert set(jirgee.__all__) == public | {"__version__"}
    assert jirgee.__all__ == sorted(jirgee.__all__)


def test_every_public_name_is_documented() -> None:
    for name in set(jirgee.__all__) - {"__version__"}:
        assert inspect.getdoc(getattr(jirgee, name)), name


def test_importing_loads_nothing_heavy() -> None:
    modules = loaded_after("import jirgee")
    assert "jirgee" in modules
    assert "numpy" in modules
    assert not set(modules) & set(HEAVY)


def test_the_command_line_loads_nothing_heavy_before_it_is_used() -> None:
    modules = loaded_after("import jirgee.cli; jirgee.cli.find_commands()")
    assert not set(modules) & set(HEAVY)


@pytest.mark.parametrize(
    "name", ["BundleError", "GateError", "InputError", "MachineError", "MissingPackage", "JirgeeError"]
)
def test_one_root_for_every_error(name: str) -> None:
    assert issubclass(getattr(jirgee, name), jirgee.JirgeeError)
    assert not issubclass(getattr(jirgee, name), (OSError, ValueError))
