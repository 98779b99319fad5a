"""The word part of the evaluator: a linear expert on which word pieces and pairs of neighbouring pieces a text holds.

Choices: it reads the same tokens as the encoder, so one pass gives both; pairs are hashed into buckets, so its size is
fixed; each class of each value is a logistic regression fitted to its optimum, which takes seconds and no seed; it is
fitted on its own and joined to the encoder's heads only when scoring, as a geometric mean of the two, because each is
right where the other is not. A value that it never saw labelled is left to the encoder alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

SHARE = 0.3         # of the word part in the joined logits, for values it was fitted for; by validation rows
STRENGTH = 10.0     # inverse of the penalty (C) of each regression
MIN_TEXTS = 2       # a feature that stands in fewer training texts is not used
HASH = (1_000_003, 7_919)


class WordExpert(nn.Module):
    """One-against-the-rest logistic regressions on the word pieces of a text, for D values with three classes each.

    `rarity` (F,) is the inverse document frequency of a feature, 0 = not used; `weight` (F, D, 3), `bias` (D, 3);
    `share` (D,) is the part of the words in the joined logits, 0 = the encoder alone.
    """

    def __init__(self, vocab_size: int, n_buckets: int, n_dims: int):
        super().__init__()
        self.vocab_size, self.n_buckets = vocab_size, n_buckets
        self.register_buffer("rarity", torch.zeros(vocab_size + n_buckets))
        self.register_buffer("weight", torch.zeros(vocab_size + n_buckets, n_dims, 3))
        self.register_buffer("bias", torch.zeros(n_dims, 3))
        self.register_buffer("share", torch.zeros(n_dims))

    def forward(self, logits: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor,
                gates: torch.Tensor | None = None) -> torch.Tensor:
        """Join the encoder's logits (B, D, 3) with those of the words; log probabilities, up to a constant for each
        cell.

        `gates` (B, T) say how much of each token is there, for explanations; None = all of it.
        """
        if not self.share.any():
            return logits
        ids, values = self._weigh(input_ids, attention_mask, gates)                          # (B, 2 T - 1)
        picked = nn.functional.embedding_bag(ids, self.weight.flatten(1), per_sample_weights=values, mode="sum")
        said = nn.functional.logsigmoid(picked.view(len(ids), *self.bias.shape) + self.bias).log_softmax(-1)
        share = self.share[:, None]
        return (1 - share) * logits.log_softmax(-1) + share * said

    def _weigh(self, input_ids: torch.Tensor, attention_mask: torch.Tensor,
               gates: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the features of each text and their weights: each once, by rarity, to length 1."""
        ids = find_features(input_ids, attention_mask, self.vocab_size, self.n_buckets)
        ids, order = ids.sort(dim=1)
        fresh = torch.ones_like(ids, dtype=torch.bool)
        fresh[:, 1:] = ids[:, 1:] != ids[:, :-1]
        kept = fresh & (ids >= 0)
        values = self.rarity[ids.clamp(min=0)] * kept
        values = values / values.norm(dim=1, keepdim=True).clamp(min=1e-9)
        if gates is not None:
            values = values * torch.cat([gates, gates[:, 1:] * gates[:, :-1]], dim=1).gather(1, order)
        return ids.clamp(min=0), values

    def fit(self, features: csr_matrix, labels: np.ndarray, weights: np.ndarray) -> None:
        """Fit every regression on (N, F) features, labels (N, D) and weights (N,); one class alone is left to the
        encoder.

        Inverse document frequency as in scikit-learn's TfidfTransformer.
        """
        from sklearn.preprocessing import normalize
        texts = np.asarray((features > 0).sum(0)).ravel()
        used = np.flatnonzero(texts >= (MIN_TEXTS if features.shape[0] > 50 else 1))
        rarity = np.log((1 + features.shape[0]) / (1 + texts[used])) + 1
        scaled = normalize(features[:, used].multiply(rarity).tocsr())
        self.rarity.zero_()
        self.weight.zero_()
        self.rarity[used] = torch.from_numpy(rarity).to(self.rarity)
        for d in range(labels.shape[1]):
            known = np.isfinite(labels[:, d])
            said, bias = _fit_classes(scaled[known], labels[known, d], weights[known])
            self.share[d] = SHARE if said is not None else 0.0
            if said is not None:
                self.weight[used, d] = torch.from_numpy(said).to(self.weight)
                self.bias[d] = torch.from_numpy(bias).to(self.bias)


def find_features(input_ids: torch.Tensor, attention_mask: torch.Tensor, vocab_size: int,
                  n_buckets: int) -> torch.Tensor:
    """Return the features of texts, (B, 2 T - 1): word pieces, then hashed pairs of neighbours; -1 where there is
    padding.

    >>> find_features(torch.tensor([[3, 4, 0]]), torch.tensor([[1, 1, 0]]), 10, 8).tolist()
    [[3, 4, -1, 15, -1]]
    """
    first, second = input_ids[:, :-1].long(), input_ids[:, 1:].long()
    pairs = vocab_size + (first * HASH[0] + second * HASH[1]) % n_buckets
    there = attention_mask > 0
    known = torch.cat([there, there[:, 1:] & there[:, :-1]], dim=1)
    return torch.where(known, torch.cat([input_ids.long(), pairs], dim=1), -1)


def count_features(texts: Sequence[Sequence[int]], vocab_size: int, n_buckets: int) -> csr_matrix:
    """Return which features each of N token lists holds, as a sparse matrix (N, vocab_size + n_buckets) of ones.

    >>> count_features([[3, 4], [4, 4]], 10, 8).nonzero()[1].tolist()
    [3, 4, 15, 4, 10]
    """
    from scipy.sparse import csr_matrix
    held = [np.unique(find_features(torch.tensor([list(t)]), torch.ones(1, len(t)), vocab_size, n_buckets).numpy())
            for t in texts]
    ends = np.cumsum([0, *map(len, held)])
    columns = np.concatenate(held) if held else np.zeros(0, dtype=np.int64)
    return csr_matrix((np.ones(len(columns), np.float32), columns, ends), shape=(len(held), vocab_size + n_buckets))


def _fit_classes(features: csr_matrix, labels: np.ndarray,
                 weights: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return weights (F, 3) and bias (3,) of one value; a class that never occurs gets a bias that rules it out."""
    from sklearn.linear_model import LogisticRegression
    found = np.unique(labels)
    if len(found) < 2:
        return None, None
    said, bias = np.zeros((features.shape[1], 3)), np.full(3, -10.0)
    for label in found.astype(int):
        model = LogisticRegression(C=STRENGTH, class_weight="balanced", solver="liblinear", random_state=0)
        model.fit(features, labels == label, sample_weight=weights)
        said[:, label + 1], bias[label + 1] = model.coef_[0], model.intercept_[0]
    return said, bias
