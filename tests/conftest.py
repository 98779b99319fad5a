"""Fixtures that every test file may use; the network is blocked but for loopback (see pyproject.toml)."""

import os
import sys
import time
from pathlib import Path

import pytest

from fulcra_utils.theory.theory import list_theories, load_theory

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
TOY = Path(__file__).parent / "toy.yaml"
UNTIL = float(os.environ.get("FULCRA_PROOFS_UNTIL", "inf"))     # seconds since 1970; no slow proof begins later


def pytest_collection_modifyitems(items):
    """Put the longest files first, so that no worker is left alone with them at the end."""
    items.sort(key=lambda item: (item.path.name != "test_notebooks.py", item.path.parent.name != "theories"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Leave out slow proofs, and say so, once their time is over: a slow machine finishes as well."""
    if item.get_closest_marker("slow") and time.time() > UNTIL:
        pytest.skip("the time for slow proofs is over (FULCRA_PROOFS_UNTIL); make proofs runs them all")


@pytest.fixture
def toy():
    """The three-dimension toy theory."""
    return load_theory(TOY)


@pytest.fixture(params=[*list_theories(), TOY], ids=lambda name: Path(name).stem)
def any_theory(request):
    """Each theory file of the project, and the toy."""
    return load_theory(request.param)


@pytest.fixture
def mirror():
    """The folder of released FULCRA files; the test is skipped where there is none."""
    folder = Path(os.environ.get("FULCRA_DATA_MIRROR") or "nowhere")
    if not folder.is_dir():
        pytest.skip("FULCRA_DATA_MIRROR names no folder: checks on the released files are skipped")
    return folder / "fulcra" if (folder / "fulcra").is_dir() else folder


@pytest.fixture
def one_thread():
    """Tiny models on one thread: many times faster where the machine is busy."""
    import torch
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def command(monkeypatch, capfd, tmp_path):
    """Run `fulcra annotate` in this process; give back exit code, stdout and stderr."""
    from asked_rows import KEY

    from fulcra_utils.cli import main

    def run(server, *more, key=KEY):
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", key)
        files = ["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl"), "--model", "judge"]
        monkeypatch.setattr(sys, "argv", ["fulcra", "annotate", *files, *more])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, *capfd.readouterr()
    return run


@pytest.fixture(scope="module")
def tokenizer():
    """The tokenizer of tiny policies."""
    from tiny_policies import TEXTS

    from fulcra_utils.llm.tiny import train_tokenizer

    return train_tokenizer(TEXTS, 300)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The folder of an untrained tiny policy."""
    from tiny_policies import PROMPTS

    from fulcra_utils.llm.tiny import build_policy, save_policy, train_tokenizer

    folder = tmp_path_factory.mktemp("start")
    tokenizer = train_tokenizer(PROMPTS, 300)
    save_policy(build_policy(tokenizer, layers=1, width=32, heads=2, context=64), tokenizer, folder)
    return folder
