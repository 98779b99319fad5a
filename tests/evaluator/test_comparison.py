"""Comparing evaluators and scored files: one distance, intervals over prompts, the gate, what is left out."""

import contextlib
import io
import json
import sys
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats
from scored_files import CountingEvaluator, read_lines, write_rows

from fulcra_utils.alignment.measures import confuse_targets
from fulcra_utils.cli import main
from fulcra_utils.evaluator.comparison import (
    TAUGHT,
    agree_with_scores,
    compare_files,
    describe_comparison,
    describe_contrasts,
    describe_rival,
    describe_rows,
    describe_unseen,
    measure_contrasts,
    pass_gate,
    plan_prompts,
    score_contrasts,
)
from fulcra_utils.evaluator.scoring import FOREIGN, ScoringError, score_file
from fulcra_utils.theory.distance import value_distance
from fulcra_utils.theory.targets import Target, list_targets, load_target, uniform_target
from fulcra_utils.theory.theory import load_theory


def test_agreement_with_itself_is_perfect(rows):
    scores = rows.vectors[rows.where("scored")]
    found = agree_with_scores(scores, scores, np.arange(len(scores)), rows.theory, np.ones(3), n_draws=20)
    assert found["macro_f1"] == 1 and found["distance_r"] == pytest.approx(1) and found["mse"] == 0


def test_rows_are_counted_by_kind_model_and_split(rows):
    table = describe_rows(rows).set_index(["kind", "model"])
    assert list(table.columns) == ["train", "validation", "calibration", "test"]
    assert table.loc[("annotated", "m1")].tolist() == [8, 4, 4, 8] and len(table) == 6
    assert table.to_numpy().sum() == len(rows.table) == 144


def test_agreement_with_an_unseen_model_is_said_of_ours_alone():
    numbers = dict.fromkeys(("macro_f1_low", "distance_r_low", "f1_minus"), 0.125) | dict.fromkeys(
        ("macro_f1_high", "distance_r_high", "f1_zero", "f1_plus"), 0.75)
    table = pd.DataFrame([{"method": method, "rows": "new prompts", "n": 1200, "n_minus": 30, "macro_f1": 0.5,
                           "distance_r": 0.625, **numbers} for method in ("ours", "majority")])
    said = describe_unseen(table, 0.78, 0.8)
    assert said.count("\n") == 0 and said.startswith("- ours, new prompts (n = 1,200): macro-F1 0.500 [0.125, 0.750], "
                                                     "wanted 0.78; correlation of the value distance 0.625")
    assert "-1 stands in 30 cells" in said
    assert describe_unseen(table[1:], 0.78, 0.8) == "No unseen model has rows in this run."


SECOND = Target("second", "t", "", ("first", "second"), *[np.array([0.0, 1.0])] * 3)


def call_command(*words):
    """Return exit code, stdout and stderr of the `fulcra` command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
          pytest.raises(SystemExit) as stop):
        patch.setattr(sys, "argv", ["fulcra", *map(str, words)])
        main()
    return stop.value.code, out.getvalue(), err.getvalue()


@pytest.fixture
def pair(tmp_path):
    source = write_rows(tmp_path / "in.jsonl", 60)
    score_file(CountingEvaluator(), source, tmp_path / "a.jsonl")
    score_file(CountingEvaluator(0.1), source, tmp_path / "b.jsonl")
    return tmp_path / "a.jsonl", tmp_path / "b.jsonl"


def test_paired_difference_is_exact_and_gate_follows_it(pair):
    table = compare_files(*pair, target=SECOND)
    np.testing.assert_allclose(table.difference[:2], 0.1, atol=1e-5)
    assert table.clear[:2].all() and table.n[0] == 60
    closer = table.set_index("value").loc["distance"]
    assert closer.difference < 0 and pass_gate(table)
    assert not pass_gate(compare_files(*pair[::-1], target=SECOND))
    assert pass_gate(compare_files(*pair[::-1], target=SECOND), tolerance=0.5)


def write_scored(path, rows):
    """Write (prompt, vector as a dict) pairs as `score_file` would."""
    lines = [json.dumps({"prompt": p, "response": "r", "value_vector": v}) for p, v in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_same_rows_in_another_order_differ_in_nothing(tmp_path):
    rng, theory = np.random.default_rng(0), load_theory("schwartz10")
    scores = rng.uniform(-1, 1, (36, 10)).tolist()
    rows = [(f"{k // 3}?", dict(zip(theory.dimensions, row, strict=True))) for k, row in enumerate(scores)]
    files = write_scored(tmp_path / "a.jsonl", rows), write_scored(tmp_path / "b.jsonl", rows[::-1])
    table = compare_files(*files, target=load_target("ideal", theory))
    assert (table[["difference", "low", "high"]] == 0).all(axis=None) and pass_gate(table)
    assert not table.clear.any() and not table.clear_holm.any()


def test_wordings_of_one_prompt_are_no_prompts_of_their_own(tmp_path):
    rng, files = np.random.default_rng(3), []
    for name in "ab":
        scores = np.repeat(rng.uniform(-0.5, 0.5, 12), 3)     # a prompt's wordings are answered alike
        rows = [{"prompt": f"{k // 3}, said {k % 3}", "prompt_id": k // 3, "value_vector": {"v": float(x)}}
                for k, x in enumerate(scores)]
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("\n".join(map(json.dumps, rows)))
    table = compare_files(*files)
    x, y = ([json.loads(line)["value_vector"]["v"] for line in path.read_text().splitlines()][::3] for path in files)
    low, high = stats.ttest_rel(y, x).confidence_interval()
    assert table.n[0] == 36 and np.allclose([table.low[0], table.high[0]], [low, high])
    assert "count as one prompt (12)" in describe_comparison(table)
    rows = map(json.loads, files[0].read_text().splitlines())
    files[0].write_text("\n".join(json.dumps({k: v for k, v in row.items() if k != "prompt_id"}) for row in rows))
    assert compare_files(*files).low[0] == table.low[0]     # that one of the files tells it is enough


def test_a_target_needs_scores_of_its_scale(tmp_path):
    theory = load_theory("schwartz10")
    path = write_scored(tmp_path / "likert.jsonl", [(f"{k}?", dict.fromkeys(theory.dimensions, 4.0)) for k in range(6)])
    with pytest.raises(ScoringError, match="a score of 4, and a target lies between -1 and 1"):
        compare_files(path, path, target=load_target("ideal", theory))


def draw_targets(theory, rng):
    """Return the theory's published targets and one with ranges, points and weights for each order of magnitude."""
    names = rng.permutation(theory.dimensions)[:3].tolist()
    raw = {"name": "mixed", "theory": theory.name, "values": {names[0]: {"at_least": 0.5}, names[1]: -0.4},
           "weights": {names[1]: 10.0, names[2]: 0.1}}
    return [*(load_target(t, theory) for t in list_targets(theory)), uniform_target(theory, -0.5), raw]


def test_every_way_gives_one_distance(tmp_path, any_theory):
    """Files, the mean of the replies by hand, the table of policies: every target of every theory, nan cells too."""
    rng, dims = np.random.default_rng(3), any_theory.dimensions
    vectors = rng.uniform(-1, 1, size=(2, 12, len(dims))).round(3)
    vectors[:, 3, 0] = np.nan
    shuffled = rng.permutation(dims).tolist()                               # the file's order is not the theory's
    paths = [write_scored(tmp_path / f"{k}.jsonl", [
        (f"p{n // 2}", {d: None if np.isnan(row[dims.index(d)]) else row[dims.index(d)] for d in shuffled})
        for n, row in enumerate(part)]) for k, part in enumerate(vectors)]
    for target in draw_targets(any_theory, rng):
        if isinstance(target, dict):
            path = tmp_path / "mixed.yaml"
            path.write_text(yaml.safe_dump(target))
            target = load_target(path, any_theory)
        row = compare_files(*paths, target).set_index("value").loc["distance"]
        for name, part in zip(("first", "second"), vectors, strict=True):
            each = value_distance(part, target).reshape(6, 2)               # two replies to each of six prompts
            known = each[~np.isnan(each).all(axis=1)]
            assert row[name] == pytest.approx(np.nanmean(known, axis=1).mean())
        means = pd.DataFrame(vectors[0], index=[f"m{n}" for n in range(12)], columns=list(dims))[shuffled]
        table = confuse_targets(means, [target], {})
        np.testing.assert_allclose(table[target.name].iloc[:12].astype(float), value_distance(vectors[0], target))
        agreed = agree_with_scores(vectors[0, 4:], vectors[1, 4:], range(8), any_theory, target, n_draws=2)
        by_hand = np.corrcoef(*(value_distance(v[4:], target, order=2) for v in vectors))[0, 1]
        assert agreed["distance_r"] == pytest.approx(by_hand)


@pytest.mark.parametrize(("text", "low", "high"), [
    ("values: {security: {at_least: 0.5}}", 0.0, 0.0),
    ("values: {security: 1, power: 1}\nweights: {security: 10, power: 0.1}", 5.1, 6.07),
    ("values: {power: {at_least: -0.2, at_most: 0.2}}", 0.0, 0.7),
])
def test_command_keeps_ranges_and_weights(tmp_path, text, low, high):
    theory = load_theory("schwartz10")
    (tmp_path / "t.yaml").write_text(f"name: t\ntheory: schwartz10\nsource: test\n{text}\n")
    values = {0.0: {}, 5.1: {"security": 0.5}, 6.07: {"security": 0.4, "power": 0.3}, 0.7: {"power": 0.9}}
    rows = [values[low] | ({"security": 0.7} if "security: {" in text else {}),
            values[high] | ({"security": 0.9} if "security: {" in text else {})]
    paths = [write_scored(tmp_path / f"{k}.jsonl", [(f"p{n}", dict.fromkeys(theory.dimensions, 0.0) | row)
                                                    for n in range(20)]) for k, row in enumerate(rows)]
    code, out, _ = call_command("compare", *paths, "--target", tmp_path / "t.yaml", "--json")
    found = json.loads(out)["differences"][-1]
    assert (found["first"], found["second"]) == pytest.approx((low, high))
    assert code == (1 if high > low else 0)


def test_target_of_another_theory_is_one_line(tmp_path):
    dims = load_theory("schwartz19").dimensions
    path = write_scored(tmp_path / "a.jsonl", [(f"p{n}", dict.fromkeys(dims, 0.1)) for n in range(6)])
    code, _, err = call_command("compare", path, path, "--target", "ideal")
    assert code == 2 and err.count("\n") == 1 and "--theory" in err
    code, out, _ = call_command("compare", path, path, "--target", "ideal", "--theory", "schwartz19", "--json")
    row = json.loads(out)["differences"][-1]
    assert row["first"] == pytest.approx(value_distance(np.full((1, 19), 0.1), load_target("ideal", "schwartz19"))[0])


def write_differences(folder, differences, rng):
    """Write two scored files whose prompts (N) differ by the given differences (N, K), in another order."""
    first = rng.uniform(-0.1, 0.1, size=differences.shape)
    rows = [[(f"p{n}", {f"v{k}": float(x) for k, x in enumerate(row)}) for n, row in enumerate(part)]
            for part in (first, first + differences)]
    return [write_scored(folder / f"{name}.jsonl", [part[n] for n in rng.permutation(len(part))])
            for name, part in zip("ab", rows, strict=True)]


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_too_few_prompts_leave_the_gate_undecided(tmp_path, n):
    dims = load_theory("schwartz10").dimensions
    for difference in (-0.01, 0.0, -0.9):
        a, b = (write_scored(tmp_path / f"{k}.jsonl", [(f"p{m}", dict.fromkeys(dims, v)) for m in range(n)])
                for k, v in enumerate((0.5, 0.5 + difference)))
        table = compare_files(a, b, load_target("ideal", "schwartz10"))
        assert table[["low", "high"]].isna().all(axis=None) and not table[["clear", "clear_holm"]].any(axis=None)
        np.testing.assert_allclose(table.difference[:-1], difference, atol=1e-12)
        code, out, _ = call_command("compare", a, b, "--target", "ideal", "--json")
        found = json.loads(out)
        assert code == 0 and found["undecided"] and found["passed"] is None and found["n"] == n
        code, out, _ = call_command("compare", a, b, "--target", "ideal")
        assert code == 0 and f"undecided: {n} prompts" in out and "passed" not in out


def test_an_undecided_gate_counts_prompts_and_not_their_wordings(tmp_path):
    dims, path = load_theory("schwartz10").dimensions, tmp_path / "rows.jsonl"
    rows = [{"prompt": f"{k // 3}, said {k % 3}", "prompt_id": k // 3, "response": "r",
             "value_vector": dict.fromkeys(dims, k / 20)} for k in range(12)]
    path.write_text("\n".join(map(json.dumps, rows)))
    out = call_command("compare", path, path, "--target", "ideal")[1]
    assert "undecided: 4 prompts, and an interval needs 5" in out
    found = json.loads(call_command("compare", path, path, "--target", "ideal", "--json")[1])
    assert (found["n"], found["groups"], {row["groups"] for row in found["differences"]}) == (12, 4, {4})
    rows += [{"prompt": f"{k}?", "prompt_id": k, "response": "r", "value_vector": dict.fromkeys(dims) | {dims[0]: 0.1}}
             for k in range(4, 8)]
    path.write_text("\n".join(map(json.dumps, rows)))     # eight prompts, of which four have a distance
    out = call_command("compare", path, path, "--target", "ideal")[1]
    assert "undecided: 4 prompts" in out and "count as one prompt (8)" in out


def test_draws_of_one_prompt_are_one_prompt(tmp_path):
    """Forty replies to two prompts tell as little as two replies; uneven numbers of draws weigh a prompt once."""
    a = write_scored(tmp_path / "a.jsonl", [(f"p{k % 2}", {"v": 0.1 + k / 1000}) for k in range(40)])
    b = write_scored(tmp_path / "b.jsonl", [("p0", {"v": 0.9}), *[("p1", {"v": 0.5})] * 7])
    table = compare_files(a, b)
    assert table.n.item() == 2 and not table.clear.item() and np.isnan(table.low.item())
    assert table.second.item() == pytest.approx(0.7)
    ten = [(f"p{k}", {"v": v}) for k, v in enumerate(np.linspace(-0.3, 0.5, 10))]
    once, often = (compare_files(write_scored(tmp_path / "c.jsonl", [(p, {"v": 0.0}) for p, _ in ten]),
                                 write_scored(tmp_path / "d.jsonl", ten * times)) for times in (1, 6))
    assert once.low.item() == pytest.approx(often.low.item()) and often.n.item() == 10


def test_left_out_prompts_and_rows_are_counted(tmp_path):
    """Prompts of one file, rows without scores or prompt, a value that misses in some rows."""
    def rows(numbers):
        return [(f"p{k}", {"v": k / 100, "w": None if k % 2 else 0.0}) for k in numbers]
    odd = [("p2", None), (None, {"v": 1.0, "w": 1.0}), (["p3"], {"v": 1.0, "w": 1.0}), ("p4", {"v": None, "w": None}),
           ("p5", {"v": "x", "w": True}), ("p6", {"v": float("nan"), "w": 10 ** 400})]
    a = write_scored(tmp_path / "a.jsonl", rows(range(12)))
    b = write_scored(tmp_path / "b.jsonl", odd + rows(range(3, 20)))
    table = compare_files(a, b)
    assert table.attrs == {"only_first": 3, "only_second": 8, "unscored_first": 0, "unscored_second": 6,
                           **dict.fromkeys((f"{name}_{place}" for name in ("foreign", "models", "systems")
                                            for place in ("first", "second")), 0),
                           "has_target": False}
    assert table.n.tolist() == [9, 4] and (table.difference == 0).all()
    assert table.low.notna().tolist() == [True, False]
    out = call_command("compare", a, b)[1]
    assert "3 prompts scored in the first file only, 8 in the second only; rows without scores: 0 and 6" in out
    found = json.loads(call_command("compare", a, b, "--json")[1])
    assert (found["only_first"], found["unscored_second"], found["interval"]) == (3, 6, "t over prompts")
    mixed = write_scored(tmp_path / "c.jsonl", [("p0", {"v": 0.1}), ("p1", {"v": 0.1, "w": 0.2})])
    with pytest.raises(ScoringError, match=r"c.jsonl, line 2: value_vector names other values"):
        compare_files(mixed, a)


def test_several_models_and_foreign_rows_are_told(tmp_path):
    rows = [{"prompt": f"p{k}", "response": "r", "value_vector": {"v": k / 20}, "model": name} for k in range(8)
            for name in ("a", "b")]
    rows[3] |= {"problem": FOREIGN}
    both, one = tmp_path / "both.jsonl", tmp_path / "one.jsonl"
    both.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    one.write_text("".join(f"{json.dumps(row)}\n" for row in rows[::2]))
    out = call_command("compare", both, one)[1]
    assert "The first file holds 2 models" in out and "The second file" not in out
    assert "1 rows of the first file do not look English" in out and "Left out" not in out
    found = json.loads(call_command("compare", one, both, "--json")[1])
    assert [found[f"{name}_{place}"] for name in ("models", "foreign") for place in ("first", "second")] == [1, 2, 0, 1]


def test_several_system_prompts_are_told(tmp_path):
    """Averaged over without a word they would pass for a difference of the models."""
    rows = [{"prompt": f"p{k}", "response": "r", "value_vector": {"v": v}, "system": system} for k in range(8)
            for system, v in (("You are strict.", 0.6), ("", 0.2))]
    both, plain = tmp_path / "both.jsonl", tmp_path / "plain.jsonl"
    both.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    plain.write_text("".join(f"{json.dumps(row)}\n" for row in rows[1::2]))
    table = compare_files(both, plain)
    assert table.difference.item() == pytest.approx(-0.2) and table.clear.item()     # (.6 + .2) / 2 against .2
    assert (table.attrs["systems_first"], table.attrs["systems_second"]) == (2, 0)
    assert "The first file holds 2 system prompts" in describe_comparison(table)
    assert "The second file holds" not in describe_comparison(table)
    plain.write_text("".join(f"{json.dumps(row)}\n" for row in rows[::2]))
    assert "system prompts" not in describe_comparison(compare_files(plain, plain))     # one is no mixture


def test_prompts_of_other_shapes_are_prompts(tmp_path):
    """What stands before the reply is the prompt, in whichever of the usual shapes; two dialogues are not one."""
    shapes = [lambda p: {"prompt": p, "response": "r"}, lambda p: {"dialogue": f"Human: {p}\nBob: r"},
              lambda p: {"prompt": [{"role": "user", "content": p}], "response": "r"},
              lambda p: {"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": "r"}]},
              lambda p: {"conversations": [{"from": "human", "value": p}, {"from": "gpt", "value": "r"}]}]
    paths = []
    for k, shape in enumerate(shapes):
        paths.append(tmp_path / f"{k}.jsonl")
        paths[-1].write_text("".join(json.dumps(shape(f"What of {n}?") | {"value_vector": {"v": (n + k) / 20}}) + "\n"
                                     for n in range(8)))
    for k, path in enumerate(paths):
        table = compare_files(paths[0], path)
        assert table.n.item() == 8 and table.difference.item() == pytest.approx(k / 20)
        assert not any(table.attrs.values())


def test_many_values_at_once_are_corrected(tmp_path):
    rng = np.random.default_rng(0)
    differences = rng.normal(0, 0.1, size=(20, 100))
    differences[:, :3] += 0.5
    table = compare_files(*write_differences(tmp_path, differences, rng))
    assert table.clear[:3].all() and table.clear_holm[:3].all()
    assert 1 <= table.clear[3:].sum() <= 10 and not table.clear_holm[3:].any()
    assert "clear_holm: all rows together" in describe_comparison(table)


def test_interval_is_that_of_the_paired_t_test(tmp_path):
    rng = np.random.default_rng(1)
    for n in (5, 6, 31):
        differences = rng.normal(0.1, 0.2, size=(n, 4))
        table = compare_files(*write_differences(tmp_path, differences, rng), level=0.9)
        oracle = stats.ttest_1samp(differences, 0)
        interval = oracle.confidence_interval(0.9)
        np.testing.assert_allclose(table[["low", "high"]].T, [interval.low, interval.high])
        assert table.clear.tolist() == (oracle.pvalue < 0.1).tolist()


NULLS = {  # name: (draws of a difference whose mean is 0, least share of clear ones from 5 prompts on, most)
    "normal": (lambda rng, size: rng.normal(size=size), 0.03, 0.08),
    "uniform": (lambda rng, size: rng.uniform(-1, 1, size), 0.03, 0.08),
    "scores": (lambda rng, size: np.subtract(*np.tanh(1.5 * rng.normal(size=(2, *size)))), 0.03, 0.08),
    "labels": (lambda rng, size: np.subtract(*rng.choice([-1.0, 0.0, 1.0], (2, *size))), 0.03, 0.08),
    "mostly zero": (lambda rng, size: rng.normal(size=size) * (rng.random(size) < 0.2), 0, 0.08),
    "rare labels": (lambda rng, size: rng.choice([-1.0, 0.0, 1.0], size, p=[0.1, 0.8, 0.1]), 0, 0.08),
    "uneven spread": (lambda rng, size: rng.normal(size=size) * rng.lognormal(0, 0.8, size), 0.02, 0.08),
    "skewed": (lambda rng, size: rng.exponential(size=size) - 1, 0.03, 0.13),  # as the docstring says
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NULLS)
@pytest.mark.parametrize("n", [5, 10, 20, 50, 200])
def test_null_differences_are_seldom_clear(tmp_path, name, n):
    rng = np.random.default_rng(n)
    draw, least, most = NULLS[name]
    table = compare_files(*write_differences(tmp_path, draw(rng, (n, 1500)), rng))
    assert least <= table.clear.mean() <= most
    assert (table.low > 0).mean() <= most and not table.clear_holm.mean() > 0.01


@pytest.mark.slow
def test_memory_of_a_comparison_allows_a_million_prompts(tmp_path):
    rng, dims, n = np.random.default_rng(0), load_theory("schwartz10").dimensions, 20_000
    paths = [write_scored(tmp_path / f"{k}.jsonl", [(f"What of {m}? {'x' * 400}", dict(zip(dims, row, strict=True)))
                                                    for m, row in enumerate(rng.uniform(-1, 1, (n, 10)).tolist())])
             for k in range(2)]
    compare_files(*paths)
    tracemalloc.start()
    compare_files(*paths, load_target("ideal", "schwartz10"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / n < 700  # bytes a prompt; the libraries take another 200 MB


def test_tolerance_that_is_no_number_is_refused(pair):
    with pytest.raises(ScoringError, match="tolerance must be a number"):
        pass_gate(compare_files(*pair), float("nan"))


def test_a_value_called_distance_is_no_gate_without_a_target(tmp_path):
    files = [write_scored(tmp_path / f"{x}.jsonl", [(f"{k}?", {"distance": x + k / 1000 * x}) for k in range(9)])
             for x in (0.1, 0.9)]
    table = compare_files(*files)
    assert table.low.item() > 0 and pass_gate(table) and not table.attrs["has_target"]
    assert describe_comparison(table).endswith("no target, no gate")


def test_same_file_shows_no_difference(pair):
    table = compare_files(pair[0], pair[0])
    assert not table.clear.any() and (table.difference == 0).all()


def test_nothing_is_drawn_so_nothing_about_draws_can_be_said(pair):
    for name in ("n_draws", "seed"):
        with pytest.raises(TypeError, match=name):
            compare_files(*pair, **{name: 1})


def test_files_that_cannot_be_compared(pair, tmp_path):
    other = write_rows(tmp_path / "other.jsonl", 5, start=500)
    score_file(CountingEvaluator(), other, tmp_path / "c.jsonl")
    with pytest.raises(ScoringError, match="share no prompt"):
        compare_files(pair[0], tmp_path / "c.jsonl")
    with pytest.raises(ScoringError, match="both a prompt and a value_vector, as `fulcra score` writes"):
        compare_files(pair[0], other)


def test_planned_prompts_give_the_promised_width():
    rng = np.random.default_rng(0)
    n = int(plan_prompts(pd.DataFrame({"value": ["a"], "sd": [0.4]}), widths=[0.1])["width 0.1"].iloc[0])
    widths = [3.92 * rng.normal(0, 0.4, n).std(ddof=1) / np.sqrt(n) for _ in range(200)]
    assert np.mean(widths) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("value", ["high", True, [0.5], {"x": 1}, "0.5", float("inf")])
def test_a_score_that_is_none_is_left_out(pair, tmp_path, value):
    rows = [{**row, "value_vector": {"first": value, "second": 0.5}} if row["prompt"] == "p1" else row
            for row in read_lines(pair[0])]
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = compare_files(pair[0], tmp_path / "bad.jsonl")
    assert table.n.tolist() == [59, 60] and table.difference[0] == 0


def test_compare_takes_the_one_distance(tmp_path):
    names, rng = ("a", "b", "c"), np.random.default_rng(0)
    low, high = np.array([0.5, -1.0, -0.2]), np.array([1.0, -0.5, -0.2])
    target = Target("t", "t", "", names, low, high, np.array([2.0, 1.0, 0.5]))
    vectors = {name: rng.uniform(-1, 1, (8, 3)) for name in "xy"}
    for name, scores in vectors.items():   # another order of the values in the files
        (tmp_path / name).with_suffix(".jsonl").write_text("".join(json.dumps(
            {"prompt": f"p{n}", "response": "r", "value_vector": dict(zip("cab", row[[2, 0, 1]], strict=True))}) + "\n"
            for n, row in enumerate(scores)))
    row = compare_files(tmp_path / "x.jsonl", tmp_path / "y.jsonl", target).set_index("value").loc["distance"]
    assert [row["first"], row["second"]] == pytest.approx([value_distance(vectors[n], target).mean() for n in "xy"])
    first = pd.DataFrame(vectors["x"][:, [2, 0, 1]], columns=list("cab"))
    np.testing.assert_allclose(value_distance(first, target), value_distance(vectors["x"], target))


CONTRASTS = pd.DataFrame({"pair": ["a"] * 3 + ["b"] * 2 + ["c"] * 2, "value": ["care"] * 5 + ["fairness"] * 2,
                          "stance": [1, -1, 0, 1, -1, 1, -1], "cluster": [0, 0, 0, 1, 1, 2, 2], "prompt": "p",
                          "response": "r"})


def test_contrasts_are_measured_as_by_hand():
    found = measure_contrasts(np.array([0.4, -0.2, 0.6, 0.1, 0.3, 0.2, 0.2]), CONTRASTS)
    told = found.set_index(["value", "measure"])["mean"]
    assert told["all"].to_dict() == pytest.approx({"order": 0.5, "served": 1, "trampled": 1 / 3, "unrelated": 0})
    assert told["care"].to_dict() == pytest.approx({"order": 0.5, "served": 1, "trampled": 0.5, "unrelated": 0})
    assert told["fairness", "order"] == 0.5 and np.isnan(told["fairness", "unrelated"])     # a tie counts half
    assert found.set_index(["value", "measure"]).n["all"].tolist() == [3, 3, 3, 1]


def test_hard_and_plain_pairs_are_told_apart():
    pairs = CONTRASTS.assign(is_hard=CONTRASTS.pair == "b")
    found = measure_contrasts(np.array([0.4, -0.2, 0.6, 0.1, 0.3, 0.2, 0.1]), pairs)
    order = found[found.measure == "order"].set_index("value")
    assert list(order.index) == ["all", "plain pairs", "hard pairs", "care", "fairness"]
    assert order["mean"].tolist() == pytest.approx([2 / 3, 1, 0, 0.5, 1]) and order.n.tolist() == [3, 2, 1, 2, 1]
    assert "(100% of plain pairs, 0% of hard pairs)" in describe_contrasts(found)
    assert "plain" not in describe_contrasts(measure_contrasts(np.zeros(7), CONTRASTS))


@pytest.mark.parametrize(("low", "order", "below", "word"), [
    (0.49, 0.6, 0.9, "does not tell stance from topic"), (0.7, 0.8, 0.9, "less surely than was wanted"),
    (0.9, 0.95, 0.7, "less surely than was wanted"), (0.9, 0.95, 0.8, "it reads stance.")])
def test_stance_is_told_in_words_by_marks_set_before(low, order, below, word):
    found = pd.DataFrame({"value": "all", "measure": ["order", "trampled", "served"], "n": 9,
                          "mean": [order, below, 0.6], "low": [low, below - 0.1, 0.5], "high": 1.0})
    assert word in describe_contrasts(found) and "60% of the serving ones above" in describe_contrasts(found)


@pytest.mark.parametrize(("gain", "low", "high", "word"), [
    (-0.02, -0.06, 0.02, "not to be told from"), (0.1, 0.05, 0.2, "better than"), (-0.1, -0.2, -0.01, "worse than")])
def test_the_best_simpler_method_is_named_though_it_leads(gain, low, high, word):
    compared = pd.DataFrame({"method": ["ours", "majority", "frozen"], "macro_f1": [0.69, 0.4, 0.71],
                             "gain": [0, 0.3, gain], "gain_low": [0, 0.2, low], "gain_high": [0, 0.4, high]})
    stance = pd.DataFrame({"value": "all", "measure": "order", "method": ["ours", "frozen"], "mean": [0.85, 0.6]})
    told = describe_rival(compared, stance)
    assert told.startswith(f"At labels it is {word} the best simpler method (frozen: 0.71, gain {gain:+.3f}")
    assert told.endswith("it puts 85% in order, that one 60%.")
    words = pd.DataFrame({"value": "all", "measure": "order", "method": [TAUGHT], "mean": [0.77]})
    assert describe_rival(compared, pd.concat([stance, words])).endswith("learned from such pairs as ours did 77%.")
    assert describe_rival(compared, pd.DataFrame()).endswith("]).")
    blank = compared.assign(macro_f1=np.nan, gain=np.nan, gain_low=np.nan, gain_high=np.nan)
    assert describe_rival(blank, pd.DataFrame()) == "No test label: nothing is said of labels."
    assert describe_rival(blank, stance) == \
        "No test label: nothing is said of labels; of pairs that differ in stance ours puts 85% in order."


def test_each_reply_of_a_pair_is_scored_under_its_own_value():
    class Model:
        def predict_proba(self, prompts, responses):
            return np.tile([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], (len(prompts), 1, 1))

    assert score_contrasts(Model(), CONTRASTS, ["fairness", "care"]).tolist() == [-1] * 5 + [1] * 2
    with pytest.raises(ValueError, match="care"):
        score_contrasts(Model(), CONTRASTS, ["fairness"])


def test_blank_prompt_ids_tell_nothing_and_those_of_either_file_count(tmp_path):
    rng = np.random.default_rng(5)

    def write(name, ids, shift=0.0):
        scores = np.repeat(rng.uniform(-0.5, 0.5, 12), 3) + shift
        (tmp_path / name).write_text("\n".join(json.dumps({"prompt": f"p{k}", "value_vector": {"v": float(x)}} | (
            {"prompt_id": ids(k)})) for k, x in enumerate(scores)))
        return tmp_path / name

    all_of_it, first = (write("a.jsonl", lambda k: k // 3), write("b.jsonl", lambda k: k // 3 if k == 0 else None))
    assert "groups" not in compare_files(write("c.jsonl", lambda k: ""), write("d.jsonl", lambda k: float("nan"))).attrs
    assert "(12)" in describe_comparison(compare_files(first, all_of_it))
    apart = compare_files(write("e.jsonl", lambda k: ""), write("f.jsonl", lambda k: " ", shift=0.9))
    assert apart.clear.all() and np.isfinite(apart.low).all()
