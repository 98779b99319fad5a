"""The compass page in a real headless Chromium: opens, sorts, re-ranks by slider, runs nothing that a reply says."""

import gzip
import hashlib
import re
import shutil
import time
import warnings

import numpy as np
import pandas as pd
import pytest

from fulcra_utils.systems.compass.boards import choose_presets
from fulcra_utils.systems.compass.countries import load_countries
from fulcra_utils.systems.compass.page import MAX_BYTES, PAGE, make_section, pick_replies, publish_page, render_page
from fulcra_utils.systems.compass.scores import make_board, stack_scores
from fulcra_utils.theory.distance import resolve_weights
from fulcra_utils.theory.theory import load_theory

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
         "--window-size=1400,1400")
EVIL = ("</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"
        "<svg onload=document.title='owned'>\u2028{{ data }}")


def make_replies(theory, n_models, n_prompts, seed=0, name="model-{:02d}"):
    """Return scored replies: the first model leads on the first dimension, the second on the second."""
    random = np.random.default_rng(seed)
    rows = pd.DataFrame([(name.format(m), f"prompt {p}", EVIL if m == 0 else f"reply of {m} to {p}. " + "words " * 150)
                         for m in range(n_models) for p in range(n_prompts)], columns=["model", "prompt", "response"])
    vectors = np.clip(random.normal(0, 0.25, (len(rows), theory.n_dims)), -1, 1)
    for m in range(min(2, theory.n_dims)):
        vectors[rows.model == name.format(m), m] = 0.9 - 0.1 * m
    rows[list(theory.dimensions)] = vectors
    return rows


def make_page(path, theories=("schwartz10", "moral_foundations"), n_models=6, n_prompts=12, **settings):
    theories = [load_theory(theory) for theory in theories]
    boards = [make_board(f"{theory.name}, made up", theory, make_replies(theory, n_models, n_prompts, **settings), EVIL,
                         n_draws=200) for theory in theories]
    presets = {f"first value of {theory.name} only": {theory.dimensions[0]: 1} for theory in theories}
    return publish_page(path, boards, load_countries(), presets, "Test compass")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e .[dev]")
    if not (chromium and driver):
        warnings.warn("NO CHROMIUM: the compass page is not tested in a browser here", stacklevel=1)
        pytest.skip("NO CHROMIUM: install chromium and chromium-driver from the distribution to test the compass page")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    path = make_page(tmp_path_factory.mktemp("page") / "compass.html")
    browser.get(path.as_uri())
    return browser


@pytest.fixture(autouse=True)
def fresh(request):
    yield
    if "page" in request.fixturenames:
        page = request.getfixturevalue("page")
        errors = [e for e in page.get_log("browser") if e["level"] == "SEVERE"]
        page.refresh()
        assert not errors, errors


def find(page, css):
    return page.find_elements("css selector", css)


def names(page):
    return [e.text for e in find(page, "#board tbody th")]


def move_slider(page, dimension, value):
    page.execute_script("const s = document.querySelector(`input[data-dimension='${arguments[0]}']`); s.value = "
                        "arguments[1]; s.dispatchEvent(new Event('input'));", dimension, value)


@pytest.mark.slow
def test_opens_with_every_model_and_both_pictures(page):
    assert page.execute_script("return document.documentElement.dataset.ready") == "yes"
    assert sorted(names(page)) == [f"model-{m:02d}" for m in range(6)]
    assert len(find(page, "#radar svg.main-svg")) and len(find(page, "#map svg.main-svg"))
    assert "France" in page.find_element("id", "map").text


@pytest.mark.slow
def test_sorts_by_a_column_both_ways_with_the_keyboard(page):
    theory = load_theory("schwartz10")
    button = page.find_element("css selector", "#board thead button[data-key='d0']")
    assert button.text.replace(" ", "-") == theory.dimensions[0]
    button.send_keys("\n")
    assert names(page)[0] == "model-00"
    assert page.find_element("css selector", "th[aria-sort='descending']").text.startswith("self direction")
    page.switch_to.active_element.send_keys("\n")
    assert names(page)[-1] == "model-00"


@pytest.mark.slow
def test_a_slider_changes_the_ranking_at_once(page):
    first, second = load_theory("schwartz10").dimensions[:2]
    for dimension in load_theory("schwartz10").dimensions:
        move_slider(page, dimension, float(dimension == first))
    assert names(page)[0] == "model-00"
    move_slider(page, first, 0)
    assert "All weights are 0" in page.find_element("id", "problem").text
    assert {e.text for e in find(page, "td.score")} == {"–"}
    move_slider(page, second, 1)
    assert names(page)[0] == "model-01" and page.find_element("id", "problem").text == ""
    assert re.match(r"1 \(1 to \d\)", find(page, "td.rank")[0].text)


@pytest.mark.slow
def test_the_page_ranks_like_the_package(page):
    theory = load_theory("schwartz10")
    scores = stack_scores(make_replies(theory, 6, 12), theory)
    expected = np.array(scores.models)[np.argsort(-(scores.means @ resolve_weights(None, theory)))]
    assert names(page) == list(expected)


@pytest.mark.slow
def test_a_cell_shows_replies_as_text_and_a_malicious_one_does_nothing(page):
    row = page.find_element("css selector", "tr[data-model='model-00'] td.cell button")
    row.click()
    dialog = page.find_element("id", "replies")
    assert dialog.get_attribute("open") is not None
    assert "<script>document.title = 'owned'</script>" in dialog.text and "onerror" in dialog.text
    assert 0 < len(find(page, "#replytext blockquote")) <= 6
    time.sleep(0.3)
    assert page.title == "Test compass" and not find(page, "#replytext img, #replytext svg, #notes img")
    page.switch_to.active_element.send_keys("\ue00c")    # Escape
    assert dialog.get_attribute("open") is None


@pytest.mark.slow
def test_arrow_keys_move_between_cells(page):
    cell = page.find_element("css selector", "#board td.cell button")
    cell.send_keys("\ue014")                              # right
    assert page.execute_script("return document.activeElement === document.querySelectorAll('td.cell button')[1]")
    page.switch_to.active_element.send_keys("\ue015")     # down
    assert page.execute_script("return document.activeElement.closest('tr').rowIndex") == 2


@pytest.mark.slow
def test_at_most_five_models_are_compared(page):
    for box in find(page, ".pick:not(:checked)"):
        box.click()
    assert len(find(page, ".pick:checked")) == 5
    assert "At most 5" in page.find_element("id", "status").text


@pytest.mark.slow
def test_another_theory_and_the_other_map(page):
    page.execute_script("const t = document.getElementById('theory'); t.value = 1; "
                        "t.dispatchEvent(new Event('change'))")
    assert len(find(page, "#weights input")) == load_theory("moral_foundations").n_dims
    assert "no ranking is known" in page.find_element("id", "matchtitle").text
    before = page.execute_script("return document.getElementById('map').data[0].x.join()")
    page.execute_script("const t = document.getElementById('method'); t.value = 't-SNE'; "
                        "t.dispatchEvent(new Event('change'))")
    assert page.execute_script("return document.getElementById('map').data[0].x.join()") != before


@pytest.mark.slow
def test_fifty_models_open_quickly_and_weigh_little(browser, tmp_path):
    path = make_page(tmp_path / "fifty.html", n_models=50, n_prompts=30)
    assert path.stat().st_size <= MAX_BYTES
    browser.get(path.as_uri())
    took = browser.execute_script("return performance.getEntriesByType('navigation')[0].domComplete")
    print(f"fifty models: {path.stat().st_size / 1e6:.2f} MB, open after {took:.0f} ms")
    assert len(find(browser, "#board tbody tr")) == 50
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]


@pytest.mark.slow
@pytest.mark.parametrize("n_dims", [1, 2, 60])
def test_any_number_of_dimensions_is_drawn(browser, tmp_path, n_dims):
    names = ", ".join(f"{{name: value-{d}, definition: Value {d}., items: [item {d}]}}" for d in range(n_dims))
    path = tmp_path / "toy.yaml"
    path.write_text("name: toy\ntitle: Toy\ncitation: none\nscore_range: [-1, 1]\n"
                    f"labels: {{-1: opposed, 0: none, 1: supported}}\ndimensions: [{names}]\n")
    browser.get(make_page(tmp_path / "toy.html", [path], n_models=3).as_uri())
    assert len(find(browser, "#weights input")) == n_dims
    assert len(find(browser, "#radar svg.main-svg")) and len(find(browser, "#map svg.main-svg"))
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]


def test_the_file_names_no_address_and_holds_no_markup_of_a_reply(tmp_path):
    text = make_page(tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)\s*=\s*["']?\s*https?:""", text)
    assert "<script>document.title" not in text and "<img" not in text and text.count("</script>") == 3


def test_long_replies_are_cut_and_three_at_most_stand_behind_a_cell():
    theory, countries = load_theory("schwartz10"), load_countries()
    board = make_board("mine, made up", theory, make_replies(theory, 2, 9), "By hand.", n_draws=20)
    section = make_section(board, countries, choose_presets(theory, {}, {}, countries), 0)
    text = render_page([section], "t", (-1, 1), reply_chars=40)
    assert "words […]" in text and "words words words words words" not in text
    assert section["replies"].groupby(["model", "dimension"]).size().max() == 3


def test_replies_behind_a_cell_are_the_strongest(toy):
    rows, name = make_replies(toy, 2, 30), toy.dimensions[0]
    picked = pick_replies(rows, toy.dimensions, n=3)
    assert picked.groupby(["model", "dimension"]).size().eq(3).all()
    strongest = rows[rows.model == "model-00"][name].abs().nlargest(3)
    assert np.allclose(picked[(picked.model == "model-00") & (picked.dimension == name)].score.abs(), strongest)
    assert pick_replies(rows.assign(**dict.fromkeys(toy.dimensions, 0.0)), toy.dimensions).empty


def test_the_plotting_library_is_the_published_bundle():
    code = gzip.decompress((PAGE / "plotly-basic.min.js.gz").read_bytes())   # plotly.js-basic-dist-min 4.1.1 (npm, MIT)
    assert hashlib.sha256(code).hexdigest() == "99784e3abfb07b142a15e521a439e6d9addceadb3f79553fd24c72774f0649ba"
