"""The peers: one module each, all of the same form, so that ``worker.py`` can measure any of them.

    ABOUT      one line
    SOURCES    where the settings are from
    NEEDS      modules whose absence means that the peer is not installed
    VARIANTS   name -> Variant: the forms that are measured
    THROUGHPUT, LATENCY
               settings worth trying, the documentation's first; a short trial on the machine picks one of each.
               The key ``env`` holds environment variables that must be there before the library is imported.
    prepare(case, out, variant)              convert the checkpoint; not timed
    load(case, out, variant, settings)       -> whatever ``score`` needs; timed as a part of the cold start
    score(loaded, texts)                     -> probabilities [n, k]; tokenising included
    close(loaded)

``out`` is the peer's own directory; what it holds after ``prepare`` is what the peer needs on disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

MODULES = (
    "ours",
    "pytorch",
    "pipeline",
    "optimum_ort",
    "ctranslate",
    "vino",
    "sentence",
    "nano",
    "fasttext_floor",
    "tfidf_floor",
)


@dataclass(frozen=True)
class Variant:
    """``precision``: of the matrix products (``fp32``, ``bf16``, ``int8``, ``int4``, or ``other`` for what multiplies
    no matrices). ``share``: part of the texts that it scores, for those too slow for all. ``cases``: names of the only
    cases that it can run. ``first_token``: whether the last layer is computed for the first token alone.
    """

    about: str
    precision: str = "fp32"
    share: float = 1.0
    cases: tuple[str, ...] = ()
    first_token: bool = False


@dataclass(frozen=True)
class Peer:
    """A module's variant. ``name``: ``module-variant``, as it is in tables and on the command line."""

    module: str
    variant: str

    @property
    def name(self) -> str:
        return f"{self.module}-{self.variant}"

    @property
    def code(self) -> ModuleType:
        return load_module(self.module)

    @property
    def facts(self) -> Variant:
        return self.code.VARIANTS[self.variant]

    def why_not(self, case: str) -> str | None:
        """Why it cannot be measured here, None if it can."""
        if absent := [name for name in self.code.NEEDS if find_spec(name.partition(".")[0]) is None]:
            return f"{absent[0]} is not installed (pip install 'jirgee[bench]')"
        if self.facts.cases and case not in self.facts.cases:
            return f"runs only {', '.join(self.facts.cases)}"
        return None


def load_module(name: str) -> ModuleType:
    return import_module(f"{__name__}.{name}")


def all_peers() -> list[Peer]:
    return [Peer(module, variant) for module in MODULES for variant in load_module(module).VARIANTS]


def choose(wanted: list[str]) -> list[Peer]:
    """The peers that ``wanted`` names by module or by name, in the order of ``all_peers``; all for an empty list.

    Raises ValueError for a name that is none.
    """
    peers = all_peers()
    if unknown := [name for name in wanted if name not in {p.module for p in peers} | {p.name for p in peers}]:
        raise ValueError(f"no peer {unknown[0]!r}; there are {', '.join(p.name for p in peers)}")
    return [peer for peer in peers if not wanted or peer.name in wanted or peer.module in wanted]
