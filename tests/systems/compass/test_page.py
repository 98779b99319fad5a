"""The compass page in a real headless Chromium: opens, sorts, re-ranks by slider, runs nothing that a reply says."""

import gzip
import hashlib
import json
import re
import shutil
import time
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hand_boards import write_site

from fulcra_utils.common.paths import ROOT
from fulcra_utils.runs.claims import load_reported
from fulcra_utils.runs.pipeline import open_run
from fulcra_utils.runs.report import build_report, publish
from fulcra_utils.systems.compass import site as tables
from fulcra_utils.systems.compass.boards import choose_presets, rank_boards
from fulcra_utils.systems.compass.countries import load_countries
from fulcra_utils.systems.compass.page import (
    MAX_BYTES,
    PAGE,
    PEOPLE,
    make_section,
    pick_replies,
    pool_labels,
    publish_page,
    render_page,
)
from fulcra_utils.systems.compass.scores import make_board, rank_models, stack_scores
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


def make_labels(theory):
    """Return a board of people's labels: two models that support every value but the last, which they oppose."""
    replies = make_replies(theory, 2, 9, seed=1, name="labelled-{}")
    replies["prompt"] = "other " + replies.prompt
    replies[[*theory.dimensions]] = 1.0
    replies[theory.dimensions[-1]] = -1.0
    return make_board(f"{theory.name}, annotators' labels", theory, replies, "By people.", n_draws=50)


def make_page(path, theories=("schwartz10", "moral_foundations"), n_models=6, n_prompts=12, has_people=False,
              **settings):
    theories = [load_theory(theory) for theory in theories]
    boards = [make_board(f"{theory.name}, made up", theory, make_replies(theory, n_models, n_prompts, **settings), EVIL,
                         n_draws=200) for theory in theories]
    boards += [make_labels(theories[0])] * has_people
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


def open_page(browser, address):
    """Open a page and wait until it is drawn: on a busy machine the driver comes back before."""
    browser.get(address)
    end = time.monotonic() + 20
    while not browser.execute_script("return location.href == arguments[0] && document.readyState == 'complete' && "
                                     "Boolean(document.querySelector('#board tbody tr'))", address):
        assert time.monotonic() < end, f"{address} is not drawn after 20 s"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_page(tmp_path_factory.mktemp("page") / "compass.html")


@pytest.fixture
def page(browser, path):
    open_page(browser, path.as_uri())
    yield browser
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]


@pytest.fixture
def peopled(browser, tmp_path):
    """A page with people's labels; what a test leaves of errors and of the phone's width is looked at, and undone."""
    open_page(browser, make_page(tmp_path / "people.html", has_people=True).as_uri())
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]


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
    open_page(browser, path.as_uri())
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
    open_page(browser, make_page(tmp_path / "toy.html", [path], n_models=3).as_uri())
    assert len(find(browser, "#weights input")) == n_dims
    assert len(find(browser, "#radar svg.main-svg")) and len(find(browser, "#map svg.main-svg"))
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]


def show_state(page):
    """Return what a reader has chosen, as the page shows it, once the address has followed."""
    return page.execute_async_script("""
        const by = (id) => document.getElementById(id), all = (css) => [...document.querySelectorAll(css)];
        const end = arguments[0], values = (css) => all(css).map((e) => e.value);
        setTimeout(() => end({theory: by('theory').selectedIndex, weights: values('#weights input'),
            preset: by('preset').value, map: by('method').value, rows: all('#board tbody th').map((e) => e.textContent),
            picked: all('.pick:checked').map((e) => e.ariaLabel), drawn: by('radar').data.map((t) => t.name)}), 250)""")


def choose(page, name, index):
    page.execute_script("const s = document.getElementById(arguments[0]); s.selectedIndex = arguments[1]; "
                        "s.dispatchEvent(new Event('change'))", name, index)


@pytest.mark.slow
def test_the_address_keeps_every_choice_and_a_reload_restores_it(page):
    plain = show_state(page)
    choose(page, "theory", 1)
    first, second = load_theory("moral_foundations").dimensions[:2]
    move_slider(page, first, 0.35)
    move_slider(page, second, 0)
    find(page, ".pick:checked")[0].click()
    find(page, "#board thead button[data-key='name']")[0].click()
    find(page, "#board thead button[data-key='name']")[0].click()
    choose(page, "method", 1)
    chosen = show_state(page)
    assert chosen["weights"][:3] == ["0.35", "0", "1"] and chosen["preset"] == "own" and len(chosen["picked"]) == 2
    assert chosen["rows"] == sorted(chosen["rows"], reverse=True) and chosen["map"] == "t-SNE" and chosen["theory"] == 1
    link = page.current_url
    page.refresh()
    assert show_state(page) == chosen
    page.get(link.partition("#")[0])                    # the same page, and the link without a state, then pasted again
    assert show_state(page) == plain
    page.get(link)
    assert show_state(page) == chosen


@pytest.mark.slow
def test_no_model_and_a_preset_are_states_too(page):
    choose(page, "preset", 1)
    for box in find(page, ".pick:checked"):
        box.click()
    chosen = show_state(page)
    assert chosen["preset"] == "1" and not chosen["picked"]
    page.refresh()
    assert show_state(page) == chosen


@pytest.mark.slow
def test_damaged_addresses_are_passed_over(page):
    plain, base = show_state(page), page.current_url.partition("#")[0]
    board = "board=schwartz10%2C+made+up"
    damaged = [f"&weights={','.join([weight] * 10)}" for weight in ("x", "-1", "1.1.1", "", "9", "1e-1", "NaN", " ")]
    damaged += ["&weights=1,1", "&model=nobody&model=%3Cimg%20src=x%3E", "&sort=d99&map=maze", "&sort=constructor",
                "&map=constructor"]
    for state in ("", "x", "%", "%E0%A4%A", "board=nothing&weights=0", "__proto__=1&constructor=2", "&&&===",
                  *(board + part for part in damaged)):
        page.get(f"{base}#{state}")
        assert show_state(page) == plain, state


@pytest.mark.slow
def test_an_address_names_at_most_five_models_and_each_once(page):
    many = "&".join(f"model=model-{m:02d}" for m in (3, 3, 0, 1, 2, 4, 5))
    page.get(f"{page.current_url.partition('#')[0]}#board=schwartz10, made up&{many}")
    assert show_state(page)["drawn"] == [f"model-{m:02d}" for m in (3, 0, 1, 2, 4)]


@pytest.mark.slow
@pytest.mark.parametrize("is_refused", [False, True])
def test_a_button_copies_the_link_or_shows_it(page, is_refused):
    page.execute_script(
        "window.copied = null; Object.defineProperty(navigator, 'clipboard', {configurable: true, "
        "value: arguments[0] ? undefined : {writeText: async (text) => { window.copied = text; }}})", is_refused)
    move_slider(page, load_theory("schwartz10").dimensions[0], 0.5)
    page.find_element("id", "copy").click()
    link, told = page.find_element("id", "link"), page.find_element("id", "copied").text
    assert link.is_displayed() and link.get_attribute("value") == page.current_url and "weights=0.5" in page.current_url
    assert told == ("Press Ctrl+C to copy the link." if is_refused else "Copied.")
    assert page.execute_script("return window.copied") == (None if is_refused else page.current_url)
    assert page.execute_script("return String(getSelection())") == page.current_url


@pytest.mark.slow
def test_the_keyboard_reaches_everything_in_order_and_each_place_has_a_name_and_a_ring(peopled):
    seen = []
    for _ in range(80):
        peopled.switch_to.active_element.send_keys("\t")
        at = peopled.switch_to.active_element
        if at.tag_name == "body":
            break
        outline = at.value_of_css_property("outline-width"), at.value_of_css_property("outline-style")
        assert at.accessible_name and outline == ("3px", "solid"), (at.get_attribute("outerHTML"), outline)
        seen.append((at.aria_role, at.accessible_name.strip()))
    roles = [role for role, _ in seen]
    theory = load_theory("schwartz10")
    sliders = [name for role, name in seen if role == "slider"]
    assert sliders == [f"Weight of {name.replace('-', ' ')}" for name in theory.dimensions]
    assert seen[0][1] == "Theory and scorer" and seen[1][1] == "Copy link"
    first = {role: roles.index(role) for role in ("combobox", "slider", "checkbox", "region")}
    assert first["combobox"] < first["slider"] < first["region"] < first["checkbox"]
    assert roles.count("checkbox") == 7 and sum("replies to read" in name for _, name in seen) == 1   # one stop a table


@pytest.mark.slow
def test_arrow_keys_move_a_slider_and_rank_again(page):
    slider = page.find_element("css selector", "#weights input")
    slider.send_keys("\ue012" * 4)                       # left, four steps of .05
    assert slider.get_attribute("value") == "0.8" and slider == page.switch_to.active_element
    assert page.find_element("css selector", "#weights output").text == "0.80"
    assert page.find_element("id", "preset").get_attribute("value") == "own"


@pytest.mark.slow
@pytest.mark.parametrize("theories", [("schwartz10",), ("schwartz19",), ("safety_taxonomy",)])
def test_a_phone_shows_all_without_scrolling_sideways(browser, tmp_path, theories):
    path = make_page(tmp_path / "phone.html", theories, has_people=True,
                     name="a-model-with-quite-a-long-name-{:02d} dpo-ideal")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True})
    try:
        open_page(browser, path.as_uri())
        browser.find_element("id", "copy").click()        # the link's field is shown, too
        assert browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [390, 390]
        wide = browser.execute_script(
            "return [...document.querySelectorAll('body > *, .controls > *, .picture, select, #weights label')]"
            ".filter((e) => e.getBoundingClientRect().right > 390.5).map((e) => e.id || e.tagName)")
        assert wide == []
        small = browser.execute_script("return [...document.querySelectorAll('td.cell button')].filter((e) => "
                                       "e.getBoundingClientRect().height < 24).length")    # WCAG 2.2, 2.5.8
        assert small == 0
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]


@pytest.mark.slow
def test_peoples_row_stays_last_without_a_rank_and_takes_no_place(peopled):
    theory = load_theory("schwartz10")
    assert names(peopled)[-1] == PEOPLE and find(peopled, "tr.people td.rank")[0].text == "–"
    assert find(peopled, "tr.people td.score")[0].text == "0.80 (0.80 to 0.80)"       # nine values at 1, one at -1
    assert "other prompts" in peopled.find_element("id", "notes").text
    find(peopled, f"#board thead button[data-key='d{theory.n_dims - 2}']")[0].click()   # it has the highest score there
    assert names(peopled)[-1] == PEOPLE
    ranks = sorted(int(e.text.split()[0]) for e in find(peopled, "tr.model td.rank"))
    assert ranks == list(range(1, 7))
    find(peopled, "tr.people .pick")[0].click()
    assert PEOPLE in show_state(peopled)["drawn"]
    assert PEOPLE not in peopled.execute_script("return document.getElementById('map').data.map((t) => t.name).join()")
    assert PEOPLE not in peopled.find_element("id", "matches").text
    find(peopled, "tr.people td.cell button")[0].click()
    assert "Score +1.00" in peopled.find_element("id", "replytext").text


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


def test_replies_of_prompts_that_count_for_no_number_are_not_shown(toy):
    rows = make_replies(toy, 2, 9)
    rows.loc[rows.prompt == "prompt 0", list(toy.dimensions)] = 1.0
    board = make_board("mine, made up", toy, rows[~rows.index.isin([0])], "By hand.", n_draws=20)
    shown = make_section(board, load_countries(), {}, 0)["replies"]
    assert len(board.scores.prompts) == 8 and "prompt 0" not in set(shown.prompt) and len(shown)


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


def read_sections(path):
    data = re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)[1]
    return json.loads(data)["sections"]


def test_peoples_row_stands_beside_ours_under_the_same_theory_alone(tmp_path):
    near, far, own = read_sections(make_page(tmp_path / "page.html", has_people=True))
    assert near["models"][-1] == PEOPLE and near["n_ranked"] == 6 and near["means"][-1] == [1.0] * 9 + [-1.0]
    assert near["n_prompts"][-1] == 9 and near["notes"][-1].startswith(f"{PEOPLE}: By people. They stand on 18 replies")
    for section in (far, own):
        assert PEOPLE not in section["models"] and section["n_ranked"] == len(section["models"])
    assert near["name"] == "schwartz10, made up"


@pytest.mark.parametrize(("prompts", "which"), [
    ([0, 1, 8], "these"), ([0, 8, 9], "these and further"), ([9, 10, 11], "other")])
def test_peoples_row_says_to_which_prompts_its_replies_are(toy, prompts, which):
    board, labels = (make_board(f"toy, {name}", toy, make_replies(toy, 2, 9), "x", n_draws=5)
                     for name in ("made up", "annotators' labels"))
    rows = labels.replies.head(3).assign(prompt=[f"prompt {p}" for p in prompts])
    people = pool_labels([replace(labels, replies=rows)])
    section = make_section(board, load_countries(), {}, 0, people)
    assert section["notes"][-1].endswith(f"3 replies of several models to {which} prompts, so this row has no rank.")


def test_a_policy_is_told_from_the_model_that_it_came_from(toy):
    rows = make_replies(toy, 2, 5).replace({"model-00": "small", "model-01": "small dpo-ideal"})
    board = make_board("toy, evaluator", toy, rows, "x", n_draws=5)
    notes = make_section(board, load_countries(), choose_presets(toy, {}, {}, load_countries()), 0)["notes"]
    assert sum(note.startswith("small is a model before alignment") for note in notes) == 1
    others = make_board("toy, evaluator", toy, rows.replace({"model": {"small dpo-ideal": "small 2"}}), "x", n_draws=5)
    notes_2 = make_section(others, load_countries(), choose_presets(toy, {}, {}, load_countries()), 0)["notes"]
    assert not any("before alignment" in note for note in notes_2), "another model whose name begins alike"
    assert sum("more than noise" in note and "small dpo-ideal" in note for note in notes) == 1


def test_no_score_of_others_leaves_the_local_page(tmp_path):
    theory, countries = load_theory("schwartz10"), load_countries()
    scores = np.random.default_rng(3).uniform(5, 95, (4, theory.n_dims)).round(6)
    site = tables.read_site(*write_site(tmp_path, scores, [f"theirs-{m}" for m in range(4)],
                                        matches=np.zeros((4, 2)).tolist()), "valuecompass_2025")
    ours = make_board("schwartz10, evaluator", theory, make_replies(theory, 3, 8), "Ours.", n_draws=20)
    run = open_run("06_value_compass", run_dir=tmp_path / "run")
    publish_page(run.path("report/compass.html"), [ours, site.board, make_labels(theory)], countries, {}, "t",
                 others={site.board.name: site.countries})
    near, theirs, _ = read_sections(run.path("report/compass.html"))
    assert PEOPLE in near["models"] and len(theirs["models"]) == 4 and "without a licence" in theirs["notes"][0]
    kept = set(np.ravel([scores, scores / 100, scores / 50 - 1]).round(4))
    assert np.allclose(theirs["means"][0], scores[0] / 50 - 1, atol=1e-4)                         # the page has them
    saved = {"ranks": rank_boards([ours, site.board]), "site_matches": tables.compare_matches(site),
             "orders": tables.compare_orders([ours, site.board], countries.theory, 20)[0],
             "agreement": tables.compare_orders([ours, site.board], countries.theory, 20)[1],
             "beside": rank_models(ours.scores, draws=ours.draws)}
    notebook = (ROOT / "notebooks" / "06_value_compass.ipynb").read_text("utf-8")
    assert set(re.findall(r"published/06_(\w+)\.csv", notebook)) == saved.keys()
    for name, table in saved.items():
        run.save_table(table, f"published/06_{name}.csv")
    run.compare(tables.claim_sites({"valuecompass_2025": site}, load_reported()))
    run.finish()
    build_report(run)
    copied = publish(run, tmp_path / "figures")
    assert len(copied) >= 8 and not [path for path in copied if path.suffix == ".html"]
    for path in copied:
        found = {round(float(number), 4) for number in re.findall(r"-?\d+\.\d{4,}", path.read_text("utf-8"))}
        assert not found & kept, path.name


def test_the_page_for_visitors_holds_no_reply_and_says_nothing_of_them(tmp_path):
    theory = load_theory("schwartz10")
    board = make_board("schwartz10, evaluator", theory, make_replies(theory, 3, 8), "Ours.", n_draws=20)
    texts = [publish_page(tmp_path / f"{kept}.html", [board], load_countries(), {}, "t", with_replies=kept).read_text()
             for kept in (True, False)]
    for word in ("reply of 1 to", "The file is", "a cell to read"):
        assert word in texts[0] and word not in texts[1]
    assert [part["means"] for part in read_sections(tmp_path / "True.html")] == [
        part["means"] for part in read_sections(tmp_path / "False.html")]


def simulate(colours, matrix):
    """Return sRGB colours (N, 3) in [0, 1] as seen with a colour deficiency, in CIELAB."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ np.transpose(matrix), 0, 1) @ np.transpose([
        [0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.column_stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])])


@pytest.mark.parametrize("matrix", [   # Machado, Oliveira and Fernandes (2009), severity 1: protan, deutan, tritan
    np.eye(3),
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]],
    ids=["none", "protan", "deutan", "tritan"])
def test_compared_models_differ_for_the_colour_blind_in_colour_dash_and_mark(matrix):
    script = (PAGE / "compass.js").read_text(encoding="utf-8")
    lists = {name: re.findall(r'"([^"]+)"', re.search(rf"const {name} = \[(.*?)\]", script)[1])
             for name in ("COLORS", "DASHES", "SYMBOLS")}
    assert [len(set(values)) for values in lists.values()] == [5, 5, 5]
    colours = np.array([[int(c[k:k + 2], 16) / 255 for k in (1, 3, 5)] for c in lists["COLORS"]])
    seen = simulate(colours, matrix)
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)[np.triu_indices(5, 1)]
    assert apart.min() > 10                                       # CIE76; 2.3 is just noticeable
    # the two colours of cells, as shade() mixes them, at the ends of the scale
    ends = simulate(np.array([[160, 150, 215], [240, 160, 80]]) / 255, matrix)
    assert np.linalg.norm(ends[0] - ends[1]) > 25 and "[160, 150, 215] : [240, 160, 80]" in script


def test_lines_and_rings_have_the_contrast_that_wcag_asks():
    style, script = ((PAGE / name).read_text(encoding="utf-8") for name in ("compass.html", "compass.js"))
    colours = re.findall(r'"(#[0-9A-F]{6})"', re.search(r"const COLORS = \[(.*?)\]", script)[1])
    colours.append(re.search(r":focus-visible \{ outline: 3px solid (#\w{6})", style)[1])
    for colour in colours:                                         # WCAG 2.2, 1.4.11: 3 to 1 on white
        parts = np.array([int(colour[k:k + 2], 16) / 255 for k in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 3, colour
