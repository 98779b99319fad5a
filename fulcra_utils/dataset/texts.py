"""Texts as rows hold them: checked, cleaned, thoughts told apart from the answer, refusals told by how they open."""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import lru_cache
from typing import Any

import numpy as np
import yaml

from fulcra_utils.common.paths import DATA
from fulcra_utils.theory.theory import split_words

ENGLISH = set((DATA / "prompts" / "english.txt").read_text(encoding="utf-8").split())
NO_ABBREVIATION = "".join(rf"(?<!\b{re.escape(word)}\.)" for word in (   # before what may end a sentence
    "Mr", "Mrs", "Ms", "Dr", "Prof", "e.g", "i.e", "U.S", "U.K"))


class DatasetError(ValueError):
    """A file, or in strict mode a row, that cannot be used; the message names file, line and field."""


def has_words(text: str) -> bool:
    """Return whether a text holds anything that can be seen."""
    return any(c.isprintable() and not c.isspace() for c in text)


def looks_english(text: str) -> bool:
    """Return whether a text may be English: mostly Latin letters and, from ten words on, common English words.

    A flag by a rule of thumb, not a judgement: foreign words without accents pass when they are few.
    """
    letters = [c for c in text if c.isalpha()]
    if not letters:
        return text.isascii()     # figures, and no emoji
    if sum(c.isascii() for c in letters) < 0.9 * len(letters):
        return False
    words = re.findall(r"[^\W\d_]+", text.casefold())
    return len(words) < 10 or sum(word in ENGLISH for word in words) >= 0.1 * len(words)


def shorten(value: Any) -> str:
    """Return the start of a value as text, for a message."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:80] + "…"


def clean_text(text: str) -> str:
    """Return `text` without NUL characters and lone surrogates, which no table can hold."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def list_texts(texts: Iterable[str], name: str = "Text", error: type[ValueError] = DatasetError) -> list[str]:
    """Return the texts of a list, column, array or generator; raise `error` for all else, which would go by letters.

    >>> list_texts(np.array(["a", "b"], dtype=object)), list_texts(text for text in "ab")
    (['a', 'b'], ['a', 'b'])
    """
    odd = isinstance(texts, str | bytes | Mapping | Set) or any(hasattr(texts, n) for n in ("columns", "column_names"))
    if odd or not isinstance(texts, Iterable):
        raise error(f"{name}s come as lists of strings, not as {type(texts).__name__}.")
    texts = texts.to_pylist() if hasattr(texts, "to_pylist") else list(texts)
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise error(f"{name} {place} is a {type(text).__name__}, not a string.")
    return texts


def split_thoughts(text: str) -> tuple[str, str]:
    """Return (thoughts, answer) of a language model's text; an answer of "" means that it never got beyond thinking.

    Thoughts are blocks in <think>, <thinking>, <thought>, <reasoning>, <scratchpad> (any case, nested, several),
    [THINK] or <|begin_of_thought|>, and what else `THOUGHT_MARK` holds, that open the text, or follow the end of a line
    or sentence; all that follows a block without an end, and what stands before it; all that stands before an end
    without a beginning (a template put that into the prompt); and every channel but "final" of <|channel|> text. Marks
    in code or quotes, within a sentence, or announced by ":" are part of the answer.

    >>> split_thoughts("<think>A? No.</think> B"), split_thoughts("A? No.</think>B"), split_thoughts("<think>A?")
    (('A? No.', 'B'), ('A? No.', 'B'), ('A?', ''))
    """
    finals = [mark for mark in _FINAL.finditer(text) if not _is_quoted(text, mark)]
    if finals or _CHANNEL.match(text):
        end = finals[-1].end() if finals else len(text)
        return CHANNEL_MARK.sub(" ", text[:end]).strip(), CHANNEL_MARK.split(text[end:])[0].strip()
    text, thoughts, kept, start, depth, named = _WRAPPER.sub("", text), [], [], 0, 0, set()
    for mark in THOUGHT_MARK.finditer(text):
        if _is_quoted(text, mark, start):
            continue
        before, starts_line = text[start:mark.start()], not text[:mark.start()].rpartition("\n")[2].strip()
        is_first = not has_words("".join([*kept, before]))
        if depth:
            depth += 1 if mark["open"] else -1
            if not depth:
                thoughts.append(before)
                start = mark.end()
        elif mark["open"]:
            if is_first or _BEFORE_BLOCK.search(before) and (thoughts or not before.rstrip().endswith(":")):
                kept, start, depth = [] if is_first else [*kept, before], mark.end(), 1
            else:
                named.add(starts_line)
        elif starts_line not in named and (is_first or starts_line or not thoughts):
            thoughts, kept, start = [*thoughts, *kept, before], [], mark.end()
    if depth and not thoughts:  # a greeting before a thought without an end answers nothing
        thoughts, kept = kept, []
    (thoughts if depth else kept).append(text[start:])
    if not thoughts:
        return "", text
    answer = "".join(kept).strip()
    wrapped = re.fullmatch(r"<(answer|response|output)>(.*)</\1>", answer, re.DOTALL | re.IGNORECASE)
    return "\n".join(filter(None, map(str.strip, thoughts))), wrapped[2].strip() if wrapped else answer


def read_content(message: dict[str, Any]) -> tuple[str, str]:
    """Return (thoughts, text) of a chat message: its text or text parts, and what stands in its reasoning fields."""
    content = message.get("content")
    parts = [part if isinstance(part, dict) else {"text": part}
             for part in (content if isinstance(content, list) else [content])]
    texts = [part.get("text") for part in parts if part.get("type", "text") in ("text", "input_text", "output_text")]
    names = ("reasoning_content", "reasoning", "thinking")
    thoughts = [holder.get(name) for holder in (message, *parts) for name in names]
    thoughts += [part.get("text") for part in parts if part.get("type") in names]
    thoughts = [read_content({"content": part})[1] if isinstance(part, list) else part for part in thoughts]
    return ("\n".join(dict.fromkeys(t.strip() for t in thoughts if isinstance(t, str) and t.strip())),
            "".join(text for text in texts if isinstance(text, str)))


_NAMES = "(?:think|thinking|thoughts?|reasoning|scratchpad(?:_reasoning)?|seed:think)"
THOUGHT_MARK = re.compile(
    rf"(?P<open><\s*{_NAMES}(?:\s[^<>]*)?>|(?-i:\[THINK\])|<\|(?:begin_of_thought|start_thinking)\|>|◁think▷)|"
    rf"<\s*/\s*{_NAMES}\s*>|(?-i:\[/THINK\])|<\|(?:end_of_thought|end_thinking)\|>|◁/think▷", re.IGNORECASE)
_WRAPPER = re.compile(r"(?:\A|(?<=\|>))\s*<\|(?:begin_of_solution|START_RESPONSE)\|>\s*|"
                      r"\s*<\|(?:end_of_solution|END_RESPONSE)\|>\s*\Z")
_BEFORE_BLOCK = re.compile(r"(?:\A|[.!?…]\s|\n)\s*\Z")  # a line or a sentence ends here
_CHANNEL = re.compile(r"\s*(?:<\|start\|>|<\|channel\|>|analysis(?=[A-Z]))")  # the last: decoded without its marks
_FINAL = re.compile(r"<\|channel\|>\s*final\b[^<]*<\|message\|>|\Aanalysis(?=\S).*?assistantfinal", re.DOTALL)
CHANNEL_MARK = re.compile(r"<\|(?:start|channel|message|end|return|call)\|>\s*"
                           r"(?:assistant|analysis|commentary|final)?")


def _is_quoted(text: str, mark: re.Match, start: int = 0) -> bool:
    """Return whether a mark stands in quotes, in a line's code or in a fenced block that begins after `start`."""
    before, after = text[start:mark.start()], text[mark.end():]
    line = [part.replace("```", "").count("`") % 2 for part in (before.rpartition("\n")[2], after.partition("\n")[0])]
    fence = [len(re.findall(r"^\s*```", part, re.MULTILINE)) % 2 for part in (before, after)]
    return bool(all(line) or all(fence) or before[-1:] + after[:1] in ('""', "''", "\u201c\u201d"))


@lru_cache(maxsize=200_000)
def measure_rouge(first: str, second: str, kind: str = "f1") -> float:
    """Return ROUGE-L, from the longest common subsequence of words (Lin 2004), in [0, 1]: f1, or precision (its share
    of the first text) or recall (of the second).

    >>> measure_rouge("need for order", "love of order and calm"), measure_rouge("order", "love of order", "precision")
    (0.25, 1.0)
    """
    first, second = split_words(first), split_words(second)
    longest = [0] * (len(second) + 1)
    for word in first:
        before = 0
        for k, other in enumerate(second, 1):
            before, longest[k] = longest[k], before + 1 if word == other else max(longest[k], longest[k - 1])
    size = {"f1": (len(first) + len(second)) / 2, "precision": len(first), "recall": len(second)}[kind]
    return longest[-1] / max(size, 1)


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
_REFUSAL = "<refusal>"
for _name, _ways in yaml.safe_load((DATA / "refusals.yaml").read_text(encoding="utf-8")).items():
    _REFUSAL = _REFUSAL.replace(f"<{_name}>", f"(?:{'|'.join(_ways)})")
REFUSAL = re.compile(_REFUSAL, re.IGNORECASE | re.DOTALL)


def shuffle_words(text: str, rng: np.random.Generator) -> str:
    """Return the words of a text in random order."""
    words = text.split()
    return " ".join(words[i] for i in rng.permutation(len(words)))


def drop_repeated(begun: str, text: str) -> str:
    """Return a text without the end of what had begun, two words or more, that it says again first.

    >>> drop_repeated("It rained. Nora saw the boy and", "Nora saw the boy and decided to kneel.")
    'decided to kneel.'
    """
    words, said = begun.casefold().split(), text.casefold().split()
    n = next((n for n in range(len(words), 1, -1) if words[-n:] == said[:n]), 0)
    return " ".join(text.split(maxsplit=n)[n:])
