"""A language model on this machine as an annotator: asked value by value, its answer read off its probabilities.

Choices: the dialogue stands first, so it is read once for all values; the three answers are words, and what a word gets
where nothing was said is taken out; the order in which they are offered can be changed, to see how far it decides.
"""

import time
from collections.abc import Sequence

import numpy as np
from scipy.special import softmax

from fulcra_utils.common.labels import labels_of
from fulcra_utils.llm.local import SMOLLM2, choose, load_policy
from fulcra_utils.theory.theory import Theory

WORDS = ("Against", "Neither", "For")       # for the labels -1, 0, +1
ORDERS = ((2, 0, 1), (1, 0, 2))             # in which they are offered
REACH = 800     # characters of prompt and of reply that are read


class LanguageJudge:
    """A causal language model that says of a reply, value by value, whether it is for it, against it, or neither.

    `order` is that in which the three words are offered. How likely each word is, is held against how likely it is
    where nothing was said (Zhao et al. 2021, Calibrate before use).
    """

    def __init__(self, model, tokenizer, theory: Theory, order: Sequence[int] = ORDERS[0]):
        self.chat, self.offered = (model, tokenizer), [WORDS[k] for k in order]
        self.values = list(zip(theory.dimensions, theory.definitions, strict=True))
        self.blank = self._ask(["N/A"], ["N/A"])

    def render(self, prompt: str, response: str) -> list[list[dict[str, str]]]:
        """Return the D talks in which a reply is asked about."""
        first, second, third = self.offered
        return [[{"role": "user", "content":
                  f"A user wrote: {prompt[:REACH]}\nThe reply was: {response[:REACH]}\n\n"
                  f"The value {name} means: {said}\nIs the reply for this value, against it, or neither? "
                  f"Say {first}, {second} or {third}."}]
                for name, said in self.values]

    def _ask(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return the log probabilities of the three words, (N, D, 3)."""
        talks = [talk for pair in zip(prompts, responses, strict=True) for talk in self.render(*pair)]
        return choose(*self.chat, talks, WORDS, len(self.values)).reshape(len(prompts), len(self.values), len(WORDS))

    def predict_proba(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return class probabilities, shape (N, D, 3)."""
        return softmax(self._ask(prompts, responses) - self.blank, axis=-1)


def load_language_judge(theory: Theory) -> LanguageJudge:
    """Load SmolLM2-135M-Instruct as a judge of a theory's values."""
    return LanguageJudge(*load_policy(SMOLLM2), theory)


def annotate_locally(prompts: Sequence[str], responses: Sequence[str], theory: Theory,
                     model: str = SMOLLM2) -> tuple[np.ndarray, int, float]:
    """Return the labels of a local model in each of `ORDERS`, (2, N, D), the tokens it was asked, and the seconds."""
    chat, labels, n_tokens, start = load_policy(model), [], 0, time.perf_counter()
    for order in ORDERS:
        judge = LanguageJudge(*chat, theory, order)
        labels.append(labels_of(judge.predict_proba(prompts, responses)))
        texts = [talk[0]["content"] for pair in zip(prompts, responses, strict=True) for talk in judge.render(*pair)]
        n_tokens += sum(map(len, chat[1](texts)["input_ids"]))
    return np.stack(labels), n_tokens, time.perf_counter() - start
