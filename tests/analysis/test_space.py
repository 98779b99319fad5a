"""The value space: categories become risks, projections hold the poles, planted risks are found and noise is not."""

import numpy as np
import pytest
from value_rows import make_rows

from fulcra_utils.analysis import space as exploration
from fulcra_utils.analysis.replies import make_replies
from fulcra_utils.analysis.space import load_risks, write_profile
from fulcra_utils.theory.theory import load_theory


def test_risks_follow_the_mapping():
    risks = load_risks()
    y = risks.indicators(np.array([[1, 1, 0], [0, 0, 1]]), ["animal_abuse", "child_abuse", "a new category"])
    assert y.sum(axis=1).tolist() == [1, 0]
    assert y[0].argmax() == list(risks.risks).index("illegal-activity")


def test_variants_start_with_the_declared_mapping():
    risks = load_risks()
    variants = list(risks.variants())
    assert variants[0] == risks.mapping
    assert len({tuple(v.items()) for v in variants}) == 2 ** len(risks.alternatives)


def test_unknown_risk_in_the_file_is_named(tmp_path):
    path = tmp_path / "risks.yaml"
    path.write_text("risks: {a: A}\ncategories:\n  x: {risk: b}\n")
    with pytest.raises(ValueError, match="category 'x' goes to a risk that is not listed"):
        load_risks(path)


def test_profiles_need_their_values(toy, any_theory):
    for name, vector in load_risks().profile_vectors(any_theory).items():
        parts = load_risks().profiles[name]
        assert {d: v for d, v in zip(any_theory.dimensions, vector, strict=True) if v} == parts


@pytest.mark.parametrize(("centre", "said"), [(0.5, "nothing expressed"), (-0.5, "nothing expressed"),
                                              (0.501, "care +"), (-0.501, "care −"), (np.nan, "nothing expressed")])
def test_profiles_in_words_follow_the_rule(centre, said):
    assert write_profile([centre], ["care"]) == said


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_projection_marks_the_poles(method):
    theory = load_theory("schwartz10")
    replies = make_replies(make_rows(theory, 20), theory, "scored")
    table = exploration.project_replies(replies, load_risks(), (method,), max_points=30).table
    assert (table.pole == "").sum() == 30
    assert set(table.pole) - {""} == set(load_risks().profiles)
    assert np.isfinite(table[["x", "y"]]).all(axis=None)
    again = exploration.project_replies(replies, load_risks(), (method,), max_points=30).table
    assert np.allclose(table[["x", "y"]], again[["x", "y"]])


def test_unknown_projection_is_refused(toy_replies):
    with pytest.raises(ValueError, match="'pca', 'tsne' or 'umap'"):
        exploration.project_replies(toy_replies, load_risks(), ("isomap",))


def test_planted_risk_is_found_and_explained_ones_are_not():
    theory = load_theory("schwartz10")
    table = make_rows(theory)
    rng = np.random.default_rng(3)
    names = list(theory.dimensions)
    table[names] = rng.choice([0.0, 1.0], p=[0.7, 0.3], size=(len(table), len(names)))
    new = table.index[table.response_source == "a"][:30]      # one reply each to 30 prompts of all categories
    known = table.index[table.safety_issues.map(lambda v: v == ["privacy_violation"])]
    table.loc[new, names] = [0.0] * len(names)
    table.loc[new, ["achievement", "self-direction", "security"]] = [1.0, -1.0, -1.0]
    table.loc[known, names] = [-1.0 if d == "benevolence" else 0.0 for d in names]
    found = exploration.find_unknown_risks(make_replies(table, theory, "scored"), load_risks(), 12, 10, 39).table
    candidates = found[found.is_candidate]
    assert candidates.profile.tolist() == ["self-direction −, achievement +, security −"]
    explained = found[found.profile == "benevolence −"].iloc[0]
    assert explained.category == "privacy_violation"
    assert not explained.is_candidate


def test_noise_gives_no_unknown_risk(toy_replies):
    assert not exploration.find_unknown_risks(toy_replies, load_risks(), 8, 10, 39).table.is_candidate.any()


def test_profiles_are_counted_and_few_are_undetermined():
    theory = load_theory("schwartz10")
    table = make_rows(theory).assign(**dict.fromkeys(theory.dimensions, 0.0))
    table.loc[:1, ["achievement", "self-direction", "security"]] = [1.0, -1.0, -1.0]
    found = exploration.search_profiles(make_replies(table, theory, "scored"), load_risks()).table.set_index("profile")
    assert found.matches["workplace manipulation"] == 2
    assert found.verdict["workplace manipulation"] == "undetermined"
    assert found.row_ids["workplace manipulation"] == "r0 r1"


def test_planted_cases_of_the_sample_are_found():
    """The sample plants safety opposites and the published "workplace manipulation" profile."""
    from fulcra_utils.dataset.construction import build_run_data
    theory, risks = load_theory("schwartz10"), load_risks()
    sample = make_replies(build_run_data(theory).dialogues, theory, "sample")
    assert set(exploration.search_profiles(sample, risks).table.verdict) == {"found"}
    found = exploration.find_unknown_risks(sample, risks, 20, 15, 39, seed=2023).table
    candidates = found[found.is_candidate]
    assert "self-direction −, achievement +, security −" in candidates.profile.tolist()
    assert len(candidates) <= 3
