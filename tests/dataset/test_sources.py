import hashlib
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset import sources
from fulcra_utils.dataset.sources import Source, SourceError, fetch_sources, load_sources, verify_file
from fulcra_utils.runs.profiles import list_notebooks

CONTENT = b'{"prompt": "a"}\n'
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def no_mirror(request, monkeypatch):
    """The environment's mirror takes part only where a test asks for it."""
    if "mirror" not in request.fixturenames:
        monkeypatch.delenv("FULCRA_DATA_MIRROR", raising=False)


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT at /good, half of it at /half, and 404 elsewhere."""

    def do_GET(self):
        self.send_response(200 if self.path in ("/good", "/half") else 404)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT if self.path == "/good" else CONTENT[:5])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def source(url="http://127.0.0.1:1/x", **more):
    return {"x": Source(name="x", url=url, role="prompts", licence="MIT",
                        **{"mirror_path": "sub/x.jsonl", "sha256": SHA, **more})}


def put(folder, content=CONTENT):
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "x.jsonl").write_bytes(content)


def files(folder):
    return [p.name for p in folder.rglob("*") if p.is_file()]


def test_mirror_comes_first(tmp_path):
    put(tmp_path / "mirror")
    lines = []
    got = fetch_sources(tmp_path / "mirror", source(), tmp_path / "cache", say=lines.append)
    assert got.paths["x"].read_bytes() == CONTENT and lines == ["x: from the mirror"]
    again = fetch_sources(None, source(), tmp_path / "cache", network=False, say=lines.append)
    assert again.paths == got.paths and lines[-1] == "x: already there"


def test_files_by_name_come_in_order_or_name_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("FULCRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FULCRA_DATA_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setattr(sources, "load_sources", lambda: {**source(), "y": source(mirror_path="sub/y.jsonl")["x"]})
    put(tmp_path / "mirror")
    assert [path.name for path in sources.get_files("x")] == ["x.jsonl"]
    with pytest.raises(SourceError, match="^y .*network not reachable"):
        sources.get_files("x", "y")


def test_wrong_hash_is_refused_and_named(tmp_path):
    put(tmp_path / "mirror", b"something else")
    got = fetch_sources(tmp_path / "mirror", source(), tmp_path / "cache", network=False)
    assert not got.paths and "refused" in got.missing["x"] and SHA in got.missing["x"]
    assert files(tmp_path / "cache") == []


def test_damaged_cache_is_replaced(tmp_path):
    put(tmp_path / "cache", b"damaged")
    put(tmp_path / "mirror")
    assert fetch_sources(tmp_path / "mirror", source(), tmp_path / "cache").paths["x"].read_bytes() == CONTENT


def test_download(tmp_path, server):
    got = fetch_sources(None, source(f"{server}/good"), tmp_path / "cache")
    assert got.paths["x"].read_bytes() == CONTENT


@pytest.mark.parametrize("path", ["half", "gone"])
def test_broken_download_leaves_nothing_behind(tmp_path, server, path):
    got = fetch_sources(None, source(f"{server}/{path}"), tmp_path / "cache")
    assert list(got.missing) == ["x"] and files(tmp_path / "cache") == []


def test_no_network_is_found_out_once(tmp_path):
    two = {**source(), "y": source()["x"].model_copy(update={"name": "y"})}
    got = fetch_sources(None, two, tmp_path / "cache")
    assert got.missing == {"x": "network not reachable", "y": "network not reachable"}


def test_git_blob_id_and_missing_hash(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"hello\n")
    verify_file(path, source(sha256=None, git_blob="ce013625030ba8dba906f756967f9e9ca394464a")["x"])
    with pytest.raises(SourceError, match="git blob id"):
        verify_file(path, source(sha256=None, git_blob="0" * 40)["x"])
    with pytest.raises(SourceError, match="refused, .* not None"):
        verify_file(path, source(sha256=None)["x"])


@pytest.mark.parametrize("place", ["fulcra/sub", "sub"])
def test_a_mirror_is_the_folder_of_the_sets_or_that_of_fulcra(tmp_path, place):
    (tmp_path / "mirror" / place).mkdir(parents=True)
    (tmp_path / "mirror" / place / "x.jsonl").write_bytes(CONTENT)
    listed = source(mirror_path="fulcra/sub/x.jsonl")
    got = fetch_sources(tmp_path / "mirror", listed, tmp_path / "cache", network=False)
    assert got.paths == {"x": tmp_path / "cache" / "fulcra" / "sub" / "x.jsonl"}


def test_a_mirror_that_is_a_file_or_has_a_folder_in_place_of_one_lacks_it(tmp_path):
    (tmp_path / "mirror" / "sub" / "x.jsonl").mkdir(parents=True)
    (tmp_path / "mirror.zip").touch()
    for name in ("mirror", "mirror.zip"):
        got = fetch_sources(tmp_path / name, source(), tmp_path / "cache", network=False)
        assert got.missing == {"x": "not in the mirror"}


def test_every_listed_file_is_pinned():
    sources = load_sources().values()
    assert len(sources) == len({s.mirror_path for s in sources}) == len({s.url for s in sources})
    listed = (DATA / "sources.yaml").read_text(encoding="utf-8")
    assert len(sources) == listed.count("      file: "), "a name stands twice"
    assert all((len(s.sha256 or "") == 64) != (len(s.git_blob or "") == 40) for s in sources)
    assert all(re.fullmatch(r"https://raw\.githubusercontent\.com/[\w.-]+/[\w.-]+/[0-9a-f]{40}(/[\w.-]+)+", s.url)
               for s in sources), "each at a commit"
    assert all(s.size for s in sources if s.sha256) and all(s.optional for s in sources if not s.notebooks)
    assert {name for s in sources for name in s.notebooks} <= set(list_notebooks())


def test_a_file_says_where_it_stands_when_its_set_does_not():
    there = {name: source.url.split("/", 6)[6] for name, source in load_sources().items()}
    assert there["helpful_test"] == "Value_FULCRA/data/helpful/test.jsonl"
    assert there["scored_gpt-4"] == "Value_FULCRA/src/value_alignment/harmless_test_openai_gpt-4.jsonl"
    assert there["valuebench_data"] == "data/value_data.xlsx"
    assert there["valuebench_replies"] == "assets/QA-dataset-answers-rating.xlsx"
    assert there["valueeval22_arguments"] == "arguments.tsv" and there["valueeval22_labels"] == "labels-level1.tsv"


def test_what_no_notebook_reads_is_fetched_when_asked_for(tmp_path):
    by_default = fetch_sources(tmp_path, cache=tmp_path, network=False).missing
    assert list(by_default) == [name for name, s in load_sources().items() if s.notebooks]
    assert "trustworthy_data" in by_default and "valuecompass_2025_value_space" not in by_default
    assert fetch_sources(tmp_path, load_sources(), tmp_path, network=False).missing.keys() == load_sources().keys()


def test_mirror_holds_what_the_list_says(mirror, tmp_path):
    """Every set whose folder the mirror has is whole (of FULCRA: the files that we held)."""
    listed, mirror = load_sources(), Path(os.environ["FULCRA_DATA_MIRROR"])
    got = fetch_sources(mirror, listed, cache=tmp_path, network=False)
    assert {"trustworthy_data", "saferlhf_train", "scored_gpt-4"} <= set(got.paths)
    assert all("not in the mirror" in reason for reason in got.missing.values())
    folders = {name: s.mirror_path.split("/")[0] for name, s in listed.items()}
    assert not [name for name in got.missing if folders[name] != "fulcra" and (mirror / folders[name]).is_dir()]
