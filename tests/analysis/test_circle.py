"""The circle, reliability and clarity: what was planted is found, shares are counted by hand."""

import json

import numpy as np
import pandas as pd
import pytest
from value_rows import make_items, make_rows

from fulcra_utils.analysis.circle import (
    check_items,
    examine_circle,
    examine_reliability,
    measure_adaptability,
    measure_clarity,
)
from fulcra_utils.analysis.replies import make_replies
from fulcra_utils.dataset.construction import build_run_data
from fulcra_utils.theory.theory import load_theory


def test_circle_of_planted_circle():
    theory = load_theory("schwartz10")
    table = make_rows(theory)
    rng = np.random.default_rng(0)
    angle = 2 * np.pi * np.array([theory.circle.index(d) for d in theory.dimensions]) / theory.n_dims
    x = rng.normal(size=(len(table), 2)) @ [np.cos(angle), np.sin(angle)] + 0.3 * rng.normal(size=(len(table), 10))
    found = examine_circle(make_replies(table.assign(**dict(zip(theory.dimensions, x.T, strict=True))),
                                                    theory, "scored"), 1, 99)
    assert found.table.iloc[0].inversions == 0
    assert found.table.iloc[0].fit_p == 0.01
    assert len(found.extra["places"]) == 10


def test_theory_without_circle_says_so(toy_replies):
    assert toy_replies.theory.circle is None and "has none" in examine_circle(toy_replies).reading


def test_clarity_by_hand(toy):
    table = make_rows(toy, 2).assign(**dict.fromkeys(toy.dimensions, 0.0))
    table[toy.dimensions[0]] = [0.9, 0.6, 0.3, 0.1, -0.5, -0.95]
    found = measure_clarity(make_replies(table, toy, "scored")).table.iloc[0]
    assert (found.n, found.ambiguous) == (5, 3)


def test_rule_holds_where_it_was_put_in(toy_replies):
    items = make_items(toy_replies)
    table = check_items(items, toy_replies).table
    assert (table.share == 1).all()
    first = list(toy_replies.theory.items)[0]
    n, wrong = int((items[first] != 0).sum()), int((items[first] == 1).sum())
    found = check_items(items.assign(**{first: items[first].replace(1, 0)}), toy_replies).table.iloc[0]
    assert (found.n, found.agree) == (n, n - wrong)


def test_rule_that_made_the_labels_is_not_checked_on_them():
    theory = load_theory("schwartz19")
    replies = make_replies(make_rows(theory), theory, "annotated")
    found = check_items(make_items(replies), replies)
    assert found.is_left_out and "were made by it" in found.reading


def test_replies_whose_labels_the_rule_made_do_not_speak_for_it(toy, toy_replies, tmp_path):
    items, first = make_items(toy_replies), list(toy.items)[0]
    items = items.assign(is_summed=np.arange(len(items)) % 3 > 0, **{first: -items[first]})
    found = check_items(items, toy_replies)
    assert found.table.agree[0] == 0 and found.table.n[0] == (items[first][::3] != 0).sum()
    assert f"{len(items) - len(items[::3])} replies with items alone" in found.reading
    assert "made by it" in check_items(items.assign(is_summed=True), toy_replies).reading
    rows = [{"value_items": [f"{first}: +1"]}, {"value_items": [f"{first}: +1"], "value_types": [
        f"{toy.dimensions[0]}: -1"]}, {}]
    (tmp_path / "mine.yaml").write_text(toy.path.read_text())
    theory = load_theory(tmp_path / "mine.yaml")
    theory.labels_path.write_text("\n".join(json.dumps({"prompt": f"{k}?", "response": "So."} | row)
                                            for k, row in enumerate(rows)))
    data = build_run_data(theory)
    assert data.items.is_summed.tolist() == [True, False, False]
    assert check_items(data.items, make_replies(data.dialogues, theory, "annotated")).table[["n", "agree"]].iloc[
        0].tolist() == [1, 0]


def test_adaptability_carries_shared_items():
    ten, nineteen = load_theory("schwartz10"), load_theory("schwartz19")
    replies = make_replies(make_rows(ten), ten, "sample")
    theories = {t.name: t for t in (ten, nineteen, load_theory("moral_foundations"))}
    table = measure_adaptability(make_items(replies), replies, theories).table.set_index("theory")
    assert table.shared_items.to_dict() == {"schwartz10": 1, "schwartz19": 1, "moral_foundations": 0}
    assert table.preference["schwartz10"] > 0.7
    assert "labels of its own" in table.remark["moral_foundations"]


def test_reliability_of_two_items_by_hand(toy, toy_replies):
    """Two items that agree in 16 of 20 replies correlate by 0.6: Spearman-Brown gives 1.2 / 1.6."""
    pair, alone = (np.flatnonzero(toy.item_dims == d) for d in (0, 1))
    labels = np.zeros((len(toy_replies), toy.n_items))
    sign = np.tile([1, -1], len(labels) // 2)
    labels[:, pair[0]] = labels[:, alone[0]] = sign
    labels[:, pair[1]] = np.where(np.arange(len(labels)) % 20 < 4, -sign, sign)
    items = pd.DataFrame(labels, columns=list(toy.items)).assign(row_id=toy_replies.table.row_id)
    table = examine_reliability(items, toy_replies, n_draws=50).table
    assert table.reliability[0] == pytest.approx(0.75)
    assert table.low[0] < 0.75 < table.high[0]
    assert table.why[1] == "1 item(s) vary; needed are 2 items and 50 rows"
