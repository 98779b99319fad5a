"""A notebook of a few cells and its run, for tests of what runs notebooks."""

import nbformat

from fulcra_utils.common.paths import ROOT
from fulcra_utils.runs.pipeline import run_notebook

PARAMETERS = 'profile = "quick"\ntheory = "schwartz10"\nrun_dir = ""\nn = 1  # rows'


def make_notebook(folder, *cells, tag="parameters", first=PARAMETERS):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in (first, *cells)])
    book.cells[0].metadata["tags"] = [tag] if tag else []
    path = folder / "99_try.ipynb"
    nbformat.write(book, path)
    return path


def run_it(path, tmp_path, **parameters):
    return run_notebook(str(path), run_dir=tmp_path / "run", parameters=parameters, progress=False)


def run_cell(name, holds, **names):
    """Run the one code cell of a notebook of ours that holds these words, and return all names after it."""
    book = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    cell, = (cell for cell in book.cells if cell.cell_type == "code" and holds in cell.source)
    exec(compile(cell.source, name, "exec"), names)
    return names
