import re
import subprocess

import pytest

import fulcra_utils
from fulcra_utils.common import version


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of one commit; called, it runs git there."""
    def git(*arguments):
        command = ["git", "-c", "user.name=Ann", "-c", "user.email=ann@example.org", *arguments]
        return subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True).stdout.strip()
    (tmp_path / "a.py").write_text("1\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "First")
    monkeypatch.setattr(version, "SHIPPED", tmp_path)
    return git


def test_a_checkout_tells_its_commit_and_whether_it_was_changed(checkout, tmp_path):
    commit = checkout("rev-parse", "HEAD")[:10]
    assert version.describe_version() == f"fulcra {fulcra_utils.__version__} (commit {commit})"
    (tmp_path / "new.txt").touch()      # what git does not track is no change
    assert version.find_commit() == commit
    checkout("tag", "v9")
    (tmp_path / "a.py").write_text("2\n")
    assert version.find_commit() == f"{commit}-dirty"


def test_without_git_the_commit_is_not_known(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert version.describe_version().endswith("(commit not known)")


def test_a_wheel_tells_what_it_was_built_from(tmp_path, monkeypatch):
    monkeypatch.setattr(version, "SHIPPED", tmp_path)
    monkeypatch.setattr(version, "PACKAGE", tmp_path)
    assert version.find_commit() == ""
    (tmp_path / "commit.txt").write_text("0123456789\n")
    assert version.find_commit() == "0123456789"


def test_the_command_says_the_version():
    from typer.testing import CliRunner

    from fulcra_utils.cli import app
    told = CliRunner().invoke(app, ["--version"])
    assert told.exit_code == 0 and re.fullmatch(r"fulcra \d+\.\d+\.\d+ \(commit .*\)\n", told.output)


def test_setup_asks_git_the_same():
    code = (version.SHIPPED / "setup.py").read_text(encoding="utf-8")
    assert f"[{', '.join(f'{part!r}' for part in version.GIT)}]".replace("'", '"') in code
