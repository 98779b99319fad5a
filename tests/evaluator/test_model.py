"""The evaluator: its input, its calls, its folder, and what it refuses."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from fulcra_utils.alignment.finetuning import align
from fulcra_utils.alignment.reward import audit_reward
from fulcra_utils.common.labels import scores_to_labels
from fulcra_utils.dataset.rows import list_pairs
from fulcra_utils.dataset.splits import assign_splits, group_prompts
from fulcra_utils.dataset.texts import is_refusal
from fulcra_utils.evaluator import encoder, model
from fulcra_utils.evaluator.encoder import embed, load_encoder
from fulcra_utils.evaluator.explanation import audit_replies
from fulcra_utils.evaluator.model import EvaluatorError, ValueEvaluator, make_evaluator
from fulcra_utils.evaluator.rendering import pad_pairs, render, take_types
from fulcra_utils.llm.local import sample_replies
from fulcra_utils.llm.replies import write_replies
from fulcra_utils.theory.distance import value_distance
from fulcra_utils.theory.targets import load_target
from fulcra_utils.theory.theory import list_theories, load_theory, name_values

PROMPTS = ["May I lie to a friend?", "How do I stay healthy?", "Tell me a joke."]
REPLIES = ["Honesty matters more.", "Sleep, move and eat well. " * 40, "No."]


@pytest.fixture
def evaluator(tiny):
    return make_evaluator(tiny, load_theory("schwartz10"))


@pytest.fixture
def folder(evaluator, tmp_path):
    with torch.no_grad():
        evaluator.heads.normal_(generator=torch.Generator().manual_seed(3))
    evaluator.save_pretrained(tmp_path / "evaluator")
    return tmp_path / "evaluator"


def test_render_is_pinned(tiny):
    pair = render("  What is brave?\n", "\tTo try again. ", tiny.tokenizer, 32)
    assert tiny.tokenizer.decode(pair["input_ids"]) == "[CLS] what is brave? [SEP] to try again. [SEP]"
    assert pair["token_type_ids"] == [0] * 6 + [1] * 5 or sum(pair["token_type_ids"]) > 0


def test_render_cuts_the_middle(tiny):
    words = " ".join(f"w{i}" for i in range(200))
    whole = render("be kind", words, tiny.tokenizer, 100_000)
    cut = render("be kind", words, tiny.tokenizer, 64)
    assert len(cut["input_ids"]) == 64
    assert cut["input_ids"][:20] == whole["input_ids"][:20]
    assert cut["input_ids"][-20:] == whole["input_ids"][-20:]


def test_render_keeps_room_for_the_reply_when_the_prompt_is_long(tiny):
    pair = render("why " * 500, "because it is so", tiny.tokenizer, 40)
    assert len(pair["input_ids"]) <= 40
    assert tiny.tokenizer.decode(pair["input_ids"]).endswith("[SEP] because it is so [SEP]")


def test_render_of_a_huge_reply_reads_both_ends(tiny):
    pair = render("p", "start " + "x" * 5_000_000 + " end", tiny.tokenizer, 64)
    assert len(pair["input_ids"]) <= 64
    assert tiny.tokenizer.decode(pair["input_ids"]).split()[3] == "start"
    assert tiny.tokenizer.decode(pair["input_ids"]).endswith("end [SEP]")


def test_probabilities_and_scores_agree(evaluator):
    probabilities = evaluator.predict_proba(PROMPTS, REPLIES)
    assert probabilities.shape == (3, 10, 3)
    np.testing.assert_allclose(probabilities.sum(-1), 1)
    np.testing.assert_allclose(evaluator.score(PROMPTS, REPLIES), probabilities[..., 2] - probabilities[..., 0])


def test_scores_do_not_depend_on_batching_or_order(evaluator):
    once = evaluator.score(PROMPTS, REPLIES)
    np.testing.assert_allclose(evaluator.score(PROMPTS, REPLIES, batch_size=1), once, atol=1e-5)
    np.testing.assert_allclose(evaluator.score(PROMPTS[::-1], REPLIES[::-1])[::-1], once, atol=1e-5)


def test_no_rows(evaluator):
    assert evaluator.score([], []).shape == (0, 10)


@pytest.mark.parametrize(("prompts", "responses", "message"), [
    (["a"], [None], "Response 0 is a NoneType"), (["a", 3], ["b", "c"], "Prompt 1 is a int"),
    (["a"], [], "1 prompts but 0 responses"), ("a", "b", "lists of strings"),
])
def test_wrong_types_are_named(evaluator, prompts, responses, message):
    with pytest.raises(EvaluatorError, match=message):
        evaluator.score(prompts, responses)


@pytest.mark.slow
def test_folder_gives_the_same_scores_in_a_fresh_process(evaluator, folder):
    code = ("import json, sys; from fulcra_utils.evaluator.model import ValueEvaluator;"
            "e = ValueEvaluator.from_pretrained(sys.argv[1]);"
            "print(json.dumps(e.score(*json.loads(sys.argv[2])).tolist()))")
    done = subprocess.run([sys.executable, "-c", code, str(folder), json.dumps([PROMPTS, REPLIES])],
                          capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(done.stdout), evaluator.score(PROMPTS, REPLIES), atol=1e-5)
    names = {p.name for p in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "theory.yaml"} <= names
    assert not [n for n in names if n.endswith((".bin", ".pt", ".pkl"))]
    assert load_theory(folder / "theory.yaml").dimensions == evaluator.dimensions


def test_calibration_survives_saving(evaluator, tmp_path):
    evaluator.temperature[2] = 4.0
    evaluator.config.cuts = [[-0.3, 0.4]] * 10
    evaluator.config.conformal = [[None, 0.9, 0.8]] * 10
    evaluator.save_pretrained(tmp_path / "e")
    other = ValueEvaluator.from_pretrained(tmp_path / "e")
    assert other.temperature[2] == 4 and other.config.cuts == evaluator.config.cuts
    np.testing.assert_array_equal(other.predict(list(zip(PROMPTS, REPLIES, strict=True))),
                                  scores_to_labels(other.score(PROMPTS, REPLIES), other.cuts))


def test_temperature_flattens_one_value_only(evaluator):
    before = evaluator.predict_proba(PROMPTS, REPLIES)
    evaluator.temperature[0] = 1e6
    after = evaluator.predict_proba(PROMPTS, REPLIES)
    np.testing.assert_allclose(after[:, 0], 1 / 3, atol=1e-4)
    np.testing.assert_allclose(after[:, 1:], before[:, 1:], atol=1e-6)


def test_a_value_that_was_not_taught_gets_the_heads_that_the_prior_expects(tiny):
    theory = load_theory("schwartz10")
    evaluator = make_evaluator(tiny, theory, taught=theory.dimensions[:9])
    assert evaluator.heads.shape[1] == 9 and (evaluator.mixture[:, :9] == torch.eye(9)).all()
    values = list(zip(theory.dimensions, theory.definitions, strict=True))
    meanings = evaluator.place(evaluator.read_definitions(values))
    alike = model.ALIKE * meanings @ meanings.T      # a Gaussian process, by hand
    expected = alike[9, :9] @ torch.linalg.inv(alike[:9, :9] + model.OWN * torch.eye(9))
    torch.testing.assert_close(evaluator.mixture[:, 9], expected.repeat(2, 1), atol=1e-5, rtol=1e-4)
    before = evaluator.score(PROMPTS, REPLIES)
    with torch.no_grad():
        evaluator.heads[:, 0] += 5
    assert np.abs(evaluator.score(PROMPTS, REPLIES) - before).max(0)[[0, 9]].min() > 1e-3
    np.testing.assert_allclose(evaluator.score(PROMPTS, REPLIES)[:, 1:9], before[:, 1:9], atol=1e-6)


def test_an_untaught_value_is_the_likelier_touched_the_nearer_its_definition_is(tiny, monkeypatch):
    theory = load_theory("schwartz10")
    evaluator = make_evaluator(tiny, theory, taught=theory.dimensions[:9])
    replies = ["All people deserve tolerance, justice and the protection of nature.", "The train leaves at nine."]
    told = evaluator.predict_proba(["", ""], replies)
    batch = pad_pairs(evaluator.render(["", ""], replies), evaluator.tokenizer)
    np.testing.assert_allclose(evaluator(**batch)["logits"].softmax(-1).detach(), told, atol=1e-5)
    monkeypatch.setattr(model, "NEAR", 0.0)
    before = evaluator.predict_proba(["", ""], replies)
    np.testing.assert_array_equal(told[:, :9], before[:, :9])
    def odds(p: np.ndarray) -> np.ndarray:
        return np.log((1 - p[:, 9, 1]) / p[:, 9, 1])
    meaning = f"universalism: {theory.definitions[9]}"
    cosines = embed(replies, load_encoder("bundled")) @ embed([meaning], load_encoder("bundled"))[0]
    assert cosines[0] > 0.4 > 0.1 > cosines[1]
    # the tiny tokenizer gives back small letters, so the cosines are not quite the same
    np.testing.assert_allclose(odds(told) - odds(before), 20 * (cosines - 0.1), atol=0.5)


def test_a_head_that_labels_did_not_tell_apart_is_mixed_from_those_that_they_did(tiny):
    theory = load_theory("schwartz10")
    evaluator = make_evaluator(tiny, theory)
    evaluator.config.knows = [[True, False], *[[True, True]] * 8, [False, True]]
    evaluator.mix()
    presence, stance = evaluator.mixture
    assert (presence[:9] == torch.eye(10)[:9]).all() and (stance[1:] == torch.eye(10)[1:]).all()
    assert presence[9, 9] == 0 < presence[9, :9].abs().min() and stance[0, 0] == 0 < stance[0, 1:].abs().min()
    assert evaluator.untaught == theory.dimensions[9:] and evaluator.weak == ()     # its definition says something
    assert evaluator.borrowed == [
        f"presence of {theory.dimensions[9]} from its definition (too few touched or untouched)",
        f"stance of {theory.dimensions[0]} from its definition (too few -1 or +1)"]


def test_what_is_kept_on_disk_is_read_again_only_for_the_same_weights(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("FULCRA_CACHE", str(tmp_path))
    monkeypatch.setattr(model, "SMALL", 0)
    evaluator, calls = make_evaluator(tiny, load_theory("schwartz10")), []
    plain = evaluator.score(PROMPTS, REPLIES)
    evaluator.keep_features()
    read = evaluator.read
    monkeypatch.setattr(evaluator, "read", lambda **told: calls.append(1) or read(**told))
    kept = evaluator.score(PROMPTS, REPLIES)
    np.testing.assert_allclose(kept, plain, atol=1e-3)      # half precision
    n_calls = len(calls)
    np.testing.assert_array_equal(evaluator.score(PROMPTS[::-1], REPLIES[::-1])[::-1], kept)
    assert len(calls) == n_calls > 0
    evaluator.score(PROMPTS, [reply + " Yes." for reply in REPLIES])
    assert len(calls) > n_calls
    other = make_evaluator(load_encoder("tiny", seed=5), load_theory("schwartz10"))
    other.keep_features()
    assert other.kept.mark != evaluator.kept.mark and not other.kept.get(other.render(PROMPTS, REPLIES))
    again = make_evaluator(tiny, load_theory("schwartz10"))
    again.keep_features()
    assert again.kept.mark == evaluator.kept.mark
    again.encoder.config.num_attention_heads = 1        # the same weights read another way
    again.keep_features()
    assert again.kept.mark != evaluator.kept.mark


def test_half_precision_moves_features_little_and_is_kept_apart(tiny, monkeypatch, tmp_path):
    """On hardware that has it, large encoders read with products in bfloat16: a hundredth of the spread."""
    monkeypatch.setenv("FULCRA_CACHE", str(tmp_path))
    monkeypatch.setattr(model, "SMALL", 0)
    monkeypatch.setattr(encoder, "SMALL", 0)
    found, marks = [], []
    for has in (False, True):
        monkeypatch.setattr(encoder, "has_bf16", lambda has=has: has)
        evaluator = make_evaluator(tiny, load_theory("schwartz10"))
        found.append(evaluator.read_all(evaluator.render(PROMPTS, REPLIES)))
        evaluator.keep_features()
        marks.append(evaluator.kept.mark)
    plain, half = found
    assert 0 < (plain - half).abs().max() < 0.1 * plain.std() and marks[0] != marks[1]
    assert half.dtype == torch.float32
    evaluator.kept = None
    alone = torch.cat([evaluator.read_all(evaluator.render([p], [r])) for p, r in zip(PROMPTS, REPLIES, strict=True)])
    assert torch.equal(alone, half)     # whatever stands beside it


def test_intervals_are_label_ranges(evaluator):
    evaluator.config.conformal = [[0.5, 0.5, 0.5]] * 9 + [[None, None, None]]
    scores, low, high = evaluator.score(PROMPTS, REPLIES, intervals=True)
    assert (low <= high).all() and set(np.unique(low)) <= {-1, 0, 1}
    assert (low[:, 9] == -1).all() and (high[:, 9] == 1).all()
    assert scores.shape == (3, 10)


@pytest.mark.parametrize("name", list_theories())
def test_any_theory_saves_loads_and_scores(tiny, tmp_path, name):
    theory = load_theory(name)
    make_evaluator(tiny, theory).save_pretrained(tmp_path / name)
    loaded = ValueEvaluator.from_pretrained(tmp_path / name, theory=theory)
    assert loaded.score(PROMPTS, REPLIES).shape == (3, theory.n_dims)


def test_named_values_are_scored_in_any_number(evaluator):
    values = name_values(["honesty", "thrift"], ["Telling the truth.", "Spending with care."])
    assert evaluator.for_theory(values).score(["Why?"], ["I save."]).shape == (1, 2)


def test_for_theory_keeps_what_is_the_same(evaluator, folder):
    same = evaluator.for_theory(load_theory("schwartz10"))
    np.testing.assert_allclose(same.score(PROMPTS, REPLIES), evaluator.score(PROMPTS, REPLIES), atol=1e-6)
    other = evaluator.for_theory(load_theory("moral_foundations"))
    assert other.dimensions == load_theory("moral_foundations").dimensions
    assert not (other.mixture == 1).any()       # no value of it was taught


def test_a_theory_and_back_keeps_the_calibration(tiny, toy, tmp_path):
    own = make_evaluator(tiny, toy, word_buckets=64)
    own.fit_words(PROMPTS * 10, REPLIES * 10, np.arange(30)[:, None] % 2 * np.ones(toy.n_dims),
                  np.ones((30, toy.n_dims)))
    own.temperature.fill_(0.5)
    own.config.cuts, own.config.conformal = [[-0.1, 0.1]] * toy.n_dims, [[0.9, 0.8, 0.7]] * toy.n_dims
    other = own.for_theory("moral_foundations")
    assert other.config.cuts == [[-0.5, 0.5]] * 5 and (other.temperature == 1).all()
    other.save_pretrained(tmp_path)
    for one in (ValueEvaluator.from_pretrained(tmp_path), other):
        back = one.for_theory(toy)
        np.testing.assert_allclose(back.predict_proba(PROMPTS, REPLIES), own.predict_proba(PROMPTS, REPLIES), atol=1e-6)
        assert (back.config.cuts, back.config.conformal) == (own.config.cuts, own.config.conformal)
    own.save_pretrained(tmp_path)
    assert ValueEvaluator.from_pretrained(tmp_path).known == own.known == {}
    own.temperature.fill_(2.0)
    assert (back.temperature == 0.5).all()      # a copy of its own


def test_loading_an_evaluator_leaves_the_keys_of_its_code_as_they_were(tiny, tmp_path):
    """Else what a notebook keeps before it loads one is not found after."""
    make_evaluator(tiny, load_theory("moral_foundations")).save_pretrained(tmp_path / "e")
    code = ("from fulcra_utils.common.digests import digest; from fulcra_utils.evaluator import fitting, model;"
            f"before = digest(fitting.fit_evaluator); model.ValueEvaluator.from_pretrained({str(tmp_path / 'e')!r});"
            "assert digest(fitting.fit_evaluator) == before")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_odd_texts_are_scored_as_what_can_be_read_of_them(evaluator):
    odd = ["", "😀😀", "half \ud83d a character", "Да, да. Yes, 是的", "on and on " * 5000, "是" * 50_000]
    scores = evaluator.score(odd, odd)
    assert scores.shape == (6, 10) and np.isfinite(scores).all()
    np.testing.assert_array_equal(evaluator.score(odd[2:3], odd[2:3]), evaluator.score(*[["half ? a character"]] * 2))


def test_definitions_that_say_nothing_are_weak_and_equal_ones_told(evaluator):
    ten = load_theory("schwartz10")
    mine = replace(ten, dimensions=("a", "b-c", "d", "e"), definitions=("", "B, c.", "Be fair.", "be  FAIR"))
    with pytest.warns(UserWarning) as told:
        other = evaluator.for_theory(mine)
    assert other.weak == ("a", "b-c")
    assert [str(w.message).partition(": ")[2][:9] for w in told] == ["a, b-c: t", "d and e h"]
    assert np.isfinite(other.score(PROMPTS, REPLIES)).all()
    evaluator.config.taught[:2] = [["d", "Be fair."], ["e", "be  FAIR"]]
    assert evaluator.for_theory(replace(mine, dimensions=("d", "e"), definitions=mine.definitions[2:])).untaught == ()


def test_definitions_reworded_since_the_training_are_told(folder):
    now = load_theory("schwartz10")
    reworded = replace(now, definitions=("Being free.", *now.definitions[1:]))
    with pytest.warns(UserWarning, match=f"other definitions of {now.dimensions[0]} than"):
        assert ValueEvaluator.from_pretrained(folder, theory=reworded).config.definitions == list(now.definitions)


def test_evaluator_of_another_theory_is_refused(folder):
    with pytest.raises(EvaluatorError, match="scores the theory 'schwartz10', not 'moral_foundations'"):
        ValueEvaluator.from_pretrained(folder, theory=load_theory("moral_foundations"))


def test_folders_that_are_no_evaluator(folder, tiny, tmp_path):
    with pytest.raises(EvaluatorError, match="has no config.json"):
        ValueEvaluator.from_pretrained(tmp_path)
    tiny.model.save_pretrained(tmp_path / "bert")
    with pytest.raises(EvaluatorError, match="describes another model"):
        ValueEvaluator.from_pretrained(tmp_path / "bert")
    (folder / "model.safetensors").unlink()
    with pytest.raises(EvaluatorError, match="has no weights"):
        ValueEvaluator.from_pretrained(folder)
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(EvaluatorError, match="only pickled weights"):
        ValueEvaluator.from_pretrained(folder)
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(EvaluatorError, match="not valid JSON"):
        ValueEvaluator.from_pretrained(folder)


def test_broken_and_nan_weights(evaluator, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(EvaluatorError, match="cannot be read"):
        ValueEvaluator.from_pretrained(tmp_path / "cut")
    weights.write_bytes((folder / "model.safetensors").read_bytes())
    former = load_file(weights)
    save_file(former | {"reduce.bias": former["reduce.bias"][::2].clone()}, weights, {"format": "pt"})
    with pytest.raises(EvaluatorError, match="another version made it; train it again"):
        ValueEvaluator.from_pretrained(tmp_path / "cut")
    for given, named in ((former.keys() - {"reduce.bias"}, r"\(missing: reduce.bias\)"),
                         ([*former, "more"], r"\(unexpected: more\)")):
        save_file({name: former.get(name, torch.zeros(1)) for name in given}, weights, {"format": "pt"})
        with pytest.raises(EvaluatorError, match=f"has not the weights of its config {named}"):
            ValueEvaluator.from_pretrained(tmp_path / "cut")
    with torch.no_grad():
        evaluator.heads[0, 0, 0] = float("nan")
    evaluator.save_pretrained(tmp_path / "nan")
    with pytest.raises(EvaluatorError, match=r"not finite numbers \(heads\)"):
        ValueEvaluator.from_pretrained(tmp_path / "nan")


def test_theory_of_three_dimensions(tiny, tmp_path):
    dims = "".join(f"  - {{name: d{i}, definition: What counts is {w}., items: [be {w}]}}\n"
                   for i, w in enumerate(["brave", "calm", "fair"]))
    path = tmp_path / "toy.yaml"
    path.write_text("name: toy\ntitle: Toy\ncitation: none\nscore_range: [-1, 1]\n"
                    "labels: {-1: against, 0: none, 1: for}\ndimensions:\n" + dims, encoding="utf-8")
    evaluator = make_evaluator(tiny, load_theory(path))
    evaluator.save_pretrained(tmp_path / "toy")
    assert ValueEvaluator.from_pretrained(tmp_path / "toy").score(PROMPTS, REPLIES).shape == (3, 3)
    assert Path(tmp_path / "toy" / "theory.yaml").read_text() == path.read_text()


PAIRS = list(zip(PROMPTS, REPLIES, strict=True))
ROWS = [{"prompt": p, "response": r} for p, r in PAIRS]
TABLE = pd.DataFrame(ROWS, index=range(7, 7 + len(ROWS)))
TAKEN = {
    "tuples": PAIRS, "lists": [list(pair) for pair in PAIRS], "generator": (pair for pair in PAIRS), "dicts": ROWS,
    "zip": zip(PROMPTS, REPLIES, strict=True), "array": np.array(PAIRS), "table": TABLE,
    "other names": TABLE.rename(columns={"prompt": "question", "response": "answer"}), "tuples of a table":
    TABLE.itertuples(index=False), "more columns in another order": TABLE.assign(id=1)[["id", "response", "prompt"]],
    "named tuples": TABLE[["response", "prompt"]].itertuples(),
    "rows": [row for _, row in TABLE[["response", "prompt"]].iterrows()],
    "records": TABLE[["response", "prompt"]].to_records(index=False),
    "data set": datasets.Dataset.from_list(ROWS), "arrow": pa.Table.from_pylist(ROWS), "columns": TABLE.to_dict("list"),
    "messages": [{"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": r}]} for p, r in PAIRS],
}


@pytest.mark.parametrize("kind", TAKEN)
def test_predict_takes_pairs_of_every_kind(evaluator, kind):
    expected = evaluator.predict_proba(PROMPTS, REPLIES)
    assert list_pairs(TAKEN[kind]) == (PROMPTS, REPLIES)
    if kind not in ("generator", "zip", "tuples of a table", "named tuples"):
        labels = scores_to_labels(expected[..., 2] - expected[..., 0], evaluator.cuts)
        assert evaluator.predict(TAKEN[kind]).tolist() == labels.tolist()


@pytest.mark.parametrize("pairs", [
    "ab", ["ab", "cd"], [b"ab"], {"ab", "cd"}, None, 3, [("a",)], [("a", "b", "c")], [("a", 3)], [("a", None)],
    [{"a": 1}],
    {"prompt": "a", "response": "b"}, pd.DataFrame({"ab": ["x"], "cd": ["y"]}), TABLE.prompt, PROMPTS, [3],
    pd.DataFrame({"prompt": ["a"], "response": [float("nan")]}), [{"a", "b"}], [ROWS[0], ("a", "")[:1]],
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}), [[{"role": "user"}, {"role": "assistant"}]]])
def test_predict_refuses_what_are_no_pairs(evaluator, pairs):
    with pytest.raises(EvaluatorError) as error:
        evaluator.predict(pairs)
    assert "\n" not in str(error.value)


def test_score_takes_columns_of_every_kind_and_no_table(evaluator):
    data, expected = datasets.Dataset.from_list(ROWS), evaluator.score(PROMPTS, REPLIES)
    for make in (tuple, iter, np.array, pd.Series, pd.Index, pa.array, lambda texts: pd.Series(texts, index=texts),
                 lambda texts: data["prompt" if texts is PROMPTS else "response"],
                 lambda texts: np.array(texts, dtype=object), lambda texts: pd.Series(texts, dtype="category")):
        np.testing.assert_array_equal(evaluator.score(make(PROMPTS), make(REPLIES)), expected)
    columns = pd.DataFrame({"prompt": ["a", "b"], "response": ["c", "d"]})
    for odd in ("ab", b"ab", {"a": 1, "b": 2}, {"a", "b"}, columns, columns.to_dict("list"), None, 2, np.zeros(2),
                np.array([["a", "b"]]), pd.Series(["a", None]), datasets.Dataset.from_list(ROWS), pa.table(columns)):
        for call in (evaluator.score, evaluator.predict_proba, evaluator.for_theory("schwartz19").score):
            with pytest.raises(EvaluatorError):
                call(odd, ["c", "d"])


@pytest.mark.parametrize("odd", ["abc", b"abc", {"a": 1}, TABLE, None, [1], [None]], ids=str)
def test_no_call_with_texts_goes_by_letters_or_names_of_columns(evaluator, tmp_path, odd):
    theory = load_theory("schwartz10")
    calls = [is_refusal, group_prompts, lambda t: assign_splits(t, np.zeros(3)),
             lambda t: embed(t, load_encoder("tiny")),
             lambda t: write_replies(t, [], tmp_path / "cache"), lambda t: audit_replies(evaluator, t, theory),
             lambda t: audit_reward(evaluator, t, ["r"], load_target("ideal", theory), theory),
             lambda t: sample_replies(torch.nn.Identity(), None, t), lambda t: align("nowhere", None, t, tmp_path)]
    for call in calls:
        with pytest.raises(ValueError, match="lists of strings|not a string"):
            call(odd)


def test_distance_finds_columns_by_name(evaluator):
    target = load_target("ideal", "schwartz10")
    scores = pd.DataFrame(evaluator.score(PROMPTS, REPLIES), columns=evaluator.dimensions)
    expected = value_distance(scores.to_numpy(), target)
    np.testing.assert_array_equal(value_distance(scores[scores.columns[::-1]].assign(prompt="p"), target), expected)
    with pytest.raises(ValueError, match="no column 'security'"):
        value_distance(scores.drop(columns="security"), target)


@pytest.fixture
def causal_evaluator(causal):
    return make_evaluator(causal, load_theory("moral_foundations"), max_length=48)


def test_a_language_model_reads_the_chat_template_without_its_system_message(causal):
    pair = render("be kind", "be honest", causal.tokenizer, 48)
    assert causal.tokenizer.decode(pair["input_ids"]) == ("<|im_start|> user be kind <|im_end|> <|im_start|> assistant "
                                                          "be honest <|im_end|>")
    assert causal.tokenizer.decode(np.array(pair["input_ids"])[np.array(pair["token_type_ids"]) == 1]) == (
        "be honest <|im_end|>")


def test_a_language_model_scores_alike_alone_in_batches_and_loaded_again(causal_evaluator, tmp_path):
    scores = causal_evaluator.score(PROMPTS, REPLIES)
    assert np.isfinite(causal_evaluator.score(PROMPTS, [""] * 3)).all() and np.ptp(scores) > 1e-3
    np.testing.assert_allclose(causal_evaluator.score(PROMPTS, REPLIES, batch_size=1), scores, atol=1e-5)
    causal_evaluator.save_pretrained(tmp_path)
    np.testing.assert_allclose(ValueEvaluator.from_pretrained(tmp_path).score(PROMPTS, REPLIES), scores, atol=1e-6)
    other = causal_evaluator.for_theory("schwartz10").for_theory("moral_foundations")
    np.testing.assert_allclose(other.score(PROMPTS, REPLIES), scores, atol=1e-6)    # its heads were carried along


def test_only_the_replys_tokens_are_read(causal_evaluator, tiny):
    for evaluator in (causal_evaluator, make_evaluator(tiny, load_theory("moral_foundations"))):
        batch = pad_pairs(evaluator.render(PROMPTS, REPLIES), evaluator.tokenizer)
        states = evaluator.encoder(**{k: batch[k] for k in ("input_ids", "attention_mask")}, output_hidden_states=True,
                                   **take_types(evaluator.encoder, batch["token_type_ids"])).hidden_states
        mine = batch["token_type_ids"][0].bool() & batch["attention_mask"][0].bool()
        expected = torch.cat([states[k][0, mine].mean(0) for k in evaluator.layers])
        torch.testing.assert_close(evaluator.read(**batch)[0], expected, atol=1e-5, rtol=1e-4)


def test_probabilities_are_presence_times_stance():
    odds = torch.tensor([1.0, -2.0])
    there, for_it = torch.sigmoid(odds)
    expected = torch.stack([there * (1 - for_it), 1 - there, there * for_it])
    torch.testing.assert_close(model.join_odds(odds).exp(), expected)


def test_a_pair_in_the_wrong_order_costs_more(evaluator):
    labels = torch.zeros(2, 10, 3)
    labels[0, 4, 2] = labels[1, 4, 0] = 1
    labels[0, 5, 2] = 1     # of one of the two alone: no pair
    costs = []
    for ahead in (-5.0, 5.0):
        told = torch.zeros(2, 10, 2)
        told[0, 4, 1] = ahead
        alone = model.measure_loss(told, labels)
        costs.append((model.measure_loss(told, labels, torch.tensor([[0, 1]])) - alone).item())
    softplus = torch.nn.functional.softplus
    gap = 0.5 * torch.tensor([-2.5, 2.5]).tanh()        # of scores, at a presence of one half
    expected = model.PAIR_WEIGHT * softplus(torch.tensor([7.0, -3.0])) + model.GAP_WEIGHT * softplus(4 - 4 * gap)
    told = torch.stack([told, told])        # two networks cost what one of them does
    both = model.measure_loss(told, labels, torch.tensor([[0, 1]]))
    torch.testing.assert_close(both, model.measure_loss(told[0], labels, torch.tensor([[0, 1]])))
    assert costs == pytest.approx(expected.tolist())
    batch = pad_pairs(evaluator.render(PROMPTS[:2], REPLIES[:2]), evaluator.tokenizer)
    assert evaluator(**batch, labels=labels, pairs=torch.tensor([[0, 1]]))["loss"].isfinite()
