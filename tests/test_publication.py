"""What others find beside the code: how it is cited, opened elsewhere, released and complained about."""

import json
import os
import re
import subprocess
import tomllib

import yaml

import fulcra_utils
from fulcra_utils.common.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_citation_and_zenodo_hold_what_their_schemas_ask_and_agree_with_the_project():
    cited, deposited = yaml.safe_load(read("CITATION.cff")), json.loads(read(".zenodo.json"))
    # Citation File Format 1.2.0, schema.json: required, and of an author that is no person
    assert {"authors", "cff-version", "message", "title"} <= cited.keys() and cited["cff-version"] == "1.2.0"
    assert cited["type"] in ("software", "dataset") and all(author.keys() & {"name", "family-names"}
                                                           for author in cited["authors"])
    assert all({"authors", "title", "type"} <= reference.keys() for reference in cited["references"])
    # developers.zenodo.org, deposition metadata
    assert {"title", "upload_type", "creators", "license", "description"} <= deposited.keys()
    assert deposited["upload_type"] == "software" and deposited["access_right"] == "open"
    assert all({"identifier", "relation"} <= related.keys() for related in deposited["related_identifiers"])
    assert cited["title"] == deposited["title"] and cited["license"] == deposited["license"] == PROJECT["license"]
    assert str(cited["version"]) == deposited["version"] == PROJECT["version"] == fulcra_utils.__version__
    assert [author["name"] for author in cited["authors"]] == [creator["name"] for creator in deposited["creators"]]
    assert deposited["description"] == PROJECT["description"]
    paper = cited["references"][0]["identifiers"][0]["value"]
    assert paper in [related["identifier"] for related in deposited["related_identifiers"]]


def test_binder_installs_the_environment_of_the_project():
    own, binder = (yaml.safe_load(read(name)) for name in ("environment.yml", "binder/environment.yml"))
    cpu = f"--extra-index-url {re.search(r'^TORCH_CPU := (.*)', read('Makefile'), re.M)[1]}"
    own["dependencies"][-1] = {"pip": [cpu, *(line.replace("-c ", "-c ../").replace("-e .", "-e ..")
                                              for line in own["dependencies"][-1]["pip"])]}
    assert binder == own
    start = ROOT / "binder" / "postBuild"
    assert os.access(start, os.X_OK) and subprocess.run(["bash", "-n", start], check=False).returncode == 0
    installed = re.search(r"pip install .*--no-deps (\S+)", start.read_text(encoding="utf-8"))[1]
    assert f"--no-deps {installed}" in read("Makefile") and installed in read("constraints.txt").split()


def test_the_devcontainer_sets_up_by_the_makefile():
    container = json.loads(read(".devcontainer/devcontainer.json"))
    assert container.keys() <= {"name", "image", "hostRequirements", "postCreateCommand", "forwardPorts",
                                "portsAttributes", "customizations"}  # containers.dev, reference of devcontainer.json
    version = re.fullmatch(r"mcr\.microsoft\.com/devcontainers/python:3\.(\d+)", container["image"])[1]
    assert int(version) >= int(PROJECT["requires-python"].rpartition(".")[2])
    maker, target = container["postCreateCommand"].split()
    assert maker == "make" and re.search(rf"^{target}:", read("Makefile"), re.M)
    assert {str(port) for port in container["forwardPorts"]} == container["portsAttributes"].keys()
    python = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert f"/{re.search(r'^VENV := (.*)', read('Makefile'), re.M)[1]}/bin/python" in python


def test_the_code_of_conduct_says_how_to_report_and_the_checklist_names_what_exists():
    assert re.search(r"\*\*To report something\*\*.*(Report a vulnerability|@)", read("CODE_OF_CONDUCT.md"), re.S)
    release = read("CONTRIBUTING.md").partition("## How a version is released")[2].partition("\n## ")[0]
    for target in re.findall(r"`make (\w+)`", release):
        assert re.search(rf"^{target}:", read("Makefile"), re.M), target
    named = re.findall(r"`([\w./-]+\.(?:toml|py|cff|json|md|yml|txt))`", release)
    assert len(named) >= 4 and all((ROOT / name).is_file() for name in named)
