"""The word part of the evaluator: a linear expert on which word pieces and pairs of neighbouring pieces a text holds.

Choices: it reads the same tokens as the encoder, so one pass gives both; pairs are hashed into buckets, so its size is
fixed; each class of each value is a logistic regression fitted to its optimum, which takes seconds and no seed; it is
fitted on its own and joined to the encoder's heads only when scoring, as a geometric mean of the two, because each is
right where the other is not. A value that it never saw labelled is left to the encoder alone.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import nn

SHARE = 0.3         # of the word part in the joined logits, for values it was fitted for; by validation rows
STRENGTH = 10.0     # inverse of the penalty (C) of each regression


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
        ids, order = find_features(input_ids, attention_mask, self.vocab_size, self.n_buckets).sort(dim=1)
        fresh = nn.functional.pad(ids.diff(dim=1) != 0, (1, 0), value=True)        # (B, 2 T - 1): each feature once
        values = self.rarity[ids.clamp(min=0)] * (fresh & (ids >= 0))
        values = values / values.norm(dim=1, keepdim=True).clamp(min=1e-9)
        if gates is not None:
            values = values * torch.cat([gates, gates[:, 1:] * gates[:, :-1]], dim=1).gather(1, order)
        picked = nn.functional.embedding_bag(ids.clamp(min=0), self.weight.flatten(1), per_sample_weights=values,
                                             mode="sum")
        said = nn.functional.logsigmoid(picked.view(len(ids), *self.bias.shape) + self.bias).log_softmax(-1)
        share = self.share[:, None]
        return (1 - share) * logits.log_softmax(-1) + share * said

    def fit(self, texts: Sequence[Sequence[int]], labels: np.ndarray, weights: np.ndarray) -> None:
        """Fit every regression on N token lists, labels (N, D) and weights (N,); one class alone is left to the
        encoder.

        A feature that stands in fewer than two texts is not used, unless there are few texts. Inverse document
        frequency as in scikit-learn's TfidfTransformer.
        """
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
            self._fit_value(d, used, scaled[known], told[known], weights[known])

    def _fit_value(self, d: int, used: np.ndarray, features: csr_matrix, labels: np.ndarray,
                   weights: np.ndarray) -> None:
        """Fit the classes of value `d`; one that never occurs gets a bias that rules it out."""
        from sklearn.linear_model import LogisticRegression
        found = np.unique(labels).astype(int)
        if len(found) < 2:
            return
        self.share[d], self.bias[d] = SHARE, -10.0
        for label in found:
            model = LogisticRegression(C=STRENGTH, class_weight="balanced", solver="liblinear", random_state=0)
            model.fit(features, labels == label, sample_weight=weights)
            self.weight[used, d, label + 1] = torch.from_numpy(model.coef_[0]).to(self.weight)
            self.bias[d, label + 1] = model.intercept_[0]


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
