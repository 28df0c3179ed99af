"""Copy the files of the project, without what was built, to another place.

    python tools/copy_tree.py TARGET [PATH…]

Files that did not change are left alone there, so that a second build is quick; files that are
gone here are removed there, except generated ones.
"""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILT = {".so", ".pyd", ".pyc", ".c", ".o", ".html"}
LEFT_OUT = {"build", "dist", "__pycache__", ".git", ".venv", ".hypothesis"}


def files(below: list[str]) -> list[Path]:
    """What belongs to the project: known to git or new, or everything in an unpacked sdist."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        done = subprocess.run([*command, "--", *below], cwd=ROOT, capture_output=True, check=True)
        names = [Path(name) for name in done.stdout.decode().split("\0") if name]
    else:
        names = [
            path.relative_to(ROOT)
            for name in (below or ["."])
            for path in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*"))
        ]
    return [
        name
        for name in names
        if not LEFT_OUT & set(name.parts)
        and (name.suffix not in BUILT or "native" in name.parts)
        and (ROOT / name).is_file()
    ]


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    target = Path(sys.argv[1]).resolve()
    wanted = set(files(sys.argv[2:]))
    if not wanted:
        print("there is nothing to copy", file=sys.stderr)
        return 1
    for name in wanted:
        goal = target / name
        if not goal.exists() or not filecmp.cmp(ROOT / name, goal, shallow=False):
            goal.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, goal)
            goal.touch()  # younger than what was made from an older one
    for path in list(target.rglob("*")):
        name = path.relative_to(target)
        stale = path.is_file() and name not in wanted and not LEFT_OUT & set(name.parts)
        if stale and path.suffix not in BUILT and not any(p.endswith(".egg-info") for p in name.parts):
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
