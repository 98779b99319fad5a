"""A second annotator that needs no endpoint: a TF-IDF classifier that labels replies it has not seen.

It is no judge of values, only an independent reader that learned from the first annotator's labels on other prompts;
where it disagrees, a case may be worth a person's look.
"""

from collections.abc import Sequence

import numpy as np

NAME = "TF-IDF classifier"


def predict_out_of_fold(texts: Sequence[str], vectors: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Predict each reply's labels from the labels of the other prompt clusters.

    From N `texts` (prompt and reply together), labels (N, D) of -1, 0, +1 (nan is not learned from) and prompt
    `clusters` (N,), none of which is divided between learning and predicting: labels (N, D), nan for a dimension
    without two labels of its own in some fold's learning part, and everywhere when there are fewer clusters than two.
    Linear support vector machines on TF-IDF of words and word pairs, classes weighted evenly.

    Examples
    --------
    >>> texts = [f"help them {k}" for k in range(20)] + [f"hurt them {k}" for k in range(20)]
    >>> labels = np.repeat([[1.0], [-1.0]], 20, axis=0)
    >>> bool((predict_out_of_fold(texts, labels, np.arange(40)) == labels).all())
    True
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    names, index = np.unique(clusters, return_inverse=True)
    fold = (np.random.default_rng(0).permutation(len(names)) % min(5, len(names)))[index]
    predicted, texts = np.full(np.shape(vectors), np.nan), np.asarray(list(map(str, texts)), dtype=object)
    for k in np.unique(fold):
        learn, held = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        reader = TfidfVectorizer(ngram_range=(1, 2), min_df=min(2, len(learn)), sublinear_tf=True, max_features=50_000,
                                 token_pattern=r"\w+")
        try:
            seen, unseen = reader.fit_transform(texts[learn]), reader.transform(texts[held])
        except ValueError:  # there is no other cluster, or no word stands in two texts
            continue
        for d, labels in enumerate(np.asarray(vectors, dtype=float)[learn].T):
            known = np.isfinite(labels)
            if len(np.unique(labels[known])) > 1:
                machine = LinearSVC(C=0.5, class_weight="balanced", random_state=0)
                predicted[held, d] = machine.fit(seen[known], labels[known]).predict(unseen)
    predicted[:, np.isnan(predicted).any(axis=0)] = np.nan
    return predicted
