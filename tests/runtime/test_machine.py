"""Facts about the machine, from recorded files of cgroups and processors."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from jirgee import machine


def write_v1(root: Path, quota: str, period: str = "100000") -> None:
    (root / "cpu").mkdir()
    (root / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (root / "cpu" / "cpu.cfs_period_us").write_text(f"{period}\n")


@pytest.mark.parametrize(
    ("content", "quota"),
    [
        ("200000 100000\n", 2.0),
        ("150000 100000\n", 1.5),
        ("50000 100000\n", 0.5),
        ("25000 50000", 0.5),
        ("max 100000\n", None),
        ("", None),
        ("100000\n", None),
        ("1 0\n", None),
        ("nonsense here\n", None),
    ],
)
def test_quota_of_cgroup_v2(tmp_path: Path, content: str, quota: float | None) -> None:
    (tmp_path / "cpu.max").write_text(content)
    assert machine.cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(("content", "quota"), [("400000", 4.0), ("10000", 0.1), ("-1", None), ("", None)])
def test_quota_of_cgroup_v1(tmp_path: Path, content: str, quota: float | None) -> None:
    write_v1(tmp_path, content)
    assert machine.cpu_quota(tmp_path) == quota


def test_v2_is_asked_before_v1(tmp_path: Path) -> None:
    write_v1(tmp_path, "100000")
    (tmp_path / "cpu.max").write_text("300000 100000\n")
    assert machine.cpu_quota(tmp_path) == 3.0


def test_no_cgroup_is_no_quota(tmp_path: Path) -> None:
    assert machine.cpu_quota(tmp_path) is None
    write_v1(tmp_path, "100000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").unlink()
    assert machine.cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("mask", "quota", "count"),
    [
        (8, "200000 100000", 2),
        (8, "250000 100000", 3),
        (8, "10000 100000", 1),
        (2, "800000 100000", 2),
        (8, "max 100000", 8),
    ],
)
def test_count_is_the_mask_cut_to_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask: int, quota: str, count: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(mask)), raising=False)
    (tmp_path / "cpu.max").write_text(quota)
    assert machine.cpu_count(tmp_path) == count


def test_count_without_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.cpu_count(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.cpu_count(tmp_path) == 1


XEON = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Gold 6248\nflags\t\t: fpu sse2 avx2 avx512f avx512_vnni\n\n"
PENTIUM = "processor\t: 0\nmodel name\t: Pentium: the old one\nflags\t\t: fpu sse2 avx2\n"
GRAVITON = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd0c\n"


@pytest.mark.parametrize(("text", "dot"), [(XEON, True), (PENTIUM, False), (GRAVITON, True), ("", False)])
def test_flags_tell_the_kind(tmp_path: Path, text: str, dot: bool) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    flags = machine.cpu_flags(tmp_path / "cpuinfo")
    assert machine.has_int8_dot(flags) is dot
    assert "flags" not in flags


def test_flags_are_whole_words(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("flags : avx512_vnni_not_quite\n")
    assert not machine.has_int8_dot(machine.cpu_flags(tmp_path / "cpuinfo"))


def test_model_name(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(XEON)
    assert machine.cpu_model(path) == "Intel(R) Xeon(R) Gold 6248"
    path.write_text(PENTIUM)
    assert machine.cpu_model(path) == "Pentium: the old one"


def test_a_machine_without_cpuinfo(tmp_path: Path) -> None:
    assert machine.cpu_flags(tmp_path / "none") == frozenset()
    assert machine.cpu_model(tmp_path / "none")


def test_this_machine_is_described_in_json() -> None:
    facts = json.loads(json.dumps(machine.describe()))
    assert set(facts) == {"cpu", "cpus", "int8_dot", "os", "arch", "python"}
    assert facts["cpus"] >= 1
    assert machine.peak_rss() > 1 << 20


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process of its own peak")
def test_peak_memory_is_not_that_of_the_parent() -> None:
    ballast = bytearray(b"\1") * (200 << 20)
    done = subprocess.run(
        [sys.executable, "-c", "from jirgee.machine import peak_rss; print(peak_rss())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < len(ballast) < machine.peak_rss()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_threads_share_one_heap() -> None:
    """In a process of its own: each of eight threads that allocates would reserve 64 MiB."""
    code = """
import sys, threading
from pathlib import Path
from jirgee.machine import share_one_heap
if sys.argv[1] == "set": assert share_one_heap()
def size(): return int(Path("/proc/self/statm").read_text().split()[0]) * 4096
before, all_there, all_seen = size(), threading.Barrier(9), threading.Barrier(9)
def work():
    kept = [bytearray(4096) for _ in range(100)]
    all_there.wait(); all_seen.wait()
for _ in range(8): threading.Thread(target=work).start()
all_there.wait(); print(size() - before); all_seen.wait()
"""
    apart, shared = (
        int(subprocess.run([sys.executable, "-c", code, word], check=True, capture_output=True).stdout)
        for word in ("leave", "set")
    )
    assert apart - shared > 4 * (64 << 20)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_blocks_go_back_to_the_system() -> None:
    """In a process of its own: after a large block was freed, blocks of a few MiB would stay in the heap."""
    code = """
import ctypes, sys
from pathlib import Path
from jirgee.machine import return_big_blocks
if sys.argv[1] == "set": assert return_big_blocks()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def take(size):
    block = libc.malloc(size); libc.memset(block, 1, size); return block
libc.free(take(24 << 20))
blocks = [take(4 << 20) for _ in range(20)]
last = take(4 << 20)
for block in blocks: libc.free(block)
print(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
"""
    kept, returned = (
        int(subprocess.run([sys.executable, "-c", code, word], check=True, capture_output=True).stdout)
        for word in ("leave", "set")
    )
    assert kept - returned > 60 << 20
