"""Builds the image that stands in for TGI's in the tests: the emulator behind `launcher.py`, under TGI's own image name.

There is no registry to pull a base image from, so the root file system is put together from this machine: the Python that runs this
script with the libraries it loads, a shell, and the packages that tgibench needs. Run it with `DOCKER_HOST` set to an engine::

    python tests/engine/build_image.py
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

import tgibench

BASE = "tgibench-emulator"
IMAGE = "ghcr.io/huggingface/text-generation-inference"
VERSIONS = ("1.0.3", "3.3.7")
LABEL = "tgibench.test-image"
SITE = "/opt/site"
LAUNCHER = Path(__file__).with_name("launcher.py")
NOT_NEEDED = {
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "pydoc_data",
}


def docker(*arguments, given=b""):
    """What the docker command prints."""
    done = subprocess.run(["docker", *arguments], input=given, capture_output=True, timeout=300, check=False)  # noqa: S607
    if done.returncode:
        raise SystemExit(f"docker {' '.join(arguments)}: {done.stderr.decode()}")
    return done.stdout.decode()


def needed_packages():
    """The distributions that tgibench needs, itself left out."""
    found, waiting = {}, ["tgibench"]
    while waiting:
        distribution = metadata.distribution(waiting.pop())
        for requirement in distribution.requires or ():
            name = re.match(r"[\w.-]+", requirement)[0]
            optional = "extra ==" in requirement
            if not optional and name not in found and installed(name):
                found[name] = metadata.distribution(name)
                waiting.append(name)
    return found.values()


def installed(name):
    """Whether it is here; a requirement of another Python version or system is not."""
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def wanted(path):
    return not NOT_NEEDED.intersection(path.parts) and not path.name.startswith("config-")


def site_files():
    """Pairs of a file and its place in the image: the packages, tgibench as it is imported here, and its metadata."""
    for distribution in needed_packages():
        for file in distribution.files or ():
            if not file.parts[0].startswith("..") and wanted(Path(*file.parts)):
                yield Path(file.locate()), f"{SITE}/{file.as_posix()}"
    package = Path(tgibench.__file__).parent
    for path in package.rglob("*"):
        if "__pycache__" not in path.parts and path.is_file():
            yield path, f"{SITE}/tgibench/{path.relative_to(package).as_posix()}"
    for file in metadata.distribution("tgibench").files or ():
        if file.parts[0].endswith(".dist-info"):
            yield Path(file.locate()), f"{SITE}/{file.as_posix()}"


def python_files():
    """The interpreter and its standard library, where they are here."""
    for folder, folders, names in os.walk(sysconfig.get_path("stdlib")):
        folders[:] = [name for name in folders if wanted(Path(name))]
        for name in names:
            if not name.endswith(".a"):
                yield Path(folder, name), str(Path(folder, name))
    yield Path(interpreter()), interpreter()


def interpreter():
    return str(Path(sys.executable).resolve())


def libraries(files):
    """The shared libraries that these files load, the loader included."""
    binaries = sorted(
        {
            str(path)
            for path, _ in files
            if path.suffix == ".so" or ".so." in path.name or path.name in {"sh", "dash", "rm"}
        }
    )
    done = subprocess.run(["ldd", interpreter(), *binaries], capture_output=True, text=True, check=False)  # noqa: S607
    found = set(re.findall(r"(/[^\s()]+\.so[^\s()]*) \(0x", done.stdout))
    return sorted(path for path in found if "-packages/" not in path)  # a package finds its own beside it


def root_file_system(target):
    """Write the tar of the image's files; the folders of its libraries."""
    files = [*python_files(), *site_files(), *((Path(f"/bin/{name}"), f"/bin/{name}") for name in ("sh", "rm"))]
    found = libraries(files)
    files += [(Path(path), path) for path in found]
    with tarfile.open(target, "w", dereference=True) as tar:
        for folder in ("tmp", "data", "proc", "sys", "dev", "etc"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        for place, path in {place: path for path, place in files}.items():
            if path.is_file():
                tar.add(path, arcname=place.lstrip("/"), recursive=False)
        script = f"#!{interpreter()} -u\n{LAUNCHER.read_text()}".encode()
        entry = tarfile.TarInfo("usr/local/bin/text-generation-launcher")
        entry.size, entry.mode = len(script), 0o755
        tar.addfile(entry, io.BytesIO(script))
    return sorted({str(Path(path).parent) for path in found})


def digest():
    """What the image is made from."""
    package = Path(tgibench.__file__).parent
    content = hashlib.sha256(interpreter().encode())
    for path in (*sorted(package.rglob("*.py")), LAUNCHER, Path(__file__)):
        content.update(path.read_bytes())
    return content.hexdigest()[:16]


def is_built(wanted_digest):
    for version in VERSIONS:
        done = subprocess.run(["docker", "image", "inspect", f"{IMAGE}:{version}"], capture_output=True, check=False)  # noqa: S607
        labels = json.loads(done.stdout)[0]["Config"]["Labels"] if done.returncode == 0 else {}
        if (labels or {}).get(LABEL) != wanted_digest:
            return False
    return True


def build():
    """Build every version, unless they are there already; of several callers at once one does it."""
    engine = hashlib.sha256(docker("info", "--format", "{{.ID}}").encode()).hexdigest()[:16]
    with (Path(tempfile.gettempdir()) / f"tgibench-image-{engine}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made_from = digest()
        if is_built(made_from):
            return
        with tempfile.TemporaryDirectory() as folder:
            archive = str(Path(folder) / "root.tar")
            folders = root_file_system(archive)
            docker(
                "import",
                *("--change", 'ENTRYPOINT ["/usr/local/bin/text-generation-launcher"]'),
                *("--change", f"ENV PATH=/usr/local/bin:/bin LD_LIBRARY_PATH={':'.join(folders)} PYTHONPATH={SITE}"),
                *("--change", f"LABEL {LABEL}={made_from}"),
                archive,
                BASE,
            )
        for version in VERSIONS:
            recipe = f"FROM {BASE}\nENV TGI_VERSION={version} PORT=80\nEXPOSE 80\n"
            docker("build", "--quiet", "--tag", f"{IMAGE}:{version}", "-", given=recipe.encode())


if __name__ == "__main__":
    build()
