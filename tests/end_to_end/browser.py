"""Headless Chromium for tests: how it is started, a page in it, and what is asked of a page's looks."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def start(profile: Path) -> Any:
    """A driver whose browser keeps its console and network log and asks nobody for anything on its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}", "--window-size=1280,900"):
        options.add_argument(flag)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))


class Page:
    """The browser on one page, with what a test wants to say about it in a word."""

    def __init__(self, driver: Any, address: str):
        self.driver, self.address, self.expected_errors = driver, address, ""
        driver.get_log("browser"), driver.get_log("performance")
        driver.get(address)
        driver.execute_script("localStorage.clear(); sessionStorage.clear()")
        driver.get(address)

    def one(self, selector: str) -> Any:
        return WebDriverWait(self.driver, 60).until(lambda d: d.find_element(By.CSS_SELECTOR, selector))

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def script(self, code: str, *values: Any) -> Any:
        return self.driver.execute_script(code, *values)

    def until(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.driver, 60).until(lambda _: condition())

    def explain(self, text: str) -> None:
        """Pasted, because a driver cannot type what lies beyond the first 65,536 characters of Unicode."""
        field = self.one("#text")
        self.script("arguments[0].value = arguments[1]", field, text)
        field.send_keys(Keys.CONTROL, Keys.ENTER)
        self.one(".piece")

    def hover(self, element: Any) -> None:
        self.script("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.driver).move_to_element(element).perform()

    def size(self, width: int, height: int = 800) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, theme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def errors(self) -> list[str]:
        found = [e["message"] for e in self.driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
        return [line for line in found if not self.expected_errors or self.expected_errors not in line]

    def hosts(self) -> set[str]:
        """Hosts that were asked for anything, by Chromium's own network log."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return {urlsplit(url).netloc for url in urls if not url.startswith(("data:", "blob:", "chrome"))}


# What sticks out on the right; what is too low for a finger.
CUT_OFF = """return [...document.querySelectorAll('main *')]
  .filter((node) => node.getBoundingClientRect().right > innerWidth + 1).map((node) => node.className);"""
SMALL = """return [...document.querySelectorAll('button, .button')]
  .filter((node) => node.checkVisibility() && node.offsetHeight < 24).map((node) => node.className || node.id);"""
# The ratio of WCAG 2 between each text and what lies behind it; 4.5 is asked for (level AA).
CONTRAST = r"""
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgba = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; };
const over = (top, below) => top.slice(0, 3).map((c, i) => c * top[3] + below[i] * (1 - top[3])).concat(1);
const behind = (node) => node
  ? over(rgba(getComputedStyle(node).backgroundColor), behind(node.parentElement)) : [255, 255, 255, 1];
const light = ([r, g, b]) => { const f = (c) => (c /= 255) <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  return .2126 * f(r) + .7152 * f(g) + .0722 * f(b); };
return [...document.querySelectorAll('body *')].filter((node) => node.checkVisibility()
    && !node.closest('.unread, .hidden')
    && [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())).map((node) => {
  const below = behind(node), ink = over(rgba(getComputedStyle(node).color), below);
  const [a, b] = [light(ink), light(below)].sort((x, y) => y - x);
  return [(a + .05) / (b + .05), node.className || node.tagName, node.textContent.slice(0, 20)]; });
"""
