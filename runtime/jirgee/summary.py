"""What a run did, in figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from .machine import peak_rss


@dataclass
class Summary:
    """``rows`` read = ``scored`` + ``rejected``. A resumed run counts what the runs before it did.

    ``repeats``: scored rows whose text was not computed again. ``truncated``: rows whose text was cut to the token
    limit. ``tokens``: what the model was given, ``planned`` with padding. ``seconds`` on the clock; the stages overlap.
    """

    rows: int = 0
    scored: int = 0
    rejected: int = 0
    repeats: int = 0
    truncated: int = 0
    tokens: int = 0
    planned: int = 0
    seconds: float = 0.0
    read_seconds: float = 0.0
    score_seconds: float = 0.0
    write_seconds: float = 0.0

    @property
    def padding(self) -> float:
        """Share of the computed tokens that is padding, 0..1."""
        return 1 - self.tokens / self.planned if self.planned else 0.0

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds if self.seconds else 0.0

    def add(self, other: Summary) -> None:
        """Count in what another part of the run did."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def to_json(self) -> dict[str, Any]:
        """The counts, to go on from."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Summary:
        return cls(**{field.name: data[field.name] for field in fields(cls)})

    def figures(self) -> dict[str, Any]:
        """For people and logs: counts, shares and the peak of this process's memory."""
        shown = {name: round(value, 3) if type(value) is float else value for name, value in asdict(self).items()}
        del shown["planned"]
        return shown | {
            "padding": round(self.padding, 4),
            "rows_per_second": round(self.rate, 1),
            "peak_rss_bytes": peak_rss(),
        }

    def line(self) -> str:
        memory = peak_rss()
        return (
            f"{self.rows} rows: {self.scored} scored, {self.rejected} rejected, {self.repeats} repeats not computed "
            f"again, {self.truncated} cut to the token limit; {self.tokens} tokens, {self.padding:.1%} padding; "
            f"{self.seconds:.1f} s (read {self.read_seconds:.1f}, score {self.score_seconds:.1f}, write "
            f"{self.write_seconds:.1f}), {self.rate:.0f} rows/s" + (f", {memory / 2**20:.0f} MiB" if memory else "")
        )
