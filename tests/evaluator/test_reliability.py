"""What a score is worth: shares found again in made rows, each bad input one line, the command and its exit codes."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import nbformat
import numpy as np
import pandas as pd
import pytest
from scored_files import CountingEvaluator

from fulcra_utils import cli
from fulcra_utils.common.paths import DATA, ROOT
from fulcra_utils.dataset.contrasts import read_contrasts
from fulcra_utils.evaluator.reliability import (
    MANY,
    WORDS,
    add_to_card,
    assess_file,
    assess_reliability,
    compare_pairs,
    compare_raters,
    compare_writers,
    describe_noise,
    describe_reliability,
    fit_theory,
    group_theory,
    lay_out,
    list_paraphrases,
    list_sources,
    plan_study,
    read_facets,
    read_scored,
)
from fulcra_utils.evaluator.scoring import FOREIGN, ScoringError
from fulcra_utils.stats.resampling import mean_interval
from fulcra_utils.theory.theory import load_theory

VALUES = ("care", "fairness")


def make_table(n_models=2, n_prompts=12, n_wordings=2, n_draws=2):
    """Return the facets of a full design, a row a reply."""
    names = ["model", "prompt", "paraphrase", "draw"]
    table = pd.DataFrame(np.indices((n_models, n_prompts, n_wordings, n_draws)).reshape(4, -1).T, columns=names)
    return table.assign(model="m" + table.model.astype(str))


def make_scores(table, gap=0.4, noise=0.2, seed=0, n_values=2):
    """Return scores with an effect of the prompt, noise, and a gap between the models in the first value."""
    rng = np.random.default_rng(seed)
    effect = rng.normal(size=(table.prompt.max() + 1, n_values)) * 0.3
    scores = effect[table.prompt] + noise * rng.normal(size=(len(table), n_values))
    scores[:, 0] += gap * (table.model == "m1")
    return scores


def write_scored(path, table, scores, values=VALUES, **more):
    rows = [{"prompt": f"prompt {r.prompt}, wording {getattr(r, 'paraphrase', 0)}", "prompt_id": int(r.prompt),
             "response": "word " * (1 + k % 7), "value_vector": None if np.isnan(s).all() else
             {v: None if np.isnan(x) else float(x) for v, x in zip(values, s, strict=True)}, **more,
             **{name: getattr(r, name) for name in ("model", "paraphrase", "draw") if name in table}}
            for k, (r, s) in enumerate(zip(table.itertuples(), scores, strict=True))]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_sources_that_can_be_told_apart():
    table = make_table()
    levels, notes = list_sources(table)
    assert list(levels) == ["model", "prompt", "model × prompt", "paraphrase", "model × paraphrase", "draw"]
    assert [level.max() + 1 for level in levels.values()] == [2, 12, 24, 24, 48, 96] and not notes
    one, notes = list_sources(table[(table.draw == 0) & (table.paraphrase == 0)].drop(columns=["paraphrase", "draw"]))
    assert list(one) == ["model", "prompt", "rest"] and notes == ["rest holds model × prompt and chance"]
    own = table[table.draw == 0].assign(prompt=lambda t: t.prompt + 100 * (t.model == "m1"))   # prompts of their own
    assert "model × prompt cannot be told from prompt" in list_sources(own)[1]
    both, notes = list_sources(pd.concat([table.assign(seed=k) for k in range(2)], ignore_index=True))
    assert [*both][-2:] == ["draw", "rest"] and "model × seed" in both
    assert notes == ["rest is how seeds differ on single replies"]


def test_one_repeated_reply_makes_no_source():
    table = make_table(n_wordings=1, n_draws=1)
    again = pd.concat([table, table.head(1).assign(draw=1)], ignore_index=True)
    levels, notes = list_sources(again.drop(columns="paraphrase"))
    assert list(levels) == ["model", "prompt", "rest"] and "rest holds model × prompt, draw and chance" in notes


def test_a_model_that_answered_few_prompts_is_not_worth_many():
    rng = np.random.default_rng(2)
    prompts = rng.normal(size=100)
    found = []
    for n in (8, 100):
        table = pd.DataFrame({"model": ["a"] * 100 + ["b"] * n, "prompt": [*range(100), *range(n)]})
        scores = 0.7 * (table.model == "b") + prompts[table.prompt] + rng.normal(size=100 + n)
        found.append(assess_reliability(table, scores.to_numpy()[:, None], ["v"], n_draws=5).values.generalisability[0])
    assert found[0] < 0.7 < 0.9 < found[1]      # divided by all prompts, the first would be .9, too


def test_pairs_are_corrected_together():
    table = make_table(n_models=8, n_prompts=30, n_wordings=1, n_draws=1)
    scores = [np.random.default_rng(k).normal(size=(len(table), len(VALUES))) for k in range(6)]
    found = [assess_reliability(table, one, VALUES, n_draws=5) for one in scores]
    assert sum(one.pairs.clear_holm.any() for one in found) <= 1     # of 28 pairs each, none differs


def test_shares_follow_what_was_put_in():
    table = make_table(n_prompts=60)
    found = assess_reliability(table, make_scores(table), VALUES, n_draws=100)
    shares = found.sources.set_index(["value", "source"]).share
    np.testing.assert_allclose(shares.groupby("value").sum(), 1)
    # care: model .08, prompt about .09, draw .04; fairness: prompt .09, draw .04
    assert shares["care", "model"] == pytest.approx(0.08 / 0.21, abs=0.08) and shares["fairness", "model"] < 0.02
    assert shares["fairness", "draw"] == pytest.approx(0.04 / 0.13, abs=0.1)
    worth = found.values.set_index("value")
    assert worth.same_paraphrase["fairness"] == pytest.approx(1 - shares["fairness", "draw"])
    assert worth.generalisability["care"] > 0.95 and (worth.sd / 0.2 / np.sqrt(2)).between(0.85, 1.25).all()
    assert found.counts == {"rows": 480, "unusable": 0, "models": 2, "prompts": 60, "paraphrases": 2, "draws": 2}
    assert not found.is_noise and found.pairs.clear_holm.tolist() == [True, False]


def test_pairs_are_t_intervals_over_prompts():
    table, scores = make_table(), make_scores(make_table())
    found, _ = compare_pairs(table, scores, VALUES)
    wide = table.assign(score=scores[:, 0]).groupby(["prompt", "model"]).score.mean().unstack()
    mean, low, high = mean_interval(wide.m1 - wide.m0)
    np.testing.assert_allclose(found.loc[0, ["difference", "low", "high"]].astype(float), [mean, low, high])
    longer = table.assign(is_refusal=0, words=np.where(table.model == "m1", 20 + table.prompt, 10))
    told = 0.2 * np.log1p(longer.words.to_numpy())[:, None] + 0.01 * scores
    alike = compare_pairs(longer, told, VALUES)[0]
    assert (alike.difference > 0.1).all() and (alike.alike.abs() < 0.03).all()     # length was all
    lone = table.assign(prompt=table.prompt + 100 * (table.model == "m1"))
    assert compare_pairs(lone, scores, VALUES)[1] == ["m0 and m1 answered no prompt both"]
    alone = assess_reliability(lone, scores, VALUES, n_draws=5)
    assert alone.values[["sd", "generalisability"]].isna().all(axis=None) and alone.plan["shown by 40"].isna().all()


def test_models_are_paired_by_wording_and_seed():
    """m0 was asked in words that raise every score by .4, too: of the words both have, the models differ by 0."""
    for facet in ("paraphrase", "seed"):
        table = pd.DataFrame([(m, p, w) for p in range(20) for m, w in (("m0", 0), ("m0", 1), ("m1", 0))],
                             columns=["model", "prompt", facet]).assign(is_refusal=0)
        table["words"] = 10 + table.prompt % 3 + 30 * table[facet]
        scores = np.array([[0.01 * p + 0.4 * w] for _, p, w in table[["model", "prompt", facet]].to_numpy()])
        pairs, notes = compare_pairs(table, scores, ["care"])
        told = pairs.iloc[0][["n", "first", "second", "difference", "low", "high"]].astype(float).tolist()
        assert told == pytest.approx([20, 0.095, 0.095, 0, 0, 0]) and not notes      # .095: mean of 0, .01, … .19
        found = assess_reliability(table, scores, ["care"], n_draws=5)
        assert found.is_noise and (facet == "seed") == (not any("20 rows are to wordings" in n for n in found.notes))
        gap = scores.copy()
        gap[0] = np.nan      # m0 has no score of the shared words in prompt 0: the other words are no stand-in
        assert compare_pairs(table, gap, ["care"])[0][["n", "difference"]].to_numpy().tolist() == [[19, 0]]
        apart, notes = compare_pairs(table[table[facet] == (table.model == "m0")].reset_index(drop=True),
                                     scores[(table[facet] == (table.model == "m0")).to_numpy()], ["care"])
        assert apart.empty and notes == [
            "m0 and m1 share prompts, but never in the same words and for the same seed"]


def test_plan_is_read_both_ways():
    plan = plan_study(pd.DataFrame({"value": ["care"], "sd": [0.5]})).iloc[0]
    assert plan["prompts for 0.1"] == 199       # (2.8016 * .5 / .1)² + 1.92, rounded up
    assert plan["shown by 100"] == pytest.approx(0.5 * (1.984 + 0.845) / 10, abs=1e-3)


BAD = {"one model": (lambda t: t[t.model == "m0"], "one model only"),
       "one draw": (lambda t: t[t.draw == 0], "one draw only"),
       "no draw column": (lambda t: t.drop(columns="draw"), "rows alike in all else count as draws"),
       "no model column": (lambda t: t.drop(columns="model"), "model: no column"),
       "no scores at first, then some": (lambda t: pd.concat([t, t.head(2)]), "2 rows without scores"),
       "twice the same": (lambda t: pd.concat([t, t.head(3)]), "3 rows that repeat the facets"),
       "a facet missing": (lambda t: t.assign(model=t.model.where(t.index > 1)), "2 rows that lack a facet")}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_a_gap_and_a_word(case):
    change, told = BAD[case]
    table = make_table()
    scores = make_scores(table)
    changed = change(table)
    given = scores[changed.index]
    if case == "no scores at first, then some":
        given[:2] = np.nan
        assert len(changed) == 98 and assess_reliability(changed, given, VALUES, n_draws=0).counts["rows"] == 96
    found = assess_reliability(changed, given, VALUES, n_draws=20)
    assert any(told in note for note in found.notes) and told in describe_reliability(found)
    assert np.isfinite(found.sources.share).all()


def test_values_without_scores_or_without_spread_are_gaps():
    table = make_table()
    scores = np.column_stack([make_scores(table), np.full(len(table), np.nan), np.ones(len(table))])
    scores[::3, 1] = np.nan      # unbalanced, and other rows than the first value's
    found = assess_reliability(table, scores, ("care", "fairness", "absent", "flat"), n_draws=20)
    assert found.values.value.tolist() == ["care", "fairness", "flat"]
    assert {"no scores of two prompts: absent", "does not vary, so nothing is divided: flat"} <= set(found.notes)
    shares = found.sources.groupby("value").share.sum(min_count=1)
    assert shares["fairness"] == pytest.approx(1) and np.isnan(shares["flat"])
    with pytest.raises(ScoringError, match="two are needed"):
        assess_reliability(table[table.prompt == 0], scores[table.prompt == 0], ("a", "b", "c", "d"))
    with pytest.raises(ScoringError, match="names its prompt"):
        assess_reliability(table.drop(columns="prompt"), scores, ("a", "b", "c", "d"))


def test_columns_are_found_or_named(tmp_path):
    assert read_facets("model, draw") == {"model": ("model", "response_source"), "draw": ("draw",)}
    with pytest.raises(ScoringError, match="not 'temperature'"):
        read_facets("model,temperature")
    table = make_table()
    path = write_scored(tmp_path / "scored.jsonl", table, make_scores(table), question="same")
    read, scores, values = read_scored(path, read_facets())
    assert values == VALUES and set(read) == {"model", "prompt", "paraphrase", "draw", "is_refusal", "words"}
    assert read.prompt.nunique() == 12 and read.words.tolist()[:8] == [1, 2, 3, 4, 5, 6, 7, 1]
    np.testing.assert_allclose(scores, make_scores(table))
    assert read_scored(path, read_facets("prompt=prompt"))[0].prompt.nunique() == 24      # each wording for itself
    with pytest.raises(ScoringError, match="no column 'questions'"):
        read_scored(path, read_facets("prompt=questions"))
    path.write_text(path.read_text(encoding="utf-8").replace('"model"', '"response_source"'), encoding="utf-8")
    assert read_scored(path, read_facets())[0].model.nunique() == 2


def test_thoughts_are_no_part_of_refusal_and_length(tmp_path):
    thought = "<think>I'm sorry, but I can't help with that. Hmm" + " so" * 150 + "</think>"
    row = {"prompt": "p", "value_vector": {"care": 0.1}}
    rows = [row | {"response": f"{thought}Be kind."}, row | {"response": "I'm sorry, but I can't help with that."},
            row | {"dialogue": f"Human: p\nBob: {thought}Be kind."},
            row | {"response": f"{thought}I'm sorry, but I can't help with that."}, row]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = read_scored(path, read_facets())[0]
    assert found.is_refusal.tolist() == [0, 1, 0, 1, -1] and found.words.tolist() == [2, 8, 2, 8, -1]


def test_other_words_and_system_prompts_under_one_prompt_are_paraphrases(tmp_path):
    """Else what the wording does is taken for chance."""
    table = make_table()
    scores = make_scores(table)
    with_column = write_scored(tmp_path / "column.jsonl", table, scores)
    wanted, *_ = read_scored(with_column, read_facets())
    without, *_ = read_scored(write_scored(tmp_path / "words.jsonl", table.drop(columns="paraphrase"), scores),
                              read_facets())
    assert "paraphrase" not in without      # the same words: draws
    lines = [json.loads(line) for line in with_column.read_text().splitlines()]
    for row in lines:
        row.pop("paraphrase")
    by_words, by_system = tmp_path / "by_words.jsonl", tmp_path / "by_system.jsonl"
    by_words.write_text("\n".join(map(json.dumps, lines)))
    by_system.write_text("\n".join(json.dumps(row | {"system": row["prompt"][-1], "prompt": f"p{row['prompt_id']}"})
                                   for row in lines))
    of_both = write_scored(tmp_path / "both.jsonl", table, scores)
    rows = [json.loads(line) for line in of_both.read_text().splitlines()]
    of_both.write_text("\n".join(json.dumps(row | {"system_prompt": "Be brief." if k % 2 else None})
                                 for k, row in enumerate(rows)))
    for path in (by_words, by_system):
        assert read_scored(path, read_facets())[0].paraphrase.tolist() == wanted.paraphrase.tolist()
        assert "paraphrase" not in read_scored(path, read_facets("model,prompt,draw"))[0]
    found = read_scored(of_both, read_facets())[0]
    assert found.paraphrase.nunique() == 4 and (found.groupby(["prompt", "paraphrase"]).size() == 2).all()


def test_a_system_prompt_of_one_model_alone_makes_no_difference_of_models(tmp_path):
    rows = [{"prompt": f"p{p}", "model": m, "system": s, "response": "Yes.",
             "value_vector": {"care": 0.01 * (p % 5) + 0.4 * bool(s)}}
            for p in range(20) for m, s in (("A", ""), ("A", "Be kind."), ("B", ""))]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = assess_file(path, n_draws=5)
    assert found.is_noise and found.pairs.difference.tolist() == [0] and found.pairs.n.tolist() == [20]
    assert describe_noise(found).startswith("No difference between B and A is more than noise")


def test_a_wording_of_each_models_own_is_told_not_divided(tmp_path):
    """A system prompt for each model: what it does and what the model does are one."""
    table = make_table(n_wordings=1).drop(columns="paraphrase")
    plain = write_scored(tmp_path / "plain.jsonl", table, make_scores(table))
    rows = map(json.loads, plain.read_text().splitlines())
    rows = [json.dumps(row | {"system": f"You are {row['model']}."}) for row in rows]
    (tmp_path / "own.jsonl").write_text("\n".join(rows))
    found, wanted = (assess_file(path, n_draws=20) for path in (tmp_path / "own.jsonl", plain))
    pd.testing.assert_frame_equal(found.sources, wanted.sources)
    assert any("worded otherwise for each model" in note for note in found.notes)
    assert not any("worded otherwise" in note for note in wanted.notes)


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["fulcra", "reliability", *map(str, arguments)])
    with pytest.raises(SystemExit) as done:
        cli.main()
    return done.value.code, *capsys.readouterr()


def test_command_says_whether_two_models_differ(tmp_path, monkeypatch, capsys):
    table = make_table()
    clear = write_scored(tmp_path / "clear.jsonl", table, make_scores(table))
    code, out, err = run(monkeypatch, capsys, clear, "--json", tmp_path / "found.json")
    told = json.loads((tmp_path / "found.json").read_text())
    assert (code, err, told["is_noise"]) == (0, "", False)
    assert told["verdict"].startswith("m1 differs from m0 in 1 of 2") and "above 0 m1 is higher" in told["verdict"]
    assert "fixed effect" in out and "seed: no column" in out and {r["source"] for r in told["sources"]} >= {"model"}
    same = write_scored(tmp_path / "same.jsonl", table, make_scores(table, gap=0))
    code, out, _ = run(monkeypatch, capsys, same)
    assert code == 1 and "No difference between m1 and m0 is more than noise" in out
    scores = make_scores(table)
    scores[:2] = np.nan
    code, _, err = run(monkeypatch, capsys, write_scored(tmp_path / "lost.jsonl", table, scores))
    assert code == 1 and "2 rows could not be used" in err
    for arguments in ([clear, "--by", "model,judge"], [tmp_path / "none.jsonl"], [clear, "--by", "model"],
                      [clear, "--difference", "0"], [clear, "--difference", "nan"], [clear, "--prompts", "2"]):
        code, out, err = run(monkeypatch, capsys, *arguments)
        assert code == 2 and out == "" and err.count("\n") == 1


def test_four_lines_from_outside_as_the_commands_page_shows_them(monkeypatch, capsys):
    page = (DATA / "site" / "pages" / "commands.md").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if line.startswith("fulcra reliability data/"))
    path = DATA.parent / line.split()[2]
    assert "exit code 1" in line and path.read_text(encoding="utf-8").count("\n") == 4
    code, out, _ = run(monkeypatch, capsys, path)
    assert code == 1 and "2 prompts are too few to show any" in out and "below 5 there are no intervals" in out
    assert "nan" not in out.casefold() and "[" not in out.split("Pairs")[0].split("interval")[-1]


def test_rows_are_scored_first_and_evaluators_are_seeds(tmp_path):
    table = make_table(n_prompts=6)
    path = write_scored(tmp_path / "rows.jsonl", table, make_scores(table))
    found = assess_file(path, [CountingEvaluator(), CountingEvaluator(0.1)], n_draws=20)
    shares = found.sources[found.sources.value == "first"].set_index("source").share
    assert found.counts["seeds"] == 2 and found.counts["rows"] == 2 * len(table) and shares["seed"] > 0
    assert found.values.value.tolist() == ["first", "second"]
    alone = assess_file(path, [CountingEvaluator()], n_draws=20)
    assert "seeds" not in alone.counts and alone.values.text.iloc[0] > 0.8       # it scores the length


def test_rows_in_no_english_and_notes_of_the_scoring_are_told(tmp_path):
    table = make_table(n_prompts=6, n_wordings=1).drop(columns="paraphrase")
    path = write_scored(tmp_path / "rows.jsonl", table, make_scores(table))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row | {"response": "You should ask her first, and then" + " wait for a while" * (k % 5),
                   "system": f"You are {row['model']}."} for k, row in enumerate(rows)]     # which has a note, too
    said = "Man darf das nicht tun, weil es anderen schadet und niemand davon etwas hat."
    rows[:3] = [row | {"response": said, "problem": FOREIGN} for row in rows[:3]]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    note = "3 rows do not look English, and count: their scores are no measurement"
    notes = assess_file(path, n_draws=5).notes
    assert [n for n in notes if "English" in n] == [note] and WORDS["own_words"] in notes

    class Borrowing(CountingEvaluator):
        borrowed = ["first is known by its definition alone"]

    path.write_text("\n".join(json.dumps({k: v for k, v in row.items() if k != "problem"}) for row in rows))
    for evaluators in ([Borrowing()], [CountingEvaluator(), Borrowing(0.1)]):       # of several only one has a note
        notes = assess_file(path, evaluators, n_draws=5).notes
        assert [n for n in notes if "English" in n or "definition" in n] == [note, *Borrowing.borrowed]


def test_seeds_with_replies_of_their_own_are_draws_of_the_models(tmp_path):
    table = make_table(n_wordings=1).drop(columns="paraphrase")
    scores, path = make_scores(table), tmp_path / "rows.jsonl"
    for is_own in (True, False):
        rows = [{"prompt": f"{r.prompt}?", "model": r.model, "seed": 40 + r.draw, "value_vector": {"care": score},
                 "response": f"reply {r.Index if is_own else r.prompt}"}
                for r, score in zip(table.itertuples(), scores[:, 0], strict=True)]
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        found = assess_file(path, n_draws=20)
        assert ("draws" in found.counts) == is_own == ("seeds" not in found.counts)
        assert [note for note in found.notes if note.startswith("seed")] == [
            "seed: each seed has replies of its own, so it is the models' seed, and counts as a draw"] * is_own
        assert ("seed" in {*found.sources.source}) != is_own
    named = assess_file(path, by="model,prompt,seed", n_draws=20)
    assert "seeds" in named.counts


@pytest.mark.parametrize("name", ["schwartz10", "moral_foundations", "toy"])
def test_paragraph_and_tables_under_any_theory(name, toy, tmp_path):
    theory, table = toy if name == "toy" else load_theory(name), make_table(n_models=3)
    found = assess_reliability(table, make_scores(table, n_values=theory.n_dims), theory.dimensions, n_draws=20)
    shares, worth = lay_out(found)
    assert shares.index.tolist() == worth.index.tolist() == list(theory.dimensions)
    assert shares.iloc[0, 0].count("%") == 3 and len(found.pairs) == 3 * theory.n_dims
    (tmp_path / "README.md").write_text("# Card\n")
    for _ in range(2):
        add_to_card(tmp_path, found)
    card = (tmp_path / "README.md").read_text()
    assert card.count(WORDS["question"]) == 1 and card.endswith(describe_noise(found) + "\n")
    many = assess_reliability(make_table(5), make_scores(make_table(5), n_values=theory.n_dims), theory.dimensions, 20)
    assert re.search("In [4-6] of 10 pairs .* not told apart are m2 and m0", describe_noise(many))
    assert "fixed effect" not in describe_noise(many)


def test_paraphrases_are_prompts_that_nobody_learned_from():
    table = list_paraphrases(40)
    assert table.groupby("prompt_id").prompt.nunique().eq(3).all() and table.prompt.is_unique
    known = read_contrasts()
    assert set(table.prompt[table.paraphrase == 0]) <= set(known.prompt[known.split == "test"])
    assert not set(table.prompt[table.paraphrase > 0]) & set(known.prompt)


@pytest.mark.parametrize("name", ["schwartz10", "moral_foundations", "toy"])
def test_groups_of_a_theory(name, toy):
    theory = toy if name == "toy" else load_theory(name)
    groups = group_theory(theory)
    assert groups["one factor"].tolist() == [0] * theory.n_dims
    assert groups[f"{theory.n_dims} values"].tolist() == list(range(theory.n_dims))
    assert [len(g) for g in group_theory(theory, of_items=True).values()] == [theory.n_items] * len(groups)
    if len(theory.groups) > 1:
        whose = groups[f"{len(theory.groups)} groups"]
        assert all(theory.dimensions[d] in list(theory.groups.values())[k] for d, k in enumerate(whose))


def test_right_groups_fit_and_what_cannot_be_fitted_says_so():
    rng = np.random.default_rng(0)
    true = np.repeat([0, 1], 3)
    scores = rng.normal(size=(300, 2))[:, true] + 0.7 * rng.normal(size=(300, 6))
    scores = np.column_stack([scores, np.ones(300)])        # a value that does not vary falls away
    scores[0, 0] = np.nan
    groups = {"one factor": np.zeros(7, int), "two": np.append(true, 1), "values": np.arange(7)}
    found = fit_theory(scores, groups, np.arange(300), n_draws=5).set_index("system")
    assert found.n.eq(299).all() and found.cfi["two"] > 0.98 > found.cfi["one factor"]
    assert found.why["values"] == "not estimable: a factor has one value alone"
    assert found.least.to_dict() == {"one factor": "", "two": "AIC, BIC", "values": ""}
    del groups["one factor"]
    assert fit_theory(scores, groups, np.arange(300), n_draws=0).least.eq("").all(), "the only one is no best"
    assert fit_theory(scores[:2], groups, np.arange(2)).empty


def test_people_and_models_alike_in_length_and_topic():
    """People write longer and of other topics; the raw difference is all length, the rest 0.3 is theirs."""
    rng, n = np.random.default_rng(0), 400
    is_people = np.arange(n) < n // 2
    topics = np.where(rng.random(n) < 0.2, 2 + is_people, rng.integers(0, 2, n))       # 2 and 3 are of one group alone
    words = rng.integers(20, 60, n) * np.where(is_people, 3, 1)
    effect = 0.2 * np.log1p(words) + 0.5 * (topics == 1) + 0.1 * rng.normal(size=n)
    scores = np.column_stack([effect, effect + 0.3 * is_people])
    found = compare_writers(scores, is_people, words, topics, np.arange(n) // 2, VALUES, 100)
    found = found.set_index(["value", "who"])
    left = found.xs("people minus models, alike in length and topic", level="who")
    assert left["mean"].tolist() == pytest.approx([0, 0.3], abs=0.05) and left.n.eq(np.isin(topics, [0, 1]).sum()).all()
    assert (left.low < [0, 0.3]).all() and (left.high > [0, 0.3]).all() and left.clear_holm.tolist() == [False, True]
    assert not found.xs("people", level="who").clear_holm.any()
    raw = found["mean"].unstack().loc["care"]
    assert raw.people - raw.models == pytest.approx(scores[is_people, 0].mean() - scores[~is_people, 0].mean())
    people = found.loc["care", "people"]
    inside = (scores[is_people, 0] >= people.p10) & (scores[is_people, 0] <= people.p90)
    assert inside.mean() == pytest.approx(0.8, abs=0.02) and np.isnan(left.p10).all()
    apart = compare_writers(scores, is_people, words, is_people.astype(int), np.arange(n), VALUES, 10)
    assert apart["mean"].isna().sum() == 2


def test_raters_by_hand():
    rated = pd.DataFrame({"model": list("aabb"), "rating": [0, 5, 10, 10], "score": [-1, 0, 0.5, 0.5],
                          "cluster": [0, 1, 0, 1]})
    found = compare_raters(rated, 50).set_index(["who", "value"])
    assert found["mean"].tolist() == [-0.5, 1, -0.5, 0.5] and found.n.eq(2).all()
    assert found[["low", "high"]].isna().all(axis=None), "two questionnaires tell nothing of their spread"
    six = pd.concat([rated.assign(cluster=rated.cluster + 2 * k) for k in range(3)], ignore_index=True)
    found = compare_raters(six, 50).set_index(["who", "value"])
    assert (found.low <= found["mean"]).all() and found.low["our score", "b"] == found.high["our score", "b"] == 0.5


def test_every_pair_of_seven_models_is_compared():
    table = make_table(n_models=7)
    scores = make_scores(table)
    twin = (table.model == "m6").to_numpy()
    scores[twin] = scores[(table.model == "m5").to_numpy()]
    found = assess_reliability(table, scores, VALUES, n_draws=5)
    assert len(found.pairs) == 21 * len(VALUES) and found.is_noise and "of 21 pairs" in describe_noise(found)
    many = make_table(n_models=MANY + 1, n_prompts=5, n_wordings=1, n_draws=1)
    notes = assess_reliability(many, make_scores(many), VALUES, n_draws=5).notes
    assert f"{MANY + 1} models: the first {MANY} are compared two by two" in notes


def test_models_without_a_common_prompt_are_no_pass(tmp_path, monkeypatch, capsys):
    table = make_table()
    lone = table.assign(prompt=table.prompt + 100 * (table.model == "m1"))
    path = write_scored(tmp_path / "lone.jsonl", lone, make_scores(lone))
    code, out, _ = run(monkeypatch, capsys, path)
    assert code == 1 and WORDS["apart"] in " ".join(out.split()) and WORDS["alone"] not in out
    three = make_table(n_models=3)
    three["prompt"] += 100 * (three.model == "m2")
    found = assess_reliability(three, make_scores(three), VALUES, n_draws=0)
    assert found.pairs.clear_holm.any() and found.is_noise, "nothing tells the third model from the others"
    assert "m0 and m2, m1 and m2 answered no prompt both" in found.notes
    path = write_scored(tmp_path / "one.jsonl", table[table.model == "m0"], make_scores(table)[: len(table) // 2])
    code, out, _ = run(monkeypatch, capsys, path)
    assert code == 0 and WORDS["alone"] in " ".join(out.split())


def test_a_constant_value_speaks_in_no_verdict():
    table = make_table()
    alone = make_scores(table, gap=0)
    beside = assess_reliability(table, np.column_stack([alone, np.zeros(len(table))]), (*VALUES, "flat"), n_draws=5)
    assert describe_noise(beside) == describe_noise(assess_reliability(table, alone, VALUES, n_draws=5))
    still = assess_reliability(table, np.zeros((len(table), 2)), VALUES, n_draws=5)
    assert still.is_noise and describe_noise(still).startswith(WORDS["flat"])


def test_a_difference_of_length_alone_is_said():
    table = make_table().assign(is_refusal=0)
    table = table.assign(words=np.where(table.model == "m1", 20 + table.prompt, 10 + table.prompt % 3))
    scores = 0.2 * np.log1p(table.words.to_numpy())[:, None] + 0.01 * make_scores(table, gap=0)
    assert "In 2 of these the difference may come from refusals and length alone." in describe_noise(
        assess_reliability(table, scores, VALUES, n_draws=5))


def test_what_always_refuses_is_told_from_the_other_by_nothing_else():
    table = make_table()
    table = table.assign(is_refusal=(table.model == "m1").astype(int), words=10 + table.prompt)
    found = assess_reliability(table, make_scores(table), VALUES, n_draws=5)
    assert found.pairs.clear_holm.tolist() == [True, False] and found.pairs.alike.isna().all()
    assert np.isinf(found.pairs[["alike_low", "alike_high"]]).all(axis=None)
    assert "In 1 of these the difference may come from refusals and length alone." in describe_noise(found)
    assert not re.search(r"\binf\b", describe_reliability(found))


MEASURE = r"""
import re, sys, time
from fulcra_utils import cli
sys.argv = ["fulcra", "reliability", sys.argv[1]]
try:
    cli.main()
finally:
    with open("/proc/self/status", encoding="utf-8") as status:     # getrusage remembers the memory of the caller
        print(time.process_time(), 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1]), file=sys.stderr)
"""


def measure_command(path):
    """Return processor seconds and the most bytes of `fulcra reliability` on a file, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True)
    assert done.returncode < 2, done.stderr
    return np.array(done.stderr.splitlines()[-1].split(), float)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
@pytest.mark.parametrize("shape", [(3, 100, 3, 222), (200, 1000, 1, 1), (3, 66_000, 1, 1)])
def test_a_million_rows_would_take_three_minutes_and_two_gigabytes_at_most(tmp_path, shape):
    """A fifth of a million rows, of ten values, takes a fifth of both at most, beside what a start takes."""
    rng, values = np.random.default_rng(0), [f"value {k}" for k in range(10)]
    path = tmp_path / "many.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for m, p, w, d in np.ndindex(shape):
            scores = dict(zip(values, np.round(rng.uniform(-1, 1, 10), 4).tolist(), strict=True))
            file.write(json.dumps({"model": f"m{m}", "prompt_id": p, "paraphrase": w, "draw": d, "prompt": f"{p}, {w}?",
                                   "response": "word " * (20 + (p + d) % 40), "value_vector": scores}) + "\n")
    few = write_scored(tmp_path / "few.jsonl", make_table(), make_scores(make_table()))
    (start, empty), (seconds, most) = measure_command(few), measure_command(path)
    assert seconds - start < 180 / 5 and most - empty < (2e9 - empty) / 5


def test_flips_of_all_values_have_an_interval_of_their_own():
    table = make_table(n_prompts=40)
    found = assess_reliability(table, make_scores(table, noise=0.4), VALUES, n_draws=20)
    for name in ("flips_draw", "flips_paraphrase"):
        mean, low, high = found.flips[name]
        assert mean == pytest.approx(found.values[name].mean()) and low < mean < high
        assert high - low < (found.values[f"{name}_high"] - found.values[f"{name}_low"]).mean()     # of more pairs


def test_what_is_not_asked_for_and_copies_are_told(tmp_path):
    table = make_table()
    path = write_scored(tmp_path / "rows.jsonl", table, make_scores(table))
    assert "paraphrase: not asked for" in assess_file(path, by="model,prompt").notes
    with pytest.raises(ScoringError, match="leaves out prompt"):
        assess_file(path, by="model")
    twice = pd.concat([table.drop(columns="draw")[table.draw == 0]] * 2, ignore_index=True)
    half = make_scores(table)[(table.draw == 0).to_numpy()]
    notes = assess_reliability(twice, np.concatenate([half, half]), VALUES, n_draws=5).notes
    assert "48 rows say what an earlier one says, to the last digit: copies are no draws" in notes


def run_cells(*names, **known):
    """Run cells of notebook 12 with what they need, and return what they show."""
    cells, shown = nbformat.read(ROOT / "notebooks" / "12_reliability.ipynb", as_version=4).cells, []
    known |= {"np": np, "Markdown": shown.append}
    for name in names:
        exec(next(c.source for c in cells if c.id == name), known)
    return shown


def test_notebook_12_says_where_nothing_can_be_told():
    for flips, told in ((np.nan, "One wording or one draw only: nothing to compare."), (0.25, "Here 25% of pairs")):
        found = SimpleNamespace(flips={"flips_draw": (0.2, 0.1, 0.3), "flips_prompt": (0.4,)})
        assert run_cells("compare-read", flips=(flips,) * 3, found=found)[0].startswith(told)
    captions, who = [], "people minus models, alike in length and topic"
    known = {"arguments": [1] * 5, "both": [1] * 8, "is_people": np.arange(8) < 5, "plots_reliability": MagicMock(),
             "run": SimpleNamespace(save_figure=lambda figure, name, caption, **_: captions.append(caption))}
    for low, told in ((np.nan, "whether they differ cannot be told."), (
            0.1, "they differ for sure in 1 of 1 values, all tested together (Holm).")):
        ruler = pd.DataFrame({"who": [who] * 2, "mean": [low, np.nan], "low": [low, np.nan], "high": 0.3, "n": 8,
                              "clear_holm": [True, False]})
        assert run_cells("people-figure", "people-read", ruler=ruler, **known)[0].endswith(told)
    assert captions[0].startswith("Mean scores of 5 arguments of people and 3 replies of models")
    assert run_cells("people-figure", "people-read", **known | {"arguments": []}) == ["Nothing to read."]


def test_a_plan_of_ones_own(tmp_path, monkeypatch, capsys):
    path = write_scored(tmp_path / "rows.jsonl", make_table(), make_scores(make_table()))
    _, out, _ = run(monkeypatch, capsys, path, "--prompts", "77", "--difference", "0.15")
    assert "shown by 77" in out and "prompts for 0.15" in out and "shown by 100" not in out
