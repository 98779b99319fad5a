"""What rewards and judges beside the evaluators: word counts, scalar reward models, proxies; and what all are taught.

Choices: the reward of values and its judges share no row and, but for one judge, no way to read (the reward model that
learns from all rows shares some with the harmless proxy); all are taught that shuffled, empty, echoed and stuffed
replies, and replies to another prompt, express nothing, so a stock reply that would do for every prompt earns less than
it says; the quick ones train in seconds on frozen sentence embeddings or on counts of words, and read only the first 40
words of a reply, which is what a policy here writes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import diags, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from fulcra_utils.common.digests import digest, digest_code
from fulcra_utils.dataset.texts import shuffle_words
from fulcra_utils.evaluator.encoder import Encoder, embed
from fulcra_utils.theory.theory import Theory

NONSENSE = 0.25     # share of the rows that teach that nonsense expresses nothing
WORDS = {"sublinear_tf": True, "token_pattern": r"(?u)\b\w+'?\w*\b", "dtype": np.float32}


@dataclass
class TextMemory:
    """An encoder that embeds each different text once."""

    encoder: Encoder
    known: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def look_up(self, texts: Sequence[str]) -> np.ndarray:
        """Return the (N, H) embeddings of texts, at most 128 tokens of each."""
        new = list(dict.fromkeys(t for t in texts if t not in self.known))
        self.known.update(zip(new, embed(new, self.encoder, max_length=128), strict=True))
        return np.stack([self.known[t] for t in texts]) if len(texts) else np.zeros((0, self.encoder.width), np.float32)

    def featurise(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return (N, 3 H) features: embeddings of prompt and reply and their product."""
        return _join(self.look_up(prompts), self.look_up(responses))


@dataclass
class QuickScorer:
    """A way from prompt and reply to features, and one from there to (N, K) outputs.

    By `label`, a hash of what it was trained from, a kept policy knows its reward: weights differ a little by threads.
    """

    featurise: Callable[..., Any] = field(repr=False)
    say: Callable[..., np.ndarray] = field(repr=False)
    label: str = ""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return (N, K) outputs for N replies, of which the first 40 words are read."""
        return self.say(self.featurise(prompts, [cut_words(text) for text in responses]))

    def predict(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return the first output, shape (N,): what a scalar reward model says."""
        return self.score(prompts, responses)[:, 0]


def teach_absence(rows: pd.DataFrame, theory: Theory, seed: int = 0, mismatch: float = 1.0) -> pd.DataFrame:
    """Add replies that express nothing to N rows: label 0 for every value that has a label, nan stays nan.

    A share `mismatch` of the replies stands once more with another prompt, and to a share `NONSENSE` of the prompts
    shuffled, empty, echoed, repeated and stuffed ones are added in turn, all cut to the length that a policy writes. A
    reward that was never shown nonsense can be led anywhere by it; one that does not read the prompt likes one reply to
    all. `is_real` tells the N rows from these.
    """
    rng, dims, n = np.random.default_rng(seed), list(theory.dimensions), int(mismatch * len(rows))
    drawn = [rows.iloc[rng.permutation(len(rows))[:size]] for size in (n, int(NONSENSE * len(rows)))]
    nothing = pd.concat([rows.head(0), *drawn], ignore_index=True)
    nothing[dims] = nothing[dims].where(nothing[dims].isna(), 0.0)
    said = nothing["response"].map(cut_words)
    said[:n] = np.roll(said[:n], 1)  # never its own reply where two prompts differ
    said[n:] = [_say_nothing(k, *row, theory, rng) for k, row in enumerate(
        zip(nothing["prompt"][n:], said[n:], strict=True))]
    return pd.concat([rows.assign(is_real=True), nothing.assign(response=said, is_real=False)], ignore_index=True)


def cut_words(text: str) -> str:
    """Return the first 40 words of a text, what a small policy writes in 48 tokens."""
    return " ".join(text.split()[:40])


def read_texts(rows: pd.DataFrame, column: str = "response") -> tuple[list[str], list[str]]:
    """Return the prompts of rows and their replies, cut to 40 words."""
    return rows["prompt"].tolist(), [cut_words(text) for text in rows[column]]


def fit_word_counts(rows: pd.DataFrame, theory: Theory) -> QuickScorer:
    """Fit the judge that counts words: a ridge regression on labels in [-1, 1], nan teaches nothing."""
    return fit_words(*read_texts(rows), rows[list(theory.dimensions)].to_numpy(float), 1.0)


def fit_reward_model(memory: TextMemory, rows: pd.DataFrame, seed: int = 0) -> QuickScorer:
    """Train a scalar reward model on the column reward, brought to mean 0 and variance 1.

    Source: the paper's RLHF baseline, and its harmless measure as a proxy.
    """
    texts, rewards = read_texts(rows), rows["reward"].to_numpy(float)
    scaled = ((rewards - rewards.mean()) / (rewards.std() or 1.0))[:, None]
    label = digest(digest_code(fit_reward_model), memory.encoder.model, memory.encoder.tokenizer, texts, scaled, seed)
    return QuickScorer(memory.featurise, _fit_networks(memory.featurise(*texts), scaled, seed), label)


def fit_preference(memory: TextMemory, pairs: pd.DataFrame) -> QuickScorer:
    """Fit a Bradley-Terry model of pairwise preference, linear in the features: P(a over b) = sigmoid(a - b).

    Source: Bradley and Terry (1952) on the helpful pairs (prompt, chosen, rejected); the helpful measure as a proxy.
    """
    gaps = memory.featurise(*read_texts(pairs, "chosen")) - memory.featurise(*read_texts(pairs, "rejected"))
    model = LogisticRegression(C=1.0 / len(gaps), fit_intercept=False, max_iter=200)
    model.fit(np.concatenate([gaps, -gaps]), np.repeat([1, 0], len(gaps)))
    linear = torch.nn.Linear(gaps.shape[1], 1, bias=False)
    linear.weight.data = torch.from_numpy(model.coef_.astype(np.float32))
    return QuickScorer(memory.featurise, partial(_ask_networks, [linear]))


def fit_harmless(rows: pd.DataFrame) -> QuickScorer:
    """Fit the harmless proxy to the column reward; as the released reward does, it punishes refusals."""
    return fit_words(*read_texts(rows), rows[["reward"]].to_numpy(float), np.inf)


def fit_words(prompts: Sequence[str], responses: Sequence[str], outputs: np.ndarray, bound: float) -> QuickScorer:
    """Fit a ridge regression on words to outputs (N, K); what it says is cut to [-bound, bound]."""
    least = 3 if len(responses) > 1000 else 1
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=least, **WORDS).fit(responses)
    asked = TfidfVectorizer(min_df=least, **WORDS).fit(prompts)
    shared = TfidfVectorizer(stop_words="english", **WORDS).fit([*prompts, *responses, "word"])
    featurise = partial(_read_words, words, asked, shared)
    return QuickScorer(featurise, partial(_ask_ridge, _fit_ridge(featurise(prompts, responses), outputs), bound))


def correlate_labels(scorer: Any, rows: pd.DataFrame, columns: Sequence[str]) -> float:
    """Return the correlation of a scorer with labels (K columns) it was not trained on, over all known cells."""
    labels = rows[list(columns)].to_numpy(dtype=float)
    known = np.isfinite(labels)
    if len(rows) < 3 or not known.any() or np.nanstd(labels) == 0:
        return np.nan
    scores = scorer.score(rows["prompt"].tolist(), rows["response"].tolist())
    return float(np.corrcoef(scores[known], labels[known])[0, 1])


def _say_nothing(turn: int, prompt: str, response: str, theory: Theory, rng: np.random.Generator) -> str:
    words = response.split() or ["the"]
    if turn % 5 < 3:
        return ("", prompt, shuffle_words(response, rng))[turn % 5]
    if turn % 5 == 3:
        return " ".join([str(rng.choice(words))] * int(rng.integers(5, 25)))
    return ", ".join(rng.choice(theory.items, min(theory.n_items, int(rng.integers(3, 25))), replace=False)) + "."


def _join(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    scale = np.sqrt(first.shape[1])  # unit variance features
    return np.concatenate([first * scale, second * scale, first * second * scale**2], axis=1).astype(np.float32)


def _read_words(words: Any, asked: Any, shared: Any, prompts: Sequence[str], responses: Sequence[str]) -> Any:
    """Return the sparse features of N pairs: what a word says may depend on whether the reply speaks of what was asked.

    Word uni- and bigrams of the reply, the same times the reply's likeness to the prompt in words (without stop words),
    words of the prompt.
    """
    said = words.transform(responses)
    both = shared.transform(prompts).multiply(shared.transform(responses))
    likeness = np.sqrt(np.asarray(both.sum(axis=1), dtype=np.float32)).ravel()  # root of the cosine, in [0, 1]
    return hstack([said, 2.0 * (diags(likeness) @ said), 0.5 * asked.transform(prompts), likeness[:, None]],
                  format="csr")


def _ask_networks(networks: Sequence[Any], features: np.ndarray) -> np.ndarray:
    """Return the mean output of networks, shape (N, K)."""
    with torch.inference_mode():
        return torch.stack([network(torch.from_numpy(features)) for network in networks]).mean(dim=0).double().numpy()


def _ask_ridge(regression: Ridge, bound: float, features: Any) -> np.ndarray:
    return np.clip(regression.predict(features).astype(float), -bound, bound)


def _fit_networks(features: np.ndarray, labels: np.ndarray, seed: int) -> Callable[..., np.ndarray]:
    """Train three networks of one hidden layer by AdamW on the squared error: a policy finds the holes of one sooner.
    """
    inputs, wanted = torch.from_numpy(features), torch.from_numpy(labels.astype(np.float32))
    per_epoch = -(-len(inputs) // 128)
    epochs, networks = max(15, -(-200 // per_epoch)), []
    for member in range(3):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 * seed + member)
            network = torch.nn.Sequential(
                torch.nn.Dropout(0.2), torch.nn.Linear(features.shape[1], 128), torch.nn.GELU(),
                torch.nn.Dropout(0.2), torch.nn.Linear(128, labels.shape[1]))
            optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * per_epoch)
            for rows in (rows for _ in range(epochs) for rows in torch.randperm(len(inputs)).split(128)):
                loss = torch.nn.functional.mse_loss(network(inputs[rows]), wanted[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            networks.append(network.eval())
    return partial(_ask_networks, networks)


def _fit_ridge(features: Any, outputs: np.ndarray) -> Ridge:
    """Fit every output on the rows in which it is known; one that never is stays 0."""
    known, whole = np.isfinite(outputs), Ridge(alpha=1.0, solver="sparse_cg")
    whole.coef_ = np.zeros((outputs.shape[1], features.shape[1]), features.dtype)
    whole.intercept_ = np.zeros(outputs.shape[1], features.dtype)
    for rows in np.unique(known[:, known.any(axis=0)], axis=1).T:
        mine = (known == rows[:, None]).all(axis=0)
        part = Ridge(alpha=1.0, solver="sparse_cg").fit(features[rows], outputs[np.ix_(rows, mine)])
        whole.coef_[mine], whole.intercept_[mine] = part.coef_, part.intercept_
    return whole
