"""What a kept result was made of: sha256 of data, weights, objects and code, wherever the code stands."""

import json
import os
import sys
import sysconfig
from dis import get_instructions
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import PurePath
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

from joblib.hashing import NumpyHasher

from fulcra_utils.common.paths import ROOT


def digest(*things: Any) -> str:
    """Return a sha256 of everything that things are made of: data, weights, an object's state, code.

    Code counts by what it does (not by its comments or docstrings), with the variables it closes over and the globals
    it names; installed packages count by their names. An object with a text `label` is known by that alone. TypeError
    for a part that cannot be told from another one: a connection, a lock, a generator.

    >>> digest({"a": 1, "b": [2]}) == digest({"b": (2,), "a": 1}), digest(lambda x: x + 1) == digest(lambda x: x + 2)
    (True, False)
    """
    hasher = _Hasher(things)
    try:
        for thing in hasher.queue:
            hasher.dump(thing)
    except Exception as error:
        raise TypeError(f"it cannot be told from another one ({str(error).splitlines()[0]})") from None
    return hasher.hash(None)


@cache
def digest_code(function: FunctionType) -> str:
    """Return `digest` of a function and of the code of ours that it reaches, taken once in a process."""
    return digest(function)


class _Hasher(NumpyHasher):
    """joblib's hasher, which also looks into code and models: they wait in a queue, so that circles end."""

    def __init__(self, things: Any):
        super().__init__("sha256")
        self.queue: list[Any] = [things]
        self.told: dict[int, tuple[Any, Any]] = {}   # what stands for a thing; keeps it, so that its id is its own

    def save(self, thing: Any) -> None:
        if id(thing) not in self.told:
            parts = _name_parts(thing)
            if parts is not None:
                self.queue.append(parts)
            self.told[id(thing)] = thing, _tell_plain(thing) if parts is None else ("part", len(self.queue))
        super().save(self.told[id(thing)][1])

    def memoize(self, thing: Any) -> None:
        if not isinstance(thing, bytes | str | list):   # equal ones are the same, whether they are one or two
            super().memoize(thing)


def _tell_plain(thing: Any) -> Any:
    """Return what stands for data in a digest: members in an order of their own, tensors as arrays, paths from here."""
    kind = type(thing)
    if kind is tuple:
        return list(thing)
    if kind in (set, frozenset):
        return [kind.__name__, sorted(thing, key=repr)]
    if kind is dict:
        return ["dict", sorted(thing.items(), key=lambda item: repr(item[0]))]
    if isinstance(thing, PurePath):
        return os.path.relpath(thing, ROOT)
    if hasattr(thing, "untyped_storage"):    # a tensor
        raw = thing.detach().cpu().contiguous().flatten().view(sys.modules["torch"].uint8)
        return [str(thing.dtype), list(thing.shape), raw.numpy()]
    if isinstance(thing, type | FunctionType | ModuleType):    # an installed one, or a module
        return [getattr(thing, "__module__", ""), getattr(thing, "__qualname__", thing.__name__)]
    return thing


def _name_parts(thing: Any) -> dict[str, Any] | None:
    """Return what code of ours, a model or an object known by a label consists of; None = as pickle says."""
    if isinstance(thing, ModuleType) or (isinstance(thing, type | FunctionType) and not _is_own(thing)):
        return None
    if isinstance(thing, FunctionType):
        codes, cells = _list_codes(thing.__code__), thing.__closure__ or ()
        names = dict.fromkeys(name for code in codes for name in code.co_names)
        wanted = dict.fromkeys(i.argval for c in codes for i in get_instructions(c) if i.opname == "IMPORT_NAME")
        inner = [x for n in wanted if (x := _find_module(n)) and _is_own(x)]     # imported in the function
        inner += [x for n in names if isinstance(x := thing.__globals__.get(n), ModuleType) and _is_own(x)]
        for module in inner:    # a.b.f() reaches b as well
            inner += [x for n in names if (x := sys.modules.get(f"{module.__name__}.{n}")) and x not in inner]
        loaded = {i.argval for c in codes for i in get_instructions(c) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
        known = {n: thing.__globals__[n] for n in loaded & thing.__globals__.keys()} | {
            n: getattr(module, n) for module in inner for n in names if hasattr(module, n)}
        told = [[c.co_code, c.co_varnames[:c.co_argcount + c.co_kwonlyargcount],    # it may be called by these names
                 [n for n in c.co_names if n not in known and not n.startswith(f"{_PACKAGE}.")],
                 [x for x in c.co_consts if not isinstance(x, CodeType) and (x is None or x != thing.__doc__)]]
                for c in codes]
        return {"code": [told, thing.__defaults__, thing.__kwdefaults__, vars(thing)],
                "reached": [known[n] for n in names if n in known and not any(known[n] is module for module in inner)],
                **{n: c.cell_contents for n, c in zip(codes[0].co_freevars, cells, strict=True) if c != CellType()}}
    if isinstance(thing, type):
        kept = {n: x for n, x in vars(thing).items() if (n[:2] != "__" or callable(x)) and n != "_abc_impl"
                and not n.endswith("_cached_value")}     # which transformers notes on a class when it loads one
        return {"bases": thing.__bases__, **kept}
    if isinstance(label := getattr(thing, "label", None), str) and label:
        return {"label": label}
    inner = ("__wrapped__", "fget", *(["func"] if hasattr(thing, "attrname") else []))
    if found := {name: x for name in inner if (x := getattr(thing, name, None)) is not None}:
        return found   # a property, a cached function
    if hasattr(thing, "get_vocab"):
        return {"vocabulary": thing.get_vocab()}
    if hasattr(thing, "state_dict") and hasattr(getattr(thing, "config", None), "to_dict"):
        config = json.loads(json.dumps(thing.config.to_dict(), default=str))    # as it is after saving and loading
        config = {k: v for k, v in config.items() if k[0] != "_" and k not in _NOISE}
        return {"class": type(thing), "weights": dict(thing.state_dict()), "config": config,
                "tokenizer": getattr(thing, "tokenizer", None)}
    return None


def _find_module(name: str) -> ModuleType | None:
    """Return a module of ours or of a user by name, imported where it can be; None else."""
    if name in sys.modules:
        return sys.modules[name]
    top = name.partition(".")[0]
    try:
        found = None if not top or top in sys.stdlib_module_names else find_spec(top)
        return None if found is None or "-packages" in str(found.origin) else import_module(name)
    except Exception:
        return None     # an optional one, which the function may do without


def _list_codes(code: CodeType) -> list[CodeType]:
    """Return a code object and those of the functions inside it."""
    return [code, *(c for part in code.co_consts if isinstance(part, CodeType) for c in _list_codes(part))]


def _is_own(thing: Any) -> bool:
    """Return whether code is of this project or of a user: neither built in nor of an installed package."""
    module = str(getattr(thing, "__module__", None) or getattr(thing, "__name__", ""))
    top, file = module.partition(".")[0], str(getattr(sys.modules.get(module), "__file__", ""))
    if top in sys.stdlib_module_names:      # a user's file may have such a name, too: profile.py
        file = getattr(getattr(thing, "__code__", None), "co_filename", "")
        installed = "-packages" in file or file.startswith(sysconfig.get_path("stdlib"))
        return PurePath(file).is_absolute() and not installed
    return top == _PACKAGE or not ("-packages" in file or top.startswith("_cython"))


_PACKAGE = __name__.partition(".")[0]
_NOISE = ("architectures", "dtype", "torch_dtype", "transformers_version")
