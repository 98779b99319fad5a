"""The circle of a theory holds each of its values once, and names them."""

import pytest

from fulcra_utils.plots.theory import plot_wheel
from fulcra_utils.theory.theory import list_theories, load_theory


@pytest.mark.parametrize("name", [name for name in list_theories() if load_theory(name).circle])
def test_the_wheel_names_each_value_once_without_overlap(name):
    theory = load_theory(name)
    figure = plot_wheel(theory)
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.axes[0].texts] == list(theory.circle)
    assert [text.get_text() for text in figure.axes[0].get_legend().texts] == list(theory.groups)
