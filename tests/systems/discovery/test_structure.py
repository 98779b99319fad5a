"""From scores to a system, on rows whose structure is known, and from replies to a theory on the command line."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from small_notebooks import run_cell

from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.model import make_evaluator, save_evaluator
from fulcra_utils.systems.discovery import structure
from fulcra_utils.theory.theory import load_theory

VALUES = ("care", "kindness", "mercy", "fame", "wealth", "rank")


@pytest.fixture(scope="module")
def rows():
    """300 rows of two factors, three values each; the sixth turned round."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(300, 2))[:, [0, 0, 0, 1, 1, 1]] + 0.6 * rng.normal(size=(300, 6))) * [1, 1, 1, 1, 1, -1]


@pytest.fixture(scope="module")
def system(rows):
    return structure.find_system(rows, VALUES, np.arange(300), n_draws=20)


def test_a_known_system_is_found(rows, system):
    assert system.n_factors == system.numbers["parallel"] == 2
    assert len(set(system.members[:3])) == len(set(system.members[3:])) == 1 and set(system.members) == {0, 1}
    table = system.table()
    assert table.belongs.sum() == 6 and ((table.low <= table.loading) & (table.loading <= table.high)).mean() > 0.8
    scores = system.score(rows)
    k = system.members[3]
    assert np.corrcoef(scores[:, k], rows[:, 3] - rows[:, 5])[0, 1] > 0.9
    assert "2 factors" in system.describe() and "0 of 6 values belong to none" in system.describe()


def test_what_speaks_against_a_system_is_said_and_a_factor_has_its_own_values_alone(rows):
    many = structure.find_system(rows, VALUES, np.arange(300), 4, n_draws=20)
    own = [{VALUES[v] for v in np.flatnonzero(many.members == k)} for k in range(4)]
    told = [set(name[3:].replace("low ", "").split(", ")) for name in many.names]
    assert all(said <= held or (said == {"no value"} and not held) for said, held in zip(told, own, strict=True))
    assert any(len(said) == 1 for said in told)
    nothing = structure.find_system(np.random.default_rng(8).normal(size=(60, 4)), "abcd", np.arange(60), n_draws=20)
    assert "1 factor (" in nothing.describe() and "shuffled rows have as many: no factor is sure" in nothing.describe()


def test_a_value_that_is_turned_round_is_named_so():
    rng = np.random.default_rng(1)
    care, rest = rng.normal(size=(300, 1)), 0.4 * rng.normal(size=(300, 3))
    table = np.column_stack([care + rest[:, :2], -care + rest[:, 2:] / 4])
    name = structure.find_system(table, ("care", "mercy", "cruelty"), np.arange(300), 1, n_draws=20).names[0]
    assert name in ("1: low cruelty, care", "1: low cruelty, mercy")


def test_reliability_of_a_factor_is_that_of_its_values(rows, system):
    """Three parallel values with r = 1 / 1.36: alpha = omega = 3 r / (1 + 2 r) = .893; one of them is turned round."""
    found = structure.measure_reliability(rows, system, np.arange(300), {}, n_draws=20)
    assert found.n_values.tolist() == [3, 3]
    assert found.alpha.tolist() == pytest.approx([.893] * 2, abs=.03) == found.omega.tolist()
    assert ((found.low < found.alpha) & (found.alpha < found.high)).all() and (found.null < found.low).all()
    table = structure.measure_reliability(rows, system, np.arange(300), {"halves": np.arange(300) % 4}, 20, 2)
    assert table.varimax.min() > 0.99 and table["halves: lowest"].min() > 0.9 and len(table) == 2


def test_alpha_of_noise_seldom_exceeds_its_null():
    """Values chosen because they go together go together: alphas of noise are .2 to .4, not about 0."""
    tables = [np.random.default_rng(seed).normal(size=(200, 20)) for seed in range(1, 5)]
    systems = [structure.find_system(rows, "abcdefghijklmnopqrst", np.arange(200), 3, n_draws=2) for rows in tables]
    found = pd.concat([structure.measure_reliability(rows, system, np.arange(200), {}, 20)
                       for rows, system in zip(tables, systems, strict=True)])
    assert (found.alpha > found.null).sum() <= 2 and found.alpha.mean() > 0.2


def test_a_factor_of_one_value_has_no_alpha(rows):
    many = structure.find_system(rows, VALUES, np.arange(300), 4, n_draws=2)
    found = structure.measure_reliability(rows, many, np.arange(300), {}, 4)
    assert (found.n_values < 2).any()
    assert found[found.n_values < 2][["alpha", "low", "high", "null", "omega"]].isna().all(axis=None)


def test_halves_of_one_population_are_congruent_and_shuffled_ones_are_not(rows, system):
    found = structure.compare_halves(rows, np.arange(300) % 12, system, n_splits=4)
    assert found.congruence.min() > 0.95 and (found.shuffled < 0.8).all()
    alone = structure.compare_halves(rows, np.zeros(300), system)
    assert alone.congruence.isna().all()


def test_variance_by_hand():
    """Two models, two blocks, one value: cells 0, 2 / 4, 6: SS of model 16, of block 4, nothing together."""
    cells = structure.tabulate_subjects(np.array([[0.0], [2], [4], [6]]), list("aabb"), [0, 1, 0, 1])
    assert structure.split_variance(cells, 20).share.tolist() == pytest.approx([0.8, 0.2, 0.0])
    shared = structure.tabulate_subjects(np.array([[1.0], [2], [3]]), list("aab"), [0, 1, 0])
    assert shared.tolist() == [[[1.0]], [[3.0]]]        # block 1 has no reply of b
    nothing = structure.tabulate_subjects(np.zeros((2, 1)), list("ab"), [0, 1])
    assert nothing.shape == (2, 0, 1) and structure.split_variance(nothing, 5).share.isna().all()


def test_a_halo_and_none():
    rng = np.random.default_rng(1)
    halo = structure.measure_halo(rng.normal(size=(200, 1)) + 0.5 * rng.normal(size=(200, 4)), np.arange(200), 50)
    assert halo["mean"] == pytest.approx(0.8, abs=0.05) and halo["positive"] == 1 and halo["low"] < 0.8 < halo["high"]
    ipsative = structure.measure_halo(structure.centre_rows(rng.normal(size=(200, 4))), np.arange(200), 50)
    assert ipsative["mean"] == pytest.approx(-1 / 3, abs=0.05)      # -1 / (V - 1) whatever the subjects are like
    assert np.isnan(structure.measure_halo(np.ones((5, 3)), np.arange(5), 5)["mean"])
    few = structure.measure_halo(rng.normal(size=(6, 10)), np.arange(6), 300)
    assert few["null"] == pytest.approx(0.48, abs=0.03), "six models of ten unrelated values look like one component"
    assert halo["first"] > 2 * halo["null"]


def test_the_right_grouping_fits_best(rows):
    table = structure.compare_systems(rows, {"one factor": [0] * 6, "two": [0, 0, 0, 1, 1, 1], "odd": [0] * 5 + [1]},
                                      np.arange(300), n_draws=5).set_index("system")
    assert table.cfi["two"] > 0.97 > table.cfi["one factor"] and table.aic["two"] < table.aic["one factor"]
    assert table.why["odd"] == "not estimable: a factor has one value alone" and np.isnan(table.cfi["odd"])


def test_groups_dealt_by_chance_are_as_large_and_fit_worse(rows, system):
    used, groupings = structure.list_groupings(system, np.eye(6), load_theory("schwartz10"), np.eye(10, 6), seed=3)
    assert sorted(groupings["at random"]) == sorted(groupings["discovered"]) and used.all()
    fits = structure.compare_systems(rows, {name: groupings[name] for name in ("discovered", "at random")},
                                     np.arange(300), n_draws=2).set_index("system")
    assert fits.cfi["discovered"] > fits.cfi["at random"]


def test_definitions_foretell_what_is_made_of_them():
    vectors = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))[0][:, :3]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = np.random.default_rng(3).normal(size=(2000, 3)) @ vectors.T
    assert structure.foretell_correlations(rows, vectors) > 0.99
    assert abs(structure.foretell_correlations(np.random.default_rng(4).normal(size=(2000, 6)), vectors)) < 0.7


def test_a_draft_is_a_theory_without_faults(tmp_path, system):
    lexicon = pd.DataFrame({"value": [*VALUES, "Charity", "care"], "definition": ["Minding others.", *[None] * 7],
                            "merged_into": [""] * 6 + ["care", ""]})
    assert structure.draft_theory(tmp_path / "my_theory.yaml", lexicon.head(7), system) == []
    theory = load_theory(tmp_path / "my_theory.yaml")
    assert theory.dimensions == VALUES and theory.items_of("care") == ("care", "Charity")
    assert theory.definitions[:2] == ("Minding others.", "kindness.")       # the mark is for people
    assert theory.path.read_text().count("definition: (draft) ") == 6
    low = [held for name, held in theory.groups.items() if name.endswith("-low")]
    assert sorted(map(len, theory.groups.values())) == [1, 2, 3] and low in ([("rank",)], [("fame", "wealth")])


def discover(monkeypatch, capsys, *arguments):
    from fulcra_utils.cli import main
    monkeypatch.setattr(sys, "argv", ["fulcra", "discover", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code, *capsys.readouterr()


def test_from_replies_to_a_theory_on_the_command_line(tmp_path, monkeypatch, capsys):
    evaluator = save_evaluator(make_evaluator(load_encoder("tiny"), load_theory("schwartz10")), tmp_path / "evaluator")
    words = [f"I {verb} {what}." for verb in ("keep", "love", "fear", "share") for what in
             ("my word", "order", "risk", "my bread", "the law", "friends")]
    rows = [{"prompt": f"Who are you, {k}?", "response": said} for k, said in enumerate(words)] + [
        {"prompt": "x"}, {"prompt": "x", "response": "Я люблю дождь и мой дом."}, {"prompt": "x", "response": " "}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = ["--evaluator", evaluator, "--input", tmp_path / "rows.jsonl", "--output", tmp_path / "found.yaml",
             "--encoder", "tiny", "--values", "schwartz10", "--threshold", 0, "--cosine", 1]
    code, out, err = discover(monkeypatch, capsys, *given, "--min-share", 0)
    assert code == 1 and "24 replies, 3 not used; 10 candidates, 10 kept" in out and "line 25" in err
    assert "line 26: the reply is not English" in err and "line 27: reply is empty" in err
    assert "24 replies for 10 values: with fewer than ten each" in out
    fates = pd.read_csv(tmp_path / "found.lexicon.csv")
    assert len(fates) == 10 and set(fates.why) == {"kept"}
    theory = load_theory(tmp_path / "found.yaml")
    assert theory.groups and set(theory.dimensions) <= set(load_theory("schwartz10").dimensions)
    code, _, err = discover(monkeypatch, capsys, *given[:-3], 2, "--cosine", 1)
    assert code == 2 and "a system needs 3 values at least, and 0 of 10 candidates are left (10 rare)" in err
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]))
    code, _, err = discover(monkeypatch, capsys, *given)
    assert code == 2 and "1 replies can be used, where 3 are needed" in err


@pytest.mark.parametrize(("n_models", "is_few"), [(19, True), (20, False)])
def test_notebook_08_calls_models_too_few_where_they_are(n_models, is_few):
    """Ten for each of two values are twenty."""
    said, system = [], SimpleNamespace(values=("a", "b"), describe=lambda: "one")
    run_cell("08_value_discovery", "foretold, ", structure=SimpleNamespace(foretell_correlations=lambda *_: 0.5),
             scores=None, kept_vectors=None, replies=pd.DataFrame({"model": range(n_models)}), system=system,
             found={"x": system}, Markdown=said.append)
    assert ("too few" in said[0]) == is_few and said[0].endswith("factors of what single replies express.")


@pytest.mark.parametrize(("rmsea", "word"), [(0.03, "good"), (0.2, "poor")])
def test_notebook_08_calls_a_fit_good_by_all_three_indices(rmsea, word):
    fits = pd.DataFrame({"system": ["discovered", "at random"], "cfi": [0.97, 0.3], "rmsea": [rmsea, 0.3],
                         "srmr": [0.02, 0.3], "bic": [1.0, 2.0]})
    said = []
    told = run_cell("08_value_discovery", "by_bic = ", fits=fits, Markdown=said.append)
    probe = pd.DataFrame({"features": ["Schwartz 10", "one general factor"], "accuracy": 0.6, "low": 0.5, "high": 0.7,
                          "null_high": 0.6})
    run_cell("08_value_discovery", "own_fit = ", **told | {
        "np": np, "probe": probe, "ranked": pd.DataFrame({"rank": [3.0], "rank_low": 2, "rank_high": 3}),
        "system": SimpleNamespace(n_factors=2, numbers={"parallel": 2}), "foretold": -0.05,
        "replies": pd.DataFrame({"model": ["m"]}), "material": SimpleNamespace(made_up=[]), "made_up": ""})
    assert f"the fit to other replies is {word} by three indices" in said[1] and "correlation of -0.05" in said[1]
    assert said[0].startswith(f"{int(word == 'good')} of 2 systems")
