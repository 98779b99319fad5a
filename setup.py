"""Builds the wheel with what lies beside the package in a checkout; everything else stands in pyproject.toml."""

import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

SHIPPED = ("data", "notebooks", "profiles", "Snakefile")
COMMIT = Path("fulcra_utils", "commit.txt")  # in an archive or a wheel only: what `fulcra --version` tells


def find_commit():
    """Return the checkout's commit, or that of the archive built from; empty where git cannot tell."""
    if not Path(".git").exists():
        return COMMIT.read_text(encoding="utf-8") if COMMIT.is_file() else ""
    try:
        return subprocess.run(["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=10"], check=True,
                              capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


class BuildPy(build_py):
    """Copies the shipped files into the package; an editable install reads them where they lie."""

    def run(self):
        """Build the package, then put the shipped files into it."""
        super().run()
        for name in SHIPPED if not self.editable_mode else ():
            target = Path(self.build_lib, "fulcra_utils", name)
            if Path(name).is_dir():
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(name, target, ignore=shutil.ignore_patterns("cache", "__pycache__", ".*"))
            else:
                shutil.copyfile(name, target)
        if not self.editable_mode:
            Path(self.build_lib, COMMIT).write_text(find_commit(), encoding="utf-8")


class SDist(sdist):
    """Notes the commit in the source archive, which has no git."""

    def make_release_tree(self, base_dir, files):
        """Write the archive's files, and the commit among them."""
        super().make_release_tree(base_dir, files)
        Path(base_dir, COMMIT).write_text(find_commit(), encoding="utf-8")


setup(cmdclass={"build_py": BuildPy, "sdist": SDist})
