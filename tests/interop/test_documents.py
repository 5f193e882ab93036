"""Every command in the documents works, for a reader who types them in order; see documents.py for how they are read."""

import re

import pytest

import documents
from documents import DOCUMENTS, Missing, Reader, anchors, fences, links, name_of
from conftest import ROOT

# What cannot be typed here: the first line of each such block, and why. A block that is not listed is run.
NOT_RUN = {
    "README.md": {
        "./scripts/test      # installs what the tests need and runs everything; --full for ten times as much":
            "it is what runs this",
        "./scripts/bench          # installs what it needs, prints a table, writes docs/performance.md; --quick, --full, --help":
            "it takes minutes and would measure a machine that does something else",
    },
    "docs/operations.md": {
        "from standardwebhooks import Webhook": "a part of the reader's own receiver; test_alarms.py has one like it",
    },
    "docs/deploy.md": {
        "cd deploy/compose && mkdir -m 0700 secrets": "it needs Docker",
        "openssl rand -base64 32 > kek                        # keep a copy elsewhere": "it needs a Kubernetes cluster",
    },
    "deploy/README.md": {
        "install -m 0755 target/release/keydesk /usr/local/bin/": "it installs into this machine",
        "KEYDESK_KEK__FILE=/etc/keydesk/kek keydesk --data-dir /var/lib/keydesk user list":
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
