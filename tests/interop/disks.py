"""File systems of our own, for a desk's data, that can be filled, broken and cut off. They need root and loop devices."""

import contextlib
import os
import pathlib
import subprocess

import pytest


def run(*command):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True)


def require(*command):
    done = run(*command)
    if done.returncode:
        pytest.skip(f"needs root and its own file systems: {' '.join(map(str, command))}: {done.stderr.strip()}")


@contextlib.contextmanager
def small(place, size):
    """A file system in memory, of so many bytes, at `place`."""
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    require("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", place)
    try:
        yield place
    finally:
        unmount(place)


class Image:
    """An ext4 file system in a file, mounted at `place`. What the file holds at a moment is what a power cut at that moment
    would leave: what was only written, and not synced, is in the kernel's memory and not in it."""

    def __init__(self, folder, place):
        self.folder, self.place = pathlib.Path(folder), place
        self.file = self.folder / "disk"

    def make(self):
        with self.file.open("wb") as file:
            file.truncate(64 << 20)
        require("mkfs.ext4", "-q", self.file)
        self.mount(self.file)
        os.chmod(self.place, 0o700)
        return self

    def mount(self, file):
        self.place.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Nothing is written back by the passing of time, only because somebody asked for it.
        require("mount", "-o", "loop,commit=300", file, self.place)

    def snapshot(self):
        """The disk as it is at this moment."""
        copy = self.folder / "cut"
        # As the file's own copy, so that its holes stay holes and this takes no time.
        assert run("cp", "--sparse=always", self.file, copy).returncode == 0
        return copy

    def replace(self, copy):
        """Mounts the copy in place of what is mounted."""
        unmount(self.place)
        copy.replace(self.file)
        self.mount(self.file)

    def close(self):
        if os.path.ismount(self.place):
            unmount(self.place)
        self.file.unlink(missing_ok=True)


def unmount(place):
    if run("umount", place).returncode:
        subprocess.run(["umount", "--lazy", place], check=True)
