"""A notebook of a few cells and its run, for tests of what runs notebooks."""

import nbformat

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
