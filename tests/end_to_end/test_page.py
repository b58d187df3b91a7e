"""The page in a real browser (headless Chromium): what a person does with mouse, keyboard and files."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from jirgee.cli import main
from jirgee.explain import explain
from jirgee.scorer import Scorer

pytest.importorskip("selenium", reason="the browser's driver is not installed: pip install selenium")
pytest.importorskip("uvicorn", reason="the server is not installed: pip install 'jirgee[serve]'")
pytest.importorskip("optimum.exporters.onnx")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from .browser import CHROMEDRIVER, CHROMIUM, CONTRAST, CUT_OFF, SMALL, Page, start

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER), reason="no browser: install chromium and chromedriver (chromium-driver in Debian)"
)

TEXT = "Гэрээсээ 8 цагт гараад 😀 буудал дээрээ ирлээ <b>& сайн</b>"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, tiny_checkpoint) -> Path:
    out = tmp_path_factory.mktemp("page") / "bundle"
    words = ["export", tiny_checkpoint, "-o", out, "--recipe", "fp32", "--with-attention", "--quiet"]
    assert main([str(word) for word in words]) == 0
    return out


@pytest.fixture(scope="module")
def serve(bundle) -> Iterator[Callable[..., str]]:
    """Start ``jirgee serve`` in a process of its own; returns the address."""
    started: list[subprocess.Popen[str]] = []

    def start(**environment: str) -> str:
        command = [sys.executable, "-m", "jirgee.cli", "serve", str(bundle), "--port", "0", "--threads", "1"]
        server = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=os.environ | environment
        )
        started.append(server)
        assert server.stderr
        for line in server.stderr:
            if found := re.search(r"on (http://\S+)", line):
                return found[1] + "/"
        raise AssertionError("the server ended before it served")

    yield start
    for server in started:
        server.terminate()
        server.communicate(timeout=30)


@pytest.fixture(scope="module")
def address(serve) -> str:
    return serve()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[Any]:
    driver = start(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture
def page(chromium, address) -> Iterator[Page]:
    opened = Page(chromium, address)
    yield opened
    assert opened.errors() == []
    assert opened.hosts() == {urlsplit(opened.address).netloc}


@pytest.fixture(scope="module")
def expected(bundle) -> Iterator[Any]:
    with Scorer.load(bundle, "cpu", threads=1) as scorer:
        yield scorer


def test_a_typed_text_gets_its_label_bars_and_tinted_pieces(page, expected):
    page.explain(TEXT)
    found = explain(expected, TEXT)
    assert page.one(".verdict strong").text == found["label"]
    shown = {bar.find_element(By.CSS_SELECTOR, ".name").text: bar for bar in page.all(".bar")}
    assert shown.keys() == found["probs"].keys()
    for label, bar in shown.items():
        assert bar.find_element(By.CSS_SELECTOR, ".number").text == f"{100 * found['probs'][label]:.1f} %"
        track, fill = (bar.find_element(By.CSS_SELECTOR, name).size["width"] for name in (".track", ".fill"))
        page.until(lambda t=track, p=found["probs"][label], b=bar: abs(_fill(b) / t - p) < 0.02)
        assert fill <= track
    assert page.one(".pieces").text == TEXT
    strengths = [(piece.get_attribute("class"), piece.text) for piece in page.all(".piece")]
    effects = [(token["effect"][found["label"]], token["text"].strip()) for token in found["tokens"]]
    assert [text for _, text in strengths] == [text for _, text in effects]
    for (kind, _), (effect, _) in zip(strengths, effects, strict=True):
        assert ("against" in kind) == (effect < 0)
    strongest = max(range(len(effects)), key=lambda place: abs(effects[place][0]))
    page.hover(page.all(".piece")[strongest])
    sign = "−" if effects[strongest][0] < 0 else "+"
    assert f"{sign}{abs(effects[strongest][0]):.2f}" in page.one(".readout").text


def _fill(bar: Any) -> float:
    return bar.find_element(By.CSS_SELECTOR, ".fill").size["width"]


def test_another_label_turns_the_tints_round(page):
    page.explain(TEXT)
    before = [piece.get_attribute("class") for piece in page.all(".piece")]
    page.one("input[name=class]:not(:checked)").send_keys(Keys.SPACE)
    after = page.until(lambda: (now := [p.get_attribute("class") for p in page.all(".piece")]) != before and now)
    swapped = {"piece toward": "piece against", "piece against": "piece toward"}
    assert sum(swapped[a] == b for a, b in zip(before, after, strict=True)) >= len(before) - 1  # an exact 0 stays
    assert page.script("return document.activeElement.checked"), "the focus was lost"


def test_the_attention_view_says_where_a_piece_looks(page, expected):
    page.explain(TEXT)
    found = explain(expected, TEXT)["attention"]
    count = found["before"] + len(explain(expected, TEXT)["tokens"]) + found["after"]
    heads = np.frombuffer(b64decode(found["weights"]), np.uint8).reshape(2, 2, count, count)
    cells = page.all(".heads button")
    assert len(cells) == 4
    page.script("arguments[0].scrollIntoView({block: 'center'})", cells[3])
    cells[3].click()
    places = page.all(".place")
    assert len(places) == count
    page.hover(places[0])
    told = page.one(".head .readout").text
    shares = [int(share) for share in re.findall(r"(\d+)\s%", told)]
    assert shares == [round(100 * value / 255) for value in sorted(heads[1, 1, 0].tolist())[:-4:-1]]
    assert page.all(".arc"), "no curves are drawn"
    first = [place.value_of_css_property("background-color") for place in places]
    page.hover(places[2])
    assert page.one(".head .readout").text != told
    assert [place.value_of_css_property("background-color") for place in places] != first
    assert places[2].get_attribute("aria-selected") == "true"


def test_the_keyboard_reaches_everything(page):
    page.explain(TEXT)
    page.script("document.querySelector('.mark').focus()")
    visited = []
    for _ in range(40):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        here = page.script(
            "const e = document.activeElement; return e.id || e.className || e.type || e.role || e.tagName"
        )
        visited.append(here)
        if here == "file":
            break
    order = ["text", "explain", "radio", "piece", "place", "file"]
    places = [next((i for i, name in enumerate(visited) if name.split()[0] == wanted), -1) for wanted in order]
    assert places == sorted(places)
    assert -1 not in places, visited
    assert len(visited) < 20, "a list of pieces or heads is more than one stop"
    piece = page.all(".piece")[0]
    page.script("arguments[0].focus()", piece)
    ActionChains(page.driver).send_keys(Keys.ARROW_RIGHT).perform()
    assert page.script("return document.activeElement === arguments[0]", page.all(".piece")[1])
    ActionChains(page.driver).send_keys(Keys.END).perform()
    assert page.script("return document.activeElement === arguments[0]", page.all(".piece")[-1])
    page.script("arguments[0].focus()", page.all(".heads button")[0])
    ActionChains(page.driver).send_keys(Keys.ARROW_DOWN).perform()
    assert page.all(".heads button")[2].get_attribute("aria-selected") == "true"


def test_every_control_and_piece_has_a_name_for_screen_readers(page):
    page.explain(TEXT)
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"button", "link", "textbox", "radio", "combobox", "option", "gridcell", "listbox", "grid", "radiogroup"}
    named = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n.get("ignored")]
    controls = [(role, name) for role, name in named if role in roles]
    assert {"button", "textbox", "radio", "option", "gridcell", "listbox", "grid"} <= {role for role, _ in controls}
    assert not [role for role, name in controls if not name.strip()]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_the_screen_and_can_be_read(page, width, theme):
    page.size(width)
    page.prefer(theme)
    page.explain(TEXT + " https://example.mn/" + "a" * 90)
    for language in ("mn", "en"):
        page.one(f"[data-language={language}]").click()
        assert page.script("return document.documentElement.lang") == language
        assert page.script("return document.documentElement.scrollWidth") <= width
        assert page.script(CUT_OFF) == []
        poor = [found for found in page.script(CONTRAST) if found[0] < 4.5]
        assert poor == []
    assert page.script(SMALL) == []
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_language_and_theme_are_kept(page):
    page.one("[data-language=mn]").click()
    assert page.one("#explain").text == "Тайлбарлах"
    page.prefer("light")
    light = page.one("body").value_of_css_property("background-color")
    page.one("#theme").click()
    dark = page.one("body").value_of_css_property("background-color")
    assert dark != light
    page.driver.refresh()
    assert page.one("#explain").text == "Тайлбарлах"
    assert page.one("html").get_attribute("lang") == "mn"
    assert page.one("body").value_of_css_property("background-color") == dark
    assert {button.get_attribute("aria-pressed") for button in page.all("[data-language=mn]")} == {"true"}


TABLE = 'id,text,label\r\n1,"Нэг, ""хоёр""\nгурав",x\r\n2,Сайн уу,y\r\n3,Сайн уу,z\r\n'


def test_a_dropped_csv_comes_back_scored_as_the_command_scores_it(page, tmp_path, bundle):
    (tmp_path / "in.csv").write_bytes(TABLE.encode())
    page.driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path / "down")}
    )
    drop = """const data = new DataTransfer(); data.items.add(new File([arguments[1]], 'in.csv', {type: 'text/csv'}));
      for (const name of ['dragenter', 'dragover', 'drop'])
        arguments[0].dispatchEvent(new DragEvent(name, {dataTransfer: data, bubbles: true, cancelable: true}));"""
    page.script(drop, page.one("#drop"), TABLE)
    page.until(lambda: page.one("#score-file").is_displayed())
    assert Select(page.one("#column")).first_selected_option.text == "text"
    page.one("#score-file").click()
    page.until(lambda: page.one("#download").is_displayed())
    page.one("#download").click()
    got = page.until(lambda: list((tmp_path / "down").glob("*.csv")))[0]
    assert got.name == "in.scored.csv"
    assert main(["score", str(bundle), str(tmp_path / "in.csv"), "-o", str(tmp_path / "out.csv"), "--quiet"]) == 0
    with got.open(encoding="utf-8", newline="") as ours, (tmp_path / "out.csv").open(encoding="utf-8") as theirs:
        found, scored = list(csv.DictReader(ours)), list(csv.DictReader(theirs))
    assert [list(row) for row in found] == [list(row) for row in scored]
    for row, other in zip(found, scored, strict=True):
        numbers = [name for name in row if "score" in name or "p_" in name]
        assert len(numbers) == 3
        assert {k: v for k, v in row.items() if k not in numbers} == {
            k: v for k, v in other.items() if k not in numbers
        }
        for name in numbers:
            assert float(row[name]) == pytest.approx(float(other[name]), abs=2e-5)


def test_a_chosen_file_that_is_no_table_is_told(page, tmp_path):
    page.one("[data-language=en]").click()
    bad = tmp_path / "bad.csv"
    bad.write_text('text\n"never closed\n', encoding="utf-8")
    page.one("#file").send_keys(str(bad))
    page.until(lambda: "line 2" in page.one("#file-status").text)
    empty = tmp_path / "empty.csv"
    empty.write_text("text\n", encoding="utf-8")
    page.one("#file").send_keys(str(empty))
    page.until(lambda: page.one("#file-status").text == "The file has no rows.")


def test_what_the_server_refuses_is_told_in_words(page):
    page.expected_errors = "422"
    field = page.one("#text")
    page.script("arguments[0].value = 'а'.repeat(10001)", field)
    page.one("#explain").click()
    page.until(lambda: "text" in page.one("#status").text)
    assert not page.all(".piece")
    assert page.one("#explain").is_enabled()


def test_a_server_with_a_token_asks_for_it(chromium, serve):
    page = Page(chromium, serve(JIRGEE_TOKEN="secret-7"))
    page.expected_errors = "401"
    page.until(lambda: page.one("#token").is_displayed())
    page.one("#token").send_keys("secret-7", Keys.ENTER)
    page.until(lambda: not page.one("#token-form").is_displayed())
    page.explain("Сайн уу")
    assert page.one(".verdict strong").text
    assert page.errors() == []


@pytest.mark.parametrize("text", [TEXT, "</script><script>document.title = 'broken'</script><img src=//example.mn/x>"])
def test_a_shared_page_needs_nothing_else(chromium, bundle, expected, tmp_path, capsys, text):
    shared = tmp_path / "why.html"
    assert main(["explain", str(bundle), text, "--html", str(shared)]) == 0
    chromium.get_log("browser"), chromium.get_log("performance")
    page = Page(chromium, shared.as_uri())
    assert page.one(".pieces").text.startswith(text[:40])
    assert page.one(".verdict strong").text == explain(expected, text)["label"]
    page.one("[data-language=en]").click()
    assert page.one("h2").text == "What moved the score"
    page.hover(page.all(".place")[1])
    assert "→" in page.one(".head .readout").text
    assert "broken" not in page.driver.title
    time.sleep(0.2)
    assert page.errors() == []
    assert page.hosts() == {""}, "a file asked another host"
    assert main(["explain", str(bundle), text, "--html", str(shared)]) == 1
    assert "exists already; pass --overwrite" in capsys.readouterr().err
