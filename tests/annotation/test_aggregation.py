"""A Label Studio export becomes a labelled file: by vote and by model, odd parts named, people's addresses left out."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pandas as pd
import pytest

from fulcra_utils.annotation import build_queue, export_label_studio
from fulcra_utils.annotation.aggregation import import_decisions
from fulcra_utils.cli import main
from fulcra_utils.common.paths import DATA, ROOT
from fulcra_utils.dataset.labelled import read_dataset
from fulcra_utils.theory.theory import load_theory

THEORY = load_theory("moral_foundations")
TEXTS = pd.DataFrame({"row_id": ["r1", "r2", "r3"], "prompt": ["Shall I help?", "Shall I help?", "Who pays?"],
                      "response": ["Yes, she needs you.", "Let her be.", "Each his share."]})


def make_task(number, row_id, name, given, **more):
    """One task as Label Studio 1.23 exports it; `given` maps who to label, None = cancelled."""
    annotations = [{"id": 10 * number + k, "completed_by": who, "was_cancelled": label is None, "result": [
        {"from_name": "label", "to_name": "response", "type": "choices", "value": {"choices": [label]}}] * (
            label is not None)} for k, (who, label) in enumerate(given.items())]
    text = TEXTS.set_index("row_id").loc[row_id].to_dict() if row_id in set(TEXTS.row_id) else {}
    return {"id": number, "annotations": annotations, "data": {"row_id": row_id, "name": name, **text}, **more}


def run(tmp_path, monkeypatch, tasks, *more):
    (tmp_path / "e.json").write_text(json.dumps(tasks))
    monkeypatch.setattr(sys, "argv", ["fulcra", "annotate", "--import-decisions", str(tmp_path / "e.json"), "--output",
                                      str(tmp_path / "out.jsonl"), "--theory", "moral_foundations", *more])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


TASKS = [make_task(1, "r1", "care", {1: "+1", 2: "+1", 3: "0"}), make_task(2, "r2", "care", {1: "-1", 2: "0", 3: "-1"}),
         make_task(3, "r3", "care", {1: "0", 2: "0"}), make_task(4, "r3", "return favours", {1: "+1", 2: "-1"}),
         make_task(5, "r3", "give everyone their due", {2: "+1", 3: None})]


def test_the_vote_is_written_in_the_released_shape(tmp_path, monkeypatch, capsys):
    assert run(tmp_path, monkeypatch, TASKS) == 0
    told = capsys.readouterr().out
    assert "11 decisions of 3 annotators on 5 cells of 3 replies; one label a cell by vote" in told
    assert "1 cells are ties" in told and "1 cancelled annotations are left out" in told
    assert re.search(r"observed +0\.\d+", told) and "annotator 1: 4 cells, equal to the one label in 100 %" in told
    data = read_dataset(tmp_path / "out.jsonl", THEORY, strict=True)
    assert data.vectors[:, 0].tolist() == [1, -1, 0]  # care
    assert np.isnan(data.vectors[:, 1:]).all()  # one item of fairness is a tie, of two nobody was asked
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows[0]["annotators"] == {"annotator 1": {"care": 1}, "annotator 2": {"care": 1}, "annotator 3": {"care": 0}}
    assert rows[2]["value_items"] == ["give everyone their due: +1"]
    assert rows[2]["decided_by"] == {"care": "annotator 1, annotator 2", "give everyone their due": "annotator 2"}
    assert {"item": "return favours", "reason": "nobody was asked, or the annotators tie"} in rows[2]["not_annotated"]
    table = pd.read_csv(tmp_path / "out.dataset" / "data" / "annotators.csv").set_index(["row_id", "name"])
    assert table.loc[("r2", "care")].tolist() == [-1, 0, -1] and table.loc[("r3", "care")].isna().tolist()[2]
    assert (tmp_path / "out.dataset" / "ANNOTATION.md").is_file()


def test_a_reliable_annotator_outweighs_two_who_guess(tmp_path, monkeypatch):
    rng, n = np.random.default_rng(0), 60
    truth = rng.choice([-1, 0, 1], n)
    good = [np.where(rng.random(n) < 0.97, truth, 0) for _ in range(2)]
    bad = [rng.choice([-1, 0, 1], n) for _ in range(3)]
    words = {-1: "-1", 0: "0", 1: "+1"}
    tasks = [{**make_task(k, "", "care", {a: words[label[k]] for a, label in enumerate(good + bad)}),
              "data": {"row_id": f"q{k:02}", "name": "care", "prompt": "Hi", "response": "Hello."}} for k in range(n)]
    right = {}
    for way in ("vote", "dawid-skene"):
        assert run(tmp_path, monkeypatch, tasks, "--aggregate", way, "--no-card") == 0
        right[way] = np.mean(read_dataset(tmp_path / "out.jsonl", THEORY).vectors[:, 0] == truth)
    assert right["dawid-skene"] > 0.95 > right["vote"]


def test_what_cannot_be_used_is_counted_and_named(tmp_path, monkeypatch, capsys):
    no_id = {"annotations": TASKS[0]["annotations"], "data": {"name": "care"}}
    odd = [make_task(8, "r1", "luck", {1: "+1"}), make_task(9, "r2", "care", {1: "2", 2: "0"}), no_id, 5,
           make_task(11, "r9", "care", {1: "+1"})]
    assert run(tmp_path, monkeypatch, [*TASKS[:1], *odd]) == 1
    told = capsys.readouterr().out
    assert "5 tasks or annotations cannot be used" in told and "4 decisions of 3 annotators" in told
    for why in ("task 8: name: 'luck' is no item", "task 9: label: '2' is none of -1, 0, 1", "task 4: is no task that",
                "task 5: is no task", "row_id 'r9': prompt or response is missing"):
        assert why in told


@pytest.mark.parametrize(("tasks", "more", "why"), [
    ([], (), "holds no decision that can be used"), ({}, (), "holds no decision that can be used: task 1: is no task"),
    (TASKS, ("--aggregate", "mean"), "no way 'mean' to aggregate; there are vote and dawid-skene"),
    (TASKS, ("--input", "rows.jsonl"), "either --input and --model, or --import-decisions"),
    ([TASKS[0], {**TASKS[0], "data": {**TASKS[0]["data"], "response": "No."}}], (), "'r1' stands for different texts")])
def test_unusable_input_is_one_line(tmp_path, monkeypatch, capsys, tasks, more, why):
    assert run(tmp_path, monkeypatch, tasks, *more) == 2
    told = capsys.readouterr().err
    assert why in told and told.count("\n") == 1 and not (tmp_path / "out.jsonl").exists()


def test_one_annotator_is_taken_as_he_is_and_no_address_is_published(tmp_path, any_theory):
    name = any_theory.dimensions[0]
    tasks = [make_task(k, row, name, {1: label}) for k, (row, label) in enumerate(zip(TEXTS.row_id, ["+1", "0", "-1"],
                                                                                   strict=True))]
    for task in tasks:
        task["annotations"][0]["completed_by"] = {"id": 4, "email": "ann@example.org"}
    (tmp_path / "e.json").write_text(json.dumps(tasks))
    for way in ("vote", "dawid-skene"):
        text, n_unusable = import_decisions(tmp_path / "e.json", tmp_path / "out.jsonl", any_theory, way)
        assert "person 1 (ann@example.org): 3 cells" in text and "one annotator only" in text and not n_unusable
        assert read_dataset(tmp_path / "out.jsonl", any_theory).vectors[:, 0].tolist() == [1, 0, -1]
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "e.json"]
    assert len(written) >= 5 and not any(b"example.org" in text for text in written)


def test_the_recipe_runs_as_written(tmp_path, monkeypatch):
    recipe = (DATA / "site" / "recipes" / "annotation.md").read_text(encoding="utf-8")
    lines = re.search(r"```sh\n(.*?)```", recipe, re.DOTALL)[1].splitlines()
    assert len(lines) <= 4
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(DATA)
    for line in lines:
        command = shlex.split(line)
        fulcra = [sys.executable, "-m", "fulcra_utils.cli"]
        subprocess.run([*fulcra, *command[1:]] if command[0] == "fulcra" else command, check=True, capture_output=True)
    assert len(read_dataset(tmp_path / "labelled.jsonl", "schwartz10", strict=True).table) == 4
    assert (tmp_path / "labelled.dataset" / "data" / "annotators.csv").is_file()


class LabelStudio:
    """A Label Studio of the registry in an environment of its own, on loopback, with a token and SQLite."""

    token = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self, folder):
        self.folder = folder
        uv = [shutil.which("uv"), "pip", "install", "-q", "--python", str(folder / "bin" / "python")]
        how = uv if uv[0] else [str(folder / "bin" / "python"), "-m", "pip", "install", "-q"]
        subprocess.run([sys.executable, "-m", "venv", *(["--without-pip"] if uv[0] else []), str(folder)], check=True)
        done = subprocess.run([*how, "label-studio>=1.20"], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"LABEL STUDIO CANNOT BE INSTALLED, so nothing is proved: {done.stderr.strip()[-300:]}")

    def __enter__(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.log = (self.folder / "log").open("w")
        clean = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        self.server = subprocess.Popen(
            [self.folder / "bin" / "label-studio", "start", "--no-browser", "--internal-host", "127.0.0.1", "--port",
             str(self.port)], stdout=self.log, stderr=self.log, env=clean | {
                "HOME": str(self.folder), "LABEL_STUDIO_BASE_DATA_DIR": str(self.folder / "state"),
                "DJANGO_DB": "sqlite", "LABEL_STUDIO_USERNAME": "ann@example.org",
                "LABEL_STUDIO_PASSWORD": "only-on-loopback",
                "LABEL_STUDIO_USER_TOKEN": self.token, "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
                "COLLECT_ANALYTICS": "False"})
        return self

    def wait(self):
        for _ in range(240):
            try:
                return self.call("version")
            except OSError:
                assert self.server.poll() is None, (self.folder / "log").read_text()[-2000:]
                time.sleep(0.5)
        raise TimeoutError((self.folder / "log").read_text()[-2000:])

    def __exit__(self, *_):
        self.server.terminate()
        self.server.wait(30)
        self.log.close()
        shutil.rmtree(self.folder)  # 1 GB

    def call(self, path, data=None):
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/{path}", data and json.dumps(data).encode(), {
            "Authorization": f"Token {self.token}", "Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.loads(answer.read())


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("FULCRA_PROOFS") != "all", reason="NO LABEL STUDIO: FULCRA_PROOFS=all installs it")
def test_decisions_come_back_from_a_real_label_studio(tmp_path, monkeypatch, capsys):
    ratings = np.array([[[1.0, 0], [0, 1], [0, 0]], [[0, 1], [1, 0], [0, 0]], [[1, 1], [1, 1], [1, -1]]])
    queue = build_queue(ratings, ["care", "return favours"], TEXTS.row_id, ["a", "b", "c"])
    project = export_label_studio(tmp_path / "project", queue, TEXTS, THEORY)
    with LabelStudio(tmp_path / "venv") as studio:
        studio.wait()
        made = studio.call("projects/", {"title": THEORY.title[:50],
                                         "label_config": (project / "config.xml").read_text()})["id"]
        studio.call(f"projects/{made}/import", json.loads((project / "tasks.json").read_text()))
        ben = studio.call("users/", {"email": "ben@example.org", "username": "ben"})["id"]
        tasks = studio.call(f"tasks?project={made}&fields=all&page_size=100")["tasks"]
        for n, task in enumerate(tasks):
            for who, label in ((1, "+1"), (ben, "+1" if n else "0")):
                result = [{"from_name": name, "to_name": "response", "type": kind, "value": value}
                          for name, kind, value in (("label", "choices", {"choices": [label]}),
                                                    ("note", "textarea", {"text": ["so"]}))]
                studio.call(f"tasks/{task['id']}/annotations/", {"completed_by": who, "result": result})
        studio.call(f"tasks/{tasks[0]['id']}/annotations/", {"result": [], "was_cancelled": True})
        export = studio.call(f"projects/{made}/export?exportType=JSON&download_all_tasks=true")
    assert len(tasks) == len(queue) == 6
    assert run(tmp_path, monkeypatch, export) == 0
    told = capsys.readouterr().out
    assert "12 decisions of 2 annotators on 6 cells of 3 replies" in told and "1 cancelled annotations" in told
    assert "1 cells are ties" in told
    rows = {row["row_id"]: row for row in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())}
    for n, case in enumerate(queue.itertuples()):
        by = {who: labels[case.name] for who, labels in rows[case.row_id]["annotators"].items()}
        assert by == {"annotator 1": 1, f"annotator {ben}": 1 if n else 0}
    assert rows[queue.row_id[1]]["decided_by"][queue["name"][1]] == f"annotator 1, annotator {ben}"
    assert str(ROOT) not in told
