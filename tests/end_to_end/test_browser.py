"""The folder of ``jirgee export --web`` in headless Chromium: as Python, for itself, and without a network."""

from __future__ import annotations

import csv
import gzip
import io
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any

import numpy as np
import pytest

import jirgee
from jirgee.bundle import Bundle
from jirgee.cli import main
from jirgee.golden import Golden

pytest.importorskip("selenium", reason="the browser's driver is not installed: pip install selenium")
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER), reason="no browser: install chromium and chromedriver (chromium-driver in Debian)"
)
PATIENCE = 300  # seconds, on a busy machine


@pytest.fixture(scope="module")
def bundle(tiny_bundle) -> Path:
    """What is scored: JIRGEE_WEB_BUNDLE names a real bundle instead of the tiny one."""
    return Path(os.environ.get("JIRGEE_WEB_BUNDLE", tiny_bundle))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, bundle, onnxruntime_web) -> Path:
    out = tmp_path_factory.mktemp("browser") / "web"
    assert main(["export", str(bundle), "--web", str(out), "--onnxruntime-web", str(onnxruntime_web)]) == 0
    return out


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[tuple[int, list[str]]]:
    """A proxy that reaches nothing and notes what it was asked for: every request that leaves the host."""
    asked: list[str] = []

    class Refuse(StreamRequestHandler):
        def handle(self):
            asked.append(self.rfile.readline().decode("latin-1").strip())
            self.wfile.write(b"HTTP/1.1 502 Nowhere\r\nContent-Length: 0\r\n\r\n")

    with ThreadingTCPServer(("127.0.0.1", 0), Refuse) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], asked
        server.shutdown()


def of_the_page(asked: list[str]) -> list[str]:
    """Without what Chromium asks its maker for by itself, whatever the page."""
    own = re.compile(r"[./ ](google|googleapis|gvt1|gstatic)\.com[:/]")
    return [line for line in asked if not own.search(line)]


class Site:
    """``python -m http.server`` on the folder, as the documentation says."""

    def __init__(self, folder: Path):
        command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(folder)]
        self._server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._server.stdout
        found = re.search(r"port (\d+)", self._server.stdout.readline())
        assert found
        self.address = f"http://127.0.0.1:{found[1]}/"

    def stop(self) -> None:
        self._server.kill()
        self._server.wait()


@pytest.fixture
def site(folder) -> Iterator[Site]:
    running = Site(folder)
    yield running
    running.stop()


@pytest.fixture
def browser(tmp_path, elsewhere) -> Iterator[Any]:
    """A phone with a new profile."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run",
        "--disable-features=AutofillServerCommunication",
        f"--user-data-dir={tmp_path}", f"--proxy-server=http://127.0.0.1:{elsewhere[0]}",
        "--proxy-bypass-list=127.0.0.1",
    ):  # fmt: skip
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"intl.accept_languages": "mn,en"})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(CHROMEDRIVER or ""))
    driver.set_script_timeout(PATIENCE)
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    yield driver
    driver.quit()


def wait(browser, condition: str) -> None:
    def done(driver) -> bool:
        failed = driver.execute_script("return document.querySelector('#loading:not([hidden]) .error')?.textContent")
        assert not failed, failed
        return driver.execute_script(f"return Boolean({condition})")

    WebDriverWait(browser, PATIENCE, 0.2).until(done)


def open_page(browser, address: str) -> None:
    browser.get(address)
    wait(browser, "!document.getElementById('score').disabled")


def score_lines(browser, texts: list[str]) -> list[dict[str, str]]:
    """Paste, press, wait; the rows of the CSV file that is offered."""
    browser.execute_script("document.getElementById('lines').value = arguments[0]", "\n".join(texts))
    browser.find_element(By.ID, "score").click()
    wait(browser, "!document.getElementById('download').hidden && !document.getElementById('score').disabled")
    script = "fetch(document.getElementById('download').href).then((r) => r.text()).then(arguments[0])"
    return list(csv.DictReader(io.StringIO(browser.execute_async_script(script).removeprefix("\ufeff"), newline="")))


def differences(rows: list[dict[str, str]], bundle: Path, texts: list[str]) -> tuple[float, np.ndarray]:
    """Share of the labels that are Python's, and the largest difference of a probability for each text."""
    with jirgee.Scorer.load(bundle) as scorer:
        expected = scorer.score(texts)
    assert [row["text"] for row in rows] == texts
    probs = np.array([[float(row[f"p_{label}"]) for label in expected.classes] for row in rows])
    same = float(np.mean([row["label"] == label for row, label in zip(rows, expected.labels, strict=True)]))
    return same, np.abs(probs - expected.probs).max(axis=1)


def test_the_page_scores_as_python_and_asks_nobody(browser, site, folder, bundle, elsewhere, sample_texts):
    texts = [" ".join(text.split()) for text in dict.fromkeys(sample_texts)][:150]
    texts += ['"quoted", comma', "<b>& сайн</b>"]
    elsewhere[1].clear()
    open_page(browser, site.address)
    rows = score_lines(browser, texts)
    same, change = differences(rows, bundle, texts)
    assert same == 1
    assert change.max() < 1e-4
    assert len({row["label"] for row in rows}) == 2
    assert re.search(r"\d", browser.find_element(By.ID, "speed").text)
    assert browser.execute_script("return document.getElementById('table').innerText").count("сайн") >= 1

    browser.find_element(By.ID, "text").send_keys(texts[0])
    wait(browser, "document.querySelectorAll('#bars .bar').length")
    shown = browser.find_element(By.CSS_SELECTOR, "#bars .best").text
    assert shown.startswith(rows[0]["label"])
    assert f"{100 * float(rows[0]['score']):.1f} %" in shown

    assert browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "mn"
    browser.find_element(By.ID, "language").click()
    assert browser.find_element(By.ID, "score").text == "Score"
    assert browser.execute_script("return document.body.scrollWidth <= innerWidth"), "wider than a phone"
    if name := os.environ.get("JIRGEE_SCREENSHOT"):
        metrics = {"width": 390, "height": 1500, "deviceScaleFactor": 2, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.save_screenshot(name)
    assert of_the_page(elsewhere[1]) == []
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


GOLDEN = """
const [done] = arguments;
(async () => {
  const { Scorer } = await import("/jirgee/index.js");
  const { texts, probs } = await (await fetch("/model/golden.json")).json();
  const scorer = await Scorer.load("/model/");
  const found = [];
  for (const text of texts) {
    const scores = await scorer.score([text]);
    found.push([scores.labels[0], [...scores.probs[0]]]);
  }
  return { texts, probs, found };
})().then(done, (error) => done({ error: String(error) }));
"""


def test_the_golden_texts_score_as_at_export(browser, site, bundle):
    """One by one, as the export scored them, with the package and the file as the folder has them."""
    golden = Golden.read(Bundle.load(bundle))
    assert golden
    open_page(browser, site.address)
    result = browser.execute_async_script(GOLDEN)
    assert "error" not in result, result["error"]
    assert tuple(result["texts"]) == golden.texts
    labels = Bundle.load(bundle).labels
    assert [label for label, _ in result["found"]] == [labels[best] for best in golden.probs.argmax(axis=1)]
    change = np.abs(np.array([probs for _, probs in result["found"]]) - golden.probs).max(axis=1)
    within = np.mean(change < 0.01)
    print(
        f"{len(change)} golden texts ({golden.source}): labels equal; {within:.3f} within 0.01, most {change.max():.7f}"
    )
    if "JIRGEE_WEB_BUNDLE" in os.environ:  # 8 bits round otherwise in WebAssembly
        assert within >= 0.9
    else:
        assert change.max() <= 1e-4


def test_offline_after_the_first_visit(browser, site, folder, bundle, sample_texts):
    open_page(browser, site.address)
    first = score_lines(browser, sample_texts[:5])
    site.stop()
    open_page(browser, site.address)
    assert score_lines(browser, sample_texts[:5]) == first
    assert browser.find_element(By.ID, "facts").text.endswith("сүлжээгүй ажиллахад бэлэн")


def test_stop_keeps_what_is_done(browser, site, sample_texts):
    open_page(browser, site.address)
    texts = [f"{text} {turn}" for turn in range(40) for text in sample_texts]
    browser.execute_script("document.getElementById('lines').value = arguments[0]", "\n".join(texts))
    browser.find_element(By.ID, "score").click()
    wait(browser, "document.getElementById('batch-bar').value > 0 && (document.getElementById('stop').click(), true)")
    wait(browser, "!document.getElementById('score').disabled")
    script = "fetch(document.getElementById('download').href).then((r) => r.text()).then(arguments[0])"
    lines = browser.execute_async_script(script).count("\n") - 1
    assert 0 < lines < len(texts)
    assert score_lines(browser, sample_texts[:3]), "the page goes on"


def test_a_damaged_model_is_refused(browser, folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    model = broken / "model" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    site = Site(broken)
    browser.get(site.address)
    WebDriverWait(browser, PATIENCE).until(lambda driver: driver.find_elements(By.CSS_SELECTOR, "#loading .error"))
    assert "model.onnx" in browser.find_element(By.ID, "loading-text").text
    site.stop()


@pytest.mark.slow
def test_a_thousand_real_texts(browser, site, bundle, shared):
    with gzip.open(shared / "data" / "unlabelled.txt.gz", "rt", encoding="utf-8") as lines:
        known = sorted({" ".join(line.split()) for line in lines} - {""})
    texts = random.Random(4).sample(known, 1000)
    open_page(browser, site.address)
    same, change = differences(score_lines(browser, texts), bundle, texts)
    print(browser.find_element(By.ID, "speed").text)
    tail = np.quantile(change, 0.99)
    print(f"labels equal {same:.4f}; change of a probability: 99 % at most {tail:.4f}, largest {change.max():.4f}")
    assert same >= 0.995
    assert np.mean(change < 0.01) >= (0.9 if "JIRGEE_WEB_BUNDLE" in os.environ else 1)
