"""Contrast pairs of data/contrasts: what they hold, and that no cue gives the stance away."""

import re

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fulcra_utils.common.paths import DATA
from fulcra_utils.common.yaml_files import read_yaml
from fulcra_utils.dataset.contrasts import read_contrasts, read_readings
from fulcra_utils.dataset.texts import is_refusal
from fulcra_utils.theory.theory import load_theory

NEGATION = re.compile(r"\b(?:not|no|never|none|nobody|nothing|neither|nor|without|cannot)\b|n't\b", re.IGNORECASE)


STANCES = {"served": 1, "trampled": -1, "unrelated": 0}
LISTS = ("pairs", "hard", "more", "more_hard")


@pytest.fixture(scope="module")
def table():
    """One row per reply: value, definition, prompt, response, stance; the files read strictly."""
    rows = []
    for path in sorted((DATA / "contrasts").glob("*.yaml")):
        file, _, twice = read_yaml(path)
        assert set(file) == {"value", "definition", *LISTS} and path.stem == file["value"] and not twice
        for kind, pair in [(name, pair) for name in LISTS for pair in file[name]]:
            assert {"prompt", "served", "trampled"} <= set(pair) <= {"prompt", *STANCES}
            rows += [(file["value"], file["definition"], pair["prompt"], pair[key], stance, "hard" in kind)
                     for key, stance in STANCES.items() if key in pair]
    return pd.DataFrame(rows, columns=["value", "definition", "prompt", "response", "stance", "is_hard"])


@pytest.fixture(scope="module")
def stances(table):
    return table[table.stance != 0].reset_index(drop=True)


def test_every_value_of_the_ten_and_the_five_has_its_pairs(table):
    values = {*load_theory("schwartz10").dimensions, *load_theory("moral_foundations").dimensions}
    assert set(table.value) == values and (table[table.stance == 1].value.value_counts() >= 32).all()
    assert (table[(table.stance == 1) & table.is_hard].value.value_counts().reindex(list(values)) >= 45).all()
    definitions = table.drop_duplicates("value").set_index("value").definition
    assert all(definitions[name] == said for theory in map(load_theory, ("schwartz10", "moral_foundations"))
               for name, said in zip(theory.dimensions, theory.definitions, strict=True))


def test_every_text_stands_once_and_a_third_of_the_pairs_has_an_unrelated_reply(table):
    assert (table.groupby("prompt").value.nunique() == 1).all() and table.response.is_unique
    assert table.groupby("prompt").stance.agg(lambda s: {1, -1} <= set(s)).all()
    assert (table.stance == 0).sum() / (table.stance == 1).sum() == pytest.approx(1 / 3, abs=0.03)


def test_the_serving_reply_carries_the_negation_as_often_as_the_other(stances):
    has = stances.response.str.contains(NEGATION)
    assert abs(has[stances.stance == 1].mean() - has[stances.stance == -1].mean()) < 0.05


def guess(model, features, stances):
    """Accuracy of a classifier on prompts that it has not seen."""
    folds = GroupKFold(10).split(stances, groups=stances.prompt)
    return (cross_val_predict(model, features, stances.stance, cv=folds) == stances.stance).mean()


def test_negation_length_and_refusal_do_not_tell_the_stance(stances):
    cues = np.stack([stances.response.str.count(NEGATION), stances.response.str.len(),
                     stances.response.str.split().str.len(), is_refusal(stances.response)], axis=1).astype(float)
    assert guess(make_pipeline(StandardScaler(), LogisticRegression()), cues, stances) < 0.58


@pytest.mark.parametrize("settings", [{"ngram_range": (1, 2)}, {"analyzer": "char_wb", "ngram_range": (2, 5)}])
def test_words_do_not_tell_the_stance(stances, settings):
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True, **settings), LogisticRegression(C=10, max_iter=1000))
    assert guess(model, stances.response, stances) < 0.65


def test_tone_is_a_cue_within_hard_pairs_alone_and_none_learned_from_plain_ones(stances):
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    model = make_pipeline(words, LogisticRegression(C=10, max_iter=1000))
    plain, hard = (stances[stances.is_hard == kind].reset_index(drop=True) for kind in (False, True))
    assert guess(model, hard.response, hard) < 0.71     # too much: a limit to be lowered as pairs are reworded
    assert (model.fit(plain.response, plain.stance).predict(hard.response) == hard.stance).mean() < 0.58


def test_the_test_pairs_were_read_twice_and_an_edited_one_loses_its_reading():
    pairs = read_contrasts().query("split == 'test'")
    readings = read_readings(pairs)
    assert set(readings.pair) == set(pairs.pair) and readings[["first", "second"]].isin([-1, 0, 1]).all(axis=None)
    edited = pairs.assign(response=pairs.response.where(pairs.pair != pairs.pair.iloc[0], pairs.response + "!"))
    assert set(pairs.pair) - set(read_readings(edited).pair) == {pairs.pair.iloc[0]}


def test_later_pairs_teach_move_no_other_and_are_left_out_where_they_are_like_one_that_is_asked(tmp_path):
    known = read_contrasts()
    asked = known[known.split == "test"].prompt.iloc[0]
    def write(more):
        pairs = [{"prompt": asked, "served": "Help him.", "trampled": "Leave him."}]
        (tmp_path / "care.yaml").write_text(yaml.safe_dump({"value": "care", "definition": "d", "pairs": pairs} | more))
        return read_contrasts(tmp_path)

    before = write({})
    prompts = [asked.rstrip(".") + "!", *(f"A quite different matter, {letter}" for letter in "abcdefgh")]
    more = [{"prompt": prompt, "served": f"Help her {k}.", "trampled": f"Leave her {k}."}
            for k, prompt in enumerate(prompts)]
    table = write({"more": more[:5], "more_hard": more[5:]})
    assert table.iloc[:len(before)].equals(before) and set(before.split) == {"test"}
    later = table.iloc[len(before):]
    assert set(later.split) == {"train"} and more[0]["prompt"] not in set(later.prompt)
    assert later.is_hard.sum() == 2 * len(more[5:])
