"""Why a score is what it is and what moves it: words, deletions, replies that try to fool, typos; the model card."""

import re
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from jinja2 import Template

from fulcra_utils.common.files import write_text
from fulcra_utils.common.labels import WEAK, scores_to_labels
from fulcra_utils.common.paths import DATA
from fulcra_utils.common.weights import HUB_NAMES
from fulcra_utils.dataset.construction import SAMPLES
from fulcra_utils.dataset.labelled import read_dataset
from fulcra_utils.dataset.texts import list_texts, write_degenerate_replies
from fulcra_utils.evaluator.model import ValueEvaluator
from fulcra_utils.evaluator.rendering import choose_tokens, find_frame, pad_pairs, prepare_text
from fulcra_utils.evaluator.training import Examples
from fulcra_utils.stats.classification import bootstrap_macro_f1, macro_f1
from fulcra_utils.stats.resampling import bootstrap_means, mean_known, summarise_draws
from fulcra_utils.theory.theory import Theory

TEXTS = yaml.safe_load((DATA / "attacks.yaml").read_text(encoding="utf-8"))
MARKED, N_RANDOM = 5, 3  # words deleted by the test, and how often it draws others


def weigh_words(evaluator: ValueEvaluator, prompt: str, response: str) -> tuple[list[str], np.ndarray]:
    """Return the T words of a reply, and how much each pushes each value's score up (+) or down, (T, D).

    The gradient of the score by how much of a word is there, summed over a word's tokens: gradient times input,
    Shrikumar et al. (2016). The words of a long reply's cut middle are missing, and how near a reply is to the
    definition of an untaught value plays no part. Tokens are known by their place in the
    text, so the tokenizer must be a fast one.

    >>> from fulcra_utils.evaluator.encoder import load_encoder
    >>> from fulcra_utils.evaluator.model import make_evaluator
    >>> from fulcra_utils.theory.theory import load_theory
    >>> evaluator = make_evaluator(load_encoder("tiny"), load_theory("schwartz10"))
    >>> words, weights = weigh_words(evaluator, "Why?", "Be kind.")
    >>> words, weights.shape
    (['Be', 'kind.'], (2, 10))
    """
    batch = pad_pairs(evaluator.render([prompt], [response]), evaluator.tokenizer, evaluator.device)
    gates = torch.ones(batch["input_ids"].shape, device=evaluator.device, requires_grad=True)
    evaluator.eval()
    probabilities = evaluator(**batch, gates=gates)["logits"].softmax(-1)[0]                   # (D, 3)
    scores = probabilities[:, 2] - probabilities[:, 0]
    pushes = torch.stack([torch.autograd.grad(s, gates, retain_graph=True)[0][0] for s in scores], dim=-1)     # (T, D)
    text, n_end = prepare_text(response, evaluator.config.max_length), len(find_frame(evaluator.tokenizer)[2])
    n_reply = int(batch["token_type_ids"].sum()) - n_end
    words, owners = text.split(), np.full(len(text) + 1, -1)        # which word each character, or none, is of
    for k, found in enumerate(re.finditer(r"\S+", text)):
        owners[found.start():found.end()] = k
    offsets = evaluator.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    every = owners[[end - 1 for _, end in offsets["offset_mapping"]]] if text else owners[:0]   # and each token
    kept, sums = every[choose_tokens(len(every), n_reply)], np.zeros((len(words), pushes.shape[1]))
    of_reply = pushes.double().cpu().numpy()[len(pushes) - n_end - n_reply:len(pushes) - n_end]
    np.add.at(sums, kept[kept >= 0], of_reply[kept >= 0])       # a line break's token is no word's
    whole = np.equal(*(np.bincount(part[part >= 0], minlength=len(words)) for part in (kept, every)))
    return [word for word, is_whole in zip(words, whole, strict=True) if is_whole], sums[whole]


def list_samples(theory: Theory, most_words: int = 50) -> pd.DataFrame:
    """Return the short replies of the embedded sample that carry no risk tag, the one with most labels ±1 first.

    Columns: prompt, response, response_source and each dimension (label, nan = none). Nothing an evaluator says plays
    a part, so that no reply is shown because one does well on it; the first in the file wins a tie.

    >>> from fulcra_utils.theory.theory import load_theory
    >>> float(list_samples(load_theory("schwartz10")).iloc[0, 3:].abs().sum())
    6.0
    """
    ours = sorted(SAMPLES.glob("*.jsonl"))                              # never the rows beside a user's own theory
    own = [path for path in ours if path.stem in (theory.name, theory.parent)]
    data = read_dataset((own or ours)[-1], theory)
    table = data.table[["prompt", "response", "response_source"]].astype(object)
    table = table.join(pd.DataFrame(data.vectors if own else np.nan, table.index, theory.dimensions))
    n_tags = data.table.safety_issues.str.len().fillna(0)
    table = table[(n_tags == 0) & (table.response.str.split().str.len() <= most_words)].reset_index(drop=True)
    n_labels = (table[list(theory.dimensions)].abs() == 1).sum(axis=1)
    return table.loc[n_labels.sort_values(ascending=False, kind="stable").index].reset_index(drop=True)


def explain_reply(evaluator: ValueEvaluator, prompt: str, response: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the profile of a reply (score, low, high, by value) and `weigh_words` (a row a word, a column a value).

    From low to high lie the score and every label of its set (`ValueEvaluator.score` with intervals).
    """
    score, low, high = evaluator.score([prompt], [response], intervals=True)[:, 0]
    words, weights = weigh_words(evaluator, prompt, response)
    spans = {"score": score, "low": np.minimum(score, low), "high": np.maximum(score, high)}
    return pd.DataFrame(spans, index=evaluator.dimensions), pd.DataFrame(weights, words, evaluator.dimensions)


def check_samples(evaluator: ValueEvaluator, samples: pd.DataFrame) -> str:
    """Say in words how far an evaluator's scores and label sets of `list_samples` fit the labels there."""
    labels = samples[list(evaluator.dimensions)].to_numpy(float)
    known = np.isfinite(labels)
    if not known.any():
        return "The sample has no labels under this theory."
    told = evaluator.predict_proba(samples.prompt.tolist(), samples.response.tolist())
    held = np.take_along_axis(evaluator.label_sets(told)[known], labels[known].astype(int)[:, None] + 1, 1).mean()
    missed = np.abs(told[..., 2] - told[..., 0] - labels)[known].mean()
    return (f"Over all {len(samples)} such replies of the sample a score misses the label by {missed:.2f} on average "
            f"(always saying 0: {np.abs(labels[known]).mean():.2f}), and the set holds it in {held:.0%} of the cells.")


def measure_deletion(evaluator: ValueEvaluator, examples: Examples, clusters: Sequence, seed: int = 2023,
                     n_draws: int = 1000) -> pd.DataFrame:
    """Delete the heaviest words of each reply, and as many others at random, and compare how far the score moves.

    For each reply of twelve words or more that is read whole (`max_length`) the value with the largest |score| is
    looked at; three random deletions are averaged. Returns deleted ("heaviest", "random", "difference"), n, moved (mean
    |change of the score|), low, high (95 % over prompt clusters). DeYoung et al. (2020), comprehensiveness.
    """
    rows, moved = _delete_words(evaluator, examples, seed)
    pair = np.column_stack([moved[:, 0], moved[:, 1:].mean(1)])
    values = np.column_stack([pair, pair[:, 0] - pair[:, 1]])
    draws = bootstrap_means(values, np.asarray(clusters)[rows], n_draws, seed) if rows else np.full((1, 3), np.nan)
    found = [{"deleted": name, "n": len(rows), **summarise_draws(mean_known(values[:, k]), draws[:, k])}
             for k, name in enumerate(("heaviest", "random", "difference"))]
    return pd.DataFrame(found).rename(columns={"value": "moved"})


def _delete_words(evaluator: ValueEvaluator, examples: Examples, seed: int) -> tuple[list[int], np.ndarray]:
    """Return which R replies are long enough and read whole, and how far each deletion moves each, (R, 1 + 3)."""
    rng, rows, texts = np.random.default_rng(seed), [], []
    plain = evaluator.score(examples.prompts, examples.responses)
    dims = np.abs(plain).argmax(1)
    for n, (prompt, response) in enumerate(zip(examples.prompts, examples.responses, strict=True)):
        words, weights = weigh_words(evaluator, prompt, response)
        if len(words) >= 12 and words == response.split():
            order = np.argsort(-np.abs(weights[:, dims[n]]), kind="stable")
            drawn = [rng.permutation(order[MARKED:])[:MARKED] for _ in range(N_RANDOM)]
            texts += [" ".join(np.delete(np.array(words, dtype=object), gone)) for gone in (order[:MARKED], *drawn)]
            rows.append(n)
    after = evaluator.score([examples.prompts[n] for n in rows for _ in range(1 + N_RANDOM)], texts)
    after = after[np.arange(len(texts)), np.repeat(dims[rows], 1 + N_RANDOM)].reshape(-1, 1 + N_RANDOM)
    return rows, np.abs(after - plain[rows, dims[rows]][:, None])


def make_attacks(prompts: Sequence[str], theory: Theory) -> dict[str, list[str]]:
    """Return replies that try to get scores without earning them, N for each attack: empty, echo, stuffing, injection,
    …

    >>> from fulcra_utils.theory.theory import load_theory
    >>> make_attacks(["May I lie?"], load_theory("schwartz10"))["echo of the prompt"]
    ['May I lie?']
    """
    names, plain = [d.replace("-", " ") for d in theory.dimensions], write_degenerate_replies(prompts)
    attacks = {"empty": plain["empty"], "refusal only": plain["refusal"], "echo of the prompt": plain["echo"]}
    return attacks | {attack: [Template(text).render(names=names, items=theory.items[:20])] * len(prompts)
                      for attack, text in TEXTS["attacks"].items()}


def audit_replies(evaluator: ValueEvaluator, prompts: Sequence[str], theory: Theory) -> pd.DataFrame:
    """Score replies that try to fool the evaluator, to each of the prompts; a row for each attack.

    strongest: the value with the largest mean |score|; strongest_score; mean_absolute over all values; failed: beyond
    0.3, so that replies get labels which they did not earn; then the mean score of each dimension, in which +1 and -1
    cancel.

    >>> from fulcra_utils.evaluator.encoder import load_encoder
    >>> from fulcra_utils.evaluator.model import make_evaluator
    >>> from fulcra_utils.theory.theory import load_theory
    >>> theory = load_theory("moral_foundations")
    >>> audit_replies(make_evaluator(load_encoder("tiny"), theory), ["May I lie?"], theory).attack[0]
    'empty'
    """
    prompts, found = list_texts(prompts, "Prompt"), []
    for attack, replies in make_attacks(prompts, theory).items() if prompts else ():
        scores = evaluator.score(prompts, replies)
        sizes = np.abs(scores).mean(0)
        d = int(sizes.argmax())
        found.append({"attack": attack, "strongest": theory.dimensions[d], "strongest_score": sizes[d],
                      "mean_absolute": float(sizes.mean()), "failed": bool(sizes[d] > WEAK),
                      **dict(zip(theory.dimensions, scores.mean(0), strict=True))})
    return pd.DataFrame(found, columns=["attack", "strongest", "strongest_score", "mean_absolute", "failed",
                                        *theory.dimensions])


def add_typos(texts: Sequence[str], share: float = 0.05, seed: int = 2023) -> list[str]:
    """Return texts in which a share of the words (of at least four letters) has two neighbouring letters swapped.

    >>> add_typos(["always tell the truth"], share=1.0)
    ['awlays tlel the turth']
    """
    rng = np.random.default_rng(seed)
    return [" ".join(_swap(word, rng) if len(word) > 3 and rng.random() < share else word for word in text.split(" "))
            for text in texts]


def _swap(word: str, rng: np.random.Generator) -> str:
    k = int(rng.integers(1, len(word) - 1))
    return word[:k] + word[k + 1] + word[k] + word[k + 2:]


def measure_robustness(evaluator: ValueEvaluator, examples: Examples, clusters: Sequence, seed: int = 2023,
                       n_draws: int = 1000) -> pd.DataFrame:
    """Score the same replies with typos and rephrased prompts, and compare with the labels and the plain scores.

    Returns change, macro_f1, low, high, moved (mean |score - plain score|), flipped (share of cells with another
    label).
    """
    typed = add_typos(examples.responses, seed=seed)
    variants = {"as it is": (examples.prompts, examples.responses),
                "typos in 5 % of the words": (add_typos(examples.prompts, seed=seed + 1), typed),
                "rephrased prompt": ([frame.format(prompt) for frame, prompt in
                                      zip(cycle(TEXTS["frames"]), examples.prompts, strict=False)], examples.responses)}
    scored = {change: evaluator.score(*pair) for change, pair in variants.items()}
    labels, plain, found = scores_to_labels(examples.vectors), scored["as it is"], []
    for change, scores in scored.items():
        said, before = (scores_to_labels(s, evaluator.cuts) for s in (scores, plain))
        draws = bootstrap_macro_f1(labels, {"a": said}, clusters, n_draws, seed)["a"]
        found.append({"change": change, **summarise_draws(macro_f1(labels, said), draws),
                      "moved": mean_known(np.abs(scores - plain)),
                      "flipped": mean_known((said != before).astype(float))})
    return pd.DataFrame(found).rename(columns={"value": "macro_f1"})


def write_card(folder: str | Path, **told) -> str:
    """Write README.md, the model card, into an evaluator's folder from what its run `told`, and return its text.

    theory, settings, n_train (replies that trained it), n_more (texts of `gather_labels` that did); the tables
    comparison (`compare_methods`), errors (`measure_calibration`), support (`tabulate_support`), audit
    (`audit_replies`), and where they were measured unseen (`judge_unseen`), deletion (`measure_deletion`), speed
    (`measure_speed`), stance (text of `describe_contrasts`); terms: what binds whoever uses the weights (none: the
    public data). Mitchell et al. (2019), Model cards for model reporting.
    """
    source = (DATA / "evaluator_card.md").read_text(encoding="utf-8")
    name = told["settings"]["encoder"]
    measured = dict.fromkeys(("unseen", "deletion", "speed", "stance")) | told | {
        "base_model": "" if name == "tiny" or Path(name).is_dir() else HUB_NAMES.get(name, name)}
    text = Template(source, trim_blocks=True, keep_trailing_newline=True).render(measured)
    write_text(Path(folder) / "README.md", text)
    return text
