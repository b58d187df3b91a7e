"""Facts about this machine: usable processors and what kind they are.

"Usable" means what the scheduler will really give this process: the affinity mask and the container's CPU quota,
not the number of cores in the box. onnxruntime looks at neither quota (its issue #29510).
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
from pathlib import Path
from typing import Any

# Instructions that multiply 8-bit integers into 32-bit sums without saturating, as /proc/cpuinfo names them.
INT8_DOT_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})


def cpu_count(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Processors this process may use, at least 1: the affinity mask, cut to the container's quota (rounded up)."""
    mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(cgroup)
    return max(1, mask if quota is None else min(mask, math.ceil(quota)))


def cpu_quota(cgroup: Path) -> float | None:
    """The container's CPU limit in processors (cgroup v2 ``cpu.max``, v1 ``cpu.cfs_*``), None if unlimited."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    try:
        limit = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max": no limit
        return None
    return limit if limit > 0 else None


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Instruction-set flags of the processor as Linux names them; empty where they cannot be read."""
    try:
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return frozenset(value.split())
    except OSError:
        pass
    return frozenset()


def has_int8_dot(flags: frozenset[str] | None = None) -> bool:
    """Whether 8-bit products are summed in 32 bits here (VNNI, AMX, ARM dot product): full-range int8 is then safe."""
    return bool(INT8_DOT_FLAGS & (cpu_flags() if flags is None else flags))


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, or the architecture where it is not told."""
    try:
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.machine()


def describe() -> dict[str, Any]:
    """This machine in JSON, for reports and manifests."""
    return {
        "cpu": cpu_model(),
        "cpus": cpu_count(),
        "int8_dot": has_int8_dot(),
        "os": platform.system(),
        "arch": platform.machine(),
        "python": platform.python_version(),
    }


def peak_rss() -> int:
    """Peak resident memory of this process in bytes, 0 where the system does not tell."""
    try:  # Linux's ru_maxrss starts at what the parent process had
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def user_cache() -> Path:
    """The folder for what jirgee finds out about this machine. Raises RuntimeError where there is no home directory."""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(base) / "jirgee"


M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of mallopt(3)


def return_big_blocks(size: int = 1 << 18) -> bool:
    """Tell glibc to give freed blocks of ``size`` bytes or more back to the system at once, for this whole process.

    By default it keeps more and more of them, up to 32 MiB each; loading a model then leaves holes as large as half of
    it. False where the C library has no such setting.
    """
    return _mallopt(M_MMAP_THRESHOLD, size)


def share_one_heap() -> bool:
    """Tell glibc that threads from now on share the heap, instead of reserving 64 MiB of address space each.

    They wait for each other there: for one thread that computes, not for many. False where there is no such setting.
    """
    return _mallopt(M_ARENA_MAX, 1)


def _mallopt(setting: int, value: int) -> bool:
    if platform.system() != "Linux":
        return False
    try:
        return ctypes.CDLL(None).mallopt(setting, value) == 1
    except (OSError, AttributeError):
        return False
