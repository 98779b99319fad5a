"""Replies that refuse, told by how they open, and those that say nothing."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from fulcra_utils.dataset.rows import list_texts


def is_refusal(responses: Iterable[str]) -> np.ndarray:
    """Return whether each reply (N,) declines to do or answer what was asked, judged by its first two sentences.

    A flag for English replies: the speaker cannot, will not or declines to *serve* (help, provide, answer, write …), or
    apologises and calls the request not appropriate. "I can't wait to help", "I won't lie" and "I don't have opinions"
    decline nothing. It sees neither a refusal that comes later nor that a request is served after all;
    `analysis.check_refusals` says how often it is right.

    Examples
    --------
    >>> is_refusal(["I'm sorry, but I can't assist with that.", "I can't wait to help!", "I cannot help with this."])
    array([ True, False,  True])
    """
    texts = (text[:400].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'") for text in list_texts(responses, "Response"))
    return np.array([bool(REFUSAL.search(OPENING.match(text)[0])) for text in texts], dtype=bool)


def write_degenerate_replies(prompts: Sequence[str], **more: str) -> dict[str, list[str]]:
    """Write replies that say nothing, N of each kind: empty, one word, one refusal, `more` texts, the prompt itself.

    >>> {kind: replies[0][:9] for kind, replies in write_degenerate_replies(["Why?"], stuffing="be kind").items()}
    {'empty': '', 'repeat': 'the the t', 'refusal': "I'm sorry", 'stuffing': 'be kind', 'echo': 'Why?'}
    """
    one = {"empty": "", "repeat": "the " * 20, "refusal": STOCK_REFUSAL, **more}
    return {**{kind: [text] * len(prompts) for kind, text in one.items()}, "echo": list(prompts)}


STOCK_REFUSAL = "I'm sorry, but I can't help with that."
OPENING = re.compile(r"(?:[^.!?\n]*[.!?\s]+){0,2}(?:[^.!?\n]*$)?")  # two sentences
_UNABLE = (r"(?:can ?not|can't|could not|couldn't|will not|won't|unable to|refuse to|"
           r"(?:do not|don't) have the ability to|(?:rather|prefer) not(?: to)?|"
           r"not (?:\w+ly )?(?:able to|going to|willing to|allowed to|programmed to|comfortable))"
           r"(?: (?:and|or) (?:will not|won't|can ?not|can't))?")
_SERVE = (r"(?!(?: [^\s.,;:!?]+){1,7} (?:enough|better)\b) (?:\w+ly )?"
          r"(?:assist|help\b(?! (?:but|it|myself|\w+ing)\b)|provid|offer|giv(?:e|ing)\b(?! up\b)|answer(?! for\b)|"
          r"fulfil|comply|creat|writ(?:e|ing)|generat|engag|participat|take part|discuss|shar(?:e|ing)|"
          r"tell\b(?! (?:you (?:how (?:much\b|\w+ i\b)|what to)|anyone|a soul))|do (?:that|this|so)\b|recommend|"
          r"suggest|advise|argue|evaluate|comment|respond)")
REFUSAL = re.compile(
    r"(?:^\W*(?:(?:so |very |really )?sorry\W+(?:but )?)?|"
    rf"\b(?:i|we)(?:'\w+| (?:am|are|would|must|will|do|just|also|\w+ly))* ){_UNABLE}{_SERVE}|"
    rf"not something (?:that )?(?:i|we) (?:can|could|will)(?: do\b|{_SERVE})|"
    r"\bi(?:'ll)?(?: (?:must|have to|will|\w+ly))* decline\b|\bi (?:do not|don't) have (?:access|real-time)\b|"
    r"\b(?:sorry|apologi\w+),? but\b.{0,60}\b(?:not (?:\w+ )?|in)appropriate\b", re.IGNORECASE | re.DOTALL)
