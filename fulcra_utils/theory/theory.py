"""Value theories read from YAML: dimensions, items, groups, definitions, aliases, circle order, citation.

A theory is one data file; nothing else in the project knows how many values there are or what they are called.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os.path import commonprefix
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from fulcra_utils.common.paths import DATA
from fulcra_utils.common.yaml_files import find_line, find_yaml, name_fault, read_yaml

THEORIES = DATA / "theories"
DRAFT = "(draft) "      # marks a definition that nobody has read yet; for people, and no part of it
Name = Annotated[str, Field(min_length=1)]


class TheoryError(ValueError):
    """A theory file cannot be used; the message lists every fault with its place."""


class _Part(BaseModel, extra="forbid", str_strip_whitespace=True):
    """A part of a theory file, in which every key is known."""


class _Item(_Part):
    name: Name
    aliases: list[Name] = []


class _Dimension(_Part):
    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    definition: str
    groups: list[str] = []
    aliases: list[Name] = []
    circle: Annotated[int, Field(ge=1)] | None = None
    parent: str | None = None
    items: list[Annotated[_Item, BeforeValidator(lambda i: i if isinstance(i, dict) else {"name": i})]] = Field(
        min_length=1)


class _TheoryFile(_Part):
    name: str = Field(pattern=r"^[a-z0-9]+([_-][a-z0-9]+)*$")
    title: Name
    citation: Name
    score_range: tuple[float, float]
    labels: dict[int, str]
    parent: str | None = None
    published: str = ""
    groups: dict[str, dict[Literal["title", "description"], str]] = {}
    dimensions: list[_Dimension] = Field(min_length=1)


@dataclass(frozen=True)
class Theory:
    """A value theory with D dimensions and I items, read from one YAML file by `load_theory`.

    `dimensions` are lower-case hyphenated names in canonical order: the keys everywhere; `definitions` says each in a
    sentence, "" where there is none. `items` are grouped by dimension, `item_dims`, shape (I,), has the index of each
    one's dimension. `groups` maps a higher-order group to its dimensions, of which one may stand in several. `circle`
    is their order on the theory's circle, None without one. `labels` has the words for -1, 0 and +1, `score_range` the
    lowest and highest score. `parent` names the coarser theory that this one refines, `parents` each dimension's
    dimension there.

    Examples
    --------
    >>> theory = load_theory("schwartz19")
    >>> theory.n_dims, theory.parent, theory.parents[theory.dimensions.index("humility")]
    (19, 'schwartz10', 'conformity')
    """

    name: str
    title: str
    citation: str
    dimensions: tuple[str, ...]
    definitions: tuple[str, ...]
    items: tuple[str, ...]
    item_dims: np.ndarray = field(repr=False, compare=False)
    groups: dict[str, tuple[str, ...]]
    circle: tuple[str, ...] | None
    labels: dict[int, str]
    score_range: tuple[float, float]
    parent: str | None
    parents: tuple[str | None, ...]
    item_names: dict[str, int] = field(repr=False, compare=False)
    dimension_names: dict[str, int] = field(repr=False, compare=False)
    path: Path = field(repr=False, compare=False)

    @property
    def n_dims(self) -> int:
        """Return D, the number of dimensions."""
        return len(self.dimensions)

    @property
    def n_items(self) -> int:
        """Return I, the number of items."""
        return len(self.items)

    @property
    def labels_path(self) -> Path:
        """Return where labelled rows of a theory stand: beside its file, x.jsonl for x.yaml, x-0.5.jsonl for x-0.5."""
        is_yaml = self.path.suffix.lower() in (".yaml", ".yml")
        return self.path.with_suffix(".jsonl") if is_yaml else self.path.with_name(f"{self.path.name}.jsonl")

    @property
    def parent_theory(self) -> "Theory | None":
        """Return the coarser theory, of whose file one beside this theory's comes first; None without one."""
        return self.parent and load_theory(_find_parent(self.parent, self.path))

    @cached_property
    def item_matrix(self) -> np.ndarray:
        """Return the (I, D) matrix with 1 where an item belongs to a dimension and 0 elsewhere."""
        return np.eye(self.n_dims, dtype=np.int8)[self.item_dims]

    def find_item(self, text: str) -> int | None:
        """Return the index of the item of that name or alias, whatever its case and white space, or None."""
        return self.item_names.get(normalise(text))

    def find_dimension(self, text: str) -> int | None:
        """Return the index of the dimension that `text` names (or is an alias of), or None.

        >>> load_theory("schwartz10").find_dimension("Humility")
        7
        """
        return self.dimension_names.get(normalise(text))

    def items_of(self, dimension: str) -> tuple[str, ...]:
        """Return the items of one dimension in canonical order."""
        k = self.dimensions.index(dimension)
        return tuple(item for item, d in zip(self.items, self.item_dims, strict=True) if d == k)


def normalise(text: str) -> str:
    """Return `text` in the form under which names are looked up: lower case, single spaces."""
    return " ".join(text.casefold().split())


def says_only_name(name: str, definition: str) -> bool:
    """Return whether a definition is empty or adds nothing to the name: no word but the name's, forms of these, and
    `FILLERS`.

    >>> says_only_name("courage", "The value of being courageous."), says_only_name("courage", "Facing one's fears.")
    (True, False)
    """
    own, said = set(split_words(name)), set(split_words(definition))
    return all(any(len(commonprefix((word, mine))) >= max(3, min(len(word), len(mine)) - 1) for mine in own)
               for word in said - own - FILLERS)


def find_twins(theory: Theory) -> list[list[str]]:
    """Return the groups of dimensions of different names that have one definition, whatever its case and marks."""
    alike: dict[tuple, dict] = {}
    for name, said in zip(theory.dimensions, theory.definitions, strict=True):
        alike.setdefault(tuple(split_words(said)), {})[name] = None
    return [list(names) for names in alike.values() if len(names) > 1]


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without marks between them."""
    return re.findall(r"\w+", text.casefold())


# English words that tell nothing of what is meant
FILLERS = set(split_words(
    "a an the of to in on for with as and or that this it its is are be being been has have having who what which "
    "how much very by one oneself s someone something person people value values valued valuing importance "
    "important matter matters quality virtue principle trait state idea concept sense feeling showing"))


def list_theories() -> tuple[str, ...]:
    """Return the names of the theories in data/theories, in alphabetical order.

    Examples
    --------
    >>> "schwartz10" in list_theories()
    True
    """
    return tuple(sorted(p.stem for p in THEORIES.glob("*.yaml")))


def _find_parent(name: str, path: Path) -> Path | str:
    beside = path.parent / f"{name}.yaml"
    return beside if beside.is_file() else name


def load_theory(name: str | Path | Theory) -> Theory:
    """Load a value theory by its name in data/theories or by the path of a YAML file; a `Theory` is returned as it is.

    TheoryError lists every fault of the file with its place.

    Examples
    --------
    >>> theory = load_theory("schwartz10")
    >>> theory.n_dims, theory.n_items, theory.dimensions[6:8]
    (10, 54, ('tradition', 'conformity'))
    """
    if isinstance(name, Theory):
        return name
    path = find_yaml(name, THEORIES, "theory", TheoryError)
    parsed, faults = _read(path)
    if faults:
        raise TheoryError(f"{path}: {len(faults)} fault(s): {'; '.join(faults)}")
    return _build(parsed, path)


def name_values(values: Sequence[str], definitions: Sequence[str]) -> Theory:
    """Return values that no file holds as a theory, for `ValueEvaluator.for_theory` alone: names and definitions."""
    return replace(load_theory("schwartz10"), name="named values", dimensions=tuple(values),
                   definitions=tuple(definitions))


def check_theory(path: str | Path) -> list[str]:
    """Return every fault of a theory file, each with its place ("line 12, dimensions.3.definition: …"); none = usable.

    Examples
    --------
    >>> check_theory("schwartz10")
    []
    """
    return _read(find_yaml(path, THEORIES, "theory", TheoryError))[1]


def lift_to(values: np.ndarray, theory: Theory, other: Theory) -> np.ndarray | None:
    """Return scores (..., D) under `theory` as scores under `other`: themselves, or the mean of each one's children.

    None when `other` is neither the theory nor its parent; nan for a dimension without children that are known.

    >>> lift_to(np.arange(19.0), load_theory("schwartz19"), load_theory("schwartz10"))[:2].tolist()
    [0.5, 2.0]
    """
    if theory.name == other.name:
        return np.asarray(values, dtype=float)
    if theory.parent != other.name:
        return None
    children = np.array([[p == d for d in other.dimensions] for p in theory.parents], dtype=float)   # (D, D')
    values = np.asarray(values, dtype=float)
    n = np.isfinite(values) @ children
    return np.nan_to_num(values) @ children / np.where(n, n, np.nan)


def _read(path: Path) -> tuple[_TheoryFile | None, list[str]]:
    try:
        raw, node, faults = read_yaml(path)
        if not isinstance(raw, dict):
            raise ValueError("line 1: a theory file is a mapping with name, title, citation, dimensions, …")
    except ValueError as error:
        return None, [" ".join(str(error).split())]
    parsed, found = None, []
    try:
        parsed = _TheoryFile.model_validate(raw)
        found = list(_content_faults(parsed, path))
    except ValidationError as error:
        found = [name_fault(e) for e in error.errors()]
    faults += [f"line {find_line(node, place)}, {'.'.join(map(str, place))}: {text}" for place, text in found]
    return parsed, [" ".join(fault.split()) for fault in faults]


def _content_faults(theory: _TheoryFile, path: Path) -> Iterator[tuple[tuple, str]]:
    """Yield (place, text) of what the schema cannot see."""
    low, high = theory.score_range
    if not -np.inf < low < 0 < high < np.inf:
        yield ("score_range",), f"must run from below 0 to above 0, not {low} to {high}"
    if set(theory.labels) != {-1, 0, 1}:
        yield ("labels",), "must name the labels -1, 0 and 1"
    yield from _label_faults(theory.labels)
    yield from _name_faults(theory)
    yield from _parent_faults(theory, path)
    circle = [dim.circle for dim in theory.dimensions]
    for d, dim in enumerate(theory.dimensions):
        if dim.circle is None and any(circle):
            yield ("dimensions", d), "no place on the circle, though other dimensions have one"
        elif dim.circle is not None and dim.circle in circle[:d]:
            yield ("dimensions", d, "circle"), f"place {dim.circle} on the circle is taken twice"
        for g, name in enumerate(dim.groups):
            if name not in theory.groups:
                yield ("dimensions", d, "groups", g), f"unknown group {name!r}"


def _label_faults(labels: dict[int, str]) -> Iterator[tuple[tuple, str]]:
    """Yield the labels whose words cannot be told apart: an annotator answers with these words."""
    words = {label: normalise(word) for label, word in labels.items()}
    for label, word in words.items():
        twins = [other for other in words if other != label and f" {word} " in f" {words[other]} "]
        if not word or re.fullmatch(r"[+=\-\N{MINUS SIGN}]*\d+[+-]?", word):
            yield ("labels", label), f"{word!r} is no word; answers are read by the words of the labels"
        elif twins:
            yield ("labels", label), f"{word!r} stands in label {twins[0]}, too; answers are read by them"


def _name_faults(theory: _TheoryFile) -> Iterator[tuple[tuple, str]]:
    """Yield the clashes among dimension names, item names and aliases."""
    dims, items, names, aliases = {}, {}, [], []
    for d, dim in enumerate(theory.dimensions):
        names.append((dims, dim.name, dim.name, ("dimensions", d, "name"), "dimension"))
        aliases += [(dims, alias, dim.name, ("dimensions", d, "aliases", a), "alias clash:")
                    for a, alias in enumerate(dim.aliases)]
        for i, item in enumerate(dim.items):
            place = ("dimensions", d, "items", i)
            names.append((items, item.name, f"{item.name}' in '{dim.name}", place, "duplicate item:"))
            aliases += [(items, alias, item.name, (*place, "aliases"), "alias clash:") for alias in item.aliases]
    for seen, name, owner, place, what in names + aliases:
        key = normalise(name)
        if key in seen:
            yield place, f"{what} {name!r} already stands for '{seen[key]}'"
        seen.setdefault(key, owner)


def _parent_faults(theory: _TheoryFile, path: Path) -> Iterator[tuple[tuple, str]]:
    try:
        found = theory.parent and _find_parent(theory.parent, path)
        if isinstance(found, Path) and found.samefile(path):
            raise RecursionError("a theory cannot be its own parent")
        parents = load_theory(found).dimensions if found else (None,)
    except (TheoryError, RecursionError) as error:
        yield ("parent",), shorten(f"parent theory cannot be read: {error}", 300)
        return
    what = f"is no dimension of {theory.parent}" if found else "is given, but the theory names no parent theory"
    for d, dim in enumerate(theory.dimensions):
        if dim.parent not in parents:
            yield ("dimensions", d, "parent"), f"parent {dim.parent!r} {what}"


def _build(parsed: _TheoryFile, path: Path) -> Theory:
    dims = parsed.dimensions
    items = [(item, d) for d, dim in enumerate(dims) for item in dim.items]
    item_names = {normalise(name): i for i, (item, _) in enumerate(items) for name in [item.name, *item.aliases]}
    circle = None if dims[0].circle is None else tuple(d.name for d in sorted(dims, key=lambda d: d.circle))
    return Theory(
        name=parsed.name, title=parsed.title, citation=parsed.citation, dimensions=tuple(d.name for d in dims),
        definitions=tuple(d.definition.removeprefix(DRAFT) for d in dims), items=tuple(item.name for item, _ in items),
        item_dims=np.array([d for _, d in items], dtype=np.intp),
        groups={g: tuple(d.name for d in dims if g in d.groups) for g in parsed.groups},
        circle=circle, labels=dict(parsed.labels), score_range=parsed.score_range,
        parent=parsed.parent, parents=tuple(d.parent for d in dims), item_names=item_names,
        dimension_names={normalise(name): d for d, dim in enumerate(dims) for name in [dim.name, *dim.aliases]},
        path=path)
