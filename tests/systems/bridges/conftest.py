import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import make_finished_run

from fulcra_utils.common.paths import DATA, PACKAGE


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A folder with a finished run at runs/laptop, in which the recipe's four lines were run as they are written."""
    here = tmp_path_factory.mktemp("exported")
    make_finished_run(here / "runs" / "laptop")
    recipe = (DATA / "site" / "recipes" / "export.md").read_text(encoding="utf-8")
    block, = re.findall(r"```sh\n(.*?)```", recipe, re.DOTALL)
    assert len(block.splitlines()) <= 4
    places = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
              "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(["bash", "-e", "-c", block], cwd=here, env=os.environ | places, capture_output=True,
                          text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return here
