"""JupyterLab in a real headless Chromium: `make lab` on loopback, every notebook run by hand, the review form used."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path

import pytest

from fulcra_utils.annotation.review import read_decisions
from fulcra_utils.common.paths import ROOT

NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
OTHERS = NOTEBOOKS[1:] if os.environ.get("FULCRA_PROOFS") == "all" else ["05_new_value_theory.ipynb"]   # 5 minutes more
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
         "--window-size=1400,1400")
OPEN = """
const [path, done] = arguments, app = window.jupyterapp;
(async () => {
  await app.restored;
  const panel = window.panel = await app.commands.execute("docmanager:open", {path});
  await panel.context.ready; await panel.sessionContext.ready;
  await panel.sessionContext.session.kernel.info;
  app.shell.activateById(panel.id);
  done("connected");
})().catch(error => done(String(error)));
"""
RUN = """
const done = arguments[0];
window.jupyterapp.commands.execute("notebook:run-all-cells").then(() => done("done"), error => done(String(error)));
"""
READ = """
const kernel = window.panel.sessionContext.session.kernel;
return {status: kernel.status, cells: window.panel.model.toJSON().cells.filter(cell => cell.cell_type == "code")};
"""
SHOW = """
const [text, done] = arguments, notebook = window.panel.content;
const at = notebook.widgets.findIndex(cell => cell.model.sharedModel.getSource().includes(text));
notebook.activeCellIndex = at;
notebook.scrollToItem(at, "start").then(() => done(at), error => done(String(error)));
"""
CLOSE = """
const done = arguments[0];
(async () => {
  await window.panel.context.save(); await window.panel.sessionContext.shutdown(); window.panel.close(); done("closed");
})().catch(error => done(String(error)));
"""


def find_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A copy of what a checkout holds, so that notebooks on disk stay clean and runs go elsewhere."""
    folder = tmp_path_factory.mktemp("lab") / "study"
    left_out = shutil.ignore_patterns(".git", ".venv", "runs", "cache", "figures", "tests", "__pycache__", ".*_cache")
    return shutil.copytree(ROOT, folder, ignore=left_out)


@pytest.fixture(scope="module")
def lab(study, tmp_path_factory):
    """The address of what `make lab` starts, with the settings of a user of our own."""
    pytest.importorskip("jupyterlab")
    home, port, token = tmp_path_factory.mktemp("jupyter"), find_port(), "a-token-of-this-test"
    (home / "jupyter_lab_config.json").write_text(json.dumps({
        "ServerApp": {"ip": "127.0.0.1", "port": port, "port_retries": 0, "open_browser": False},
        "LabApp": {"expose_app_in_browser": True}}), encoding="utf-8")
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(home), "JUPYTER_DATA_DIR": str(home / "data"),
                                "JUPYTER_RUNTIME_DIR": str(home / "run"), "JUPYTER_TOKEN": token,
                                "JUPYTERLAB_WORKSPACES_DIR": str(home / "w"),
                                "JUPYTERLAB_SETTINGS_DIR": str(home / "s"),
                                "PYTHONPATH": str(study), "FULCRA_DATA_MIRROR": ""}
    ready = Path(sys.prefix, ".ready")
    with (home / "log").open("w") as log:
        server = subprocess.Popen(["make", "-o", ready, "lab", f"VENV={sys.prefix}"], cwd=study, env=environment,
                                  stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(300):
            assert server.poll() is None, (home / "log").read_text()
            try:
                urllib.request.urlopen(f"{address}/api/status?token={token}", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"{address}/lab?token={token}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


@pytest.fixture(scope="module")
def page(lab, tmp_path_factory):
    """JupyterLab, open in the browser."""
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e .[dev]")
    if not (chromium and driver):
        warnings.warn("NO CHROMIUM: JupyterLab is not tested in a browser here", stacklevel=1)
        pytest.skip("NO CHROMIUM: install chromium and chromium-driver from the distribution to test JupyterLab")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    opened = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    opened.set_script_timeout(240)
    opened.get(lab)
    wait_for(lambda: opened.execute_script("return Boolean(window.jupyterapp)"), "JupyterLab to load")
    yield opened
    opened.quit()


def wait_for(found, what, seconds=60):
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.2)


def run_all(page, name):
    """Open a notebook, run all cells, wait until the kernel is idle, and return its code cells."""
    assert page.execute_async_script(OPEN, f"notebooks/{name}") == "connected"
    assert page.execute_async_script(RUN) == "done"
    wait_for(lambda: page.execute_script(READ)["status"] == "idle", "the kernel to be idle")
    return page.execute_script(READ)["cells"]


def check_cells(cells):
    assert all(cell["execution_count"] for cell in cells if "".join(cell["source"]).strip()), "a cell was not run"
    assert not [out for cell in cells for out in cell["outputs"] if out["output_type"] == "error"]


@pytest.mark.slow
def test_the_first_notebook_runs_and_a_case_is_decided_by_click(page, study):
    check_cells(run_all(page, NOTEBOOKS[0]))
    decisions = study / "runs" / "quick" / "annotation" / "decisions.csv"
    before = len(read_decisions(decisions)) if decisions.is_file() else 0
    assert page.execute_async_script(SHOW, "review_widget(") > 0
    form = ".jp-Notebook .jp-mod-active .jp-OutputArea-output"
    wait_for(lambda: page.find_elements("css selector", f"{form} button.jupyter-button"), "the form")
    name = page.find_element("css selector", f"{form} input[type=text]")
    name.send_keys("Ann\t")
    page.find_elements("css selector", f"{form} button.jupyter-button")[2].click()   # -1, 0, +1, skip
    wait_for(lambda: decisions.is_file() and len(read_decisions(decisions)) > before, "the decision in its file", 20)
    assert read_decisions(decisions)[["label", "who"]].iloc[-1].tolist() == [1.0, "Ann"]
    seen = re.compile(r"^1 of \d+ cases seen", re.M)
    wait_for(lambda: seen.search(page.find_element("css selector", form).text), "the next case", 20)
    assert page.execute_async_script(CLOSE) == "closed"


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_other_notebook_runs_by_hand(page, name):
    check_cells(run_all(page, name))
    assert page.execute_async_script(CLOSE) == "closed"
