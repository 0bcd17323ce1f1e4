"""Generator and decoding on a GPU, in one call that stops in time and goes on when given again.

    python -m benchmarks.gpu --data PATH --out runs/gpu --minutes 9

PATH is the Beauty folder of configs/amazon_beauty.yaml. What is finished is not repeated: stages
skip what is up to date, training resumes from its last checkpoint, and recorded steps are left out.
"""

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

from dasrec.cli.config import load_run_config

CONFIG = Path("configs/generator_beauty_large.yaml")
GRACE = 20.0
"""Seconds for an interrupted step to end."""


def steps(data: Path, out: Path, record: Path) -> dict[str, list[str]]:
    """Commands by name, the most wanted first."""
    speed = [
        "benchmarks.training", "--data", str(out), "--device", "cuda", "--width", "512",
        "--layers", "12", "--batch-size", "128", "--peer-batches", "64", "256", "1024",
        "--out", "benchmarks/results/training_gpu.json",
    ]  # fmt: skip
    decoding = ["benchmarks.decoding_gpu"]  # keeps what it has measured when it is stopped
    run = ["dasrec.cli.main", "run", str(CONFIG), "--data", str(data), "--out", str(out)]
    told = ["--record", str(record), "--topic", "generator"]
    variants = load_run_config(CONFIG).all_generators
    first, *others = ([*run, "--generator", name, *told] for name in variants)
    named = dict(zip(variants, [first, *others], strict=True))
    start = next(iter(named))
    return {start: named.pop(start), "speed": speed, "decoding": decoding, **named}


def call(arguments: list[str], seconds: float) -> bool:
    """Run a module; whether it came to its end in time.

    Raises:
        RuntimeError: it failed.
    """
    process = subprocess.Popen([sys.executable, "-m", *arguments])
    try:
        code = process.wait(timeout=max(seconds, 1))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
        return False
    if code:
        raise RuntimeError(f"python -m {' '.join(arguments)}: exit code {code}")
    return True


def main() -> None:
    """Go on where the last call stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="raw Beauty data")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="run directory")
    parser.add_argument("--record", type=Path, default=Path("docs/results"))
    parser.add_argument("--minutes", type=float, default=9.0, help="until this call must be over")
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes - GRACE
    args.out.mkdir(parents=True, exist_ok=True)
    for name, arguments in steps(args.data, args.out, args.record).items():
        mark = args.out / f"{name}.done"
        if mark.exists():
            continue
        if not call(arguments, deadline - time.monotonic()):
            sys.stderr.write(f"{name}: out of time; give the same command again to go on\n")
            sys.exit(3)
        mark.touch()
    sys.stderr.write("all steps are done\n")


if __name__ == "__main__":
    main()
