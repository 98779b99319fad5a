"""Builds the wheel with what lies beside the package in a checkout; everything else stands in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("data", "notebooks", "profiles", "Snakefile")


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


setup(cmdclass={"build_py": BuildPy})
