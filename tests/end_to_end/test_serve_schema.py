"""schemathesis: odd requests, made from the OpenAPI document. No 5xx, and every answer is as the document says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from .conftest import Served

OPERATIONS = 7  # methods of paths in the document, /v1/explain not counted


@pytest.fixture(scope="module")
def api(tiny_bundle: Path) -> Iterator[Any]:
    pytest.importorskip("uvicorn")
    schemathesis = pytest.importorskip("schemathesis")
    served = Served(tiny_bundle, "--max-wait", 60, "--max-chars", 300)
    try:
        yield schemathesis.openapi.from_url(f"{served.url}/openapi.json")
        assert served.stop() == 0
        assert served.errors == []
    finally:
        served.process.kill()


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_every_answer_matches_the_document(api: Any, mode: str) -> None:
    generation = pytest.importorskip("schemathesis").GenerationMode(mode)
    operations = [result.ok() for result in api.get_all_operations()]
    assert len(operations) >= OPERATIONS
    called: set[str] = set()
    for operation in operations:
        if mode == "negative" and not operation.body and not operation.query:
            continue  # nothing that could be wrong

        @given(case=operation.as_strategy(generation_mode=generation))
        @settings(
            max_examples=40,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        )
        def check(case: Any) -> None:
            called.add(case.operation.label)
            case.call_and_validate()

        check()
    assert "POST /v1/score" in called
