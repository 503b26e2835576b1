"""The benchmark of requests beside a fit runs on a tiny scale."""

import json
import sys

import pytest

from benchmarks.beside_fit import Load, measure_fit_beside_serving

pytestmark = pytest.mark.acceptance


@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker's process in /proc")
def test_it_measures_a_real_service_idle_and_fitting() -> None:
    said: list[str] = []
    load = Load(rate=20, connections=2, seconds=1, rounds=2, shape=(60, 60, 900))
    report = measure_fit_beside_serving(load, on_progress=said.append)
    values = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert [one["requests"] for one in values["rounds"]] == [40, 40]
    assert all(0 < one["idle_p50"] <= one["idle_p99"] for one in values["rounds"])
    assert values["epochs_per_second"] > 0
    assert min(values["api_bytes"], values["worker_bytes"]) > 10_000_000
    [(_, columns, lines)] = report.tables()
    assert [line[0] for line in lines] == ["1", "2", "median"]
    assert all(len(line) == len(columns) for line in lines)
    assert len(said) == 3
