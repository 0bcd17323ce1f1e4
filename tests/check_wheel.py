"""Fail unless the wheel installs exactly one top-level name and every source file."""

import sys
import zipfile
from pathlib import Path

root = Path(__file__).parent.parent
names = [n for n in zipfile.ZipFile(sys.argv[1]).namelist() if ".dist-info/" not in n]
folders = ["core", "tokenizer", "generative", "ranking", "baselines", "eval"]
want = {str(p.relative_to(root / f)) for f in folders for p in (root / f).rglob("*.py")}
assert {n.split("/")[0] for n in names} == {"dasrec"}, names
assert want == {n for n in names if n.endswith(".py")}, want ^ set(names)
