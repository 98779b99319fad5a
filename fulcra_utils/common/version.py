"""Which state of the code runs: version, and the commit of the checkout or of the wheel."""

import shutil
import subprocess

import fulcra_utils
from fulcra_utils.common.paths import PACKAGE, SHIPPED

GIT = ("git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=10")  # as setup.py asks


def find_commit() -> str:
    """Return the commit, with `-dirty` where tracked files were changed; of a wheel the one it was built from.

    Empty where it is not known: without git, or built from a copy.
    """
    if (SHIPPED / ".git").exists() and shutil.which("git"):
        return subprocess.run(GIT, cwd=SHIPPED, capture_output=True, text=True, check=False).stdout.strip()
    noted = PACKAGE / "commit.txt"
    return noted.read_text(encoding="utf-8").strip() if noted.is_file() else ""


def describe_version() -> str:
    """Return version and commit, such as `fulcra 0.1.0 (commit 2f9d0c1e5a)`."""
    return f"fulcra {fulcra_utils.__version__} (commit {find_commit() or 'not known'})"
