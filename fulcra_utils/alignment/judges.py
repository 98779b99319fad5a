"""Quick scorers for the proof of alignment: a reward evaluator, a judge of another kind, scalar reward models, proxies.

Choices: the reward evaluator is the mean of small networks on frozen sentence embeddings and a ridge regression on
word n-grams, which on validation rows agrees with labels better than either (0.75 against 0.71 and 0.73); the judge is
of a third kind, networks on latent topics of words, and shares no row with it; all train in seconds, so that halves,
shares and seeds are affordable; both are taught that shuffled, empty, echoed and stuffed replies, and replies to
another prompt, express nothing, so a stock reply that would do for every prompt earns less than it says; all read only
the first 40 words of a reply, which is what a small policy writes; what a scorer says of text unlike its training text
is out of its domain.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import diags, hstack
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import normalize

from fulcra_utils.common.digests import digest, digest_code
from fulcra_utils.evaluator.encoder import Encoder, embed
from fulcra_utils.theory.theory import Theory

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
    """Models of prompt and reply, each a way to features and one from there to (N, K) outputs, which are averaged.

    By `label`, a hash of what it was trained from, a kept policy knows its reward: weights differ a little with
    threads.
    """

    models: Sequence[tuple[Callable[..., Any], Callable[..., np.ndarray]]] = field(repr=False)
    label: str = ""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return (N, K) outputs; value scores are within [-1, 1], rewards of unit variance."""
        return np.mean([say(featurise(prompts, responses)) for featurise, say in self.models], axis=0)

    def predict(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return the first output, shape (N,): what a scalar reward model says."""
        return self.score(prompts, responses)[:, 0]


def teach_absence(prompts: Sequence[str], responses: Sequence[str], vectors: np.ndarray, theory: Theory, seed: int = 0,
                  mismatch: float = 0.25) -> tuple[list[str], list[str], np.ndarray]:
    """Cut replies to the length a small policy writes, and add replies that express nothing with label 0.

    3 N rows and those of another prompt: the first 40 words with their labels; the same words shuffled; empty, echoed,
    repeated and stuffed replies in turn; a share `mismatch` of replies to another prompt. All but the first N have
    label 0, unknown labels (nan) stay so. A reward that was never shown nonsense can be led anywhere by it.
    """
    rng = np.random.default_rng(seed)
    short = [cut_words(r) for r in responses]
    nothing = [_say_nothing(i, p, r, theory, rng) for i, (p, r) in enumerate(zip(prompts, short, strict=True))]
    zero = np.where(np.isnan(vectors), np.nan, 0.0)
    asked = rng.permutation(len(short))[:int(mismatch * len(short))]
    answered = (asked + rng.integers(1, max(2, len(short)), len(asked))) % max(1, len(short))  # never its own reply
    return ([*prompts, *prompts, *prompts, *(prompts[i] for i in asked)],
            [*short, *(shuffle_words(r, rng) for r in short), *nothing, *(short[i] for i in answered)],
            np.concatenate([vectors, zero, zero, zero[answered]]))


def cut_words(text: str) -> str:
    """Return the first 40 words of a text, what a small policy writes in 48 tokens."""
    return " ".join(text.split()[:40])


def shuffle_words(text: str, rng: np.random.Generator) -> str:
    """Return the words of a text in random order."""
    words = text.split()
    return " ".join(words[i] for i in rng.permutation(len(words)))


def read_texts(rows: pd.DataFrame, column: str = "response") -> tuple[list[str], list[str]]:
    """Return the prompts of rows and their replies, cut to 40 words."""
    return rows["prompt"].tolist(), [cut_words(text) for text in rows[column]]


def fit_value_scorer(memory: TextMemory, rows: pd.DataFrame, theory: Theory, seed: int = 0,
                     mismatch: float = 0.25) -> QuickScorer:
    """Train the reward evaluator: tanh networks on embeddings and a ridge regression on words, squared error.

    The rows have prompt, response and a label in [-1, 1] a dimension, nan teaches nothing. Source: released evaluator
    (tanh and squared error); ours: frozen embeddings, words, replies that express nothing.
    """
    read = *read_texts(rows), rows[list(theory.dimensions)].to_numpy(float)
    label = digest(digest_code(fit_value_scorer), memory.encoder.model, memory.encoder.tokenizer, read, theory.items,
                   seed, mismatch)
    prompts, responses, vectors = teach_absence(*read, theory, seed, mismatch)
    networks = _fit_networks(memory.featurise(prompts, responses), vectors, seed, bounded=True)
    return QuickScorer([(memory.featurise, networks), *fit_words(prompts, responses, vectors, 1.0).models], label)


def fit_reward_model(memory: TextMemory, rows: pd.DataFrame, seed: int = 0) -> QuickScorer:
    """Train a scalar reward model on the column reward, brought to mean 0 and variance 1.

    Source: the paper's RLHF baseline, and its harmless measure as a proxy.
    """
    texts, rewards = read_texts(rows), rows["reward"].to_numpy(float)
    scaled = ((rewards - rewards.mean()) / (rewards.std() or 1.0))[:, None]
    label = digest(digest_code(fit_reward_model), memory.encoder.model, memory.encoder.tokenizer, texts, scaled, seed)
    networks = _fit_networks(memory.featurise(*texts), scaled, seed, bounded=False)
    return QuickScorer([(memory.featurise, networks)], label)


def fit_preference(memory: TextMemory, pairs: pd.DataFrame) -> QuickScorer:
    """Fit a Bradley-Terry model of pairwise preference, linear in the features: P(a over b) = sigmoid(a - b).

    Source: Bradley and Terry (1952) on the helpful pairs (prompt, chosen, rejected); the helpful measure as a proxy.
    """
    gaps = memory.featurise(*read_texts(pairs, "chosen")) - memory.featurise(*read_texts(pairs, "rejected"))
    model = LogisticRegression(C=1.0 / len(gaps), fit_intercept=False, max_iter=200)
    model.fit(np.concatenate([gaps, -gaps]), np.repeat([1, 0], len(gaps)))
    linear = torch.nn.Linear(gaps.shape[1], 1, bias=False)
    linear.weight.data = torch.from_numpy(model.coef_.astype(np.float32))
    return QuickScorer([(memory.featurise, partial(_ask_networks, [linear], False))])


def fit_judge(rows: pd.DataFrame, theory: Theory, seed: int = 0, mismatch: float = 0.25) -> QuickScorer:
    """Train the judge on rows (as `fit_value_scorer`) that the reward evaluator never saw.

    Networks on latent topics of the words of prompt and reply (Deerwester et al. 1990).
    """
    vectors = rows[list(theory.dimensions)].to_numpy(float)
    prompts, responses, vectors = teach_absence(*read_texts(rows), vectors, theory, seed + 1, mismatch)
    texts = list(dict.fromkeys([*responses, *prompts, "no words"]))
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=3 if len(texts) > 1000 else 1, max_features=60_000, **WORDS)
    counts = words.fit_transform(texts)
    topics = TruncatedSVD(max(1, min(200, counts.shape[1] - 1, len(texts) - 1)), random_state=seed).fit(counts)
    featurise = partial(_read_topics, words, topics)
    return QuickScorer([(featurise, _fit_networks(featurise(prompts, responses), vectors, seed, bounded=True))])


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
    return QuickScorer([(featurise, partial(_ask_ridge, _fit_ridge(featurise(prompts, responses), outputs), bound))])


def correlate_labels(scorer: Any, rows: pd.DataFrame, columns: Sequence[str]) -> float:
    """Return the correlation of a scorer with labels (K columns) it was not trained on, over all known cells."""
    labels = rows[list(columns)].to_numpy(dtype=float)
    known = np.isfinite(labels)
    if len(rows) < 3 or not known.any() or np.nanstd(labels) == 0:
        return np.nan
    scores = scorer.score(*read_texts(rows))
    return float(np.corrcoef(scores[known], labels[known])[0, 1])


def _say_nothing(turn: int, prompt: str, response: str, theory: Theory, rng: np.random.Generator) -> str:
    words = response.split() or ["the"]
    if turn % 4 < 2:
        return ("", prompt)[turn % 4]
    if turn % 4 == 2:
        return " ".join([str(rng.choice(words))] * int(rng.integers(5, 25)))
    return ", ".join(rng.choice(theory.items, min(theory.n_items, int(rng.integers(3, 25))), replace=False)) + "."


def _join(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    scale = np.sqrt(first.shape[1])  # unit variance features
    return np.concatenate([first * scale, second * scale, first * second * scale**2], axis=1).astype(np.float32)


def _read_topics(words: Any, topics: Any, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    return _join(*(normalize(topics.transform(words.transform(texts))) for texts in (prompts, responses)))


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


def _ask_networks(networks: Sequence[Any], bounded: bool, features: np.ndarray) -> np.ndarray:
    """Return the mean output of networks, shape (N, K), each through tanh first when bounded."""
    with torch.inference_mode():
        said = torch.stack([network(torch.from_numpy(features)) for network in networks])
        return (said.tanh() if bounded else said).mean(dim=0).double().numpy()


def _ask_ridge(regression: Ridge, bound: float, features: Any) -> np.ndarray:
    return np.clip(regression.predict(features).astype(float), -bound, bound)


def _fit_networks(features: np.ndarray, labels: np.ndarray, seed: int, bounded: bool) -> Callable[..., np.ndarray]:
    """Train networks of one hidden layer by AdamW on the squared error, nan labels left out.

    Several, and few epochs: on validation rows the average of three correlates with labels at 0.71, one trained twice
    as long at 0.67, and a policy finds the holes of one sooner.
    """
    inputs, known = torch.from_numpy(features), torch.from_numpy(np.isfinite(labels))
    wanted = torch.from_numpy(np.nan_to_num(labels).astype(np.float32))
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
                out = network(inputs[rows])
                errors = ((out.tanh() if bounded else out) - wanted[rows]).square()
                loss = (errors * known[rows]).sum() / known[rows].sum().clamp(min=1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            networks.append(network.eval())
    return partial(_ask_networks, networks, bounded)


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
