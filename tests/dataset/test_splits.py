import hashlib

import numpy as np
import pandas as pd
import pytest

from fulcra_utils.dataset import splits
from fulcra_utils.dataset.labelled import read_prompts
from fulcra_utils.dataset.splits import assign_splits, group_prompts


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


def test_one_prompt_in_two_spellings_of_unicode_is_one():
    codes = group_prompts(["Wie geht es Jos\u00e9?", "Wie geht es Jose\u0301?", "What is a prime?"])
    assert codes[0] == codes[1] != codes[2]
