"""What a model thought before it answered, told apart from the answer."""

import re
from typing import Any

from fulcra_utils.dataset.texts import has_words


def split_thoughts(text: str) -> tuple[str, str]:
    """Return (thoughts, answer) of a language model's text; an answer of "" means that it never got beyond thinking.

    Thoughts are blocks in <think>, <thinking>, <thought>, <reasoning> (any case, nested, several) or [THINK] that open
    the text, or follow the end of a line or sentence; all that follows a block without an end, and what stands before
    it; all that stands before an end without a beginning (a template put that into the prompt); and every channel but
    "final" of <|channel|> text. Marks in code or quotes, within a sentence, or announced by ":" are part of the answer.

    >>> split_thoughts("<think>A? No.</think> B"), split_thoughts("A? No.</think>B"), split_thoughts("<think>A?")
    (('A? No.', 'B'), ('A? No.', 'B'), ('A?', ''))
    """
    finals = [mark for mark in _FINAL.finditer(text) if not _is_quoted(text, mark)]
    if finals or _CHANNEL.match(text):
        end = finals[-1].end() if finals else len(text)
        return CHANNEL_MARK.sub(" ", text[:end]).strip(), CHANNEL_MARK.split(text[end:])[0].strip()
    thoughts, kept, start, depth, named = [], [], 0, 0, set()
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


_NAMES = "(?:think|thinking|thoughts?|reasoning)"
THOUGHT_MARK = re.compile(rf"(?P<open><\s*{_NAMES}(?:\s[^<>]*)?>|(?-i:\[THINK\]))|"
                          rf"<\s*/\s*{_NAMES}\s*>|(?-i:\[/THINK\])", re.IGNORECASE)
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
