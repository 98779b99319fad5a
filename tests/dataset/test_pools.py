

from row_files import write

from fulcra_utils.dataset.pools import read_preferences, read_prompts


def test_prompts_and_preferences_keep_count(tmp_path):
    pool = read_prompts(write(tmp_path, {"prompt": "a", "safety_issues": ["x"]}, {"prompt": ""}, "{"))
    assert pool.prompt.tolist() == ["a"] and len(pool.attrs["problems"]) == 2
    pair = {"chosen": "\n\nHuman: 1\n\nAssistant: b\n\nHuman: 2\n\nAssistant: c",
            "rejected": "\n\nHuman: 1\n\nAssistant: b\n\nHuman: 2\n\nAssistant: d"}
    pairs = read_preferences(write(tmp_path, pair, {"chosen": "x"}))
    assert pairs[["prompt", "chosen", "rejected"]].values.tolist() == [["2", "c", "d"]]
    assert len(pairs.attrs["problems"]) == 1
