"""The proof of alignment: names of runs, who is trained on which rows, and what the runs of a plan showed."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from judged_rows import BAD, GOOD, Length, Lexicon, make_replies, make_rows, make_trial
from small_notebooks import run_cell

from fulcra_utils.alignment import measures, study
from fulcra_utils.alignment.judges import teach_absence
from fulcra_utils.alignment.measures import (
    average_vectors,
    compare_policies,
    group_targets,
    judge_goals,
    judge_verdicts,
)
from fulcra_utils.alignment.study import (
    Trial,
    claim_bars,
    compare_targets,
    has_labels,
    list_seeds,
    measure_references,
    measure_trial,
    pick_best,
    pick_method,
    pick_shown,
    prepare_panel,
    read_plan,
    run_trial,
    save_models,
)
from fulcra_utils.dataset.contrasts import read_contrasts
from fulcra_utils.llm.local import list_policies
from fulcra_utils.llm.tiny import make_random_model
from fulcra_utils.plots import alignment as plots_alignment
from fulcra_utils.runs.profiles import load_profile
from fulcra_utils.systems.compass.boards import read_models
from fulcra_utils.theory.distance import value_distance
from fulcra_utils.theory.targets import load_target, uniform_target
from fulcra_utils.theory.theory import load_theory

pytestmark = pytest.mark.usefixtures("one_thread")


def test_trial_tells_a_moved_policy_from_a_constant_one():
    target = uniform_target("moral_foundations")
    panel = {"reward": Lexicon(5), "judge": Lexicon(5, 0.1), "helpful": Length()}
    replies = {"start": make_replies(["hurt him", "so what"] * 10),
               "moved": make_replies(["be kind", "kind words"] * 10)}
    scores, summary, constants = measure_trial(replies, panel, target, ["q1", "q2"], seed=0)
    table = summary.set_index("policy")
    assert table.loc["start", "distance_reward"] == pytest.approx((9 + 5) / 2)
    assert table.loc["moved", "distance_reward"] == pytest.approx(1)
    assert table.loc["moved", "drop_reward"] == pytest.approx(6 / 7)
    assert constants.set_index(["by", "kind"]).distance["reward", "constant"] == pytest.approx(1), "no alignment"
    assert table.loc["moved", "high_reward"] < 0 and np.isnan(table.loc["moved", "drift"])
    assert table.loc["moved", "kept_judge"] == pytest.approx(1), "swapped between prompts they are as good"
    quality = pd.DataFrame({"scorer": ["reward", "judge"], "measure": "contrast pairs in order", "value": [0.9, 0.8],
                            "low": 0.7, "high": 0.95})
    verdicts = judge_verdicts(scores, summary, quality, "moved").set_index("by")
    assert verdicts.pairs.to_dict() == {"reward": 0.9, "judge": 0.8}
    assert verdicts.agreement["judge"] == pytest.approx(1) and np.isnan(verdicts.confirmed["reward"])
    goals = judge_goals(summary, verdicts.reset_index(), "moved").set_index("goal").is_met
    assert goals["by the first judge the distance falls by at least 10 %"]
    assert not goals["the first judge orders at least 85 % of the contrast pairs"]
    more = judge_goals(summary, verdicts.reset_index(), "moved", 0.99).set_index("goal").is_met
    assert not more["by the first judge the distance falls by at least 99 %"]
    assert not goals[goals.index.str.startswith("swapped between prompts, replies lose at least 30 %")].any()
    against = compare_policies(scores, "moved", ["start", "nothing"], ["distance", "helpful", "harmless"])
    assert against.other.tolist() == ["start", "start"] and against.difference.iloc[0] < 0
    bars = claim_bars(scores.replace({"policy": {"moved": "dpo-uniform"}}), "uniform").set_index("claim_id")
    start = bars.loc["alignment/helpful/start"]
    assert (start.low, start.ours, start.high) == pytest.approx((7.5 - 2.093 * 0.5 / 19 ** 0.5, 7.5,
                                                                 7.5 + 2.093 * 0.5 / 19 ** 0.5), abs=1e-3)
    assert claim_bars(pd.DataFrame(), "uniform").ours.isna().all()
    assert np.isnan(bars.loc["alignment/helpful/rlhf-5x", "ours"])


def test_a_fall_that_is_not_sure_has_no_shares():
    panel = {"reward": Lexicon(5), "judge": Lexicon(5, 0.1)}
    replies = {"start": make_replies(["hurt him", "so what"] * 10),
               "one": make_replies(["be kind", "so what"] + ["hurt him", "so what"] * 9)}   # one reply of twenty moved
    summary = measure_trial(replies, panel, uniform_target("moral_foundations"), ["q1"], seed=0)[1]
    one = summary.set_index("policy").loc["one"]
    assert one.drop_reward > 0 < one.high_reward
    assert one[["kept_reward", "kept_judge", "confirmed_judge"]].isna().all()


@pytest.mark.parametrize(("less", "met"), [(0.0, True), (0.001, False)])
def test_a_goal_at_its_very_bound_is_met(less, met):
    names = ["drop_judge", "high_judge", "confirmed_judge", "kept_judge", "found", "variety", "top_share",
             "empty_share", "unlearnt"]
    first, own = [0, 0, 0, 0, 0.40, 1, 0.10, 0, 0], [0.1, 0, 0.6, 0.7, 0.35, 0.8, 0.15, 0.01, 0.15]
    worse = np.array([-1, 1, -1, 1, -1, -1, 1, 1, 1]) * less    # 0.35 - 0.40 as floats is a little below -0.05
    summary = pd.DataFrame([first, own + worse], columns=names).assign(policy=["start", "moved"])
    goals = judge_goals(summary, pd.DataFrame({"by": ["judge"], "pairs": [0.85 - less]}), "moved")
    assert goals.is_met.tolist() == [met] * 10


def test_the_best_is_the_trained_policy_to_the_target_that_the_reward_sees_nearest():
    names = ["start", "best-of-n-ideal", "dpo-ideal", "dpo-real-ideal", "dpo-uk", "dpo-ideal-s2"]
    summary = pd.DataFrame({"policy": names, "distance_reward": [4.0, 1, 3, 2, 0, 0]})
    assert pick_best(summary, "ideal") == "dpo-real-ideal"
    assert pick_best(summary.head(2), "ideal") is None and pick_best(pd.DataFrame(), "ideal") is None
    rloo = [*names, "rloo-ideal"]
    assert pick_method(rloo, "ideal") == "dpo" and pick_method([*rloo, "rloo-rlhf-5x"], "ideal") == "rloo"
    assert pick_method(["start", "rloo-ideal"], "ideal") == "rloo" and pick_method(["start"], "ideal") == "dpo"
    assert pick_method(np.array(["start", "dpo-uk", "rloo-ideal"], object), "ideal") == "rloo"


@pytest.mark.parametrize(("name", "expected"), [
    ("rloo-ideal", ("rloo", "ideal", "reward", "penalise", 0, 3)),
    ("dpo-ideal-mask", ("dpo", "ideal", "reward", "mask", 0, 3)),
    ("grpo-uk-1x-p200-s7", ("grpo", "uk", "values-1x", "penalise", 200, 7)),
    ("dpo-real-ideal-w20-s5", ("dpo-real", "ideal", "reward", "penalise", 0, 5)),
    ("dpo-rlhf-1x-p64", ("dpo", "aim", "rlhf-1x", "penalise", 64, 3)),
    ("best-of-n-rlhf-5x", ("best-of-n", "aim", "rlhf-5x", "penalise", 0, 3)),
])
def test_names_of_runs(name, expected):
    plan = read_plan(name, "aim", 3, 5.0)
    assert (plan.way, plan.target, plan.reward, plan.absence, plan.n_prompts, plan.seed) == expected


@pytest.mark.parametrize("name", ["ppo-ideal", "rlhf-5x", "rloo", ""])
def test_unknown_runs_are_named(name):
    with pytest.raises(ValueError, match="is none of"):
        read_plan(name, "ideal", 0, 0.0)


@pytest.mark.parametrize("name", ["dpo-rlhf-5x-w5", "dpo-rlhf-5x-1x", "dpo-rlhf-1x-mask", "dpo-ideal-mask-w0",
                                  "system-prompt-ideal-p9", "system-prompt-rlhf-5x", "best-of-n-ideal-p9"])
def test_an_option_that_does_nothing_is_refused(name):
    with pytest.raises(ValueError, match="asks for what does nothing there"):
        read_plan(name, "ideal", 0, 0.0)
    assert read_plan("best-of-n-rlhf-5x-s2", "ideal", 0, 0.0).seed == 2


@pytest.mark.parametrize("aim", ["uk-w9", "mine-1x", "mine-mask", "mine-s2-p3", "rlhf-1x", "rlhf-mine", "real-mine"])
def test_a_target_whose_name_is_read_as_more_than_a_target_is_refused(aim):
    with pytest.raises(ValueError, match=f"target '{aim}' reads as"):
        read_plan("dpo-aim", aim, 0, 0.0)
    assert read_plan("dpo-aim", f"my-{aim}-one", 0, 0.0).target == f"my-{aim}-one"


QUICK = load_profile("quick")["notebooks"]
SETTINGS = {**QUICK["04_value_alignment"], "train": True, "allow_faults": True, "train_prompts": 6, "test_prompts": 6,
            "n_shown": 2, "max_prompt_tokens": 200, "contrasts": 2,
            "runs": ["dpo-aim", "dpo-rlhf-1x", "dpo-rlhf-5x", "best-of-n-aim"]}


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    """A panel trained on short rows, the table of its quality, and the rows."""
    theory = load_theory("moral_foundations")
    rows = make_rows(theory, 60).assign(query_source="x")
    rows.loc[rows.index % 10 == 9, "split"] = "validation"
    pairs = pd.DataFrame({"prompt": ["q"] * 20, "chosen": GOOD * 6 + GOOD[:2], "rejected": BAD * 6 + BAD[:2],
                          "split": ["train"] * 15 + ["test"] * 5})
    own = {**QUICK["03_value_evaluator"], "head_epochs": 2}
    settings = SETTINGS | {"runs": [*SETTINGS["runs"], "dpo-aim-1x"]}
    folder = tmp_path_factory.mktemp("panel")
    return *prepare_panel(rows, rows.head(0), pairs, theory, settings, own, folder), rows, own, folder


def test_panel_keeps_its_halves_apart_and_survives_missing_rewards(panel):
    panel, quality, rows, own, folder = panel
    table, theory = quality.drop_duplicates("scorer").set_index("scorer"), load_theory("moral_foundations")
    n_train = (rows.split == "train").sum()
    sizes = [((rows.split == "train") & (rows.half == h)).sum() for h in "AB"]
    n_taught = sum(n + int(SETTINGS["mismatch"] * n) + n // 4 for n in sizes)
    assert table.loc["reward", "n_train"] + table.loc["judge", "n_train"] == n_taught
    real = rows[(rows.split == "train") & (rows.half == "A")]
    assert table.loc["reward", "n_replies"] == len(real) and table.loc["rlhf-5x", "n_replies"] == n_train
    taught, one = teach_absence(real.assign(kind="scored"), theory), real.response_source.iloc[0]
    for kept_out, weight, n in ([one], 1.0, (real.response_source != one).sum()), ([], 0.0, 0):
        assert study._count_rows(taught, {"unseen_models": kept_out, "scored_weight": weight})[1] == n
    assert table.loc["rlhf-5x", "n_train"] == n_train and table.loc["rlhf-1x", "n_train"] == round(0.2 * n_train)
    assert set(panel) == {"reward", "judge", "twin", "words", "values-1x", "rlhf-1x", "rlhf-5x", "harmless", "helpful",
                          "memory"}
    assert quality.measure.eq("contrast pairs in order").sum() == 5 and quality.low.notna().sum() == 5
    poor, _ = prepare_panel(rows.assign(reward=np.nan), rows.head(0), pd.DataFrame(columns=["split"]), theory, SETTINGS,
                            own, folder)
    assert set(poor) == {"reward", "judge", "twin", "words", "memory"}


def test_nothing_is_trained_when_switched_off():
    theory, off = load_theory("moral_foundations"), {"train": False}
    assert prepare_panel(pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), theory, off, {}, "nowhere")[0] == {}
    done = run_trial("nowhere", {}, ["dpo-aim"], pd.DataFrame(), pd.DataFrame(), "nowhere", theory,
                     uniform_target(theory), off, 0)
    assert done.summary.empty and done.skipped == ["dpo-aim"]


def test_a_run_named_twice_is_made_once_and_one_that_is_left_out_is_not_in_the_plan(tmp_path, monkeypatch):
    made = []

    def run(work, jobs, *told):
        made.extend(job[2].name for job in jobs)
        return [(pd.DataFrame(), "", pd.DataFrame({"prompt": ["p"]}))] * len(jobs)

    monkeypatch.setattr(study, "load_tokenizer", lambda *told: None)
    monkeypatch.setattr(study, "keep_short_prompts", lambda tokenizer, prompts, longest: prompts)
    monkeypatch.setattr(study, "measure_trial", lambda *told: (pd.DataFrame(),) * 3)
    monkeypatch.setattr(study, "run_jobs", run)
    theory = load_theory("schwartz10")
    prompts = pd.DataFrame({"prompt": ["p", "q"], "cluster": [0, 1], "split": ["train", "test"]})
    real = pd.DataFrame({"prompt": ["p", "q"], "response": "r", "response_source": "gpt-4"})
    names = ["best-of-n-aim", "rloo-aim", "rloo-uk", "rloo-uk-1x", "rloo-mars"]     # no evaluator is called values-1x
    done = study.run_trial("start", {"reward": Length()}, names, prompts, real, tmp_path, theory,
                           load_target("uk", theory), SETTINGS | {"n_shown": 0}, 1)
    assert made == ["rloo-uk", "best-of-n-uk", "start"] and list(done.replies) == ["start", "best-of-n-uk", "rloo-uk"]
    assert done.skipped == ["rloo-uk-1x", "rloo-mars"]
    assert json.loads((tmp_path / "plan.json").read_text("utf-8")) == ["rloo-uk", "best-of-n-uk"]


def test_what_is_shown_was_written_here_and_taught_nobody():
    shown = pick_shown(20)
    table = read_contrasts()
    assert len(set(shown)) == 20 and set(table.split[table.prompt.isin(shown)]) == {"test"}
    assert pick_shown(0) == []


@pytest.mark.slow
def test_runs_at_the_same_time_end_as_runs_one_by_one(panel, tmp_path):
    panel, _, rows, _, _ = panel
    theory = load_theory("moral_foundations")
    start = str(make_random_model(tmp_path / "start"))
    real = pd.DataFrame({"prompt": rows.prompt, "response": GOOD * 20, "response_source": "gpt-4"})
    names = ["dpo-aim", "dpo-real-aim", "dpo-rlhf-5x", "steering-aim", "system-prompt-aim", "rloo-aim"]
    done = {n: run_trial(start, panel, names, rows, real, tmp_path / str(n), theory, uniform_target(theory),
                         {**SETTINGS, "workers": n}, 1) for n in (1, 2)}
    assert list(done[1].replies) == ["start", *(name.replace("aim", "uniform") for name in names)]
    for name, replies in done[1].replies.items():
        pd.testing.assert_frame_equal(replies, done[2].replies[name])
        looked_at = name not in {"dpo-rlhf-5x", "steering-uniform"}    # the notebook shows no replies of these
        assert replies.nll_real.notna().all() and len(done[1].shown[name]) == 2 * looked_at
    again = run_trial(start, panel, ["dpo-rlhf-5x"], rows, real, tmp_path / "2", theory, uniform_target(theory),
                      {**SETTINGS, "workers": 2}, 1)
    pd.testing.assert_frame_equal(again.replies["dpo-rlhf-5x"], done[1].replies["dpo-rlhf-5x"])
    assert [t.name for t in done[1].targets] == ["uniform"]
    folders = [path.name for path in list_policies(tmp_path / "1" / "plan.json")]
    assert folders == ["dpo-uniform", "dpo-real-uniform", "dpo-rlhf-5x", "rloo-uniform", "steering-uniform"]
    assert [path.name for path in list_policies(tmp_path / "2" / "plan.json")] == ["dpo-rlhf-5x"]    # of the last plan
    run_trial(start, panel, names, rows, real, tmp_path / "2", theory, uniform_target(theory), {"train": False}, 1)
    assert list_policies(tmp_path / "2" / "plan.json") == []
    (tmp_path / "2" / "plan.json").unlink()
    assert [path.name for path in list_policies(tmp_path / "2" / "plan.json")] == sorted(folders)


def test_models_for_the_boards_take_the_place_of_an_earlier_runs_and_of_no_others(tmp_path):
    table = pd.DataFrame({"prompt": ["Hi"], "response": ["Hello there."]})
    (tmp_path / "mine.jsonl").write_text('{"prompt": "Hi", "response": "Hello."}\n')
    save_models({"start": table, "dpo-uk": table}, "/somewhere/tiny", tmp_path)
    save_models({"start": table, "dpo-ideal": table}, "org/tiny", tmp_path)
    assert set(read_models(tmp_path, "schwartz10")[0].model) == {"mine", "tiny", "tiny dpo-ideal"}
    save_models({}, "tiny", tmp_path)
    assert set(read_models(tmp_path, "schwartz10")[0].model) == {"mine"}


def test_several_targets():
    theory = load_theory("schwartz10")
    targets = [load_target(n, theory) for n in ("ideal", "uk", "france")]
    texts = {name: make_replies(["be kind" if i % 2 else f"so {i}" for i in range(10)])
             for name in ("start", "dpo-ideal", "dpo-uk")}
    done = make_trial(texts, targets[0])
    table, means = compare_targets(done.scores, targets), average_vectors(done.scores, theory.dimensions)
    assert table.xs("nearest", level="policy").columns.tolist() == ["ideal", "uk"]
    assert table.loc[("dpo", "ideal"), "uk"] == pytest.approx(value_distance(means, targets[1])[1])
    assert table.xs("lead", level="policy").values.tolist() == [[0, 0]], "both say the same"
    both = pd.concat([done.scores, done.scores.replace({"policy": {"dpo-ideal": "rloo-ideal", "dpo-uk": "rloo-uk"}})])
    assert compare_targets(both, targets).index.levels[0].tolist() == ["dpo", "rloo"]
    assert compare_targets(done.scores, targets[:1]).empty and compare_targets(pd.DataFrame(), ()).empty
    assert group_targets(targets) == {"ideal": "ideal", "uk": "uk", "france": "uk"}


NONE = "Left out: this run trained no model to ideal with its own seed and settings."


@pytest.mark.parametrize(("names", "notes"), [
    (["dpo-harmless"], [NONE, NONE, "Left out: this run made no dpo-ideal."]),
    (["dpo-ideal-s7"], [NONE, NONE, "Left out: this run made no dpo-ideal."]),
    (["best-of-n-ideal"], [NONE, NONE, "Left out: this run made no dpo-ideal."]),
    (["rloo-ideal"], ["", "", ""]), ([], ["train is off"] * 3)])
def test_notebook_04_says_why_something_is_left_out(names, notes):
    aim, said = load_target("ideal", load_theory("schwartz10")), []
    texts = {name: make_replies(["be kind", "so what"]) for name in ["start", *names]}
    own = SimpleNamespace(run_trial=lambda *_: make_trial(texts, aim) if names else Trial(), pick_best=pick_best,
                          pick_method=pick_method, show=lambda table, note: said.append("" if len(table) else note))
    quality = pd.DataFrame({"scorer": ["judge"], "measure": "contrast pairs in order", "value": 0.9, "low": 0.8,
                            "high": 1.0})
    run = SimpleNamespace(path=str, seed=0, save_table=lambda *_: None)
    given = dict.fromkeys(["prompts", "start", "panel", "value_theory"]) | {
        "study": own, "settings": {"runs": names, "wanted_drop": 0.1}, "aim": aim, "train": bool(names),
        "left_out": "train is off", "scored": [], "dialogues": [], "quality": quality, "run": run, "proof": measures,
        "pd": pd, "Markdown": str, "plots_alignment": plots_alignment}
    for cell in ("study.run_trial(", "study.pick_best(", "proof.judge_goals(", "study.pick_method("):
        given = run_cell("04_value_alignment", cell, **given)
    assert said == notes


def test_notebook_04_counts_what_is_right_where_two_ways_have_different_targets():
    right = pd.DataFrame({"ideal": [True, True, "ideal", "ideal"], "uk": [False, np.nan, "ideal", np.nan]},
                         pd.MultiIndex.from_product([["is_right", "nearest"], ["dpo", "rloo"]], names=["policy", "way"]
                                                    ).swaplevel(), dtype=object)
    told, empty = {}, pd.DataFrame()
    audit = pd.DataFrame({"absence": ["mask"], "kind": ["empty"], "is_fault": [True]})
    chosen = pd.DataFrame({"target": ["ideal"], "distance_mean": [2.0], "distance_chosen": [1.0]})
    run_cell("04_value_alignment", "right = confusion", confusion=right, selection=chosen, audit=audit, scored=empty,
             results=Trial(), goals=empty, aligned_name=None, method="dpo", verdicts=empty, comparison=empty,
             run=SimpleNamespace(record=told.update), n_taught={}, settings={"wanted_drop": 0.1})
    assert told["n_right"] == [2, 3]    # no model of rloo was trained to uk
    assert told["nearest"] == {"ideal": "ideal", "uk": "ideal"}


def test_real_replies_are_cut_to_as_many_tokens_and_answer_the_same_prompts(tmp_path):
    target, start = uniform_target("moral_foundations"), make_random_model(tmp_path / "start")
    real = pd.DataFrame({"prompt": ["q1", "q1", "q2", "elsewhere"], "response": ["be kind " * 40, "twice", "no", "no"],
                         "response_source": "gpt-4", "split": "test"})
    read, panel = [], {"judge": Lexicon(5)}
    score = panel["judge"].score
    panel["judge"].score = lambda prompts, texts: read.extend(texts) or score(prompts, texts)
    found = measure_references(real, {"start": pd.DataFrame({"prompt": ["q1", "q2"]})}, start, panel, target,
                               {"chat_template": "", "max_new_tokens": 4})
    assert found.n.tolist() == [2] and len(read) == 2 and 0 < len(read[0]) < 40 and read[1] == "no"
    assert measure_references(real, {}, "", panel, target, {}).empty


def test_training_needs_a_labelled_row_in_both_halves():
    theory = load_theory("moral_foundations")
    rows = make_rows(theory, 8)    # the halves are A, A, B, B, A, A, B, B; the fifth row is a test row
    assert has_labels(rows, theory)
    assert not has_labels(rows[rows["half"] == "A"], theory)
    rows.loc[rows["half"] == "B", list(theory.dimensions)] = np.nan
    assert not has_labels(rows, theory)
    rows.loc[7, theory.dimensions[2]] = 0.0
    assert has_labels(rows, theory), "one label is enough"
    assert not has_labels(rows.assign(split=["train"] * 6 + ["test"] * 2), theory)


def test_runs_with_other_seeds_are_listed_together():
    summary = pd.DataFrame({"policy": ["start", "rloo-uk-s2", "rloo-ideal", "rloo-uk", "rlhf-1x-s3"],
                            "drop_judge": [0.0, 0.2, 0.3, 0.1, 0.5], "other": 1})
    table = list_seeds(summary)
    assert table.to_dict("list") == {"run": ["rloo-uk"] * 2, "seed": ["2", "own"], "drop_judge": [0.2, 0.1]}
