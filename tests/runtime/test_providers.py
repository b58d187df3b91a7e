"""Devices: ``auto`` chooses, an asked-for device works or says in one line what is missing."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from jirgee import providers
from jirgee.errors import BundleError, MachineError, MissingPackage

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


class FakeSession:
    """Stands for InferenceSession; starts on the providers in ``starts_on`` whatever it is asked for."""

    starts_on: tuple[str, ...] = (CPU,)
    error: str | None = None

    def __init__(self, model: Any, options: Any, providers: list[Any]):
        if self.error:
            raise RuntimeError(self.error)
        self.model, self.options, self.asked = model, options, providers

    def get_providers(self) -> list[str]:
        return list(self.starts_on)


@pytest.fixture
def ort(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An onnxruntime that offers what a test says: ``available``, and a session class to change."""

    class Options(SimpleNamespace):
        def add_session_config_entry(self, key: str, value: str) -> None:
            self.__dict__[key] = value

    fake = SimpleNamespace(
        __version__="1.99",
        available=[CPU],
        InferenceSession=type("Session", (FakeSession,), {}),
        SessionOptions=Options,
    )
    fake.get_available_providers = lambda: fake.available
    monkeypatch.setattr(providers, "onnxruntime", lambda: fake)
    return fake


def driver(monkeypatch: pytest.MonkeyPatch, present: bool) -> None:
    monkeypatch.setattr(providers, "_has_driver", lambda: present)


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("available", "has_driver", "chosen"),
    [([CPU], False, "cpu"), ([CPU], True, "cpu"), ([CUDA, CPU], False, "cpu"), ([CUDA, CPU], True, "cuda")],
)
def test_auto_takes_cuda_only_where_it_works(
    ort: Any, monkeypatch: pytest.MonkeyPatch, available: list[str], has_driver: bool, chosen: str
) -> None:
    ort.available = available
    driver(monkeypatch, has_driver)
    assert providers.choose_device("auto") == chosen


def test_cpu_is_always_there(ort: Any) -> None:
    assert providers.choose_device("cpu") == "cpu"


def test_an_unknown_device_lists_the_known(ort: Any) -> None:
    with pytest.raises(MachineError, match=r"'tpu'.*auto, cpu, cuda"):
        providers.choose_device("tpu")


def test_cuda_with_the_cpu_build_names_the_wheel(ort: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, True)
    with pytest.raises(MachineError) as error:
        providers.choose_device("cuda")
    text = one_line(error)
    assert "CPU build" in text
    assert "jirgee[gpu]" in text
    assert "driver" not in text


def test_cuda_without_build_and_driver_names_both(ort: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, False)
    with pytest.raises(MachineError) as error:
        providers.choose_device("cuda")
    text = one_line(error)
    assert "jirgee[gpu]" in text
    assert "NVIDIA driver" in text


def test_cuda_without_driver_names_libcuda(ort: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ort.available = [CUDA, CPU]
    driver(monkeypatch, False)
    with pytest.raises(MachineError) as error:
        providers.choose_device("cuda")
    text = one_line(error)
    assert "libcuda" in text
    assert "--device cpu" in text


def test_the_driver_is_looked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def absent(name: str) -> None:
        asked.append(name)
        raise OSError(name)

    monkeypatch.setattr("jirgee.providers.ctypes.CDLL", absent)
    monkeypatch.setattr("jirgee.providers.platform.system", lambda: "Linux")
    assert providers._has_driver() is False
    assert asked == ["libcuda.so.1", "libcuda.so"]
    monkeypatch.setattr("jirgee.providers.ctypes.CDLL", lambda name: object())
    assert providers._has_driver() is True


def test_a_session_that_falls_back_is_an_error(ort: Any) -> None:
    with pytest.raises(MachineError) as error:
        providers.open_session(b"", "cuda", 1)
    text = one_line(error)
    assert "fell back to CPUExecutionProvider" in text
    assert "onnxruntime-gpu[cuda,cudnn]" in text


def test_a_session_that_does_not_start_is_one_line(ort: Any) -> None:
    ort.InferenceSession.error = "first line\n  second line"
    with pytest.raises(MachineError, match=r"--device cuda: .*first line second line") as cuda:
        providers.open_session(b"", "cuda", 1)
    one_line(cuda)
    with pytest.raises(BundleError, match=r"onnxruntime 1\.99 cannot run this model: first line second line"):
        providers.open_session(b"", "cpu", 1)


@pytest.mark.parametrize(
    "reason",
    [
        "Unsupported model IR version: 11, max supported IR version: 10",
        "Could not find an implementation for QuantizeLinear(23) node",
        "ONNX Runtime only guarantees support for models stamped with official released onnx opset versions",
    ],
)
def test_an_onnxruntime_older_than_the_bundle_needs_is_told_so(ort: Any, reason: str) -> None:
    ort.InferenceSession.error = reason
    with pytest.raises(BundleError, match=r"cannot run this model: .*; update onnxruntime$"):
        providers.open_session(b"", "cpu", 1)


@pytest.mark.parametrize(("inner", "spins"), [(1, "0"), (2, "1")])
def test_threads_spin_within_a_batch_only(ort: Any, inner: int, spins: str) -> None:
    options = providers.open_session("model.onnx", "cpu", inner).options.__dict__
    assert options["session.intra_op.allow_spinning"] == spins
    assert options["session.force_spinning_stop"] == "1"


def test_a_session_is_asked_for_with_the_cpu_behind(ort: Any) -> None:
    ort.InferenceSession.starts_on = (CUDA, CPU)
    session = providers.open_session("model.onnx", "cuda", 3)
    assert [name for name, _ in session.asked] == [CUDA, CPU]
    assert session.options.intra_op_num_threads == 3
    ort.InferenceSession.starts_on = (CPU,)
    assert [name for name, _ in providers.open_session("model.onnx", "cpu", 1).asked] == [CPU]


def test_without_onnxruntime_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackage) as error:
        providers.onnxruntime()
    text = one_line(error)
    assert "pip install 'jirgee[cpu]'" in text
    assert "jirgee[gpu]" in text


def test_the_real_onnxruntime_refuses_a_model_of_nonsense() -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(BundleError, match="cannot run this model") as error:
        providers.open_session(b"this is no protobuf", "cpu", 1)
    one_line(error)


def test_tensorrt_has_cuda_and_the_cpu_behind_it(ort: Any) -> None:
    ort.InferenceSession.starts_on = (TENSORRT, CUDA, CPU)
    session = providers.open_session("model.onnx", "tensorrt", 1, more={"trt_fp16_enable": "1"})
    assert [name for name, _ in session.asked] == [TENSORRT, CUDA, CPU]
    assert session.asked[0][1] == {"trt_fp16_enable": "1"}


def test_tensorrt_that_does_not_load_is_an_error_with_the_loaders_words(
    ort: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise OSError(f"libnvinfer.so.10: cannot open shared object file (for {name.rpartition('_')[2]})")

    ort.InferenceSession.starts_on = (CUDA, CPU)
    monkeypatch.setattr("jirgee.providers.ctypes.CDLL", absent)
    monkeypatch.setattr("jirgee.providers.platform.system", lambda: "Linux")
    with pytest.raises(MachineError) as error:
        providers.open_session(b"", "tensorrt", 1)
    text = one_line(error)
    assert f"fell back to {CUDA}" in text
    assert "libnvinfer.so.10: cannot open shared object file (for tensorrt.so)" in text
    assert "--device cuda" in text


def test_tensorrt_without_its_provider_names_cuda(ort: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ort.available = [CUDA, CPU]
    driver(monkeypatch, True)
    with pytest.raises(MachineError, match=r"--device tensorrt: .*built without it; use --device cuda"):
        providers.choose_device("tensorrt")
    ort.available = [TENSORRT, CUDA, CPU]
    assert providers.choose_device("tensorrt") == "tensorrt"


def test_what_onnxruntime_prints_while_it_starts_is_not_among_the_results(
    ort: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ort.preload_dlls = lambda: print("Failed to load libcudart.so.12")
    ort.InferenceSession.starts_on = (CUDA, CPU)
    providers.open_session(b"", "cuda", 1)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("has_driver", "said"), [(True, None), (False, "taking the CPU.*no NVIDIA driver")])
def test_auto_says_why_the_gpu_wheel_is_not_used(
    ort: Any, monkeypatch: pytest.MonkeyPatch, has_driver: bool, said: str | None
) -> None:
    ort.available = [CUDA, CPU]
    driver(monkeypatch, has_driver)
    assert providers.auto_note() is None, "the GPU wheel is not installed here"
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: name)
    note = providers.auto_note()
    assert note is None if said is None else re.search(said, note or "")
