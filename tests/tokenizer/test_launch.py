"""The command under a launcher of several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dasrec.cli.config import load_run_config
from dasrec.cli.pipeline import Run

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
SETTINGS = [
    "synthetic.num_users=60",
    "synthetic.num_items=40",
    "embed.lsa.dim=8",
    "ranking=null",
    "generator=null",
    "baselines={}",
    "tokenizers={das: {method: das, level_sizes: [8, 4], hidden: [16], epochs: 2, "
    "continuous_epochs: 1}}",
]


def run_stages(out: Path, *stages: str) -> None:
    Run(load_run_config(CONFIG, SETTINGS), out, only=set(stages)).execute()


def test_two_processes_make_one_tokenizer(tmp_path: Path) -> None:
    run_stages(tmp_path / "run", "prepare", "embed")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = ["-m", "dasrec.cli.main", "tokenize", str(CONFIG), *SETTINGS]
    done = subprocess.run(
        [*launcher, *command, "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("tokenizers/das: done") == 1  # one of them tells the story
    lines = (tmp_path / "run/tokenizers/das/metrics.jsonl").read_text().splitlines()
    run_stages(tmp_path / "alone", "prepare", "embed", "tokenize")
    alone = (tmp_path / "alone/tokenizers/das/metrics.jsonl").read_text().splitlines()
    for one, two in zip(map(json.loads, lines), map(json.loads, alone), strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-5)
    assert "tokenizers/das" in json.loads((tmp_path / "run/seconds.json").read_text())
    run_stages(tmp_path / "run", "tokenize", "assign")  # up to date, and the artifact is whole


def test_other_stages_refuse_a_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="prepare: runs in one process, got 2"):
        run_stages(tmp_path, "prepare")
