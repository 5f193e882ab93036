"""A PostgreSQL cluster of the tests' own, which may be hurt in every way: it is on a free port in a temporary directory, and
nobody else's.
"""

import base64
import contextlib
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

from conftest import free_port

USER = "keydesk_tests"


def program(name):
    """One of PostgreSQL's, which Debian keeps out of PATH."""
    versions = sorted(pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(versions[-1]) if versions else shutil.which(name)


class Cluster:
    def __init__(self):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="keydesk-postgres-"))
        self.data, self.log, self.port = self.home / "data", self.home / "log", free_port()
        # PostgreSQL does not run as root.
        self.prefix = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.getuid() == 0 else []
        if self.prefix:
            shutil.chown(self.home, "nobody", "nogroup")
        self.run("initdb", "--pgdata", self.data, "--username", USER, "--auth", "trust", "--encoding", "UTF8",
                 "--locale", "C.UTF-8", "--no-sync")
        with (self.data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n"
                "max_connections = 200\nfsync = on\nshared_buffers = 64MB\nlog_min_messages = warning\n"
                "log_line_prefix = '%m [%p] %a '\n")
        self.start()

    def run(self, name, *arguments):
        done = subprocess.run([*self.prefix, program(name), *map(str, arguments)], cwd=self.home, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
        assert done.returncode == 0, f"{name}: {done.stdout}"

    def control(self, what, *arguments):
        # Not through a pipe: the server would keep it open.
        done = subprocess.run([*self.prefix, program("pg_ctl"), what, "-D", self.data, "-w", "-l", self.log, *arguments],
                              cwd=self.home, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, timeout=120)
        assert done.returncode == 0, f"pg_ctl {what}: {self.log.read_text()[-2000:]}"

    def start(self):
        self.control("start")

    def stop(self, mode="fast"):
        self.control("stop", "-m", mode)

    def restart(self, mode="fast"):
        self.control("restart", "-m", mode)

    def close(self):
        with contextlib.suppress(AssertionError):
            self.resume()
            self.stop("immediate")
        shutil.rmtree(self.home, ignore_errors=True)

    # Databases.

    def query(self, text, database="postgres"):
        """The rows of a query, each a list of texts."""
        done = subprocess.run(
            [program("psql"), "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-qAtF", "\x1f", "-c", text, self.url(database)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return [line.split("\x1f") for line in done.stdout.splitlines()]

    def url(self, database, port=None, user=USER):
        return f"postgres://{user}@127.0.0.1:{port or self.port}/{database}"

    def create_database(self):
        name = f"faults_{secrets.token_hex(6)}"
        self.query(f"create database {name}")
        return name

    def create_role(self, database):
        """One whose connections can be limited."""
        name = f"few_{secrets.token_hex(4)}"
        self.query(f"create role {name} login")
        self.query(f"alter database {database} owner to {name}")
        return name

    def limit_connections(self, role, connections):
        """From now on it may have so many and no more; -1 is any number."""
        self.query(f"alter role {role} connection limit {connections}")
        self.query(f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}'")

    def idle_in_transaction(self, longer_than=0):
        """The transactions of keydesks that wait for their client."""
        return self.query(
            "select pid, now() - state_change, query from pg_stat_activity where application_name = 'keydesk' and "
            f"state like 'idle in transaction%' and state_change < clock_timestamp() - interval '{longer_than} s'")

    # Faults.

    def terminate_backends(self):
        """Every client's connection but the asking one's."""
        self.query("select pg_terminate_backend(pid) from pg_stat_activity "
                   "where backend_type = 'client backend' and pid <> pg_backend_pid()")

    def processes(self):
        postmaster = int((self.data / "postmaster.pid").read_text().split()[0])
        children = pathlib.Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        return [postmaster, *map(int, children)]

    def pause(self):
        """Everything hangs: connections are taken by the kernel, and nobody answers."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP)

    def resume(self):
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)

    def set_read_only(self, read_only):
        """As after a fail-over, when whoever is connected anew finds a node that does not write."""
        self.query(f"alter system set default_transaction_read_only = {'on' if read_only else 'off'}")
        self.query("select pg_reload_conf()")
        # Whoever connects before the server has read it would not see it.
        deadline = time.monotonic() + 10
        while self.query("show default_transaction_read_only") != [["on" if read_only else "off"]]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.terminate_backends()


@pytest.fixture(scope="session")
def cluster():
    running = Cluster()
    yield running
    running.close()


@pytest.fixture
def database(cluster):
    """An empty one."""
    return cluster.create_database()


class Desks:
    """Processes of one desk on one database, each with a data directory of its own and a copy of the key-encryption key, made
    known under one address."""

    def __init__(self, new_desk, url, count, front=None, **settings):
        kek = base64.b64encode(secrets.token_bytes(32)).decode()
        self.all = [new_desk(**{"RUST_LOG": "info", **settings}) for _ in range(count)]
        first = self.all[0]
        for desk in self.all:
            desk.keys, desk.service_api_key = first.keys, first.service_api_key
            desk.env |= {"DATABASE_URL": url, "SERVICE_API_KEY": first.service_api_key} | first.keys
            desk.plain_env |= {"DATABASE_URL": url, "RUST_LOG": "info"}
            if front:
                desk.env["KEYDESK_SERVER__PUBLIC_URL"] = front
            desk.data.mkdir(mode=0o700)
            (desk.data / "kek").write_text(kek + "\n")
            (desk.data / "kek").chmod(0o600)

    def start(self):
        for desk in self.all:
            desk.start()
        return self

    def __iter__(self):
        return iter(self.all)

    def __getitem__(self, number):
        return self.all[number]

    def alarms(self):
        return self.all[0].cli_json("alert", "list")

    def assert_sound(self):
        """The book is whole, and no process believes otherwise."""
        self.all[0].cli("audit", "verify")
        assert [alarm for alarm in self.alarms() if alarm["rule"] == "forged_book"] == []
        for desk in self.all:
            for log in desk.logs.glob("serve-*.log"):
                said = log.read_text(errors="replace")
                assert "panicked" not in said and "behind the desk's back" not in said and "forged" not in said, log
