"""Where the project's files lie: the package, what is shipped with it, and the study that is worked on."""

from importlib.resources import files
from pathlib import Path

PACKAGE = Path(str(files("fulcra_utils")))
# data, notebooks, profiles and Snakefile lie in an installed package, and beside it in a checkout.
SHIPPED = PACKAGE if (PACKAGE / "data").is_dir() else PACKAGE.parent
DATA = SHIPPED / "data"


def find_root() -> Path:
    """Return the folder of the study: the current one or the one above with a Snakefile and profiles.

    Without such a folder it is the checkout, and of an installed package the current folder.
    """
    here = Path.cwd()
    own = (f for f in (here, here.parent) if (f / "Snakefile").is_file() and (f / "profiles").is_dir())
    return next(own, here if SHIPPED == PACKAGE else SHIPPED)


ROOT = find_root()
