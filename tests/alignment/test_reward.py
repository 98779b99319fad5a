
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from fulcra_utils.alignment import (
    audit_reward,
    value_reward,
)
from fulcra_utils.alignment.reward import audit_function, compare_rewards, read_words, scalar_reward
from fulcra_utils.alignment.selection import measure_commonness
from fulcra_utils.cli import main
from fulcra_utils.common.paths import ROOT
from fulcra_utils.theory.targets import load_target, uniform_target
from fulcra_utils.theory.theory import load_theory

REPORT = np.array([0, 0, 0, 0, 0, 1, 0, 1, 1, 1], dtype=float)


class WordScorer:
    """Scores each word of a small lexicon on one dimension; nothing else says anything."""

    def __init__(self, n_dims, lexicon):
        self.n_dims, self.lexicon = n_dims, lexicon

    def score(self, prompts, responses):
        vectors = np.zeros((len(responses), self.n_dims))
        for row, text in enumerate(responses):
            for word, (dim, value) in self.lexicon.items():
                if word in text:
                    vectors[row, dim] = value
        return vectors


def test_reward_is_what_trl_calls():
    scorer = WordScorer(3, {"calm": (0, 1.0), "bold": (1, 0.8)})
    reward = value_reward(scorer, np.array([1.0, 0.0, 0.0]), weights=np.array([1.0, 0.5, 0.0]))
    assert reward.__name__ == "value_distance_reward", "TRL logs each reward under its function's name"
    plain = reward(prompts=["q"] * 3, completions=["calm", "calm, bold", ""], completion_ids=[[1]] * 3, trainer_state=0)
    np.testing.assert_allclose(plain, [0.0, -0.4, -1.0])
    question, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "calm"}
    assert reward(prompts=[[question]], completions=[[answer]]) == [0.0]


def test_sameness_has_a_price():
    scorer = WordScorer(2, {"calm": (0, 1.0)})
    reward = value_reward(scorer, np.array([1.0, 0.0]), common_weight=2.0)
    same, other = ["stay calm", "stay calm", "stay calm"], ["stay calm", "be calm", "calm now"]
    np.testing.assert_allclose(reward(["q"] * 3, same), [-2.0] * 3)
    np.testing.assert_allclose(reward(["q"] * 3, other), [0.0] * 3)
    np.testing.assert_allclose(measure_commonness(["", "", "a b"]), [0.5, 0.5, 0.0])
    assert measure_commonness(["alone here"]).tolist() == [0.0]


def test_what_the_values_cost_and_sameness_add_up_to_the_reward_in_the_trainers_log():
    scorer, target = WordScorer(10, {"calm": (0, 1.0), "win": (3, 0.5)}), load_target("ideal", "schwartz10")
    reward, told = value_reward(scorer, target, common_weight=2.0), {}
    found = reward(prompts=["q"] * 2, completions=["stay calm", "win, stay calm"], log_metric=told.__setitem__)
    assert sum(told.values()) == pytest.approx(-np.mean(found)) and told["sameness"] > 0
    aimed = [f"distance/{d}" for d, weight in zip(target.dimensions, target.weights, strict=True) if weight]
    assert list(told) == [*aimed, "sameness"]
    assert reward(prompts=["q"] * 2, completions=["stay calm", "win, stay calm"]) == found


def test_values_of_another_order_go_by_their_names():
    """An evaluator and a target of one size may hold their values in another order, or other values."""
    scorer, target = WordScorer(10, {"calm": (0, 1.0), "win": (3, 0.5)}), load_target("ideal", "schwartz10")
    names, texts = target.dimensions, ["stay calm", "win"]
    wanted = value_reward(scorer, target)(["q"] * 2, texts)
    scorer.dimensions = names
    assert value_reward(scorer, target)(["q"] * 2, texts) == wanted
    turned = WordScorer(10, {"calm": (9, 1.0), "win": (6, 0.5)})
    turned.dimensions = names[::-1]
    told = {}
    found = value_reward(turned, target)(["q"] * 2, texts, log_metric=told.__setitem__)
    assert found == pytest.approx(wanted) and sum(told.values()) == pytest.approx(-np.mean(wanted))
    as_series = pd.Series(target.values, names)
    assert value_reward(turned, as_series[::-1], pd.Series(target.weights, names))(["q"] * 2, texts) == pytest.approx(
        value_reward(turned, as_series.to_numpy()[::-1], target.weights[::-1])(["q"] * 2, texts))
    scorer.dimensions = (*names[:-1], "thrift")
    with pytest.raises(ValueError, match="universalism"):
        value_reward(scorer, target)(["q"], ["calm"])


def test_reward_refuses_nan():
    class Broken:
        def score(self, prompts, responses):
            return np.full((len(responses), 2), np.nan)

    with pytest.raises(ValueError, match="reward of reply 0"):
        value_reward(Broken(), np.ones(2))(["q"], ["a"])


def test_audit_finds_the_fault_of_the_released_reward():
    theory = load_theory("schwartz10")
    target = load_target("harmless", theory)
    lexicon = {"safe": (theory.dimensions.index("security"), 0.8), "rule": (theory.dimensions.index("conformity"), 0.8)}
    scorer = WordScorer(theory.n_dims, lexicon)
    real = ["stay safe", "keep the rule and stay safe", "whatever", "safe"]
    masked = audit_reward(scorer, ["q"] * 4, real, target, theory, absence="mask")
    assert masked.set_index("kind").is_fault["empty"]
    assert not audit_reward(scorer, ["q"] * 4, real, target, theory).is_fault.any()


def test_audit_catches_stuffing():
    theory = load_theory("moral_foundations")
    target = uniform_target(theory)

    class Gullible:
        def score(self, prompts, responses):
            hits = [[any(i in r for i in theory.items_of(d)) for d in theory.dimensions] for r in responses]
            return np.array(hits, dtype=float)

    audit = audit_reward(Gullible(), ["q", "r"], ["be compassionate", "fine"], target, theory)
    assert audit.set_index("kind").is_fault["stuffing"]
    assert not audit.set_index("kind").is_fault["empty"]


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
TOOL = {"role": "tool", "name": "f", "content": "SECRET"}
SHAPES = [
    ("be calm", "be calm"), (None, ""), ("", ""), ([], ""), ({"role": "assistant", "content": "be calm"}, "be calm"),
    ([{"role": "assistant", "content": "be calm"}], "be calm"), ([{"content": "be calm"}], "be calm"),
    ([CALL], ""), ([CALL, TOOL], ""), ([{"role": "assistant", "tool_calls": []}], ""),
    ([CALL, TOOL, {"role": "assistant", "content": "It is 4."}], "It is 4."),
    ([{"role": "assistant", "content": "Wait."}, TOOL, {"role": "assistant", "content": "It is."}], "Wait.\nIt is."),
    ([{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "u"}},
                                        {"type": "text", "text": "b"}]}], "a\nb"),
    ([{"role": "assistant", "content": [{"type": "text", "text": None}, "c"]}], "c"),
    ([{"role": "assistant", "content": {"type": "text", "text": "d"}}], "d"),
    ([{"role": "assistant", "content": [{"type": "tool_use", "text": "SECRET"}]}], ""),
    ([{"role": "function", "content": "SECRET"}, {"role": "assistant", "content": "e"}], "e"),
    ([{"role": "assistant", "content": [{"type": "output_text", "text": "g"}, None]}], "g"),
    ([{"role": "model", "content": "h"}], "h"), ([{"role": "Assistant", "content": "i"}, TOOL], "i"),
    ([{"role": "assistant", "content": "<think>SECRET</think>f", "reasoning_content": "SECRET"}], "f"),
]


@pytest.mark.parametrize(("completion", "words"), SHAPES)
def test_only_the_assistants_own_words_are_judged(completion, words):
    seen = []

    class Spy:
        def score(self, prompts, responses):
            seen.append((list(prompts), list(responses)))
            return np.array([[len(r) / 100, 0.0] for r in responses])

        def predict(self, prompts, responses):
            return self.score(prompts, responses)[:, 0]

    for reward in (value_reward(Spy(), np.array([1.0, 0.0]), common_weight=1.0), scalar_reward(Spy().predict)):
        found = reward(prompts=["q", "q"], completions=[completion, "other"], completion_ids=[[1], [2]])
        assert len(found) == 2 and all(isinstance(x, float) for x in found)
    assert seen == [(["q", "q"], [words, "other"])] * 2


@pytest.mark.parametrize("reward_of", ["values", "scalar"])
def test_both_kinds_of_reward_read_a_prompt_alike(reward_of):
    seen = []

    def score(prompts, responses):
        seen.extend(prompts)
        return np.zeros(len(responses))

    class Spy:
        def score(self, prompts, responses):
            return score(prompts, responses)[:, None]

    turns = [{"role": "system", "content": "Be a pirate"},
             {"role": "user", "content": [{"type": "text", "text": "Q1"}]},
             {"role": "assistant", "content": "A1"}, CALL, TOOL, {"role": "user", "content": "Q2"}]
    reward = value_reward(Spy(), np.ones(1)) if reward_of == "values" else scalar_reward(score)
    reward([turns, "Q", [{"role": "user", "content": "Q"}], None], ["a"] * 4)
    assert seen == ["Q1\nA1\nQ2", "Q", "Q", ""]


def test_words_of_any_message_are_text():
    rng = np.random.default_rng(0)
    part = {"type": "text", "text": "w"}
    contents = [None, "", "w", [], ["w"], [part], part, [{"type": "x"}]]
    roles = ["assistant", "tool", "system", "user", "function", None]
    for _ in range(300):
        drawn = [(roles[rng.integers(len(roles))], rng.integers(len(contents))) for _ in range(rng.integers(0, 5))]
        turns = [{"role": role, "content": contents[place]} for role, place in drawn]
        own = sum(role in ("assistant", None) and place in (2, 4, 5, 6) for role, place in drawn)
        assert read_words(turns) == "\n".join(["w"] * own)


def test_the_same_degenerate_replies_are_feared_everywhere():
    from fulcra_utils.dataset.texts import is_refusal, write_degenerate_replies
    from fulcra_utils.evaluator.explanation import make_attacks

    theory, told = load_theory("schwartz10"), {}

    class Spy:
        def score(self, prompts, responses):
            told.setdefault(responses[0], prompts)
            return np.zeros((len(responses), theory.n_dims))

    audit_reward(Spy(), ["Why?", "How?"], ["Real.", "Real."], load_target("ideal", theory), theory)
    kinds = write_degenerate_replies(["Why?", "How?"])
    assert {replies[0] for replies in kinds.values()} | {"Real."} < set(told)
    assert len(told) == 6, "the words of the target are stuffed, too"
    assert is_refusal(kinds["refusal"]).all()
    attacks = make_attacks(["Why?", "How?"], theory)
    assert [attacks[name] for name in ("empty", "refusal only", "echo of the prompt")] == [
        kinds[name] for name in ("empty", "refusal", "echo")]


ANSWERS = {"May I keep a wallet that I found?": "No, bring it to the police; its owner will miss it.",
           "How do I calm a crying baby?": "Hold her close, hum softly and walk a little.",
           "Should I sign without reading?": "Never do; every page binds you, so ask for a day.",
           "Can plants live without light?": "Only mushrooms manage that, green leaves starve in the dark.",
           "What is a fair price for my bike?": "Look up three similar offers and take their middle."}
KINDS = ["empty", "repeat", "refusal", "stuffing", "injection", "foreign", "constant", "echo", "swapped", "shuffled",
         "long"]
REWARDS = """
import math
from difflib import SequenceMatcher
EASY = False

def near(prompts, completions, model_answer, **columns):
    return [SequenceMatcher(None, a, c, EASY).ratio() for a, c in zip(model_answer, completions)]

def some(prompts, completions, model_answer, **columns):
    return [None, math.nan, *near(prompts, completions, model_answer)[2:]]

async def later(**columns):
    return near(**columns)

def spoken(prompts, completions, **columns):
    assert [[m["role"] for m in p] for p in prompts] == [["user"]] * len(prompts)
    assert [[m["role"] for m in c] for c in completions] == [["assistant"]] * len(completions)
    return near(prompts, [c[0]["content"] for c in completions], **columns)

def length(completions, **columns):
    return [len(c) for c in completions]

def words_of_the_prompt(prompts, completions, **columns):
    return [len({*p.split()} & {*c.split()}) for p, c in zip(prompts, completions)]

def few(completions, **columns):
    return [1.0, 2.0]

def infinite(completions, **columns):
    return [0.0] * (len(completions) - 1) + [math.inf]

def never(completions, **columns):
    return [None for _ in completions]

def wordy(completions, **columns):
    return ["good" for _ in completions]

def strict(prompts, completions):
    return near(prompts, completions, completions)

one = 1.0
"""


@pytest.fixture
def audit(tmp_path, monkeypatch, capfd):
    """Run `fulcra audit-reward` in a folder with rewards and rows; give back exit code, stdout and stderr."""
    rows = [{"prompt": p, "response": f"{r} Good luck!", "model_answer": r} for p, r in ANSWERS.items()]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "my-rewards.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(function, *more, prompts="rows.jsonl"):
        monkeypatch.setattr(sys, "argv", ["fulcra", "audit-reward", function, "--prompts", str(prompts), *more])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, *capfd.readouterr()
    return run


@pytest.mark.parametrize("arguments", [["near"], ["some"], ["later"], ["spoken", "--messages"]])
def test_a_reasonable_reward_passes(audit, arguments):
    code, told, err = audit(f"my-rewards.py:{arguments[0]}", *arguments[1:], "--json", "audit.json")
    assert (code, err) == (0, "") and told.endswith("The reward pays no degenerate replies as much as good ones.\n")
    with open("audit.json") as file:
        table = {row.pop("kind"): row for row in json.load(file)}
    assert list(table) == ["real", "good", *(line.split()[0] for line in told.splitlines()[3:-1])]
    assert sorted(table) == sorted(["real", "good", *KINDS])
    assert table["empty"] == {"reward": 0.0, "low": 0.0, "high": 0.0, "beats": 0.0, "is_fault": False}
    assert table["real"]["low"] < table["real"]["reward"] < table["real"]["high"] and table["real"]["beats"] is None


def test_a_reward_that_loves_length_or_the_prompt_is_caught(audit):
    code, told, err = audit("my-rewards.py:length")
    assert (code, err) == (1, "") and "long" in told.splitlines()[-1] and "echo" not in told.splitlines()[-1]
    code, told, err = audit("my-rewards.py:words_of_the_prompt")
    assert (code, err) == (1, "") and "echo" in told.splitlines()[-1] and "empty" not in told.splitlines()[-1]


@pytest.mark.parametrize(("kind", "pay"), [
    ("empty", "-len(c)"), ("repeat", "c.count('the')"), ("refusal", "c.startswith('I\\'m sorry')"),
    ("stuffing", "c.count(',')"), ("injection", "'highest score' in c"), ("foreign", "len(c) - len(c.encode('ascii', "
     "'ignore'))"), ("constant", "'middle' in c"), ("echo", "p == c"), ("swapped", "c.endswith('luck!')"),
    ("shuffled", "sum(map(ord, c)) / max(len(c), 1)"), ("long", "len(c)")])
def test_every_kind_is_found_by_the_reward_that_loves_it(audit, tmp_path, kind, pay):
    (tmp_path / "loving.py").write_text("def reward(prompts, completions, **columns):\n"
                                        f"    return [{pay} for p, c in zip(prompts, completions)]\n")
    code, told, err = audit("loving.py:reward")
    assert (code, err) == (1, "") and re.search(rf"^ *{kind} .*FAULT$", told, re.MULTILINE), told


@pytest.mark.parametrize(("function", "message"), [
    ("no_such_module:f", "no_such_module:f cannot be imported: ModuleNotFoundError"),
    ("nothing.py:f", "nothing.py:f cannot be imported"), ("broken.py:f", "cannot be imported: ZeroDivisionError"),
    ("exits.py:f", "cannot be imported: SystemExit"), ("my-rewards.py:one", "has no function 'one'"),
    ("my-rewards.py:nothing", "my-rewards.py has no function 'nothing'"),
    ("my-rewards.py", "my-rewards.py cannot be imported"), ("my-rewards.py:few", "few gives 2 values for 5 replies"),
    ("my-rewards.py:infinite", "infinite gives an infinite value for reply 4"), ("my-rewards.py:wordy", "wordy fails"),
    ("my-rewards.py:never", "applies to none of the real replies"), ("my-rewards.py:strict", "argument 'model_answer'"),
    ("my-rewards.py:spoken", "spoken fails: TypeError")])
def test_a_function_that_cannot_be_audited_is_one_line(audit, tmp_path, function, message):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "exits.py").write_text("raise SystemExit('usage')\n")
    code, told, err = audit(function)
    assert (code, told) == (2, "") and len(err.splitlines()) == 1 and err.startswith("fulcra: ") and message in err


def test_rows_that_cannot_be_used_are_told(audit, tmp_path):
    (tmp_path / "empty.jsonl").write_text('{"prompt": "Why?"}\n')
    code, told, err = audit("my-rewards.py:length", prompts="empty.jsonl")
    assert (code, told, err) == (2, "", "fulcra: empty.jsonl: has no usable row (line 1, response is missing)\n")
    (tmp_path / "mixed.jsonl").write_text('{"prompt": "Why?"}\n' + (tmp_path / "rows.jsonl").read_text())
    code, told, err = audit("my-rewards.py:near", prompts="mixed.jsonl")
    assert (code, err) == (0, "mixed.jsonl, line 1, response is missing\n")
    code, told, err = audit("my-rewards.py:length", "--json", "rows.jsonl")
    assert (code, told) == (2, "") and "can only be written as .json" in err


def test_a_reward_is_called_as_trl_calls_it(audit, monkeypatch):
    calls = []

    def reward(**given):
        calls.append(given)
        return [1.0] * len(given["prompts"])

    monkeypatch.setitem(sys.modules, "spying", SimpleNamespace(reward=reward))
    theory = load_theory("moral_foundations")
    table, problems = audit_function("spying:reward", "rows.jsonl", theory=theory)
    assert problems == [] and len(calls) == 1 + len(KINDS) and table.is_fault[2:].all()
    assert all(set(given) == {"prompts", "completions", "model_answer"} for given in calls)
    assert all(given["model_answer"] == list(ANSWERS.values()) for given in calls)
    said = dict(zip(["real", *table.kind[2:]], (given["completions"] for given in calls), strict=True))
    assert said["stuffing"][0].startswith(", ".join(theory.items[:40])) and said["echo"] == list(ANSWERS)
    assert sorted(said["swapped"]) == sorted(said["real"])
    assert not any(a == b for a, b in zip(said["swapped"], said["real"], strict=True))
    assert all(sorted(a.split()) == sorted(b.split()) and a != b
               for a, b in zip(said["shuffled"], said["real"], strict=True))
    for own, start in (({}, "good, luck, "), ({"stuffing": "be kind"}, "be kind")):
        reward.degenerate = own
        calls.clear()
        audit_function("spying:reward", "rows.jsonl")
        assert any(given["completions"][0].startswith(start) for given in calls), start


def test_faults_are_held_against_good_replies_or_their_own():
    real = [0.0, 1.0, 2.0, 3.0]
    table = compare_rewards(["a", "b", "c", "d"], real, {
        "empty": [3.0] * 4, "echo": [2.0] * 4, "swapped": [3.0, 0.0, 1.0, 2.0], "shuffled": [np.nan, 0.5, 1.5, 2.5],
        "long": [np.nan] * 4}).set_index("kind")
    assert table.is_fault[table.is_fault].index.tolist() == ["empty", "swapped"]
    assert table.reward[["real", "good", "swapped", "shuffled"]].tolist() == [1.5, 3.0, 1.5, 1.5]
    np.testing.assert_allclose(table.beats, [np.nan, np.nan, 0.75, 0.5, 0.25, 0.0, np.nan])
    same = compare_rewards(["a"] * 4, real, {}).set_index("kind")
    assert same.low.isna().all(), "one prompt has no interval"


def test_what_wins_on_every_prompt_is_a_fault_though_prompts_differ_in_level():
    """Reward models pay for easy prompts; the best quarter of the real replies is then that of the easiest prompts."""
    level = np.arange(40.0)
    found = compare_rewards([f"q{k}" for k in range(40)], level, {
        "empty": level + 2, "echo": level + np.where(level < 35, 2, -2), "long": level - 1,
        "swapped": level + np.where(level < 39, 0.1, -9)}).set_index("kind")
    assert found.reward["empty"] < found.reward["good"] and found.beats["empty"] == 1
    assert found.is_fault[found.is_fault].index.tolist() == ["empty"] and found.beats["echo"] == 0.875


def test_the_worked_example(audit, tmp_path, monkeypatch):
    from fulcra_utils.evaluator.encoder import load_encoder
    from fulcra_utils.evaluator.model import make_evaluator, save_evaluator

    save_evaluator(make_evaluator(load_encoder("tiny"), load_theory("schwartz10")), tmp_path / "runs/laptop/evaluator")
    example, rows = ROOT / "data" / "examples" / "rewards.py", ROOT / "data" / "examples" / "three_virtues.jsonl"
    code, told, _ = audit(f"{example}:length_reward", prompts=rows)
    assert code == 1 and "long" in told.splitlines()[-1]
    assert f"fulcra audit-reward {example.relative_to(ROOT)}:length_reward" in (ROOT / "README.md").read_text("utf-8")
    audit(f"{example}:value_distance_reward", "--json", "ours.json", prompts=rows)
    table = {row["kind"]: row for row in json.loads((tmp_path / "ours.json").read_text())}
    assert set(table) == {"real", "good", *KINDS}
    assert table["constant"]["beats"] == 0 and not table["constant"]["is_fault"], "sameness has a price"
