"""Every command in the documents works, for a reader who types them in order; see documents.py for how they are read."""

import re

import pytest

import documents
from documents import DOCUMENTS, Missing, Reader, anchors, fences, links, name_of
from conftest import ROOT

# What cannot be typed here: the first line of each such block, and why. A block that is not listed is run.
NOT_RUN = {
    "README.md": {
        "./scripts/test      # installs what the tests need, runs everything; --full: ten times as much": "it is what runs this",
        "./scripts/bench      # prints a table, writes docs/performance.md; --quick, --full, --help":
            "it takes minutes and would measure a machine that does something else",
    },
    "docs/operations.md": {
        "from standardwebhooks import Webhook": "a part of the reader's own receiver; test_alarms.py has one like it",
    },
    "docs/recipes/github-actions.md": {"jq -r .token ci.json | gh secret set KEYDESK_API_KEY": "it needs GitHub"},
    "docs/sdk.md": {
        "export KEYDESK_URL=http://127.0.0.1:8000 KEYDESK_USERNAME=admin": "test_sdk.py sets the same variables",
    } | dict.fromkeys((
        '"""Log in, fetch your keys, rotate one, and read in the audit log that all of that happened."""',
        "[package]",
        *(f"scripts/sdk {language}" for language in ("python", "typescript", "rust")),
    ), "test_sdk.py does it, in a project of each language") | dict.fromkeys(
        ("scripts/sdk go", "scripts/sdk java"), "test_sdk.py does it with Debian's packages in place of what would be downloaded",
    ),
    "docs/deploy.md": {
        "scripts/deb                                                          # target/deb/keydesk_…_amd64.deb":
            "it installs into this machine",
        "docker build --build-arg KEYDESK_COMMIT=\"$(git rev-parse --short=12 HEAD)\" -t keydesk .": "it needs Docker",
        "cd deploy/compose && mkdir -m 0700 secrets": "it needs Docker",
        "openssl rand -base64 32 > kek                        # keep a copy elsewhere": "it needs a Kubernetes cluster",
    },
    "deploy/README.md": {
        "install -m 0755 target/release/keydesk /usr/local/bin/": "it installs into this machine",
        "keydesk --config /etc/keydesk/keydesk.toml user list      # or: export KEYDESK_CONFIG=/etc/keydesk/keydesk.toml":
            "it works on the desk of an installed service",
    },
}
READ = [path for path in DOCUMENTS if any(fence.language in ("sh", "python") for fence in fences(path))]
# What may stand in a document without being typed: shown output, files, and pages of other programs.
LANGUAGES = {"sh", "json", "text", "toml", "yaml", "python", "nginx", "http", "svg", "typescript", "rust", "go", "java", "dotenv"}


@pytest.fixture
def reader(tmp_path):
    made = []

    def make(path, **options):
        made.append(Reader(path, tmp_path / f"reader{len(made)}", **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("path", READ, ids=name_of)
def test_what_it_says_to_type_works(reader, path):
    try:
        reader(path).read()
    except Missing as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_what_it_shows_is_what_it_says_it_is(path):
    for fence in fences(path):
        assert fence.language in LANGUAGES, f"{fence.place}: a fence of {fence.language or 'nothing'}"
        documents.check(fence, fence.text)


def test_what_is_not_typed_is_listed_with_its_reason():
    said = {}
    for path in DOCUMENTS:
        for fence in fences(path):
            if why := fence.marks.get("not run"):
                said.setdefault(fence.document, {})[fence.text.splitlines()[0]] = why
    assert said == NOT_RUN


@pytest.mark.parametrize("text, why", [
    ("```sh\nkeydesk user lits\n```\n", "ends with 2"),
    ("```sh\nkeydesk audit verify | grep nothing\n```\n", "ends with 1"),
    ("<!-- fails: 1 -->\n```sh\nkeydesk user list\n```\n", "ends with 0"),
    ("```sh\nkeydesk user list --json\n# [{\"name\":\"somebody\",…}]\n```\n", "is 'admin', not 'somebody'"),
    ("```sh\nkeydesk user list --json\n```\n\n```json\n[{\"name\":\"admin\"}]\n```\n", "besides"),
    ("```sh\nkeydesk user list\n```\n\n```text\nadmin nobody …\n```\n", "no line is"),
    ("```sh\nkeydesk user list &&\n```\n", "not whole"),
    ("```toml\na = \n```\n", "is not toml"),
    ("```toml\n[server]\nport = 8000\n```\n", "does not take it"),
    ("```json\n{\"apiKeyHelper\": \"echo no\"}\n```\n", "printed 'no"),
])
def test_what_is_wrong_is_found(reader, tmp_path, text, why):
    path = tmp_path / "document.md"
    path.write_text(text)
    with pytest.raises(AssertionError, match=why):
        reader(path).read()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path):
    for target, line in links(path):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        led = (path.parent / file).resolve() if file else path
        assert led.exists(), f"{name_of(path)}:{line}: {target} is not there"
        assert led.is_relative_to(ROOT)
        if anchor:
            assert led.suffix == ".md" and anchor in anchors(led), f"{name_of(path)}:{line}: {target}: no such heading"
