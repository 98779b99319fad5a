"""Quick scorers for the proof of alignment: a reward evaluator, a judge of another kind, scalar reward models, proxies.

Choices: the reward evaluator is the mean of small networks on frozen sentence embeddings and a ridge regression on
word n-grams, which on validation rows agrees with labels better than either (0.75 against 0.71 and 0.73); the judge is
of a third kind, networks on latent topics of words, and shares no row with it; all train in seconds, so that halves,
shares and seeds are affordable; both are taught that shuffled, empty, echoed and stuffed replies, and replies to
another prompt, express nothing, so a stock reply that would do for every prompt earns less than it says; all read only
the first 40 words of a reply, which is what a small policy writes; what a scorer says of text unlike its training text
is out of its domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fulcra_utils.common.digests import digest, digest_code
from fulcra_utils.theory.theory import Theory

if TYPE_CHECKING:
    from fulcra_utils.evaluator.encoder import Encoder

PREFIX_WORDS = 40  # what a small policy writes in 48 tokens
N_NETWORKS, N_EPOCHS, MIN_STEPS = 3, 15, 200  # of an embedding scorer


@dataclass
class TextMemory:
    """An encoder that embeds each different text once."""

    encoder: Encoder
    known: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def look_up(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Return the (N, H) embeddings of texts, at most 128 tokens of each."""
        from fulcra_utils.evaluator.encoder import embed

        new = list(dict.fromkeys(t for t in texts if t not in self.known))
        self.known.update(zip(new, embed(new, self.encoder, max_length=128, progress=progress), strict=True))
        return np.stack([self.known[t] for t in texts]) if len(texts) else np.zeros((0, self.encoder.width), np.float32)


@dataclass
class EmbeddingScorer:
    """Networks on the frozen embeddings of prompt and reply; what they say is averaged.

    Each network maps (N, 3 H) features to (N, K) outputs; bounded ones pass through tanh (value scores), others are
    rewards of unit variance. By `label`, a hash of what it was trained from, a kept policy knows its reward: weights
    differ a little with threads.
    """

    memory: TextMemory
    networks: Sequence[Any] = field(repr=False)
    bounded: bool = True
    label: str = ""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return (N, K) outputs; value scores within [-1, 1] when the scorer is bounded."""
        return _average_networks(self.networks, pair_features(self.memory, prompts, responses), self.bounded)

    def predict(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return the first output, shape (N,): what a scalar reward model says."""
        return self.score(prompts, responses)[:, 0]


@dataclass
class NgramScorer:
    """Ridge regression on words: what a word says may depend on whether the reply speaks of what was asked.

    Features: word uni- and bigrams of the reply, the same times the reply's likeness to the prompt in words (without
    stop words), words of the prompt. Bounded outputs are cut to [-1, 1].
    """

    reply_words: Any = field(repr=False)
    prompt_words: Any = field(repr=False)
    shared_words: Any = field(repr=False)
    regression: Any = field(default=None, repr=False)
    bounded: bool = True

    def featurise(self, prompts: Sequence[str], responses: Sequence[str]) -> Any:
        """Return the sparse features, one row for each of the N pairs."""
        from scipy.sparse import diags, hstack

        prompts, responses = list(prompts), list(responses)
        said, asked = self.reply_words.transform(responses), self.prompt_words.transform(prompts)
        both = self.shared_words.transform(prompts).multiply(self.shared_words.transform(responses))
        likeness = np.sqrt(np.asarray(both.sum(axis=1), dtype=np.float32)).ravel()  # root of the cosine, in [0, 1]
        return hstack([said, 2.0 * (diags(likeness) @ said), 0.5 * asked, likeness[:, None]], format="csr")

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return (N, K) outputs; value scores within [-1, 1] when the scorer is bounded."""
        out = self.regression.predict(self.featurise(prompts, responses)).reshape(len(prompts), -1).astype(float)
        return np.clip(out, -1.0, 1.0) if self.bounded else out

    def predict(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return the first output, shape (N,)."""
        return self.score(prompts, responses)[:, 0]


@dataclass
class LatentScorer:
    """Networks on latent topics of words of prompt and reply (Deerwester et al. 1990); what they say is averaged."""

    words: Any = field(repr=False)
    topics: Any = field(repr=False)
    networks: Sequence[Any] = field(default=(), repr=False)

    def featurise(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return (N, 3 K) features: topics of prompt and reply, each to unit variance, and their product."""
        from sklearn.preprocessing import normalize

        first, second = (normalize(self.topics.transform(self.words.transform(list(t)))) for t in (prompts, responses))
        scale = np.sqrt(first.shape[1])
        return np.concatenate([first * scale, second * scale, first * second * scale**2], axis=1).astype(np.float32)

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return (N, D) scores within [-1, 1]."""
        return _average_networks(self.networks, self.featurise(prompts, responses), bounded=True)


@dataclass
class MeanScorer:
    """The mean of what several scorers say; `label` as in `EmbeddingScorer`."""

    scorers: Sequence[Any]
    label: str = ""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return (N, D) scores within [-1, 1]."""
        return np.mean([scorer.score(prompts, responses) for scorer in self.scorers], axis=0)


def pair_features(memory: TextMemory, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """Return (N, 3 H) features: embeddings of prompt and reply and their product."""
    first, second = memory.look_up(prompts), memory.look_up(responses)
    scale = np.sqrt(first.shape[1])  # unit variance features
    return np.concatenate([first * scale, second * scale, first * second * scale**2], axis=1).astype(np.float32)


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


def cut_words(text: str, n_words: int = PREFIX_WORDS) -> str:
    """Return the first words of a text."""
    return " ".join(text.split()[:n_words])


def shuffle_words(text: str, rng: np.random.Generator) -> str:
    """Return the words of a text in random order."""
    words = text.split()
    return " ".join(words[i] for i in rng.permutation(len(words)))


def fit_value_scorer(memory: TextMemory, prompts: Sequence[str], responses: Sequence[str], vectors: np.ndarray,
                     theory: Theory, seed: int = 0, mismatch: float = 0.25) -> MeanScorer:
    """Train the reward evaluator: tanh networks on embeddings and a ridge regression on words, squared error.

    Labels (N, D) in [-1, 1], nan teaches nothing. Source: released evaluator (tanh and squared error); ours: frozen
    embeddings, words, replies that express nothing.
    """
    label = digest(digest_code(fit_value_scorer), memory.encoder.model, memory.encoder.tokenizer, list(prompts),
                   list(responses), vectors, theory.items, seed, mismatch)
    prompts, responses, vectors = teach_absence(prompts, responses, vectors, theory, seed, mismatch)
    networks = _fit_networks(pair_features(memory, prompts, responses), vectors, 128, seed, bounded=True)
    words = _fit_ngrams(prompts, responses, vectors, bounded=True)
    return MeanScorer([EmbeddingScorer(memory, networks), words], label)


def fit_reward_model(memory: TextMemory, prompts: Sequence[str], responses: Sequence[str], rewards: np.ndarray,
                     seed: int = 0) -> EmbeddingScorer:
    """Train a scalar reward model on rewards, brought to mean 0 and variance 1; nan is left out, 8 rows are needed.

    Source: the paper's RLHF baseline, and its harmless measure as a proxy.
    """
    rewards = np.asarray(rewards, dtype=float)
    known = np.flatnonzero(np.isfinite(rewards))
    if len(known) < 8:
        raise ValueError(f"a reward model needs at least 8 rows with a reward, there are {len(known)}.")
    prompts, responses = [prompts[i] for i in known], [responses[i] for i in known]
    scaled = ((rewards[known] - rewards[known].mean()) / (rewards[known].std() or 1.0))[:, None]
    label = digest(digest_code(fit_reward_model), memory.encoder.model, memory.encoder.tokenizer, prompts, responses,
                   scaled, seed)
    features = pair_features(memory, prompts, [cut_words(r) for r in responses])
    return EmbeddingScorer(memory, _fit_networks(features, scaled, 128, seed, bounded=False), False, label)


def fit_preference(memory: TextMemory, prompts: Sequence[str], chosen: Sequence[str], rejected: Sequence[str],
                   penalty: float = 1.0) -> EmbeddingScorer:
    """Fit a Bradley-Terry model of pairwise preference, linear in the features: P(a over b) = sigmoid(a - b).

    Source: Bradley and Terry (1952) on the helpful pairs; the helpful measure as a proxy.
    """
    import torch
    from sklearn.linear_model import LogisticRegression

    chosen, rejected = [cut_words(r) for r in chosen], [cut_words(r) for r in rejected]
    gaps = pair_features(memory, prompts, chosen) - pair_features(memory, prompts, rejected)
    model = LogisticRegression(C=1.0 / (penalty * len(gaps)), fit_intercept=False, max_iter=200)
    model.fit(np.concatenate([gaps, -gaps]), np.repeat([1, 0], len(gaps)))
    linear = torch.nn.Linear(gaps.shape[1], 1, bias=False)
    linear.weight.data = torch.from_numpy(model.coef_.astype(np.float32))
    return EmbeddingScorer(memory, [linear], bounded=False)


def fit_judge(prompts: Sequence[str], responses: Sequence[str], vectors: np.ndarray, theory: Theory, seed: int = 0,
              mismatch: float = 0.25, n_topics: int = 200) -> LatentScorer:
    """Train the judge: networks on latent topics of words, on rows that the reward evaluator never saw."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    prompts, responses, vectors = teach_absence(prompts, responses, vectors, theory, seed + 1, mismatch)
    texts = list(dict.fromkeys([*responses, *prompts, "no words"]))
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=3 if len(texts) > 1000 else 1, sublinear_tf=True,
                            max_features=60_000, token_pattern=r"(?u)\b\w+'?\w*\b", dtype=np.float32)
    counts = words.fit_transform(texts)
    topics = TruncatedSVD(max(1, min(n_topics, counts.shape[1] - 1, len(texts) - 1)), random_state=seed).fit(counts)
    judge = LatentScorer(words, topics)
    judge.networks = _fit_networks(judge.featurise(prompts, responses), vectors, 128, seed, bounded=True)
    return judge


def fit_ngram_reward(prompts: Sequence[str], responses: Sequence[str], rewards: np.ndarray) -> NgramScorer:
    """Train a regressor of the released reward on word n-grams: the harmless proxy.

    It punishes refusals as the released reward does, so it is a proxy of that reward and not of harmlessness.
    """
    short = [cut_words(r) for r in responses]
    return _fit_ngrams(prompts, short, np.asarray(rewards, dtype=float)[:, None], bounded=False)


def measure_scorer(scorer: Any, rows: pd.DataFrame, theory: Theory) -> dict[str, float]:
    """Measure how well a scorer agrees with labels it was not trained on: n, correlation of all cells, mae."""
    vectors = rows[list(theory.dimensions)].to_numpy(dtype=float)
    known = np.isfinite(vectors)
    if len(rows) < 2 or not known.any() or np.nanstd(vectors) == 0:
        return {"n": len(rows), "correlation": np.nan, "mae": np.nan}
    scores = scorer.score(rows["prompt"].tolist(), [cut_words(r) for r in rows["response"]])
    return {"n": len(rows), "correlation": float(np.corrcoef(scores[known], vectors[known])[0, 1]),
            "mae": float(np.abs(scores[known] - vectors[known]).mean())}


def _say_nothing(turn: int, prompt: str, response: str, theory: Theory, rng: np.random.Generator) -> str:
    words = response.split() or ["the"]
    if turn % 4 == 0:
        return ""
    if turn % 4 == 1:
        return prompt
    if turn % 4 == 2:
        return " ".join([str(rng.choice(words))] * int(rng.integers(5, 25)))
    return ", ".join(rng.choice(theory.items, min(theory.n_items, int(rng.integers(3, 25))), replace=False)) + "."


def _average_networks(networks: Sequence[Any], features: np.ndarray, bounded: bool) -> np.ndarray:
    """Return the mean output of networks, shape (N, K), each through tanh first when bounded."""
    import torch

    with torch.inference_mode():
        said = torch.stack([network(torch.from_numpy(features)) for network in networks])
        return (said.tanh() if bounded else said).mean(dim=0).double().numpy()


def _fit_networks(features: np.ndarray, labels: np.ndarray, hidden: int, seed: int, bounded: bool) -> list[Any]:
    """Train networks of one hidden layer by AdamW on the squared error, nan labels left out.

    Several, and few epochs: on validation rows the average of three correlates with labels at 0.71, one trained twice
    as long at 0.67, and a policy finds the holes of one sooner.
    """
    import torch

    inputs, known = torch.from_numpy(features), torch.from_numpy(np.isfinite(labels))
    wanted = torch.from_numpy(np.nan_to_num(labels).astype(np.float32))
    per_epoch = -(-len(inputs) // 128)
    epochs, networks = max(N_EPOCHS, -(-MIN_STEPS // per_epoch)), []
    for member in range(N_NETWORKS):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 * seed + member)
            network = torch.nn.Sequential(
                torch.nn.Dropout(0.2), torch.nn.Linear(features.shape[1], hidden), torch.nn.GELU(),
                torch.nn.Dropout(0.2), torch.nn.Linear(hidden, labels.shape[1]))
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
    return networks


def _fit_ngrams(prompts: Sequence[str], responses: Sequence[str], outputs: np.ndarray, bounded: bool) -> NgramScorer:
    from sklearn.feature_extraction.text import TfidfVectorizer

    options = {"sublinear_tf": True, "token_pattern": r"(?u)\b\w+'?\w*\b", "dtype": np.float32}
    least = 3 if len(responses) > 1000 else 1
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=least, **options).fit(responses)
    asked = TfidfVectorizer(min_df=least, **options).fit(list(prompts))
    shared = TfidfVectorizer(stop_words="english", **options).fit([*prompts, *responses, "word"])
    scorer = NgramScorer(words, asked, shared, bounded=bounded)
    scorer.regression = _fit_ridge(scorer.featurise(prompts, responses), outputs)
    return scorer


def _fit_ridge(features: Any, outputs: np.ndarray) -> Any:
    """Fit every output on the rows in which it is known; one that never is stays 0."""
    from sklearn.linear_model import Ridge

    known, whole = np.isfinite(outputs), Ridge(alpha=1.0, solver="sparse_cg")
    whole.coef_ = np.zeros((outputs.shape[1], features.shape[1]), features.dtype)
    whole.intercept_ = np.zeros(outputs.shape[1], features.dtype)
    for rows in np.unique(known[:, known.any(axis=0)], axis=1).T:
        mine = (known == rows[:, None]).all(axis=0)
        part = Ridge(alpha=1.0, solver="sparse_cg").fit(features[rows], outputs[np.ix_(rows, mine)])
        whole.coef_[mine], whole.intercept_[mine] = part.coef_, part.intercept_
    return whole
