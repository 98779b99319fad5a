"""The word part of the evaluator: a linear expert on which word pieces and pairs of neighbouring pieces a text holds.

Choices: words tell whether a reply touches a value, not whether it is for it, so they speak of presence alone; the
expert reads the same tokens as the encoder, so one pass gives both; pairs are hashed into buckets, so its size is set;
each value has a logistic regression fitted to its optimum, which takes seconds and no seed; it is fitted on its own and
joined to the encoder's head only when scoring, as a mean of log odds, because each is right where the other is not. A
value with too few labels is left to the encoder alone.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import nn

SHARE = 0.4         # of the word part in the joined log odds, for values it was fitted for; by training rows in folds
ENOUGH = 10         # labels of either end before a value's own part counts as taught
STRENGTH = 10.0     # inverse of the penalty (C) of each regression


class WordExpert(nn.Module):
    """A logistic regression on the word pieces of a text for each of D values: is it touched at all?

    `rarity` (F,) is the inverse document frequency of a feature, 0 = not used; `weight` (F, D), `bias` (D,); `share`
    (D,) is the part of the words in the joined log odds, 0 = the encoder alone.
    """

    def __init__(self, vocab_size: int, n_buckets: int, n_dims: int):
        super().__init__()
        self.vocab_size, self.n_buckets = vocab_size, n_buckets
        self.register_buffer("rarity", torch.zeros(vocab_size + n_buckets))
        self.register_buffer("weight", torch.zeros(vocab_size + n_buckets, n_dims))
        self.register_buffer("bias", torch.zeros(n_dims))
        self.register_buffer("share", torch.zeros(n_dims))

    def forward(self, presence: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor,
                gates: torch.Tensor | None = None) -> torch.Tensor:
        """Join the encoder's log odds of presence (B, D) with those of the words.

        `gates` (B, T) say how much of each token is there, for explanations; None = all of it.
        """
        if not self.share.any():
            return presence
        ids, order = find_features(input_ids, attention_mask, self.vocab_size, self.n_buckets).sort(dim=1)
        fresh = nn.functional.pad(ids.diff(dim=1) != 0, (1, 0), value=True)        # (B, 2 T - 1): each feature once
        values = self.rarity[ids.clamp(min=0)] * (fresh & (ids >= 0))
        values = values / values.norm(dim=1, keepdim=True).clamp(min=1e-9)
        if gates is not None:
            values = values * torch.cat([gates, gates[:, 1:] * gates[:, :-1]], dim=1).gather(1, order)
        said = nn.functional.embedding_bag(ids.clamp(min=0), self.weight, per_sample_weights=values, mode="sum")
        return (1 - self.share) * presence + self.share * (said + self.bias)

    def fit(self, texts: Sequence[Sequence[int]], labels: np.ndarray, weights: np.ndarray) -> None:
        """Fit every regression on N token lists, labels and weights, both (N, D); a value with fewer than `ENOUGH`
        labels of either class is left to the encoder.

        A feature that stands in fewer than two texts is not used, unless there are few texts. Inverse document
        frequency as in scikit-learn's TfidfTransformer.
        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import normalize
        for buffer in self.buffers():
            buffer.zero_()
        features = count_features(texts, self.vocab_size, self.n_buckets)
        counts = features.getnnz(0)
        used = np.flatnonzero(counts >= (2 if len(texts) > 50 else 1))
        rarity = np.log((1 + len(texts)) / (1 + counts[used])) + 1
        self.rarity[used] = torch.from_numpy(rarity).to(self.rarity)
        scaled = normalize(features[:, used].multiply(rarity).tocsr())
        for d, told in enumerate(labels.T):
            known = np.isfinite(told)
            if np.bincount(told[known] != 0, minlength=2).min() < ENOUGH:
                continue
            model = LogisticRegression(C=STRENGTH, class_weight="balanced", solver="liblinear", random_state=0)
            model.fit(scaled[known], told[known] != 0, sample_weight=weights[known, d])
            self.weight[used, d] = torch.from_numpy(model.coef_[0]).to(self.weight)
            self.bias[d], self.share[d] = model.intercept_[0], SHARE


def find_features(input_ids: torch.Tensor, attention_mask: torch.Tensor, vocab_size: int,
                  n_buckets: int) -> torch.Tensor:
    """Return the features of texts, (B, 2 T - 1): word pieces, then hashed pairs of neighbours; -1 where there is
    padding.

    >>> find_features(torch.tensor([[3, 4, 0]]), torch.tensor([[1, 1, 0]]), 10, 8).tolist()
    [[3, 4, -1, 15, -1]]
    """
    first, second = input_ids[:, :-1].long(), input_ids[:, 1:].long()
    pairs = vocab_size + (first * 1_000_003 + second * 7_919) % n_buckets
    there = attention_mask > 0
    known = torch.cat([there, there[:, 1:] & there[:, :-1]], dim=1)
    return torch.where(known, torch.cat([input_ids.long(), pairs], dim=1), -1)


def count_features(texts: Sequence[Sequence[int]], vocab_size: int, n_buckets: int) -> csr_matrix:
    """Return which features each of N token lists holds, as a sparse matrix (N, vocab_size + n_buckets) of ones.

    >>> count_features([[3, 4], [4, 4]], 10, 8).nonzero()[1].tolist()
    [3, 4, 15, 4, 10]
    """
    held = [np.unique(find_features(torch.tensor([list(t)]), torch.ones(1, len(t)), vocab_size, n_buckets).numpy())
            for t in texts]
    columns, ends = np.concatenate(held), np.cumsum([0, *map(len, held)])
    return csr_matrix((np.ones(len(columns), np.float32), columns, ends), shape=(len(held), vocab_size + n_buckets))
