"""Compares what the distributions hold with what git has: all of the package, and nothing else."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

LISTED = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "agent", "converter"]

sdist, wheel = map(Path, sys.argv[1:])
tracked = subprocess.run(LISTED, check=True, capture_output=True, text=True)
package = set(tracked.stdout.splitlines())
stem = wheel.name.split("-py3")[0]
metadata = {f"{stem}.dist-info/{n}" for n in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}
metadata.add(f"{stem}.dist-info/licenses/LICENSE")
about = {".gitignore", "LICENSE", "README.md", "pyproject.toml", "PKG-INFO"}

with zipfile.ZipFile(wheel) as archive:
    in_wheel = {name for name in archive.namelist() if not name.endswith("/")}
with tarfile.open(sdist) as archive:
    in_sdist = {member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()}
wrong = False
for name, found, expected in (
    (wheel.name, in_wheel, package | metadata),
    (sdist.name, in_sdist, package | about),
):
    for what, files in (("lacks", expected - found), ("holds besides", found - expected)):
        for file in sorted(files):
            print(f"{name} {what} {file}")
            wrong = True
print(f"{wheel.name}: {len(in_wheel)} files; {sdist.name}: {len(in_sdist)} files")
sys.exit(wrong)
