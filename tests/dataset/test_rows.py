import gzip
import hashlib
import json
from functools import partial

import numpy as np
import pandas as pd
import pytest

from fulcra_utils.dataset import labelled, splits
from fulcra_utils.dataset.labelled import items_to_vectors, read_dataset, read_scored
from fulcra_utils.dataset.pools import read_preferences, read_prompts
from fulcra_utils.dataset.refusals import is_refusal
from fulcra_utils.dataset.rows import iter_rows, list_pairs
from fulcra_utils.dataset.splits import assign_splits, group_prompts
from fulcra_utils.dataset.texts import DatasetError
from fulcra_utils.dataset.thoughts import read_content, split_thoughts
from fulcra_utils.theory.theory import load_theory

TEN = load_theory("schwartz10")


def row(items=(), types=(), **more):
    return {"dialogue": "Human: Why?\nBob: Because.", "value_items": list(items), "value_types": list(types), **more}


def write(tmp_path, *rows, name="rows.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows), encoding="utf-8")
    return path


def labels(data, theory=TEN, i=0):
    return {d: v for d, v in zip(theory.dimensions, data.vectors[i], strict=True) if v}


@pytest.mark.parametrize(("types", "expected", "reason"), [
    (["security: -1"], {"security": -1}, None),
    (["conformity: 1+"], {"conformity": 1}, "sign written '1+', read as +1"),
    (["achievement: =1"], {"achievement": 1}, "sign written '=1', read as +1"),
    (["security: 1"], {"security": 1}, "sign written '1', read as +1"),
    (["SECURITY:+1"], {"security": 1}, "read as 'security'"),
    (["humility: +1"], {"conformity": 1}, "read as 'conformity'"),
    (["security: +1", "fame: +1"], {"security": 1}, "is no dimension of schwartz10, label dropped"),
    (["security: +1", "power"], {"security": 1}, "label does not end in ': +1' or ': -1', label dropped"),
    (["security: +1", "power: +2"], {"security": 1}, "label does not end in ': +1' or ': -1', label dropped"),
    (["security: +1", 7], {"security": 1}, "label is not text"),
])
def test_quirks_of_dimension_labels(tmp_path, types, expected, reason):
    data = read_dataset(write(tmp_path, row(types=types)), TEN)
    assert labels(data) == expected
    assert data.problems.reason.tolist() == ([reason] if reason else [])
    if reason:
        with pytest.raises(DatasetError, match="line 1, value_types"):
            read_dataset(tmp_path / "rows.jsonl", TEN, strict=True)


def test_quirks_of_item_labels(tmp_path):
    items = ["be polite: +1", "have social justice: +1", "be respectful: +1", "Be Honest: -1"]
    data = read_dataset(write(tmp_path, row(items)), TEN)
    assert labels(data) == {"conformity": 1, "universalism": 1, "benevolence": -1}
    assert data.item_labels[0, TEN.find_item("social justice")] == 1
    assert sorted(data.problems.reason) == ["is no item of schwartz10, label dropped", "read as 'be honest'",
                                            "read as 'social justice'"]


@pytest.mark.parametrize(("items", "expected"), [
    (["be polite: +1"], 1), (["be polite: -1", "be humble: -1", "be obedient: +1"], -1),
    (["be polite: +1", "be humble: -1"], 0), ([], 0)])
def test_both_signs_are_decided_by_the_items(tmp_path, items, expected):
    data = read_dataset(write(tmp_path, row(items, ["conformity: +1", "conformity: -1", "power: +1"])), TEN)
    assert data.vectors[0, TEN.find_dimension("conformity")] == expected
    assert "both signs" in data.problems.reason[0]


def test_row_without_any_label_is_kept_as_nan_unless_it_was_looked_at(tmp_path):
    data = read_dataset(write(tmp_path, row(), row(not_annotated=[])), TEN)
    assert np.isnan(data.vectors[0]).all() and (data.vectors[1] == 0).all()
    assert len(data.problems) == 1 and data.n_set_aside == 0


def test_not_annotated_reads_as_nan_without_a_problem(tmp_path):
    missing = [{"item": "be polite", "reason": "no answer"}, {"item": "have wealth", "reason": "no answer"}]
    path = write(tmp_path, row(["have authority: +1"], ["power: +1"], not_annotated=missing),
                 row(not_annotated=[{"item": "*", "reason": "gave up"}]))
    data = read_dataset(path, TEN, strict=True)
    assert np.isnan(data.vectors[0, TEN.find_dimension("conformity")])
    assert data.vectors[0, TEN.find_dimension("power")] == 1  # a label that was given stands
    assert np.isnan(data.vectors[1]).all()
    with pytest.raises(DatasetError, match="not_annotated"):
        read_dataset(write(tmp_path, row(not_annotated=[{"item": "fame"}])), TEN, strict=True)


def test_finer_theory_takes_its_vectors_from_the_items(tmp_path):
    nineteen = load_theory("schwartz19")
    data = read_dataset(write(tmp_path, row(["be polite: +1", "be humble: -1"], ["conformity: +1"])), nineteen)
    assert labels(data, nineteen) == {"conformity-interpersonal": 1, "humility": -1}
    assert data.problems.empty  # a label of the parent theory is no fault


BAD = [
    ("{", "not valid JSON"), ("[1]", "not a JSON object"), ('{"a": 1}', "are missing"),
    ('{"dialogue": 3}', "neither text nor"), ('{"dialogue": ""}', "not of the form"),
    ('{"dialogue": "Hello"}', "not of the form"),
    ('{"dialogue": "Human: a\\nBob: "}', "is empty"), ('{"dialogue": "Human: \\nBob: x"}', "is empty"),
    ('{"prompt": "a", "response": null}', "is missing"), ('{"prompt": "a", "response": "  "}', "is empty"),
    ('{"prompt": ["a"], "response": "b"}', "neither text nor"), ("\x00\x00", "not valid JSON"),
    ("[" * 100_000, "not readable JSON"),
]


@pytest.mark.parametrize(("line", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_unreadable_row_is_set_aside_and_counted(tmp_path, line, reason):
    path = write(tmp_path, row(types=["security: +1"]), line, row(types=["power: +1"]))
    data = read_dataset(path, TEN)
    assert (data.n_read, len(data.table), data.n_set_aside) == (3, 2, 1)
    assert data.problems.line.tolist() == [2] and reason in data.problems.reason[0]
    assert "row set aside" in data.problems.reason[0]
    with pytest.raises(DatasetError, match="rows.jsonl, line 2"):
        read_dataset(path, TEN, strict=True)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"dialogue": "\xff\xfe"}\n' + json.dumps(row(types=["power: +1"])).encode() + b"\r\n\n")
    data = read_dataset(path, TEN)
    assert (data.n_read, len(data.table)) == (2, 1)
    assert "not UTF-8" in data.problems.reason[0]


def test_nul_and_half_characters_are_replaced_and_counted(tmp_path):
    path = write(tmp_path, '{"prompt": "a\\u0000b", "response": "c\\ud800", "value_types": ["power: +1"]}')
    data = read_dataset(path, TEN)
    assert data.table.prompt[0] == "a\N{REPLACEMENT CHARACTER}b" and data.table.response[0] == "c?"
    assert len(data.problems) == 2


def test_five_megabyte_line(tmp_path):
    long = {"prompt": "a", "response": "x" * 5_000_000, "value_types": ["power: +1"]}
    data = read_dataset(write(tmp_path, long), TEN)
    assert len(data.table.response[0]) == 5_000_000


@pytest.mark.parametrize("value", ["security: +1", 3, {"security": 1}, [["security: +1"]], "[", True])
def test_labels_of_a_wrong_type_cost_labels_not_rows(tmp_path, value):
    data = read_dataset(write(tmp_path, row() | {"value_items": value, "value_types": value}), TEN)
    assert len(data.table) == 1 and len(data.problems) > 0 or labels(data) == {"security": 1}


def test_gz_and_parquet_read_alike(tmp_path):
    rows = [row(["be polite: +1"], ["conformity: +1"], response_source="m"), row(types=["power: 1+"])]
    plain = read_dataset(write(tmp_path, *rows), TEN)
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as packed:
        packed.write("\n".join(map(json.dumps, rows)))
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    for name in ("rows.jsonl.gz", "rows.parquet"):
        other = read_dataset(tmp_path / name, TEN)
        np.testing.assert_array_equal(other.vectors, plain.vectors)
        assert other.table.prompt.tolist() == plain.table.prompt.tolist()


@pytest.mark.parametrize("name", ["none.jsonl", "broken.jsonl.gz", "broken.parquet"])
def test_file_that_cannot_be_opened_is_named(tmp_path, name):
    if name.startswith("broken"):
        (tmp_path / name).write_bytes(b"\x1f\x8b broken")
    with pytest.raises(DatasetError, match=name):
        read_dataset(tmp_path / name, TEN)


def test_empty_file(tmp_path, any_theory):
    data = read_dataset(write(tmp_path, ""), any_theory)
    assert data.vectors.shape == (0, any_theory.n_dims) and data.n_read == 0 and len(data.table) == 0


def test_chunks_do_not_change_the_result(tmp_path, monkeypatch):
    rows = [row(types=[f"{TEN.dimensions[i % TEN.n_dims]}: {'+1' if i % 3 else '-1'}"]) for i in range(25)]
    whole = read_dataset(write(tmp_path, *rows), TEN)
    monkeypatch.setattr(labelled, "CHUNK", 4)
    pieces = read_dataset(tmp_path / "rows.jsonl", TEN)
    np.testing.assert_array_equal(whole.vectors, pieces.vectors)
    assert whole.table.equals(pieces.table)


def test_items_to_vectors_by_hand(any_theory):
    t = any_theory
    np.testing.assert_array_equal(items_to_vectors(np.eye(t.n_items), t), t.item_matrix)
    assert np.isnan(items_to_vectors(np.full((1, t.n_items), np.nan), t)).all()


def test_scores(tmp_path):
    good = {"prompt": "p", "answer": "a", "value_reward": [0.1] * 10, "reward": 1.5, "safety_issues": "['x,y']"}
    bad = [{**good, "value_reward": value} for value in ([0.1] * 9, "x", None, [0.1] * 9 + [float("nan")], [2.0] * 10)]
    data = read_scored(write(tmp_path, good, *bad), TEN)
    assert (data.vectors[0] == 0.1).all() and np.isnan(data.vectors[1:]).all() and len(data.problems) == 5
    assert data.table.reward[0] == 1.5 and list(data.table.safety_issues[0]) == ["x,y"]


def test_prompts_and_preferences_keep_count(tmp_path):
    pool = read_prompts(write(tmp_path, {"prompt": "a", "safety_issues": ["x"]}, {"prompt": ""}, "{"))
    assert pool.prompt.tolist() == ["a"] and len(pool.attrs["problems"]) == 2
    pair = {"chosen": "\n\nHuman: 1\n\nAssistant: b\n\nHuman: 2\n\nAssistant: c",
            "rejected": "\n\nHuman: 1\n\nAssistant: b\n\nHuman: 2\n\nAssistant: d"}
    pairs = read_preferences(write(tmp_path, pair, {"chosen": "x"}))
    assert pairs[["prompt", "chosen", "rejected"]].values.tolist() == [["2", "c", "d"]]
    assert len(pairs.attrs["problems"]) == 1


def damage(kind):
    """Return a row with one fault, and the word that the message names."""
    one = row(types=["power: +1"])
    return {"sign": (row(types=["security: 1+"]), "value_types"), "both": (row(types=["power: +1", "power: -1"]),
            "value_types"), "name": (row(items=["be respectful: +1"]), "value_items"), "none": (row(), "value_types"),
            "open": (row(not_annotated=[{"item": "fame"}]), "not_annotated"), "json": ("{", "line"),
            "issues": (one | {"safety_issues": 3}, "safety_issues"),
            "empty": ({"prompt": "a", "response": ""}, "re"),
            "nul": (one | {"dialogue": "Human: \x00\nBob: b"}, "prompt")}[kind]


@pytest.mark.parametrize("seed", range(30))
def test_strict_raises_the_first_fault_of_the_file(tmp_path, monkeypatch, seed):
    random = np.random.default_rng(seed)
    monkeypatch.setattr(labelled, "CHUNK", int(random.integers(1, 9)))
    kinds = ["sign", "name", "open", "both", "none", "issues", "json", "nul", "empty"]
    rows = [row(types=["power: +1"]) for _ in range(20)]
    bad = np.sort(random.choice(20, 4, replace=False))
    said = {}
    for i, kind in zip(bad, random.choice(kinds, 4), strict=True):
        rows[i], said[i] = damage(kind)
    with pytest.raises(DatasetError, match=f"line {bad[0] + 1}, {said[bad[0]]}"):
        read_dataset(write(tmp_path, *rows), TEN, strict=True)


def test_near_duplicate_prompts_share_a_cluster():
    prompts = ["How can I make my parents proud?", "how can i make my parents proud", "Tell me about bees.",
               "How can I make my parents  proud ?!", ""]
    clusters = group_prompts(prompts)
    assert clusters[0] == clusters[1] == clusters[3] and len(set(clusters)) == 3
    assert group_prompts(["x"]).tolist() == [0]


def test_splits_go_by_cluster_and_do_not_move():
    prompts = [f"prompt {i}" for i in range(2000)]
    clusters = np.arange(2000) // 2
    table = assign_splits(prompts, clusters)
    assert (table.groupby("cluster").split.nunique() == 1).all()
    shares = table.split.value_counts(normalize=True)
    assert abs(shares["train"] - 0.6) < 0.05 and abs(shares["test"] - 0.2) < 0.04
    assert set(table.half[table.split == "train"]) == {"A", "B"} and table.half[table.split != "train"].isna().all()
    fewer = assign_splits(prompts[:1000], clusters[:1000])
    assert fewer.split.tolist() == table.split[:1000].tolist()
    assert assign_splits(prompts, clusters, seed=1).split.tolist() != table.split.tolist()


def make_prompts(random, n=60):
    """Return prompts of random words, a third of them near-duplicates of others."""
    words = ["".join(random.choice(list("abdegiklmnoprstuv"), 6)) for _ in range(80)]
    prompts = [" ".join(random.choice(words, random.integers(4, 14), replace=False)) for _ in range(n)]
    return prompts + [vary(random, prompts[i]) for i in random.choice(n, n // 2)]


def vary(random, prompt):
    """Return a near-duplicate of a prompt."""
    parts = prompt.split()
    return [prompt.upper(), f"a {prompt}", f"{prompt} too?", " ".join(parts[:-1]), f"{prompt} {parts[0]}",
            f"aaa, {prompt}", " ".join(parts[1:] + parts[:1])][random.integers(7)]


@pytest.mark.parametrize("seed", range(40))
def test_prompts_that_are_added_move_no_other(seed):
    random = np.random.default_rng(seed)
    prompts = make_prompts(random)
    added = [vary(random, prompts[i]) for i in random.choice(len(prompts), random.integers(1, 9))]
    added += [" ".join([*prompts[i].split(), *prompts[j].split()]) for i, j in random.choice(len(prompts), (3, 2))]
    before, after = (assign_splits(p, group_prompts(p), seed) for p in (prompts, prompts + added))
    pd.testing.assert_frame_equal(after.head(len(before)), before)
    for table in (before, after):
        assert (table.groupby("cluster").split.nunique() <= 1).all()
        assert (table.split.isna() == (table.cluster < 0)).all()


def test_a_prompt_between_two_clusters_joins_neither_and_links_nothing():
    random = np.random.default_rng(0)
    for seed in range(20):
        words = ["".join(random.choice(list("abdegiklmnoprstuv"), 6)) for _ in range(11)]
        first, last, between = (" ".join(words[k:k + 9]) for k in (0, 2, 1))
        clusters = group_prompts([first, last, between, f"{between}!", f"a {between}"])
        assert clusters.tolist()[:4] == [0, 1, -1, -1] and clusters[4] < 0
        table = assign_splits([first, last, between], clusters[:3], seed)
        assert table.split.tolist()[:2] == assign_splits([first, last], clusters[:2], seed).split.tolist()
        assert table.split[2] is None and table.half[2] is None


def test_published_splits_stay_and_lead_their_cluster(tmp_path, monkeypatch):
    mark = hashlib.sha256(b"be kind").hexdigest()[:12]
    for split, half in (("test", ""), ("train", "A"), ("train", "B"), ("calibration", "")):
        (tmp_path / "splits.csv").write_text(f"prompt,split,half\n{mark},{split},{half}\n")
        monkeypatch.setattr(splits, "DATA", tmp_path)
        for clusters in ([0, 0, 1], [-1, 0, 1]):
            table = assign_splits(["be kind", "be  kind", "bees"], clusters)
            assert (table.split[0], table.half[0]) == (split, half or None)
            assert clusters[0] < 0 or table.split[1] == split and table.half[1] == (half or None)
        follower = assign_splits(["kind to be", "be kind"], [0, 0]).split
        assert follower[1] in (follower[0], None) and (follower[1] is None) == (follower[0] != split)
        assert assign_splits(["be kind"], [0], seed=1).split[0] == "test"      # drawn: published is one seed alone


@pytest.mark.parametrize(("text", "expected"), [
    ("Sorry, but I can't assist with that.", True), ("I\u2019m sorry, but I cannot help.", True),
    ("Here is the soup. Enjoy it. I can't help with more.", False), ("I am unable to do so.", True),
    ("I'm sorry to hear that you feel bad. Try a walk.", False), ("Sure! You can't go wrong with soup.", False),
    ("It is not legal to do so.", False), ("", False)])
def test_refusal_flag(text, expected):
    assert is_refusal([text]).tolist() == [expected]


HARMLESS = """I can't wait to help you with this trip!
I won't lie, this recipe is great.
I can't help but smile at your question; here is the plan.
I can't recommend this book highly enough.
I cannot stress enough how important sleep is.
I couldn't agree more: start with the foundations.
I can't tell you how happy I am for you.
I can't believe how well your garden grew. Try mulch next.
I won't keep you long: the answer is 42.
I won't give up on you, so let us try again.
I can't think of a better place than Lisbon in May.
You can't go wrong with a simple tomato sauce.
I will not bore you with theory; cut the wood along the grain.
I can't promise success, but these five steps work for most people.
I'm not going to sugarcoat it: the exam is hard, and here is how to pass it.
I can't thank you enough for asking. The museum opens at nine.
Sorry to hear that your cat is ill. Keep it warm and call the vet.
I'm sorry for your loss. You might write down what you miss most.
I apologize for the mix-up earlier: the train leaves at 8:15.
Sorry, but the shop closes at six, so go before work.
As an AI, I love this kind of puzzle. The missing number is 12.
As an AI language model, I don't have personal opinions. However, most critics praise the film.
As an AI I do not get tired, so ask away. The recipe needs two eggs.
No, you cannot mix bleach and vinegar: it sets free a poisonous gas.
We can't all be experts, but anyone can learn to knit. Cast on twenty stitches.
It won't hurt to ask your boss. Say that you need two days.
I can't say for certain, but the fossil looks like an ammonite.
I won't pretend it is easy. Practise ten minutes a day.
I can't help noticing that your sketch lacks shadows. Add them on the left.
I can't make up my mind either; take the blue one.
I can not only explain the rule but also show two examples.
I couldn't find a typo in your letter. Only the date is missing.
I won't tell anyone. Your surprise is safe, and here are three ideas for the cake.
I cannot imagine a better start. Next, water the seedlings.
I'm unable to sleep on trains too; bring a neck pillow and ear plugs.
I'm not comfortable in crowds either. Arrive early and stay near the door.
I can't do without coffee myself. Grind the beans just before brewing.
I can't give this hotel enough praise; book the room to the garden.
I couldn't write it better myself. Only the title is long.
I won't make you wait: the answer is seven.
I can't answer for everyone, but I love this park.
That is not something I expected to like, yet the soup is great.
I refuse to believe that you failed. Ask for the marks.
I won't tell you what to do, but here are both sides.
Sorry, but it is illegal to park there. Try the garage."""
REFUSALS = """I'm sorry, but I can't help with that.
Sorry, but I can't assist with that.
I cannot help with this.
I can't help you with that request.
I won't write that letter for you.
I will not provide instructions for this.
I'm unable to share that information.
I am not able to answer this question.
I'm not comfortable discussing this topic.
I must decline to answer.
I have to decline this request.
I refuse to take part in this.
I'd rather not answer that.
I would prefer not to discuss it.
I apologize, but I cannot fulfill your request.
My apologies, but I'm unable to comply with that.
As an AI language model, I cannot provide medical prescriptions.
As a responsible assistant, I must inform you that I can't give advice on that.
I'm just an AI, and I can't engage in this kind of conversation.
That is against the rules. I cannot tell you how to do it.
Breaking in is illegal. I won't help you do it.
I'm sorry, but it is not appropriate to ask for such a thing.
Sorry, I can\u2019t do that.
We are currently unable to help you with that query.
Unfortunately, I can't provide the address of a private person.
I'm afraid I can't share that.
I'm really sorry, but I can't comply with that request.
Unable to assist with this request.
I cannot and will not write such a post.
I am not programmed to give insults.
I'm sorry, but I must decline.
No, I will not help you cheat.
I do not have the ability to share such details.
Thank you for asking, but I can't recommend a way to do this.
I'm not going to answer that.
This is not something I can help with."""


def test_refusal_flag_sees_who_declines_and_nobody_else():
    harmless, refusals = HARMLESS.splitlines(), REFUSALS.splitlines()
    assert len(harmless) > 30 and len(refusals) > 30
    assert [text for text, said in zip(harmless, is_refusal(harmless), strict=True) if said] == []
    assert [text for text, said in zip(refusals, is_refusal(refusals), strict=True) if not said] == []
    assert is_refusal([text.upper() for text in refusals]).all() and not is_refusal(["Fine. " * 3 + "I can't help."])[0]


def test_released_counts(mirror):
    data = read_dataset(mirror / "trustworthy_data.jsonl", TEN)
    assert (data.n_read, len(data.table), data.table.prompt.nunique()) == (1718, 1718, 1718)
    counts = data.count_labels(TEN).set_index(["name", "label"]).raw
    published = {"benevolence": (1264, 99), "universalism": (824, 121), "conformity": (689, 78), "security": (591, 67),
                 "achievement": (265, 7), "self-direction": (211, 13), "power": (43, 17), "tradition": (42, 5),
                 "stimulation": (25, 0), "hedonism": (4, 0)}
    assert {name: (counts[name, "+1"], counts[name, "-1"]) for name in TEN.dimensions} == published
    assert (counts["humility", "+1"], counts["conformity", "1+"], counts["achievement", "=1"]) == (11, 1, 1)
    assert np.isnan(data.vectors).all(axis=1).sum() == 1
    both = data.problems[data.problems.reason.str.contains("both signs")]
    summed = items_to_vectors(data.item_labels, TEN)
    same = (summed == data.vectors).all(axis=1) & ~data.table.line.isin(both.line)
    same |= np.isnan(data.vectors).all(axis=1) & ~data.item_labels.any(axis=1)
    assert same.sum() == 1666  # a row whose labels contradict each other does not count as equal
    assert data.table.response_source.str.split("/").str[-1].value_counts()["gemini"] == 432


def test_released_prompts_leak_is_caught(mirror):
    train, test = (read_prompts(mirror / f"saferlhf/{name}_questions.jsonl") for name in ("train", "test"))
    assert (len(train), len(test), len(set(train.prompt) & set(test.prompt))) == (14625, 1523, 8)
    prompts = [*train.prompt, *test.prompt]
    table = assign_splits(prompts, group_prompts(prompts))
    assert table.prompt.is_unique and (table.groupby("cluster").split.nunique() <= 1).all()
    assert 0 < table.split.isna().sum() < 30
    few = [*test.prompt[::2], *train.prompt[::7]]    # with most files missing, one prompt of the rest moves
    again = assign_splits(few, group_prompts(few)).set_index("prompt").split.dropna()
    alone = table.set_index("prompt").split[again.index].dropna()
    assert (again[alone.index] != alone).sum() <= 1


pack = partial(gzip.compress, mtime=0)  # the same bytes in every process of a test run
GOOD = b'{"prompt": "a", "response": "b"}\n'


@pytest.mark.parametrize(("name", "content", "why"), [
    ("a.jsonl", b'[{"prompt": "a", "response": "b"}]', "one JSON array"),
    ("a.jsonl", b"\n [\n  {}\n]", "one JSON array"),
    ("a.jsonl", b"[]", "one JSON array"), ("a.jsonl", b'{\n  "prompt": "a"\n}', "over several lines"),
    ("a.jsonl", b"prompt,response\na,b\n", "looks like CSV"), ("a.jsonl", b'"prompt";"response"\n"{a}";"b"', "CSV"),
    ("a.jsonl", b"\xef\xbb\xbfprompt\tresponse\r\na\tb\r\n", "looks like CSV"), ("a.csv", b"prompt,response\n", "CSV"),
    ("a.jsonl", GOOD.decode().encode("utf-16"), "UTF-16"), ("a.jsonl", GOOD.decode().encode("utf-16-le"), "UTF-16"),
    ("a.jsonl", GOOD.decode().encode("utf-32"), "UTF-16 or UTF-32"), ("a.jsonl", pack(GOOD), r"\.jsonl\.gz"),
    ("a.jsonl.gz", GOOD, "cannot be read: Not a gzipped"), ("a.jsonl.gz", pack(GOOD * 999)[:-30], "cannot be"),
    ("a.jsonl.gz", pack(GOOD)[:12] + b"\xff" * 30, "cannot be read"), ("a.json", GOOD, r"must end in \.jsonl"),
    ("a.jsonl.gz", pack(b"[{}]"), "one JSON array"), ("a.jsonl", b"PK\x03\x04...", "ZIP or Excel"),
    ("a.jsonl", b"PAR1....", "name must end in .parquet"), ("a.parquet", GOOD, "no Parquet"),
    ("a.parquet", b"", "no Parquet"),
    ("a.parquet", b"PAR1 not really", "cannot be read"), ("folder.jsonl", None, "Is a directory"),
    ("folder.parquet", None, "Is a directory"), ("none.jsonl", ..., "No such file")])
def test_a_file_of_another_kind_is_named_in_one_line(tmp_path, name, content, why):
    if content is None:
        (tmp_path / name).mkdir()
    elif content is not ...:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=why) as error:
        list(iter_rows(tmp_path / name))
    assert name in str(error.value) and "\n" not in str(error.value)


def test_lines_that_are_read_and_lines_that_are_not(tmp_path):
    lines = [b'\xef\xbb\xbf{"a": 1}\r', b"", b'{"a": "x\ty"}', '{"a": "\u2028\x85"}'.encode(),
             b'{"a": NaN, "b": -Infinity}', b"[1]", b'{"a": 1, "a": 2}', b'{"a": {"b": 1, "b": 1}}', b"null", b"  ",
             b"{} x"]
    (tmp_path / "a.JSONL").write_bytes(b"\n".join(lines) + b"\n\n")
    found = list(iter_rows(tmp_path / "a.JSONL"))
    assert [line for line, _, _ in found] == [1, 3, 4, 5, 6, 7, 8, 9, 11]
    assert [row for _, row, _ in found[:3]] == [{"a": 1}, {"a": "x\ty"}, {"a": "\u2028\x85"}]
    assert np.isnan(found[3][1]["a"]) and found[3][1]["b"] == -np.inf
    assert [reason for _, row, reason in found[4:] if row is None] == [
        "not a JSON object", "not readable JSON: 'a' twice", "not readable JSON: 'b' twice", "not a JSON object",
        "not valid JSON: Extra data at column 4"]
    (tmp_path / "first.jsonl").write_bytes(b"[1, 2]\nwords, and words\n" + GOOD)
    assert [row is None for _, row, _ in iter_rows(tmp_path / "first.jsonl")] == [True, True, False]


@pytest.mark.parametrize("value", [7, -1.01, True, "high", "0.5", float("nan"), float("inf"), [0.5], {"x": 1}])
def test_scores_outside_their_range_are_named(tmp_path, value):
    good = {"prompt": "p", "response": "r", "value_vector": {"power": 0.5, "security": None}}
    bad = {**good, "value_vector": {"power": value}}
    data = read_scored(write(tmp_path, good, bad, {**good, "value_vector": None, "value_reward": [0.1] * 10}), TEN)
    assert data.vectors[0, TEN.dimensions.index("power")] == 0.5 and np.isfinite(data.vectors[0]).sum() == 1
    assert np.isnan(data.vectors[1]).all() and (data.vectors[2] == 0.1).all()
    (problem,) = data.problems.itertuples()
    assert (problem.line, problem.field) == (2, "value_vector") and "gives power as" in problem.reason
    data = read_scored(write(tmp_path, {**good, "value_vector": {"power": 0.5, "Power": 0.1}}), TEN)
    assert data.problems.reason[0] == "names a dimension twice" and np.isnan(data.vectors).all()


def test_null_is_a_missing_field_in_every_kind_of_file(tmp_path):
    bare = {"prompt": "p", "answer": "r", "rating": 3.0}
    full = {**bare, "response": None, "reward": None, "value_items": None, "value_types": None, "not_annotated": None,
            "safety_issues": None, "dialogue": None, "query_source": None}
    (tmp_path / "full").mkdir()
    pd.DataFrame([full]).astype(object).to_parquet(tmp_path / "full.parquet")
    paths = [write(tmp_path, bare), tmp_path / "full.parquet", write(tmp_path / "full", full)]
    whole = [read_dataset(path, TEN) for path in paths]
    for data in whole:
        assert data.table.equals(whole[0].table) and data.problems.equals(whole[0].problems)
        assert (data.table.response[0], data.table.reward[0]) == ("r", 3.0) and np.isnan(data.vectors).all()


PAIRS = [("<think>", "</think>"), ("<Thinking>", "</THINKING>"), ("<reasoning>", "</reasoning>"),
         ("[THINK]", "[/THINK]"), ("<thought>", "</thought>"), ("<think >", "</ think>"),
         ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>")]
ANSWERS = ["C", "I choose C.", '{"labels": []}', "Think twice.\n\nThen `</think>` again.",
           "```\n<think>\nx\n</think>\n```\nC"]


@pytest.mark.parametrize(("begin", "end"), PAIRS)
def test_thoughts_are_told_apart_in_every_writing(begin, end):
    thought = 'A? {"labels": [1]} No, <think> is `</think>` ```json'
    thought = thought if begin.startswith("<|c") else thought.replace("<think> ", "")
    for answer in ANSWERS:
        for space in ("", "\n", " \n\n"):
            whole = f"{space}{begin}{space}{thought}{space}{end}{space}{answer}"
            assert split_thoughts(whole) == (thought, answer), whole
            assert split_thoughts(whole.partition(begin)[2]) == (thought, answer), "the prompt opened it"
            assert split_thoughts(f"{space}{begin}{space}{thought}") == (thought, ""), "never finished"


@pytest.mark.parametrize(("text", "thoughts", "answer"), [
    ("<think>a</think> <think>b</think>C", "a\nb", "C"), ("<think>a</think>C\n<think>b", "a\nb", "C"),
    ("<think>a <think>b</think> c</think>D", "a <think>b</think> c", "D"),
    ("<think>a <think>b</think> c", "a <think>b</think> c", ""),
    ("<think>a</think></think>C", "a", "C"), ("<think>a</think>b\n</think>\nC", "a\nb", "C"),
    ("<think>a</thinking>C", "a", "C"), ("<think></think>C", "", "C"), ("\ufeff\u200b<think>a</think>C", "a", "C"),
    ("<think>\n\n</think>\n\nC", "", "C"),
    ("<think>a</think><answer> C </answer>", "a", "C"),
    ("about <think>, hm\n</think>\nC", "about <think>, hm", "C"),
    ("analysisHm.assistantfinalC", "analysisHm.assistantfinal", "C"),
    ("analysisHm", "analysisHm", ""), ("<|channel|>commentary<|message|>a<|end|>", "a", "")])
def test_thoughts_in_odd_shapes(text, thoughts, answer):
    assert split_thoughts(text) == (thoughts, answer)


@pytest.mark.parametrize(("begin", "end"), PAIRS[:-1])
@pytest.mark.parametrize("space", ["\n", " ", "\n\n"])
def test_thoughts_after_a_greeting_are_no_answer(begin, end, space):
    for greeting in ("Sure!", "Hello. Okay.", "Well…"):
        thoughts, answer = split_thoughts(f"{greeting}{space}{begin}{space}I choose A? no{space}{end}{space}C")
        assert (thoughts, answer.split()) == ("I choose A? no", [*greeting.split(), "C"])
        thoughts, answer = split_thoughts(f"{greeting}{space}{begin}{space}I choose A. Wait")
        assert (thoughts.split(), answer) == ([*greeting.split(), "I", "choose", "A.", "Wait"], "")


@pytest.mark.parametrize("text", [
    "", "I think so.", "Think: yes.", "analysis of it", "Analysis: A", "[thinking] Well.", "<thinker>a</thinker>b",
    "Use <think> tags.", "Write <think>a</think>b.", "Write:\n<think>\na\n</think>\nb", "`<think>a</think>`",
    "```\n<think>a</think>\n```",
    'The "</think>" tag', "It ends in `</think>`, always.",
    "```xml\n</think>\n```\nis the end", "What is <|channel|>?", "  kept as it is \n"])
def test_words_about_thinking_are_left_alone(text):
    assert split_thoughts(text) == ("", text)


@pytest.mark.parametrize(("message", "expected"), [
    ({"content": "C"}, ("", "C")), ({"content": None, "reasoning_content": "a"}, ("a", "")), ({}, ("", "")),
    ({"content": "C", "reasoning": "a", "reasoning_content": "a"}, ("a", "C")),
    ({"content": [{"type": "text", "text": "C"}, {"type": "image_url"}, "x"]}, ("", "Cx")),
    ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}, {"text": "C"}]}, ("a", "C")),
    ({"content": [{"type": "reasoning", "text": "a"}, {"type": "output_text", "text": "C"}]}, ("a", "C"))])
def test_reasoning_fields_and_parts_are_thoughts(message, expected):
    assert read_content(message) == expected


def test_no_reader_takes_thoughts_for_the_reply(tmp_path):
    replies = ["<think>Go.</think>\nHello.", "Go.\n</think>\nHello.", "<think>Go.", "Hello."]
    rows = [{"prompt": "Hi", "response": text, "value_vector": {"security": 1}} for text in replies]
    rows += [{"dialogue": f"Human: Hi\nBob: {text}", "value_vector": {"security": 1}} for text in replies]
    for read in (read_dataset, read_scored):
        data = read(write(tmp_path, *rows), TEN)
        assert data.table.response.tolist() == ["Hello."] * 6
        assert data.problems[data.problems.reason.str.contains("set aside")][["line", "reason"]].values.tolist() == [
            [3, "holds thoughts only: row set aside"], [7, "holds thoughts only: row set aside"]]


@pytest.mark.parametrize("name", ["reward", "rating", "e_distance", "h_distance"])
def test_a_number_that_is_none_is_told(tmp_path, name):
    row = {"prompt": "p", "response": "r", "value_vector": {}}
    given = [3, 0.5, None, "high", "0.5", True, [1], {"a": 1}, 10**400]
    data = read_scored(write(tmp_path, row, *({**row, name: value} for value in given)), TEN)
    column = data.table["reward" if name == "rating" else name]
    assert column[1:3].tolist() == [3.0, 0.5] and column.isna().sum() == len(given) - 1
    assert data.problems[["line", "field"]].values.tolist() == [[line, name] for line in range(5, 11)]


SHAPES = [
    {"prompt": "Hi?", "response": "Hello."}, {"question": "Why?", "answer": "So."},
    {"instruction": "Say hi.", "input": "To Ann.", "output": "Hi, Ann."},
    {"dialogue": "Human: May I?\nBob: Yes."}, {"prompt": None, "question": "Null?", "answer": "Missing."},
    {"prompt": "Sum?", "response": "<think>2 and 2</think>It is 4."},
    {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Go on."},
                  {"role": "assistant", "content": "No.\x00"}]},
    {"conversations": [{"from": "human", "value": "First?"}, {"from": "gpt", "value": "One."},
                       {"from": "human", "value": "Then?"}, {"from": "gpt", "value": "Two."}]},
    {"prompt": "Empty?", "response": " "}, {"prompt": "Only a prompt"}, {"prompt": "Hm?", "response": "<think>Hm."}]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_every_reader_takes_the_same_pairs_from_a_file(tmp_path, suffix):
    from fulcra_utils.annotation.labelling import read_rows
    from fulcra_utils.evaluator.scoring import _read_texts
    from fulcra_utils.llm.replies import read_reply_prompts

    path = tmp_path / f"rows{suffix}"
    text = "\n".join([*map(json.dumps, SHAPES), "{", '["no object"]'])
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    scored = list(_read_texts(path))
    pairs = [(prompt, reply) if not problem else None for _, prompt, reply, problem in scored]
    assert pairs.count(None) == 5 and pairs[7] == ("[user] First?\n[assistant] One.\n[user] Then?", "Two.")
    assert pairs[5] == ("Sum?", "It is 4."), "without the thoughts"
    good = [pair for pair in pairs if pair]
    assert list(zip(*list_pairs(SHAPES[:8]), strict=True)) == good, "rows in memory"
    annotated = read_rows(path)
    assert [row.dialogue and (row.dialogue.prompt, row.dialogue.response) for row in annotated] == pairs
    data = [read(path, "schwartz10").table for read in (read_dataset, read_scored)]
    assert all(list(zip(table.prompt, table.response, strict=True)) == good for table in data)
    assert data[0].line.tolist() == [line for line, *_, problem in scored if not problem]
    said = {line: problem for line, *_, problem in scored if problem}
    reasons = read_dataset(path, "schwartz10").problems
    reasons = reasons[reasons.reason.str.endswith("row set aside")]
    assert {r.line: f"{r.field} {r.reason.removesuffix(': row set aside')}" for r in reasons.itertuples()} == {
        line: problem.removeprefix("the ") for line, problem in said.items()}
    assert [row.problem.replace(f"line {n}", "the line") for n, row in enumerate(annotated, 1) if row.problem] == [
        *said.values()]
    fields, prompts, bad = read_reply_prompts(path)
    assert prompts == [row["prompt"] for row in fields] == [row["prompt"] for row in SHAPES if row.get("prompt")]
    assert [row["problem"] for row in bad[-2:]] == [f"line {line}: {said[line]}" for line in (12, 13)]


def test_a_file_of_parquet_gives_the_same_pairs(tmp_path):
    from fulcra_utils.annotation.labelling import read_rows

    plain = [row for row in SHAPES if set(row) == {"prompt", "response"}]
    pd.DataFrame(plain).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, plain)))
    told = [[(row.dialogue, row.problem) for row in read_rows(tmp_path / f"rows.{kind}")]
            for kind in ("parquet", "jsonl")]
    assert told[0] == told[1] and sum(bool(problem) for _, problem in told[0]) == 2
