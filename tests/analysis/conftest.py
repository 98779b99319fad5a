"""Fixtures that the tests of the analyses share."""

import pytest
from value_rows import make_rows

from fulcra_utils.analysis.replies import make_replies


@pytest.fixture
def toy_replies(toy):
    return make_replies(make_rows(toy), toy, "scored")
