"""``jirgee serve`` as a process: what it prints, how it ends, and what hostile or broken clients do to the others.

Traffic goes to 127.0.0.1 only and every loop is bounded.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import numpy as np
import pytest

from .conftest import Served

Serve = Callable[..., Served]
SEED = "/api/to_back_end/predict"

# A scorer whose batches take a while and which raises for a poisoned text: faults from outside, no flag of the product.
LAUNCHER = """
import sys, time
from jirgee.cli import main
from jirgee.scorer import Scorer
score = Scorer.score
def slow(self, texts, here=False):
    if any("poison" in text for text in texts):
        raise RuntimeError("injected")
    time.sleep({delay})
    return score(self, texts, here)
Scorer.score = slow
sys.exit(main(sys.argv[1:]))
"""


def raw(port: int, timeout: float = 30) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=timeout)


def until_closed(connection: socket.socket) -> bytes:
    """Everything the server sends before it closes or resets."""
    got = b""
    try:
        while block := connection.recv(1 << 16):
            got += block
    except ConnectionError:
        pass
    return got


@contextmanager
def others_are_served(served: Served) -> Iterator[None]:
    """Meanwhile a well-behaved client asks again and again, and must be answered every time."""
    answers = 0
    faults: list[BaseException] = []
    done = threading.Event()

    def ask() -> None:
        nonlocal answers
        for _ in range(500):
            try:
                served.score("сайн байна уу")
            except BaseException as error:
                faults.append(error)
                return
            answers += 1
            if done.wait(0.05):
                return

    client = threading.Thread(target=ask)
    client.start()
    try:
        yield
    finally:
        done.set()
        client.join(60)
    assert not faults
    assert answers


# --- the command -------------------------------------------------------------------------------------------------


def test_scores_equal_those_of_the_command(serve: Serve, tiny_bundle: Path, texts: list[str]) -> None:
    """But for the last bits that other texts in a batch change: the weights of the tiny model are large."""
    texts = [text for text in texts if "\n" not in text][:20]
    served = serve(tiny_bundle, "--max-wait", 60)
    command = [sys.executable, "-m", "jirgee.cli", "score", str(tiny_bundle), "-"]
    run = subprocess.run(command, input="\n".join(texts), capture_output=True, text=True, encoding="utf-8", timeout=120)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    results = served.score(*texts)
    assert [row["label"] for row in results] == [line["label"] for line in lines]
    got = [[row["probs"][name] for name in line["probs"]] for row, line in zip(results, lines, strict=True)]
    np.testing.assert_allclose(got, [list(line["probs"].values()) for line in lines], atol=5e-5)
    for text, line in zip(texts[:5], lines, strict=False):
        with urlopen(f"{served.url}{SEED}?text={quote(text)}", timeout=30) as answer:
            old = json.load(answer)
            assert answer.headers["access-control-allow-origin"] == "*"
        assert old["username"] == line["label"]
        assert float(old["score"]) == pytest.approx(line["score"], abs=5e-5)
    assert served.stop() == 0
    assert served.errors == []


def test_what_is_wrong_is_one_line_and_1(serve: Serve, tiny_bundle: Path, tmp_path: Path) -> None:
    def failed(*arguments: object) -> str:
        command = [sys.executable, "-m", "jirgee.cli", "serve", *map(str, arguments)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1), run.stderr
        return run.stderr

    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port} is in use" in failed(tiny_bundle, "--port", port)
    assert "cannot listen on 203.0.113.1:8000" in failed(tiny_bundle, "--host", "203.0.113.1")
    assert "no such bundle" in failed(tmp_path / "nothing", "--port", 0)
    assert "cannot write the request log" in failed(tiny_bundle, "--port", 0, "--request-log", tmp_path / "no" / "log")


def test_no_permission_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs this may well have the permission."""
    pytest.importorskip("uvicorn")
    from jirgee import MachineError, listener

    def refuse(*args: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(MachineError, match=r"no permission to listen on 127\.0\.0\.1:80; pass a --port from 1024 on"):
        listener.bind("127.0.0.1", 80)


def test_the_token_comes_from_the_environment(serve: Serve, tiny_bundle: Path) -> None:
    served = serve(tiny_bundle, JIRGEE_TOKEN="secret")
    with closing(HTTPConnection("127.0.0.1", served.port, timeout=30)) as client:
        for headers, status in (({}, 401), ({"authorization": "Bearer secret"}, 200)):
            client.request("GET", "/v1/model", headers=headers)
            answer = client.getresponse()
            assert (answer.status, bool(answer.read())) == (status, True)


# --- faults ------------------------------------------------------------------------------------------------------


def test_a_poisoned_request_fails_alone(serve: Serve, tiny_bundle: Path) -> None:
    served = serve(tiny_bundle, "--max-wait", 60, "--threads", 1, launcher=LAUNCHER.format(delay=0.05))
    statuses: dict[int, int] = {}

    def ask(number: int) -> None:
        with closing(HTTPConnection("127.0.0.1", served.port, timeout=60)) as client:
            text = "poison" if number == 5 else f"text {number}"
            body = json.dumps({"texts": [text]})
            client.request("POST", "/v1/score", body, {"content-type": "application/json"})
            statuses[number] = client.getresponse().status

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert statuses == {number: 500 if number == 5 else 200 for number in range(16)}
    assert served.metric("jirgee_failed_texts_total") == 1
    assert served.metric("jirgee_batch_texts_count") < 18, "requests did not share batches"


def test_a_client_that_went_frees_its_place(serve: Serve, tiny_bundle: Path) -> None:
    served = serve(
        tiny_bundle, "--max-wait", 600, "--threads", 1, "--batch-tokens", 16, launcher=LAUNCHER.format(delay=0.2)
    )
    body = json.dumps({"texts": [f"text number {number}" for number in range(200)]}).encode()
    gone = raw(served.port)
    head = (
        f"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    gone.sendall(head.encode() + body)
    for _ in range(200):
        if served.metric("jirgee_queue_texts") > 100:
            break
        time.sleep(0.02)
    else:
        raise AssertionError("never queued")
    gone.close()
    for _ in range(200):
        if served.metric("jirgee_queue_texts") == 0:
            break
        time.sleep(0.02)
    assert served.metric("jirgee_queue_texts") == 0
    assert served.metric('jirgee_requests_total{route="/v1/score",status="499"}') == 1
    assert served.metric("jirgee_texts_total") < 100


# --- the end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_with_0(serve: Serve, tiny_bundle: Path, sig: int) -> None:
    served = serve(tiny_bundle, "--drain", 0.2)
    with closing(raw(served.port)):
        assert served.stop(sig, timeout=20) == 0
    assert served.errors == []


def test_sigterm_under_load_loses_no_admitted_request(serve: Serve, tiny_bundle: Path) -> None:
    """Each request ends with an answer, or was never taken: the connection refused, or reset before it was read."""
    served = serve(tiny_bundle, "--max-wait", 1, "--threads", 1, "--drain", 0.5, launcher=LAUNCHER.format(delay=0.05))
    outcomes: Counter[str] = Counter()
    ready: list[int] = []
    stop = threading.Event()

    def ask(number: int) -> None:
        for turn in range(400):
            if stop.is_set():
                return
            try:
                with closing(HTTPConnection("127.0.0.1", served.port, timeout=60)) as client:
                    client.connect()
                    body = json.dumps({"texts": [f"text {number} {turn}"]})
                    client.request("POST", "/v1/score", body, {"content-type": "application/json"})
                    answer = client.getresponse()
                    whole = json.loads(answer.read())
                    assert ("results" in whole) == (answer.status == 200)
                    outcomes[str(answer.status)] += 1
            except ConnectionRefusedError:
                outcomes["refused"] += 1
                return
            except (ConnectionError, HTTPException, TimeoutError) as error:
                outcomes[type(error).__name__] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    served.process.send_signal(signal.SIGTERM)
    time.sleep(0.25)
    with closing(HTTPConnection("127.0.0.1", served.port, timeout=60)) as client:
        client.request("GET", "/readyz")
        ready.append(client.getresponse().status)
    code = served.stop(None)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert code == 0
    assert ready == [503]
    assert outcomes["200"] > 12
    assert set(outcomes) <= {"200", "429", "503", "refused", "ConnectionResetError", "BrokenPipeError"}, outcomes
    # Only what waited in the listening socket when it closed may be reset: never one that was being answered.
    assert outcomes["ConnectionResetError"] + outcomes["BrokenPipeError"] <= 12
    assert served.errors == []


# --- hostile clients ---------------------------------------------------------------------------------------------


def test_slow_clients_are_timed_out(serve: Serve, tiny_bundle: Path) -> None:
    served = serve(tiny_bundle, "--receive-timeout", 1, "--max-wait", 60)
    head = b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n"
    beginnings = {"nothing": b"", "line": b"GE", "head": head[:40], "body": head + b'{"texts"'}
    with others_are_served(served):
        connections = {name: raw(served.port) for name in beginnings}
        for name, connection in connections.items():
            connection.sendall(beginnings[name])
        for _ in range(8):  # a byte now and then keeps nobody alive
            time.sleep(0.2)
            for name in ("line", "head", "body"):
                with suppress(ConnectionError):
                    connections[name].sendall(b"a")
        answers = {name: until_closed(connection) for name, connection in connections.items()}
    assert answers["nothing"] == b""
    for name in ("line", "head", "body"):
        assert answers[name].startswith((b"HTTP/1.1 408", b"HTTP/1.1 400")), name
    for connection in connections.values():
        connection.close()


def test_an_endless_head_is_cut_off(serve: Serve, tiny_bundle: Path) -> None:
    served = serve(tiny_bundle, "--max-wait", 60)
    before = served.rss()
    with others_are_served(served), closing(raw(served.port)) as connection:
        sent = 0
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nx: ")
            for _ in range(2000):
                connection.sendall(b"a" * 50_000)
                sent += 50_000
        except ConnectionError:
            pass
        assert sent < 50_000_000
    assert served.rss() - before < 64 << 20


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_of_a_gigabyte_is_refused_unread(serve: Serve, tiny_bundle: Path, announced: bool) -> None:
    served = serve(tiny_bundle, "--max-wait", 60)
    served.score("a")
    before, sent, block = served.rss(), 0, b" " * (1 << 20)
    length = f"content-length: {1 << 30}" if announced else "transfer-encoding: chunked"
    head = f"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{length}\r\n\r\n"
    with others_are_served(served), closing(raw(served.port)) as connection:
        connection.sendall(head.encode())
        status = b""
        if announced:  # the answer comes before the body
            status = connection.recv(1 << 16)
        try:
            for _ in range(1024):
                connection.sendall(block if announced else b"%x\r\n%s\r\n" % (len(block), block))
                sent += len(block)
        except ConnectionError:
            pass
        if announced:
            assert status.startswith(b"HTTP/1.1 413")
        assert sent < 256 << 20
    assert served.rss() - before < 64 << 20
    assert served.metric('jirgee_requests_total{route="/v1/score",status="413"}') == 1


def test_a_full_queue_refuses_by_the_head_and_keeps_the_connection(serve: Serve, tiny_bundle: Path) -> None:
    served = serve(tiny_bundle, "--threads", "1", "--max-wait", "0.001", launcher=LAUNCHER.format(delay=2))
    body = json.dumps({"texts": ["нэг"]}).encode()
    head = b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % len(body)
    admitted = [raw(served.port) for _ in range(2)]  # one runs, one waits
    for connection in admitted:
        connection.sendall(head + b"\r\n" + body)
        time.sleep(0.3)
    with closing(HTTPConnection("127.0.0.1", served.port, timeout=30)) as client:
        client.putrequest("POST", "/v1/score")
        client.putheader("content-length", str(len(body)))
        client.endheaders()
        answer = client.getresponse()  # nothing of the body was sent yet
        assert (answer.status, json.load(answer)["error"]["place"]) == (429, None)
        assert answer.headers["retry-after"].isdecimal()
        assert answer.headers["content-type"] == "application/json"
        client.send(body)
        client.request("GET", f"{SEED}?text=a")
        answer = client.getresponse()
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (429, "*")
        answer.read()
        client.request("GET", "/readyz")
        assert client.getresponse().status == 200
    for connection in admitted:
        with closing(connection):
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    figures = urlopen(f"http://127.0.0.1:{served.port}/metrics", timeout=30).read().decode()
    assert 'jirgee_requests_total{route="/v1/score",status="429"} 1.0' in figures
    assert 'jirgee_refused_total{reason="queue"} 2.0' in figures


def test_a_refused_body_of_moderate_size_keeps_the_connection(serve: Serve, tiny_bundle: Path) -> None:
    served = serve(tiny_bundle, "--max-wait", 60)
    with closing(HTTPConnection("127.0.0.1", served.port, timeout=30)) as client:
        for body, status in ((b" " * (3 << 20), 413), (b'{"texts": ["a"]}', 200)):
            client.request("POST", "/v1/score", body, {"content-type": "application/json"})
            answer = client.getresponse()
            answer.read()
            assert answer.status == status


def test_ten_thousand_idle_connections_harm_only_themselves(serve: Serve, tiny_bundle: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, (10_000 if hard == resource.RLIM_INFINITY else hard) - 200)
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 200), hard))
    served = serve(tiny_bundle, "--max-wait", 60, "--max-connections", 100)
    before = served.rss()
    idle: list[socket.socket] = []
    try:
        with others_are_served(served):
            for number in range(count):
                connection = socket.socket()
                connection.setblocking(False)
                connection.connect_ex(("127.0.0.1", served.port))
                idle.append(connection)
                if number % 100 == 0:
                    time.sleep(0.01)  # the listening queue of the system is not what is tested
        descriptors = len(os.listdir(f"/proc/{served.process.pid}/fd"))
        assert descriptors < 100 + 60
        assert served.rss() - before < 64 << 20
    finally:
        for connection in idle:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert served.stop() == 0
