import json
import time
from pathlib import Path

import torch
from benchmarks.decoding_gpu import Rows, run
from benchmarks.decoding_gpu_plan import OURS, STOCK, TINY, WORKLOADS, cases


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    device, path = torch.device("cpu"), tmp_path / "rows.json"
    wanted = list(cases(TINY, cuda=False))
    assert not run(TINY, Rows(path, device), device, time.monotonic() - 1)
    assert run(TINY, Rows(path, device), device, time.monotonic() + 60)
    rows = json.loads(path.read_text())["rows"]
    assert [(row["workload"], row["batch"], row["way"]) for row in rows] == wanted
    assert all(row["users_per_second"] > 0 for row in rows)
    ours = [row for row in rows if row["way"] in OURS]
    # bfloat16 on a batch of another layout rounds otherwise
    assert all(row["items_as_dynamic"] > 0.7 for row in ours)
    assert run(TINY, Rows(path, device), device, time.monotonic() - 1)  # nothing is left to do


def test_every_way_is_measured_on_a_gpu() -> None:
    rows = list(cases(WORKLOADS, cuda=True))
    assert len(rows) == len(set(rows))
    for name, workload in WORKLOADS.items():
        mine = [(batch, way) for model, batch, way in rows if model == name]
        assert {way for batch, way in mine if batch == 1} == {*OURS, *STOCK}
        assert {batch for batch, way in mine if way == "fixed, graph"} == set(workload.batches)
