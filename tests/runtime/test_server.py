"""The server's routes, in this process: what is answered, what is refused, and how."""

from __future__ import annotations

import html.parser
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jirgee import cli
from jirgee.batcher import Batcher
from jirgee.errors import InputError
from jirgee.request_log import RequestLog
from jirgee.scorer import Scorer

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")
from starlette.testclient import TestClient

from jirgee import page_files
from jirgee.server import Settings, create_app

SEED = "/api/to_back_end/predict"
Client = Any


@pytest.fixture(scope="module")
def client(scorer: Scorer) -> Iterator[Client]:
    with TestClient(create_app(scorer, Settings(max_texts=8, max_chars=200, max_body=4000))) as client:
        yield client


def metric(client: Client, name: str) -> float:
    [value] = re.findall(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.M) or ["0"]
    return float(value)


# --- scores ------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_scorer(client: Client, scorer: Scorer, texts: list[str]) -> None:
    texts = [text[:200] for text in texts[:7]] + ["https://t.co/x"]
    answer = client.post("/v1/score", json={"texts": texts})
    assert answer.status_code == 200
    results = answer.json()["results"]
    expected = scorer.score(texts)
    assert [row["label"] for row in results] == expected.labels
    probs = [[row["probs"][name] for name in expected.classes] for row in results]
    np.testing.assert_allclose(probs, expected.probs, atol=5e-5)
    assert [row["score"] for row in results] == [max(row) for row in probs]
    assert [row["note"] for row in results] == [""] * 7 + ["link-only"]
    assert [row["truncated"] for row in results] == expected.truncated.tolist()
    np.testing.assert_allclose([row["unknown_share"] for row in results], expected.unknown, atol=1e-4)


@pytest.mark.parametrize("text", ["", "\x00", "a" * 200, "🙂", "\ud800", "́́"])
def test_any_string_is_scored(client: Client, text: str) -> None:
    answer = client.post(
        "/v1/score", content=json.dumps({"texts": [text]}), headers={"content-type": "application/json; charset=utf-8"}
    )
    assert answer.status_code == 200
    assert len(answer.json()["results"]) == 1


@pytest.mark.parametrize(
    ("body", "status", "place"),
    [
        ("", 400, None),
        ("{", 400, None),
        ("\xff", 400, None),
        ("[" * 3000, 400, None),
        ("9" * 3999, 422, None),
        ("[]", 422, None),
        ("{}", 422, "texts"),
        ('{"texts": "a"}', 422, "texts"),
        ('{"texts": []}', 422, "texts"),
        ('{"texts": ["a", 5]}', 422, "texts[1]"),
        ('{"texts": ["a", "b", null]}', 422, "texts[2]"),
        (json.dumps({"texts": ["a", "b" * 201]}), 422, "texts[1]"),
        (json.dumps({"texts": ["a"] * 9}), 422, "texts"),
        ('{"texts": ["a"], "text": "b"}', 422, "text"),
        ('{"texts": ["a"], "": "b"}', 422, ""),
        ('{"texts": ["a"], "\\ud800": "b"}', 422, "?"),
        (json.dumps({"texts": ["a" * 5000]}), 413, None),
    ],
)
def test_what_is_wrong_is_named(client: Client, body: str, status: int, place: str | None) -> None:
    answer = client.post("/v1/score", content=body.encode("latin-1"), headers={"content-type": "application/json"})
    assert answer.status_code in ({400, 422} if body.startswith("9") else {status})
    assert answer.json()["error"]["place"] == place
    assert answer.json()["error"]["message"]


def test_a_body_without_a_length_is_cut_off_at_the_limit(client: Client) -> None:
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1000
            yield b" " * 1000

    answer = client.post("/v1/score", content=pieces(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_only_json_is_taken(client: Client) -> None:
    assert client.post("/v1/score", content=b'{"texts": ["a"]}').status_code == 415
    assert client.post("/v1/score", data={"texts": "a"}).status_code == 415


@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), ("/v1/score", 405), ("/v1/score/", 404), ("/v1", 404)])
def test_other_paths_and_methods(client: Client, path: str, status: int) -> None:
    answer = client.get(path, follow_redirects=False)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


# --- the seed's route --------------------------------------------------------------------------------------------


def test_the_route_of_the_seed(client: Client, scorer: Scorer) -> None:
    answers = [client.get(SEED, params={"text": "сайн байна уу"}) for _ in range(2)]
    scores = scorer.score(["сайн байна уу"])
    for answer in answers:
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "*"
        assert {name: type(value) for name, value in answer.json().items()} == {
            "username": str,
            "score": str,
            "req_count": int,
        }
        assert answer.json()["username"] == scores.labels[0]
        assert float(answer.json()["score"]) == pytest.approx(scores.confidence[0], abs=5e-5)
    assert answers[1].json()["req_count"] == answers[0].json()["req_count"] + 1
    assert client.post(SEED).json() == "post"


def test_a_front_end_of_any_origin_may_read_it(client: Client) -> None:
    asked = {"origin": "http://old.example", "access-control-request-headers": "x-other"}
    preflight = client.options(SEED, headers=asked | {"access-control-request-method": "GET"})
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert preflight.headers["access-control-allow-headers"] == "x-other"
    missing = client.get(SEED)
    assert (missing.status_code, missing.json()["error"]["place"]) == (422, "text")
    assert missing.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-origin" not in client.get("/v1/model").headers


# --- the rest ----------------------------------------------------------------------------------------------------


def test_model_says_what_it_is(client: Client, scorer: Scorer) -> None:
    facts = client.get("/v1/model").json()
    assert facts["labels"] == list(scorer.bundle.labels)
    assert facts["files"] == {name: sha256 for name, (_, sha256) in scorer.bundle.files.items()}
    assert facts["card"] == (scorer.bundle.path / "README.md").read_text(encoding="utf-8")
    assert facts["recipe"] == "fp32"
    assert facts["limits"] == {"max_texts": 8, "max_chars": 200, "max_body": 4000}


def test_health_and_metrics(client: Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    name = 'jirgee_requests_total{route="/v1/score",status="200"}'
    before, texts = metric(client, name), metric(client, "jirgee_texts_total")
    client.post("/v1/score", json={"texts": ["a", "b"]})
    for number in range(2):
        client.get(f"/no/such/page/{number}")
    assert metric(client, name) == before + 1
    assert metric(client, "jirgee_texts_total") == texts + 2
    assert metric(client, 'jirgee_requests_total{route="other",status="404"}') >= 2
    assert metric(client, "jirgee_queue_texts") == 0
    assert metric(client, "jirgee_rate_tokens_per_second") > 0
    assert "/no/such" not in client.get("/metrics").text


def test_without_the_page_home_is_the_documentation(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_files, "load", dict)
    with TestClient(create_app(scorer)) as client:
        assert client.get("/").url.path == "/docs"


def test_the_page_comes_with_a_policy_and_is_cached(tmp_path: Path, scorer: Scorer, monkeypatch: Any) -> None:
    (tmp_path / "index.html").write_text("<script src=app.js></script><style>b {}</style>жиргээ", encoding="utf-8")
    (tmp_path / "app.js").write_text("1")
    load = page_files.load
    monkeypatch.setattr(page_files, "load", lambda: load(tmp_path))
    with TestClient(create_app(scorer)) as client:
        home, script = client.get("/"), client.get("/app.js")
        assert home.text.endswith("жиргээ")
        rules = home.headers["content-security-policy"]
        assert "default-src 'none'" in rules
        assert re.search(r"style-src 'self' 'sha256-\S+='", rules)
        assert "unsafe" not in rules
        assert "http" not in rules
        assert "javascript" in script.headers["content-type"]
        assert client.get("/", headers={"if-none-match": home.headers["etag"]}).status_code == 304
        assert client.get("/index.html").status_code == 404


# --- documentation -----------------------------------------------------------------------------------------------


def test_the_documentation_names_every_route_and_loads_nothing_from_elsewhere(client: Client) -> None:
    class Page(html.parser.HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.tags: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.append(tag)
            for name, value in attrs:
                if name in ("src", "href", "action") and value:
                    assert not re.match(r"\w+:|//", value), value

    page, document = client.get("/docs"), client.get("/openapi.json").json()
    parser = Page()
    parser.feed(page.text)
    assert parser.tags.count("form") == sum(map(len, document["paths"].values()))
    for path in document["paths"]:
        assert f"<code>{path}</code>" in page.text
    assert "script-src 'self' 'sha256-" in page.headers["content-security-policy"]


# --- the token ---------------------------------------------------------------------------------------------------


def test_a_token_is_asked_for_everywhere_but_health_and_pages(scorer: Scorer) -> None:
    with TestClient(create_app(scorer, Settings(token="secret"))) as client:
        for path in ("/v1/model", "/metrics", SEED + "?text=a", "/nothing"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
            for wrong in ("secret", "Bearer secre", "Bearer secrets", "Basic secret", "Bearer ", "Bearer \xff"):
                assert client.get(path, headers={"authorization": wrong.encode("latin-1")}).status_code == 401
        assert client.post("/v1/score", json={"texts": ["a"]}).status_code == 401
        for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200, path
        right = {"authorization": "Bearer secret"}
        assert client.post("/v1/score", json={"texts": ["a"]}, headers=right).status_code == 200
        assert client.options(SEED).status_code == 204, "a preflight brings no token"
        assert "security" in client.get("/openapi.json").json()
    assert "secret" not in repr(Settings(token="secret"))


# --- load and faults ---------------------------------------------------------------------------------------------


def test_a_full_queue_is_429_with_when_to_come_back(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from jirgee.batcher import Busy

    def full(self: Batcher) -> None:
        raise Busy(2.1)

    before = metric(client, 'jirgee_refused_total{reason="queue"}')
    with monkeypatch.context() as patch:
        patch.setattr(Batcher, "check_room", full)
        for answer in (client.post("/v1/score", json={"texts": ["a"]}), client.get(SEED, params={"text": "a"})):
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
        assert client.get("/readyz").status_code == 200
        assert client.options(SEED).status_code == 204
    assert metric(client, 'jirgee_refused_total{reason="queue"}') == before + 2
    assert client.post("/v1/score", json={"texts": ["a"]}).status_code == 200


def test_a_text_that_makes_scoring_raise_is_500_and_its_place(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    score = Scorer.score

    def faulty(self: Scorer, texts: list[str], here: bool = False) -> Any:
        if "poison" in texts:
            raise RuntimeError("injected")
        return score(self, texts, here)

    monkeypatch.setattr(Scorer, "score", faulty)
    with TestClient(create_app(scorer)) as client, caplog.at_level(logging.ERROR, "jirgee.server"):
        answer = client.post("/v1/score", json={"texts": ["a", "poison", "b"]})
        assert (answer.status_code, answer.json()["error"]["place"]) == (500, "texts[1]")
        assert "injected" not in answer.text
        assert "injected" in caplog.text
        assert "poison" not in caplog.text
        assert client.post("/v1/score", json={"texts": ["a", "b"]}).status_code == 200
        assert metric(client, "jirgee_failed_texts_total") == 1


# --- the request log ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [False, True])
def test_the_request_log_holds_texts_only_when_told(scorer: Scorer, tmp_path: Path, texts: bool) -> None:
    path = tmp_path / "requests.jsonl"
    settings = Settings(request_log=path, log_texts=texts)
    for run in (1, 2):  # the count goes on after a restart, as the seed's did
        with TestClient(create_app(scorer, settings)) as client:
            client.post("/v1/score", json={"texts": ["нууц", "b"]})
            assert client.get(SEED, params={"text": "нууц"}).json()["req_count"] == 3 * run
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 6
    assert set(lines[0]) == {"time", "route", "chars", "label", "score"} | ({"text"} if texts else set())
    assert ("нууц" in path.read_text(encoding="utf-8")) == texts


def test_the_request_log_rotates(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log", max_bytes=1000, kept=2)
    for _ in range(100):
        log.add("/v1/score", "a", {"label": "x", "score": 0.5})
    log.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["log", "log.1", "log.2"]
    assert all(file.stat().st_size <= 1000 for file in files)
    kept = sum(len(file.read_text().splitlines()) for file in files)
    assert RequestLog(tmp_path / "log", kept=2).count == kept
    with pytest.raises(InputError, match="cannot write the request log"):
        RequestLog(tmp_path / "no" / "such" / "folder")


# --- the command -------------------------------------------------------------------------------------------------


def test_without_the_extra_the_command_names_what_installs_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path
) -> None:
    from jirgee import command

    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "uvicorn" else object())
    assert cli.main(["serve", str(tiny_bundle)]) == 1
    line = "jirgee: jirgee serve needs uvicorn, which is not installed; run: pip install 'jirgee[serve]'\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    "arguments", ["", "b --port 70000", "b --port x", "b --max-texts 0", "b --max-wait 0", "b --log-texts", "a b"]
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: str) -> None:
    try:
        code = cli.main(["serve", *arguments.split()])
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    assert "usage: jirgee serve" in capsys.readouterr().err


@pytest.mark.parametrize("token", ["", " a", "a ", "a\nb", "нууц"])
def test_a_token_that_no_header_can_bring(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path, token: str
) -> None:
    monkeypatch.setenv("JIRGEE_TOKEN", token)
    assert cli.main(["serve", str(tiny_bundle)]) == 1
    assert "JIRGEE_TOKEN must be" in capsys.readouterr().err
