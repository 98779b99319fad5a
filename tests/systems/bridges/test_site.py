"""The site: no upstream text, no dead link, nothing from elsewhere; a search and a ledger that work in a browser."""

import functools
import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import warnings
from urllib.parse import unquote, urljoin, urlparse

import pandas as pd
import pytest

from fulcra_utils.common.files import write_json, write_table
from fulcra_utils.common.paths import DATA, ROOT
from fulcra_utils.dataset.rows import iter_rows, read_dialogue
from fulcra_utils.runs.profiles import list_notebooks
from fulcra_utils.systems.bridges import site
from fulcra_utils.systems.bridges.export import FORMATS

TEXT = "Why did the grey heron's umbrella refuse to open at the harbour gate?"
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage")


def make_book(*outputs):
    return {"cells": [{"cell_type": "code", "id": "a", "source": "", "metadata": {}, "execution_count": 1,
                       "outputs": list(outputs)}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def show(kind, text):
    return {"output_type": "display_data", "metadata": {}, "data": {kind: text}}


@pytest.mark.parametrize("output", [
    show("text/html", "<td>" + TEXT.replace("'", "&#39;") + "</td>"),
    show("text/html", " ".join(f"<span style='color:red'>{word}</span>" for word in TEXT.split())),
    show("text/html", "".join(f"<b>{letter}</b>" for letter in TEXT)),
    show("text/markdown", [TEXT[:20].upper(), TEXT[20:45].upper(), "…"]),
    show("text/plain", f"0   {TEXT[18:]}\n"),
    {"output_type": "stream", "name": "stdout", "text": TEXT.replace(" ", "\n")}])
def test_an_output_that_shows_a_text_of_the_data_is_left_out(output):
    books = {"a": make_book(output, show("text/html", "<td>12 rows</td>")), "b": make_book()}
    assert site.hide_texts(books, [TEXT, "Yes."]) == {"a": 1, "b": 0}
    left, kept = books["a"]["cells"][0]["outputs"]
    assert site.LEFT_OUT in left["data"]["text/markdown"] and "heron" not in json.dumps(left)
    assert kept["data"] == {"text/html": "<td>12 rows</td>"}


def test_other_words_stay_and_scripts_go():
    books = {"a": make_book(show("text/plain", "the grey heron's umbrella is long"), show("image/png", "aaaa"),
                            show("text/html", "<script src='https://x.y/z.js'></script>"),
                            {"output_type": "stream", "name": "stderr", "text": "half done"})}
    assert site.hide_texts(books, [TEXT, "grey heron"]) == {"a": 0}
    assert [list(output["data"]) for output in books["a"]["cells"][0]["outputs"]] == [["text/plain"], ["image/png"]]


def test_a_short_text_is_found_whole():
    assert site.hide_texts({"a": make_book(show("text/plain", "asked: May herons vote here? 3"))},
                           ["May herons vote here?"]) == {"a": 1}


def test_rows_of_the_sample_are_ours(tmp_path):
    first, = next(iter_rows(DATA / "sample" / "schwartz10.jsonl"))[1:2]
    own = read_dialogue(first).prompt
    (tmp_path / "data").mkdir()
    pd.DataFrame({"prompt": [own, TEXT], "response": ["ours", "theirs"]}).to_parquet(tmp_path / "data" / "x.parquet")
    assert list(site.list_upstream(tmp_path)) == [TEXT, "theirs"]


def test_a_link_to_nothing_is_its_words(tmp_path):
    page = tmp_path / "index.md"
    page.write_text("[a](gone.md) [b](https://x.y/z) [c](LICENSE) ![d](no.png) [e](data/reported)")
    assert site._mend_links(page, tmp_path) == "a [b](https://x.y/z) [c](LICENSE) d e"
    assert (tmp_path / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_readme_is_short_and_its_links_and_pictures_stand():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 150
    assert not [link[2] for link in site.LINK.finditer(text) if "://" not in link[2] and not (ROOT / link[2]).exists()]


def test_every_bridge_has_a_recipe_of_four_lines_that_a_test_names():
    recipes = {path.name: path.read_text("utf-8") for path in (DATA / "site" / "recipes").glob("*.md")}
    blocks = {name: re.findall(r"```\w+\n(.*?)```", text, re.DOTALL) for name, text in recipes.items()}
    assert all(len(own) == 1 and own[0].replace("\\\n", "").count("\n") <= 4 for own in blocks.values())
    assert {to for own in blocks.values() for to in re.findall(r"fulcra export \S+ --to (\S+)", own[0])} == set(FORMATS)
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py"))
    assert not [name for name in blocks if name not in tests and f'"{name.removesuffix(".md")}"' not in tests]


@pytest.mark.parametrize("name", ["score_a_file", "new_theory"])
def test_a_recipe_runs_as_written(tmp_path, monkeypatch, name):
    from fulcra_utils.cli import main
    from fulcra_utils.evaluator.encoder import load_encoder
    from fulcra_utils.evaluator.model import make_evaluator, save_evaluator
    from fulcra_utils.theory.theory import load_theory
    block, = re.findall(r"```sh\n(.*?)```", (DATA / "site" / "recipes" / f"{name}.md").read_text("utf-8"), re.DOTALL)
    assert block.count("\n") <= 4
    save_evaluator(make_evaluator(load_encoder("tiny"), load_theory("schwartz10")), tmp_path / "runs/laptop/evaluator")
    for part in ("sample", "theories"):
        shutil.copytree(DATA / part, tmp_path / "data" / part)
    monkeypatch.chdir(tmp_path)
    for line in block.replace("\\\n", " ").splitlines():
        command, *words = shlex.split(line, comments=True)
        assert command == "fulcra"
        monkeypatch.setattr("sys.argv", [command, *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
    rows = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    assert rows and all(set(row["value_vector"]) == set(load_theory(
        "moral_foundations" if name == "new_theory" else "schwartz10").dimensions) for row in rows)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A site of a small run that holds an upstream text, served on loopback."""
    pytest.importorskip("myst_nb", reason="NO SPHINX: make site, or pip install -e '.[site]'")
    run = tmp_path_factory.mktemp("site") / "runs" / "laptop"
    write_json(run / "run.json", {"profile": "laptop", "theory": "schwartz10"})
    write_json(run / "manifest.json", {"data_hashes": {}, "notebooks": dict.fromkeys(list_notebooks(), {})})
    for name in list_notebooks():
        write_json(run / "manifest" / f"{name}.json", {})
    claims = pd.read_csv(ROOT / "figures" / "laptop" / "reproduction.csv")
    write_table(run / "reproduction.csv", claims.groupby("verdict").head(20))
    book = json.loads((ROOT / "notebooks" / "02_value_analysis.ipynb").read_text("utf-8"))
    next(c for c in book["cells"] if c["cell_type"] == "code")["outputs"] = [show("text/plain", TEXT)]
    write_json(run / "notebooks" / "02_value_analysis.ipynb", book)
    (run / "data").mkdir()
    pd.DataFrame({"prompt": [TEXT]}).to_parquet(run / "data" / "prompts.parquet")
    start = time.monotonic()
    block, = re.findall(r"```sh\n(fulcra .*?)\n```", (DATA / "site" / "recipes" / "site.md").read_text("utf-8"))
    folder = run.parents[1] / "site"
    done = subprocess.run([sys.executable, "-m", "fulcra_utils.cli", *shlex.split(block)[1:]], cwd=run.parents[1],
                          env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0 and time.monotonic() - start < 120, done.stderr
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.mark.slow
def test_no_link_is_dead_nothing_comes_from_elsewhere_and_no_text_is_shown(built):
    folder, _ = built
    pages = {path: path.read_text("utf-8") for path in folder.rglob("*.html")
             if "_static" not in path.parts}
    assert len(pages) > 30 and site.LEFT_OUT in pages[folder / "notebooks" / "02_value_analysis.html"]
    dead, outside = [], []
    for path, text in pages.items():
        outside += re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"((?:https?:)?//[^\"]+)", text)
        for link in re.findall(r"(?:href|src)=\"([^\"]+)\"", text):
            place = urlparse(urljoin(path.as_uri(), link.replace("&amp;", "&")))
            target = (path.parent / unquote(urlparse(link).path)).resolve() if urlparse(link).path else path
            if place.scheme != "file":
                continue
            named = f'id="{unquote(place.fragment)}"' if place.fragment else ""
            if not target.is_file() or target.suffix == ".html" and named not in pages[target]:
                dead.append((path.name, link))
    assert not outside and not dead
    shown = [path for path in folder.rglob("*") if path.is_file() and b"heron" in path.read_bytes()]
    assert {path.name for path in shown} <= {"test_site.py.txt"}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e .[dev]")
    if not (chromium and driver):
        warnings.warn("NO CHROMIUM: the site is not tested in a browser here", stacklevel=1)
        pytest.skip("NO CHROMIUM: install chromium and chromium-driver from the distribution to test the site")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield opened
    opened.quit()


def wait(browser, script, seconds=20):
    end = time.monotonic() + seconds
    while not (found := browser.execute_script(f"return {script}")):
        assert time.monotonic() < end, script
        time.sleep(0.1)
    return found


@pytest.mark.slow
def test_search_and_ledger_work_in_a_browser_that_asks_nobody_else(built, browser):
    _, url = built
    browser.set_window_size(1400, 1000)
    browser.get(f"{url}search.html?q=benevolence")
    wait(browser, "document.querySelectorAll('#search-results li').length")
    browser.get(f"{url}ledger.html")
    rows = "[...document.querySelectorAll('#ledger tbody tr')].filter(r => !r.hidden)"
    whole = wait(browser, f"{rows}.length")
    browser.execute_script("const f = document.getElementById('find'); "
                           "f.value = document.querySelector('#ledger tbody code').textContent.toUpperCase(); "
                           "f.dispatchEvent(new Event('input'))")
    assert 0 < browser.execute_script(f"return {rows}.length") < whole
    assert browser.execute_script(f"return {rows}.every(r => r.textContent.toUpperCase().includes(f.value))".replace(
        "f.value", "document.getElementById('find').value"))
    browser.execute_script("const f = document.getElementById('find'); f.value = ''; "
                           "f.dispatchEvent(new Event('input')); document.querySelectorAll('#ledger th')[2].click()")
    ours = [float(x) for x in browser.execute_script(f"return {rows}.map(r => r.cells[2].textContent)") if x]
    assert ours == sorted(ours) and len(ours) > 5
    browser.execute_script("document.querySelectorAll('#ledger th')[2].click()")
    again = [float(x) for x in browser.execute_script(f"return {rows}.map(r => r.cells[2].textContent)") if x]
    assert again == ours[::-1]
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
    assert len(urls) > 5 and not [u for u in urls if not u.startswith((url, "data:", "chrome", "about:"))]
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["index", "ledger", "theories/schwartz19", "notebooks/02_value_analysis", "api"])
def test_no_page_is_wider_than_a_phone(built, browser, page):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True})
    browser.get(f"{built[1]}{page}.html")
    width = browser.execute_script("return document.documentElement.scrollWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width <= 390
