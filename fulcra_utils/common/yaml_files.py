"""YAML files read strictly: no key twice, no word turned into something else, every fault with its line."""

from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from types import NoneType
from typing import Any

import yaml

READ_AS = {bool: "yes, no, on and off as true or false", NoneType: "null, ~ and an empty place as nothing",
            (int, float): "digits as a number", date: "this as a date"}


class _Loader(yaml.SafeLoader):
    """Notes keys given twice, refuses aliases that hold themselves or swell, and names what it cannot read by line."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.twice: list[str] = []
        self.sizes: dict[yaml.Node, int] = {}  # entries in each finished node, its aliases written out
        self.total = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        is_alias, before = self.check_event(yaml.AliasEvent), self.total
        node = super().compose_node(parent, index)
        if is_alias and node not in self.sizes:
            raise ValueError(f"line {node.start_mark.line + 1}: not usable: an anchor (&) that holds itself")
        self.total += self.sizes[node] if is_alias else 1
        self.sizes.setdefault(node, self.total - before)
        if self.total - len(self.sizes) > 100_000:
            raise ValueError("not usable: its aliases (*) stand for more than 100,000 entries")
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node, seen = super().compose_mapping_node(anchor), set()
        for key in [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]:
            key.read = key.value if key.tag.endswith((":merge", ":value")) else self.construct_object(key)
            if key.read in seen:
                self.twice.append(f"line {key.start_mark.line + 1}, {key.value}: key given twice")
            seen.add(key.read)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError):
            problem = f"{str(node.value)[:40]!r} is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


def find_yaml(name: str | Path, folder: Path, what: str, error: Callable[[str], Exception]) -> Path:
    """Return the path of a file that is given by its name in a folder or by its path; else raise an `error`."""
    known = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    path = known.get(str(name), Path(name))
    if not path.is_file():
        raise error(f"no such {what} as {str(name)!r}; known are {', '.join(known)}, or give the path of a YAML file")
    return path


def read_yaml(path: Path | str) -> tuple[Any, yaml.Node | None, list[str]]:
    """Return the value of a file or text, its nodes, which know their lines, and keys given twice, or a ValueError."""
    try:
        text = path if isinstance(path, str) else path.read_text(encoding="utf-8")
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else loader.construct_document(node), node, loader.twice
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    except RecursionError:
        raise ValueError("not usable: nested too deeply") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"line {line}: not valid YAML: character U+{error.character:04X} is not allowed") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{line}not valid YAML: {error.problem}") from None


def name_fault(error: dict) -> tuple[list, str]:
    """Return the place and the words of an error of pydantic."""
    text = {"missing": "missing", "extra_forbidden": "unknown key", "model_type": "Input should be a mapping",
            "string_too_short": "is empty"}.get(error["type"], error["msg"])
    words = next((words for kind, words in READ_AS.items() if isinstance(error["input"], kind)), "")
    if error["type"] == "string_type" and words:
        text += f" (YAML reads {words}: put it in quotes)"
    return [step for step in error["loc"] if step != "[key]"], text


def find_line(node: yaml.Node | None, place: Sequence) -> int:
    """Return the line (from 1) of the deepest node on the way to `place`; 1 in a file without any."""
    line = node.start_mark.line if node else 0
    for step in place:
        found = []
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value
                     if step == key.read or str(step) in (key.value, repr(key.read))]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            found = [(child, child) for child in node.value[step:step + 1]]
        if not found:
            break
        line, node = found[-1][0].start_mark.line, found[-1][1]
    return line + 1
