"""What the benchmarks' verdicts rest on; what they measure is no matter of a test."""

import pytest
import torch

from tests.benchmarks import cuda_serving, proxy_flood
from tests.benchmarks.load import Asked, Tally, merged, reached


def test_without_a_cuda_device_its_benchmark_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["cuda_serving"])
    assert cuda_serving.main() == cuda_serving.NO_DEVICE
    assert "there is no CUDA device" in capsys.readouterr().err


def test_latency_runs_from_when_a_request_was_due() -> None:
    report = Tally([Asked(200, due=1.0, sent=1.5, ended=1.75)]).report()
    assert report["p99_ms"] == 750
    assert report["sent_late_p99_ms"] == 500
    assert report["drain_seconds"] == 0.25


def test_a_client_that_falls_behind_is_noticed() -> None:
    prompt = [Asked(200, due=n / 10, sent=n / 10, ended=n / 10) for n in range(101)]
    late = [Asked(429, due=n / 10, sent=n / 8, ended=n / 8) for n in range(101)]
    assert reached(Tally(prompt).report())
    assert not reached(merged([Tally(prompt), Tally(late)]).report())


def test_each_part_of_the_time_has_its_own_p99() -> None:
    asked = [Asked(200, due=n / 10, sent=n / 10, ended=n / 10 + n // 30) for n in range(90)]
    assert Tally(asked).report(parts=9)["p99_ms_by_third"] == [0, 1000, 2000]


def test_refusals_without_a_problem_are_counted() -> None:
    asked = [
        Asked(200, due=0, sent=0, ended=1),
        Asked(503, due=0, sent=0, ended=1, retry_after=True),
        Asked(429, due=0, sent=0, ended=1, problem=True),
        Asked(0, due=0, sent=0, ended=1),
    ]
    report = Tally(asked).report()
    assert report["refused_without_problem"] == 1
    assert report["refused_without_retry_after"] == 1
    flood = {**report, "statuses": {"200": 1, "429": 1}}
    faults = proxy_flood.missed(
        {
            "large_bodies": {"413 application/problem+json": 3},
            "one_address": {**flood, "refused_without_problem": 0},
            "many_addresses": {**flood, "refused_without_retry_after": 0},
            "restarts": {**report, "refused_without_problem": 0, "refused_without_retry_after": 0},
        }
    )
    assert faults == [
        "one_address: no Retry-After",
        "many_addresses: no problem",
        "restarts: other answers than 200, 429 and 503",
    ]
