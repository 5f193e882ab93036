"""What is given to others: the program's own word about itself, its manual and completions, the Debian package on a fresh
Debian, the image in a container.

Package and image are made of one release build, which KEYDESK_RELEASE_BIN names. A fresh Debian comes from where apt on this
machine gets its packages.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import subprocess
import tarfile
import time

import pytest
import requests

from conftest import BINARY, FULL, ROOT, WORK, free_port

RELEASE = os.environ.get("KEYDESK_RELEASE_BIN")
KEY = "sk-proj-CANARY" + os.urandom(20).hex()
IS_ROOT = os.geteuid() == 0
NOBODY = 65532


def need(*programs):
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        assert not FULL, f"in the full form nothing is passed over: {' and '.join(missing)} missing"
        pytest.skip(f"{' and '.join(missing)} missing")


def run(*command, fails=False, **options):
    """A command that has to succeed, or to fail; what it printed."""
    options = {"capture_output": True, "text": True, "timeout": 900, **options}
    done = subprocess.run([str(part) for part in command], **options)
    assert (done.returncode != 0) == fails, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


# The program about itself.


def test_version_says_what_was_built():
    for binary in filter(None, [BINARY, RELEASE]):
        short = run(binary, "-V")
        assert re.fullmatch(r"keydesk \d+\.\d+\.\d+\n", short)
        first, *lines = run(binary, "--version").splitlines()
        facts = dict(re.fullmatch(r"(\w+): +(.+)", line).groups() for line in lines)
        assert first == short.strip()
        assert list(facts) == ["commit", "date", "rustc", "target", "engines"]
        assert facts["rustc"].startswith("rustc 1.") and facts["engines"] == "sqlite, postgres"
        assert re.fullmatch(r"\w+-\w+-linux-\w+, (static|dynamic), (release|debug)", facts["target"])


def test_a_release_names_its_commit():
    if not RELEASE:
        pytest.skip("KEYDESK_RELEASE_BIN names no release build")
    if subprocess.run(["git", "-C", ROOT, "rev-parse"], capture_output=True).returncode != 0:
        pytest.skip("this is no checkout")
    said = run(RELEASE, "--version")
    commit = re.search(r"^commit: +([0-9a-f]{12})(, changed since)?$", said, re.M)[1]
    day = run("git", "-C", ROOT, "log", "-1", "--date=format-local:%F", "--format=%cd", commit, env={**os.environ, "TZ": "UTC"})
    assert f"date:    {day.strip()}\n" in said
    assert ", static, release" in said


@pytest.fixture(scope="module")
def manual(tmp_path_factory):
    directory = tmp_path_factory.mktemp("manual") / "man1"
    assert f"pages are in {directory}" in run(BINARY, "man", directory)
    return directory


def test_every_command_has_a_page(manual):
    pages = {page.stem for page in manual.iterdir()}
    missing = []

    def walk(*command):
        text = run(BINARY, *command, "--help")
        if "-".join(["keydesk", *command]) not in pages:
            missing.append(command)
        _, _, commands = text.partition("\nCommands:\n")
        for name in re.findall(r"^  ([a-z][\w-]*)", commands.partition("\n\n")[0], re.M):
            if name != "help":
                walk(*command, name)

    walk()
    assert missing == [] and len(pages) > 50
    named = {name for page in manual.iterdir() for name in re.findall(r"keydesk(?:\\?-\w+)+(?=\(1\))", page.read_text())}
    assert {name.replace("\\", "") for name in named} <= pages


def test_the_pages_are_good_roff(manual):
    need("groff", "mandoc")
    for page in manual.iterdir():
        assert run("groff", "-ww", "-man", "-Tutf8", "-z", page) == ""
        lint = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True).stdout
        # A debug build has no date; a break more than is needed does no harm.
        serious = [line for line in lint.splitlines() if "skipping paragraph macro" not in line and "missing date" not in line]
        assert serious == []
    shown = run("mandoc", "-T", "utf8", manual / "keydesk-audit-verify.1")
    assert "keydesk audit verify" in re.sub(r".\x08", "", shown)


def test_bash_completes(tmp_path):
    need("bash")
    script = tmp_path / "keydesk"
    script.write_text(run(BINARY, "completions", "bash"))
    asked = 'COMP_WORDS=(keydesk audit ver); COMP_CWORD=2; _keydesk keydesk ver audit; echo "${COMPREPLY[@]}"'
    assert run("bash", "--norc", "-c", f"source {script}; {asked}") == "verify\n"


def test_fish_completes(tmp_path):
    need("fish")
    script = tmp_path / "keydesk.fish"
    script.write_text(run(BINARY, "completions", "fish"))
    home = {"HOME": "/nonexistent", "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    answer = run("fish", "--no-config", "-c", f'source {script}; complete --do-complete "keydesk audit ver"', env=home)
    assert answer.startswith("verify\t")


def test_zsh_completes(tmp_path):
    """In a terminal of its own: zsh completes nowhere else."""
    need("zsh")
    (tmp_path / "_keydesk").write_text(run(BINARY, "completions", "zsh"))
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe("zsh", ["zsh", "-f"], {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TERM": "dumb", "PS1": "ready> "})
    try:
        seen = ""

        def expect(text):
            nonlocal seen
            deadline = time.monotonic() + 60
            while text not in seen:
                assert select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0], seen
                seen += os.read(terminal, 4096).decode(errors="replace")
            seen = ""

        expect("ready> ")
        os.write(terminal, f"fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -u -d {tmp_path}/dump; echo set''up\n".encode())
        expect("setup")
        os.write(terminal, b"keydesk audit ver\t")
        expect("keydesk audit verify")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(terminal)


# The Debian package.


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The package, and one of an older version whose configuration reads otherwise."""
    if not RELEASE:
        pytest.skip("KEYDESK_RELEASE_BIN names no release build")
    need("dpkg-deb", "cargo")
    if not (shutil.which("cargo-deb") or (ROOT / "target" / "tools" / "bin" / "cargo-deb").exists()):
        pytest.skip("cargo-deb missing")
    directory = tmp_path_factory.mktemp("deb")
    run(ROOT / "scripts" / "deb", directory)
    [new] = directory.glob("keydesk_*.deb")
    old = directory / "old"
    run("dpkg-deb", "-R", new, old)
    for name, pattern, instead in [("DEBIAN/control", r"^Version: .*", "Version: 0.0.1-1"),
                                   ("etc/keydesk/keydesk.toml", r"\A", "# As it was.\n")]:
        text = (old / name).read_text()
        (old / name).write_text(re.sub(pattern, instead, text, count=1, flags=re.M))
    run("dpkg-deb", "--root-owner-group", "-b", "-Znone", old, directory / "old.deb")
    return new, directory / "old.deb"


def test_lintian_finds_no_error(package):
    need("lintian")
    found = subprocess.run(["lintian", "--no-cfg", "--allow-root", str(package[0])], capture_output=True, text=True).stdout
    assert [line for line in found.splitlines() if line.startswith("E:")] == []


def fresh_debian():
    """The least of a Debian, as a tar file: made once, from where apt on this machine gets its own."""
    name = dict(line.split("=", 1) for line in pathlib.Path("/etc/os-release").read_text().splitlines() if "=" in line)
    release = name.get("VERSION_CODENAME", "")
    made = WORK / f"debian-{release}.tar"
    if made.exists():
        return made
    need("mmdebstrap", "apt-get")
    origins = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(ORIGIN)", "Created-By: Packages")
    places = [place for place, suite, origin in (line.split(" ", 2) for line in origins.splitlines())
              if suite == release and origin == "Debian"]
    if not places:
        pytest.skip("apt on this machine knows no Debian")
    options = [line.rstrip(";").replace('"', "") for line in run("apt-config", "dump", "Acquire").splitlines()
               if re.match(r"Acquire::https?::(?!User-Agent)\S+ ", line)]
    options = [f"--aptopt={' '.join([line.split(' ', 1)[0], chr(34) + line.split(' ', 1)[1] + chr(34)])}" for line in options]
    part = made.with_suffix(".part.tar")
    done = subprocess.run(["mmdebstrap", "--variant=minbase", *options, release, part, places[0]],
                          capture_output=True, text=True, timeout=1200)
    if done.returncode != 0:
        pytest.skip(f"no fresh Debian: {done.stderr.splitlines()[-1:]}")
    part.rename(made)
    return made


class Machine:
    """A fresh Debian in a directory, without an init system: what its unit says is done by hand."""

    def __init__(self, root):
        self.root, self.port, self.process = root, free_port(), None
        self.url = f"http://127.0.0.1:{self.port}"

    def path(self, path):
        return self.root / path.strip("/")

    def command(self, *command):
        """As root in there, with a /proc of its own, which ends with the command."""
        inside = 'mount -t proc proc "$1/proc" && root=$1 && shift && exec chroot "$root" "$@"'
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", inside, "sh", str(self.root), *map(str, command)]

    def run(self, *command, **options):
        return run(*self.command(*command), **{"env": {"PATH": os.environ["PATH"], "DEBIAN_FRONTEND": "noninteractive"}, **options})

    def dpkg(self, *arguments, package=None):
        if package:
            shutil.copyfile(package, self.path("/tmp/it.deb"))
            arguments = (*arguments, "/tmp/it.deb")
        return self.run("dpkg", *arguments, stdin=subprocess.DEVNULL)

    def unit(self):
        lines = self.path("/usr/lib/systemd/system/keydesk.service").read_text().splitlines()
        return [tuple(line.split("=", 1)) for line in lines if "=" in line and not line.startswith("#")]

    def start(self):
        """As systemd would: the credential, the user, the environment, the command."""
        settings = dict(self.unit())
        given = self.path("/run/credentials/keydesk.service")
        given.mkdir(parents=True, exist_ok=True)
        name, source = settings["LoadCredential"].split(":")
        (given / name).write_bytes(self.path(source).read_bytes())
        self.run("sh", "-c", f"chown -R {settings['User']} /run/credentials/keydesk.service && chmod 0400 /run/credentials/keydesk.service/*")
        environment = [value.replace("%d", "/run/credentials/keydesk.service") for key, value in self.unit() if key == "Environment"]
        user = ["setpriv", f"--reuid={settings['User']}", f"--regid={settings['Group']}", "--clear-groups", "--no-new-privs"]
        command = self.command("env", "-i", *environment, *user, *settings["ExecStart"].split())
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def health(self, **options):
        return self.run("keydesk", "--config", "/etc/keydesk/keydesk.toml", "health", **options)

    def wait(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{self.url}/health/ready", timeout=5).status_code == 200:
                    return
            time.sleep(0.1)
        self.process.kill()
        raise AssertionError(f"not ready:\n{self.process.communicate()[0].decode()}")

    def stop(self):
        """SIGTERM to the server itself, not to what has put it there."""
        [child] = run("pgrep", "-P", self.process.pid).split()
        os.kill(int(child), signal.SIGTERM)
        self.process.communicate(timeout=60)
        return self.process.returncode

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def machine(tmp_path):
    if not IS_ROOT:
        pytest.skip("a fresh Debian needs root")
    need("unshare", "setpriv", "chroot")
    source = fresh_debian()
    root = tmp_path / "root"
    root.mkdir()
    run("tar", "-C", root, "-xf", source)
    made = Machine(root)
    if subprocess.run(made.command("true"), capture_output=True).returncode != 0:
        pytest.skip("no namespaces here")
    yield made
    made.close()


def first_key(url, password):
    """What a newcomer does: log in, fetch."""
    form = {"grant_type": "password", "username": "admin", "password": password}
    token = requests.post(f"{url}/token", data=form, timeout=60).json()["access_token"]
    return requests.get(f"{url}/llm-keys", headers={"Authorization": f"Bearer {token}"}, timeout=60).json()


def mode(path):
    return path.stat().st_mode & 0o777


def test_a_fresh_debian_serves_the_first_key(package, machine):
    new, old = package
    said = machine.dpkg("-i", package=old)
    assert "/var/lib/keydesk/admin-password" in said and "/etc/keydesk/kek" in said
    user = machine.run("id", "-u", "keydesk").strip()
    group = machine.run("id", "-g", "keydesk").strip()
    conf, kek, data = map(machine.path, ["/etc/keydesk/keydesk.toml", "/etc/keydesk/kek", "/var/lib/keydesk"])
    assert (mode(conf), conf.stat().st_uid, str(conf.stat().st_gid)) == (0o640, 0, group)
    assert (mode(kek), kek.stat().st_uid) == (0o600, 0)
    assert (mode(data), str(data.stat().st_uid)) == (0o700, user)
    assert machine.path("/etc/systemd/system/multi-user.target.wants/keydesk.service").is_symlink(), "it is enabled"

    # What the administrator changes stays theirs.
    conf.write_text(conf.read_text().replace("127.0.0.1:8000", f"127.0.0.1:{machine.port}"))
    before = kek.read_bytes()
    machine.start()
    machine.wait()
    assert "ready" in machine.health()
    password = data / "admin-password"
    assert (mode(password), str(password.stat().st_uid)) == (0o600, user)
    machine.run("keydesk", "--config", "/etc/keydesk/keydesk.toml", "key", "set", "openai", input=KEY)
    assert first_key(machine.url, password.read_text().strip()) == {"openai": KEY}
    assert machine.stop() == 0
    machine.health(fails=True)

    # An update: the configuration differs on both sides, and nobody is there to be asked.
    machine.dpkg("--force-confold", "-i", package=new)
    assert str(machine.port) in conf.read_text() and "As it was" in conf.read_text()
    assert conf.with_suffix(".toml.dpkg-dist").exists()
    assert kek.read_bytes() == before and mode(conf) == 0o640
    machine.start()
    machine.wait()
    assert first_key(machine.url, password.read_text().strip()) == {"openai": KEY}
    assert machine.stop() == 0

    # Removed, and then purged: the settings go, the keys stay.
    machine.dpkg("-r", "keydesk")
    assert conf.exists() and not machine.path("/usr/bin/keydesk").exists()
    said = machine.dpkg("-P", "keydesk")
    assert "/var/lib/keydesk is kept" in said and "/etc/keydesk/kek is kept" in said
    assert not conf.exists() and kek.read_bytes() == before and (data / "keydesk.db").exists()

    # Installed again it finds what it had; a key-encryption key that is missing is not replaced by one that is wrong.
    kek.rename(kek.with_name("elsewhere"))
    machine.dpkg("-i", package=new)
    assert not kek.exists()


def test_the_unit_in_the_package_is_one_that_systemd_reads(package, tmp_path):
    need("systemd-analyze")
    run("dpkg-deb", "-x", package[0], tmp_path)
    unit = tmp_path / "usr/lib/systemd/system/keydesk.service"
    assert "ExecStart=/usr/bin/keydesk serve" in unit.read_text()
    unit.write_text(unit.read_text().replace("/usr/bin/", f"{tmp_path}/usr/bin/"))
    done = subprocess.run(["systemd-analyze", "--man=no", "verify", unit], capture_output=True, text=True, timeout=60)
    assert [line for line in done.stderr.splitlines() if "keydesk.service" in line] == []


# The image.


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    if not RELEASE:
        pytest.skip("KEYDESK_RELEASE_BIN names no release build")
    if not pathlib.Path("/etc/ssl/certs/ca-certificates.crt").exists():
        pytest.skip("ca-certificates missing")
    out = tmp_path_factory.mktemp("image") / "keydesk.oci.tar"
    run(ROOT / "scripts" / "image", out)
    return out


@pytest.fixture(scope="module")
def layout(image):
    """The archive, unpacked: an OCI image layout."""
    directory = image.with_name("layout")
    with tarfile.open(image) as tar:
        tar.extractall(directory, filter="data")
    return directory


def blob(layout, descriptor):
    data = (layout / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes()
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == descriptor["digest"] and len(data) == descriptor["size"]
    return data


def config_of(layout):
    [manifest] = json.loads((layout / "index.json").read_text())["manifests"]
    manifest = json.loads(blob(layout, manifest))
    for layer in manifest["layers"]:
        blob(layout, layer)
    return json.loads(blob(layout, manifest["config"]))


def test_the_same_source_gives_the_same_image(image, tmp_path):
    run(ROOT / "scripts" / "image", tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == image.read_bytes()


def test_other_tools_read_the_image(image):
    need("skopeo")
    for form in ("oci-archive", "docker-archive"):
        seen = json.loads(run("skopeo", "inspect", f"{form}:{image}"))
        assert seen["Os"] == "linux" and len(seen["Layers"]) == 1
        assert seen["Labels"]["org.opencontainers.image.title"] == "keydesk"


def test_the_image_is_what_the_dockerfile_says(layout, tmp_path):
    """The second part of the Dockerfile, by a builder that is not ours; its first part, the compiler's image, cannot be
    fetched in a test."""
    need("buildah", "skopeo")
    if not IS_ROOT:
        pytest.skip("buildah without root has needs of its own")
    stage = tmp_path / "stage"
    for directory in ("keydesk/target", "keydesk/deploy", "etc/ssl/certs"):
        (stage / directory).mkdir(parents=True)
    shutil.copytree(ROOT / "target" / "image", stage / "keydesk/target/image", ignore=shutil.ignore_patterns("*.tar"))
    shutil.copytree(ROOT / "deploy" / "image", stage / "keydesk/deploy/image")
    shutil.copyfile("/etc/ssl/certs/ca-certificates.crt", stage / "etc/ssl/certs/ca-certificates.crt")
    _, last = re.split(r"(?=^FROM scratch$)", (ROOT / "Dockerfile").read_text(), flags=re.M)
    (tmp_path / "Dockerfile").write_text(last)
    store = ["buildah", "--root", tmp_path / "root", "--runroot", tmp_path / "run", "--storage-driver", "vfs"]
    run(*store, "bud", "--isolation", "chroot", "--format", "docker", "--build-context", f"build={stage}", "--tag", "keydesk",
        "--file", tmp_path / "Dockerfile", tmp_path)
    run(*store, "push", "--format", "v2s2", "keydesk", f"docker-archive:{tmp_path}/theirs.tar")
    theirs = json.loads(run("skopeo", "inspect", "--config", f"docker-archive:{tmp_path}/theirs.tar"))
    raw = json.loads(run("skopeo", "inspect", "--config", "--raw", f"docker-archive:{tmp_path}/theirs.tar"))
    ours = config_of(layout)["config"]
    for key in ("User", "Env", "Entrypoint", "Cmd", "Volumes", "ExposedPorts", "StopSignal"):
        assert ours[key] == theirs["config"][key], key
    assert ours["Healthcheck"] == raw["config"]["Healthcheck"]
    assert theirs["config"]["Labels"].items() >= {k: v for k, v in ours["Labels"].items() if not k.endswith("version")}.items()
    [their_layer] = [name for name in tarfile.open(tmp_path / "theirs.tar").getnames() if re.fullmatch(r"[0-9a-f]{64}\.tar", name)][-1:]
    with tarfile.open(tmp_path / "theirs.tar") as tar, tarfile.open(fileobj=tar.extractfile(their_layer)) as layer:
        there = {entry.name.strip("/"): (entry.uid, entry.mode & 0o777) for entry in layer if entry.isfile()}
    [manifest] = json.loads((layout / "index.json").read_text())["manifests"]
    packed = json.loads(blob(layout, manifest))["layers"][0]["digest"].replace(":", "/")
    with tarfile.open(layout / "blobs" / packed) as layer:
        assert {entry.name: (entry.uid, entry.mode & 0o777) for entry in layer if entry.isfile()} == there


def test_the_dockerfile_takes_along_all_that_is_compiled(tmp_path):
    """Its first part is not built here; so that it has what it needs is looked at file by file."""
    need("cargo")
    build, _ = re.split(r"(?=^FROM scratch$)", (ROOT / "Dockerfile").read_text(), flags=re.M)
    for line in re.findall(r"^COPY (.+)$", build, re.M):
        *sources, place = line.split()
        for source in map(ROOT.joinpath, sources):
            if source.is_dir():
                shutil.copytree(source, tmp_path / place, symlinks=True)
            else:
                (tmp_path / place).mkdir(exist_ok=True)
                shutil.copy2(source, tmp_path / place)
    run("cargo", "metadata", "--no-deps", "--offline", "--format-version=1", "--manifest-path", tmp_path / "Cargo.toml")
    assert os.access(tmp_path / "scripts" / "release", os.X_OK)
    for source in (tmp_path / "src").rglob("*.rs"):
        code = "" if source.name == "tests.rs" else source.read_text().partition("#[cfg(test)]")[0]
        for path in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', code):
            assert (source.parent / path).exists(), f"{source} includes {path}"


@pytest.fixture
def container(layout, tmp_path):
    """How to run a command in the image: as its user, its root read-only, /data a volume."""
    if not IS_ROOT:
        pytest.skip("a container needs root here")
    need("umoci", "runc")
    [tag] = json.loads((layout / "index.json").read_text())["manifests"]
    bundle = tmp_path / "bundle"
    run("umoci", "unpack", "--image", f"{layout}:{tag['annotations']['org.opencontainers.image.ref.name']}", bundle)
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o700)
    os.chown(volume, NOBODY, NOBODY)
    spec = json.loads((bundle / "config.json").read_text())
    spec["root"]["readonly"] = True
    spec["process"].update(terminal=False, noNewPrivileges=True)
    spec["process"]["capabilities"] = {}
    # The network is ours, so that it can be asked; the machine's control groups and devices are none of its business.
    spec["linux"] = {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]}
    spec["mounts"] = [{"destination": "/proc", "type": "proc", "source": "proc"},
                      {"destination": "/data", "type": "bind", "source": str(volume), "options": ["bind", "rw"]}]
    started = []

    def start(name, *arguments, **settings):
        place = tmp_path / name
        place.mkdir()
        process = {**spec["process"], "args": ["/keydesk", *arguments]}
        process["env"] = spec["process"]["env"] + [f"{key}={value}" for key, value in settings.items()]
        root = {**spec["root"], "path": str(bundle / "rootfs")}
        (place / "config.json").write_text(json.dumps({**spec, "process": process, "root": root}))
        child = subprocess.Popen(["runc", "--root", tmp_path / "state", "run", "--bundle", place, name],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append((name, child))
        return child

    probe = start("probe", "-V")
    said, _ = probe.communicate(timeout=60)
    if probe.returncode != 0 and "keydesk" not in said.replace(str(tmp_path), ""):
        pytest.skip(f"runc cannot run here: {said.strip()}")
    assert probe.returncode == 0, said
    yield start, bundle, volume
    for name, child in started:
        subprocess.run(["runc", "--root", tmp_path / "state", "delete", "--force", name], capture_output=True)
        child.kill()
        child.wait()


def test_the_image_serves_the_first_key(container, layout):
    start, bundle, volume = container
    config = config_of(layout)["config"]
    assert config["User"] == f"{NOBODY}:{NOBODY}" and config["Healthcheck"]["Test"] == ["CMD", "/keydesk", "health"]
    size = sum(path.lstat().st_size for path in (bundle / "rootfs").rglob("*") if not path.is_dir())
    assert size < 40_000_000, size

    port = free_port()
    here = {"KEYDESK_SERVER__LISTEN": f"127.0.0.1:{port}"}
    server = start("desk", "serve", **here, OPENAI_API_KEY=KEY)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
    while True:
        with contextlib.suppress(requests.ConnectionError):
            if requests.get(f"{url}/health/ready", timeout=5).status_code == 200:
                break
        assert server.poll() is None and time.monotonic() < deadline, server.communicate(timeout=5)[0]
        time.sleep(0.1)
    health = start("health", "health", **here)
    assert "ready" in health.communicate(timeout=60)[0] and health.returncode == 0
    assert first_key(url, (volume / "admin-password").read_text().strip()) == {"openai": KEY}
    status = pathlib.Path(f"/proc/{run('pgrep', '-P', server.pid).split()[0]}/status").read_text()
    assert re.search(rf"^Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}$", status, re.M)
    assert re.search(r"^CapEff:\t0+$", status, re.M)

    os.kill(int(run("pgrep", "-P", server.pid).split()[0]), signal.SIGTERM)
    said, _ = server.communicate(timeout=60)
    assert server.returncode == 0 and KEY not in said
    stopped = start("again", "health", **here)
    assert stopped.communicate(timeout=60)[0] and stopped.returncode == 1


def test_without_a_word_about_the_network_the_image_does_not_serve(container):
    """Its own configuration listens to everybody, which needs a certificate or the operator's word."""
    start, _, volume = container
    said, _ = (child := start("desk", "serve")).communicate(timeout=60)
    assert child.returncode == 1 and "insecure_listen" in said and list(volume.iterdir()) == []
