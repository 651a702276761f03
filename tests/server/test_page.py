"""The page, as a person uses it: in Debian's Chromium, or not at all."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Browser
from serving import Serves, serving

from prefrep.scoring import Scorer
from prefrep.server.app import PAGE

PROMPT, ANSWERS = "Name a <b>prime</b>, or two, \u00fcberall", ["7", "9", "I would rather not <script>document.title = 1</script>"]
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; apt-get install chromium")


def test_the_page_and_its_files_come_from_here(served: Serves) -> None:
    page = served.client.get("/")
    assert page.headers["content-security-policy"].startswith("default-src 'self'") and "text/html" in page.headers["content-type"]
    for file in PAGE.iterdir():
        text = file.read_text()
        assert served.client.get(f"/page/{file.name}").text == text
        assert not any(mark in text.replace("http://www.w3.org/2000/svg", "") for mark in ("http:", "https:", "//cdn", "@import"))
    assert served.client.get("/page/nothing.js").status_code == 404


async def fill(browser: Browser, prompt: str, answers: list[str]) -> None:
    script = """((prompt, answers) => {
        document.getElementById("prompt").value = prompt;
        while (document.querySelectorAll("#answers textarea").length < answers.length) document.getElementById("add").click();
        document.querySelectorAll("#answers textarea").forEach((area, i) => { area.value = answers[i]; });
    })"""
    await browser.run(f"{script}({json.dumps(prompt)}, {json.dumps(answers)})")


@needs_chromium
@pytest.mark.parametrize("name", ["bt", "gpm", "hybrid", "pair"])
def test_a_question(name: str, served: Serves, scorers: dict[str, Scorer]) -> None:
    async def visit() -> dict[str, Any]:
        async with Browser() as browser:
            await browser.open(served.url)
            await browser.until("document.querySelectorAll('#model option').length === 4")
            await browser.run(f"document.getElementById('model').value = {name!r}")
            await fill(browser, PROMPT, ANSWERS)
            await browser.run("document.getElementById('compare').click()")
            await browser.until("!document.getElementById('results').hidden")
            found = {
                "order": await browser.run("[...document.querySelectorAll('#ranking li b')].map((each) => each.textContent).join('')"),
                "cells": await browser.run("[...document.querySelectorAll('#table tbody tr')].map((row) => "
                                           "[...row.querySelectorAll('td')].map((cell) => parseFloat(cell.textContent) || 0))"),
                "arrows": await browser.run("document.querySelectorAll('#graph line').length"),
                "cyclic": await browser.run("document.querySelectorAll('#graph line.cyclic').length"),
                "words": await browser.run("document.getElementById('words').textContent"),
                "circles": await browser.run("document.querySelectorAll('#embeddings svg').length"),
                "focus": await browser.run("document.activeElement.id"),
                "title": await browser.run("document.title"),
                "fits": await browser.run("document.documentElement.scrollWidth <= innerWidth"),
            }  # fmt: skip
            return found | {"requested": browser.requested, "errors": browser.errors}

    found, table = asyncio.run(visit()), scorers[name].table(PROMPT, ANSWERS)
    assert found["order"] == "".join("ABC"[i] for i in scorers[name].rank(PROMPT, ANSWERS))
    for i in range(3):
        for j in range(3):
            if i != j:
                assert found["cells"][i][j] == pytest.approx(100 / (1 + 2.718281828 ** -float(table[i, j])), abs=0.6)
    cyclic = table[0, 1] * table[1, 2] > 0 and table[0, 1] * table[2, 0] > 0
    assert found["arrows"] == 3 and found["cyclic"] == (3 if cyclic else 0)
    winner, loser = ("A", "B") if table[0, 1] > 0 else ("B", "A")
    assert f"{winner} beats {loser} with a probability of" in found["words"] and ("A cycle: " in found["words"]) == bool(cyclic)
    assert found["circles"] == {"bt": 1, "gpm": 2, "hybrid": 2, "pair": 0}[name]
    assert found["focus"] == "results" and found["fits"] and "prefrep" in found["title"]
    assert all(url.startswith((served.url, "data:")) for url in found["requested"])
    assert not [each for each in found["errors"] if not (name == "pair" and "/v1/embed" in each)]


@needs_chromium
def test_a_link_holds_the_question_and_the_keyboard_asks_it(served: Serves) -> None:
    async def visit() -> None:
        async with Browser(width=390, dark=True) as browser:
            await browser.open(served.url)
            await browser.until("document.querySelectorAll('#model option').length === 4")
            await fill(browser, PROMPT, ANSWERS)
            await browser.run("document.getElementById('link').click()")
            await browser.until("location.hash.length > 2")
            link = await browser.run("location.href")
            await browser.open("about:blank")
            await browser.open(link)
            await browser.until("document.querySelectorAll('#model option').length === 4")
            assert await browser.run("document.getElementById('prompt').value") == PROMPT
            assert await browser.run("[...document.querySelectorAll('#answers textarea')].map((each) => each.value)") == ANSWERS
            await browser.run("document.getElementById('prompt').focus()")
            for _ in range(20):  # a keyboard reaches the button, in the order of the page
                await browser.press("Tab")
                if await browser.run("document.activeElement.id") == "compare":
                    break
            await browser.press("Enter")
            await browser.until("!document.getElementById('results').hidden")
            assert await browser.run("document.documentElement.scrollWidth <= innerWidth"), "no sideways scrolling on a phone"
            ground = await browser.run("getComputedStyle(document.body).backgroundColor")
            assert sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(", "))) < 150, "dark"
            unnamed = await browser.run(
                "[...document.querySelectorAll('textarea, select, input, button, svg')].filter((each) => each.checkVisibility() && "
                "!(each.getAttribute('aria-label') || each.textContent.trim() || each.closest('label'))).length"
            )
            assert unnamed == 0

    asyncio.run(visit())


@needs_chromium
def test_errors_and_tokens_are_shown(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("right\n")
    with serving({"gpm": folders["gpm"]}, tokens=str(tmp_path / "tokens"), text_tokens=20) as it:

        async def visit() -> None:
            async with Browser() as browser:
                await browser.open(it.url)
                await browser.until("document.getElementById('status').textContent.includes('bearer token')")
                await browser.run("document.getElementById('token').value = 'right'; document.getElementById('token').onchange()")
                await browser.until("document.querySelectorAll('#model option').length === 1")
                await fill(browser, "long " * 50, ["a", "b"])
                await browser.run("document.getElementById('compare').click()")
                await browser.until("document.getElementById('status').textContent.includes('longer than the 20 tokens')")
                await fill(browser, "short", ["a", "b"])
                await browser.run("document.getElementById('compare').click()")
                await browser.until("!document.getElementById('results').hidden")

        asyncio.run(visit())
