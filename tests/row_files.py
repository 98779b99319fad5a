"""Rows as files hold them, for tests that read them."""

import json

from fulcra_utils.theory.theory import load_theory

TEN = load_theory("schwartz10")


def row(items=(), types=(), **more):
    return {"dialogue": "Human: Why?\nBob: Because.", "value_items": list(items), "value_types": list(types), **more}


def write(tmp_path, *rows, name="rows.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows), encoding="utf-8")
    return path
