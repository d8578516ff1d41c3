"""Lays out everything that a container needs besides the kernel: `python image_root.py UNPACKED ROOT`.

The image is this folder and nothing else (deploy/Dockerfile), and the tests run the program in it with nothing else
around it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import certifi

USER: Final = 65532  # "nonroot" in other images without a distribution
HOME: Final = (
    "var/lib/galaxy-mail"  # the one place that may be writable: an embedded Valkey's data, the stub's outbox
)
FILES: Final = {
    "etc/passwd": (
        f"root:x:0:0:root:/:/sbin/nologin\ngalaxy-mail:x:{USER}:{USER}:Galaxy Mail:/{HOME}:/sbin/nologin\n"
    ),
    "etc/group": f"root:x:0:\ngalaxy-mail:x:{USER}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
FOLDERS: Final = (
    "dev",
    "etc",
    "proc",
    "run",
    "sys",
    "tmp",
    HOME,
)  # what a runtime mounts on must exist in a root that is read-only


def main(unpacked: Path, root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    for name in FOLDERS:
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    program = root / "opt" / "galaxy-mail"
    shutil.copytree(unpacked, program, symlinks=True)
    (program / "galaxy-mail-unpacked").rename(program / "galaxy-mail")
    in_path = root / "usr" / "bin" / "galaxy-mail"
    in_path.parent.mkdir(parents=True)
    in_path.symlink_to("../../opt/galaxy-mail/galaxy-mail")
    for library in libraries(program):
        copy = root / library.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, copy)  # what a link points to
    for name, text in FILES.items():
        (root / name).write_text(text)
    roots = root / "etc" / "ssl" / "certs" / "ca-certificates.crt"
    roots.parent.mkdir(parents=True)
    shutil.copy(certifi.where(), roots)


def libraries(program: Path) -> set[Path]:
    """What the program's files are linked against and that isn't among them: the C library and its dynamic linker."""
    starter = str(
        program / "galaxy-mail"
    )  # it has to run before it can tell where the other ones' libraries are
    others = [path for path in elf_files(program) if path != starter]
    found = linked([starter]) | linked(others, LD_LIBRARY_PATH=str(program / "_internal"))
    return {path for path in found if not path.is_relative_to(program)}


def linked(files: list[str], **variables: str) -> set[Path]:
    asked = subprocess.run(  # noqa: S603  # our own files
        ["ldd", *files],  # noqa: S607  # wherever this system has it
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,  # it is not content with files that are linked against nothing
    )
    found = set()
    for line in asked.stdout.splitlines():
        name, _, place = line.strip().partition(" => ")
        path = (place or name).split(" (")[0].strip()
        if path == "not found":
            raise SystemExit(f"image_root: a library is missing here: {name}")
        if path.startswith("/") and not path.endswith(":"):
            found.add(Path(path))
    if not any(path.name.startswith("libc.") for path in found):
        raise SystemExit(f"image_root: ldd says nothing of a C library:\n{asked.stdout}{asked.stderr}")
    return found


def elf_files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield str(path.absolute())


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute())
