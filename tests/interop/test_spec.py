"""The served specification is the committed one, and three validators that are not ours find no error in it."""

import json
import os
import shutil
import subprocess

import pytest
import yaml
from openapi_schema_validator import OAS30Validator
from openapi_spec_validator import validate
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError

from conftest import ROOT, WORK

BIN = WORK / "node" / "node_modules" / ".bin"
HERE = ROOT / "tests" / "interop"


class Yaml12(yaml.SafeLoader):
    """OpenAPI is YAML 1.2, where a moment is a string."""


Yaml12.yaml_implicit_resolvers = {
    first: [entry for entry in entries if entry[0] != "tag:yaml.org,2002:timestamp"]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_yaml(text):
    return yaml.load(text, Yaml12)


FILES = {"/openapi.json": ("keydesk.json", json.loads), "/openapi.yaml": ("keydesk.yaml", load_yaml)}


@pytest.mark.parametrize("path", FILES)
def test_served_is_committed(desk, path):
    name, _ = FILES[path]
    answer = desk.get(path)
    assert answer.status_code == 200
    assert answer.content == (ROOT / "openapi" / name).read_bytes()


def test_both_forms_say_the_same(desk):
    assert desk.get("/openapi.json").json() == load_yaml(desk.get("/openapi.yaml").text)


@pytest.mark.parametrize("flags, path", [([], "/openapi.json"), (["--yaml"], "/openapi.yaml")])
def test_the_command_prints_what_is_served(desk, flags, path):
    assert desk.cli("openapi", *flags).rstrip("\n") == desk.get(path).text.rstrip("\n")


@pytest.mark.parametrize("path", FILES)
def test_openapi_spec_validator(desk, path):
    validate(FILES[path][1](desk.get(path).text))


def examples(document):
    """Every example of the document as (where, schema, value), and as a sentence whatever lacks one."""
    found, missing = [], []

    def look(where, place, wanted=True):
        values = [place["example"]] if "example" in place else [one["value"] for one in place.get("examples", {}).values()]
        found.extend((where, place["schema"], value) for value in values)
        if wanted and not values:
            missing.append(where)

    for path, item in document["paths"].items():
        for method, operation in item.items():
            where = f"{method} {path}"
            for parameter in operation.get("parameters", []):
                look(f"{where} {parameter['name']}", parameter, wanted=parameter["required"])
            for content in operation.get("requestBody", {}).get("content", {}).values():
                look(f"{where} body", content)
            for status, response in operation["responses"].items():
                if "$ref" in response:
                    response = document["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
                for content in response.get("content", {}).values():
                    look(f"{where} {status}", content)
    return found, missing


def test_every_operation_has_worked_examples(desk):
    """Of what it takes and of all that it answers, and each is what its schema says. That they work when they are sent,
    test_docs_page.py shows."""
    document = desk.get("/openapi.json").json()
    found, missing = examples(document)
    assert missing == []
    wrong = []
    for where, schema, value in found:
        checked = OAS30Validator({**schema, "components": document["components"]})
        wrong += [f"{where}: {error.message}" for error in checked.iter_errors(value)]
    assert wrong == [] and len(found) > 400


def lint(command, folder):
    """Runs a linter without its wish to call home."""
    env = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "CI": "true",
        "REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true",
    }
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"


@pytest.mark.parametrize("path", FILES)
def test_redocly(desk, tmp_path, path):
    (tmp_path / FILES[path][0]).write_text(desk.get(path).text)
    lint([str(BIN / "redocly"), "lint", "--extends=recommended", FILES[path][0]], tmp_path)


@pytest.mark.parametrize("path", FILES)
def test_spectral(desk, tmp_path, path):
    (tmp_path / FILES[path][0]).write_text(desk.get(path).text)
    shutil.copy(HERE / "spectral.yaml", tmp_path)
    lint([str(BIN / "spectral"), "lint", "--ruleset=spectral.yaml", "--fail-severity=error", FILES[path][0]], tmp_path)


def test_the_validators_find_faults(tmp_path):
    """They run and can fail: each names the error in a specification that has one."""
    bad = {"openapi": "3.0.3", "info": {"title": "x", "version": "1"}, "paths": {"/x": {"get": {"responses": {"200": {}}}}}}
    with pytest.raises(OpenAPIValidationError, match="not valid"):
        validate(bad)
    (tmp_path / "bad.json").write_text(json.dumps(bad))
    shutil.copy(HERE / "spectral.yaml", tmp_path)
    with pytest.raises(AssertionError, match="description"):
        lint([str(BIN / "redocly"), "lint", "--extends=recommended", "bad.json"], tmp_path)
    with pytest.raises(AssertionError, match="oas3-schema"):
        lint([str(BIN / "spectral"), "lint", "--ruleset=spectral.yaml", "--fail-severity=error", "bad.json"], tmp_path)
