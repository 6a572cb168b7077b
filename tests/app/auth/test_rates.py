"""How often one caller may ask."""

import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from app.auth import rates
from app.auth.keys import KeyFile
from app.auth.rates import RateLimiter
from app.errors import RateLimitedError
from app.main import create_app
from app.settings import Settings, SettingsError, read_settings
from index.answering.attribution import Attributor
from tests.app.conftest import CheckProblem


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def admitted(limiter: RateLimiter, caller: str, rate: str | None = None) -> bool:
    try:
        limiter.admit(caller, rate)
    except RateLimitedError:
        return False
    return True


def test_without_a_rate_nothing_is_counted() -> None:
    assert all(admitted(RateLimiter(None), "a") for _ in range(1000))


def test_each_caller_has_a_window_of_its_own() -> None:
    limiter = RateLimiter("3/hour")
    assert [admitted(limiter, "a") for _ in range(5)] == [True] * 3 + [False] * 2
    assert admitted(limiter, "b")


def test_a_caller_s_own_rate_goes_before_the_default() -> None:
    limiter = RateLimiter("1/hour")
    assert [admitted(limiter, "a", "2/hour") for _ in range(3)] == [True, True, False]


def test_retry_after_is_when_the_next_is_admitted_and_not_sooner(clock: Clock) -> None:
    limiter = RateLimiter("2/2second", clock=clock)
    limiter.admit("a")
    clock.now += 0.6
    limiter.admit("a")
    with pytest.raises(RateLimitedError) as caught:
        limiter.admit("a")
    assert caught.value.retry_after == 2  # 1.4 s until the first leaves the window
    clock.now += 1.0
    assert not admitted(limiter, "a")
    clock.now += 0.6
    assert admitted(limiter, "a")
    assert not admitted(limiter, "a")  # the second is in the window still


def test_callers_that_are_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(rates, "SWEEP", 100)
    limiter = RateLimiter("1/second", clock=clock)
    for number in range(99):
        limiter.admit(f"address {number}")
    clock.now += 1.1
    limiter.admit("late")
    assert len(limiter._leaving) == 1


def test_a_system_clock_that_is_set_back_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    limiter = RateLimiter("1/second", clock=clock)
    limiter.admit("a")
    hour_back = time.time() - 3600
    monkeypatch.setattr(time, "time", lambda: hour_back)
    with pytest.raises(RateLimitedError) as caught:
        limiter.admit("a")
    assert caught.value.retry_after == 1
    clock.now += 1.1
    limiter.admit("a")


def test_callers_that_are_still_in_their_window_are_not_forgotten(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(rates, "SWEEP", 1)
    limiter = RateLimiter("1/minute", clock=clock)
    limiter.admit("a")
    clock.now += 59.5
    for number in range(3):
        limiter.admit(f"address {number}")
    with pytest.raises(RateLimitedError) as caught:
        limiter.admit("a")
    assert caught.value.retry_after == 1  # whole seconds, and never none


@pytest.mark.parametrize("rate", ["0/minute", "1000000001/minute", "5 per 367 days"])
def test_a_rate_that_cannot_be_kept_is_refused(rate: str) -> None:
    with pytest.raises(ValidationError, match=r"1 to 1,000,000,000 requests in at most a year"):
        Settings(rate_limit=rate)


def test_the_largest_rates_are_kept() -> None:
    for rate in ("1/second", "1000000000 per 366 days"):
        assert Settings(rate_limit=rate).rate_limit == rate


@pytest.mark.parametrize("rate", ["often", "600", "10 per fortnight", "-1/minute"])
def test_a_rate_that_is_none_is_refused(rate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHENCE_RATE_LIMIT", rate)
    with pytest.raises(SettingsError, match=r"WHENCE_RATE_LIMIT.*600/minute"):
        read_settings()


def test_an_empty_rate_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHENCE_RATE_LIMIT", "")
    assert Settings().rate_limit is None


# The server


def test_a_caller_that_asks_too_often_is_told_when_to_come_back(
    attributor: Attributor, tmp_path: Path, check_problem: CheckProblem
) -> None:
    app = create_app(Settings(data=tmp_path, rate_limit="2/minute"), attributor)
    with TestClient(app, client=("192.0.2.1", 1)) as client:
        assert [client.get("/concepts").status_code for _ in range(2)] == [200, 200]
        response = client.get("/concepts")
        check_problem(response, 429, "rate-limited")
        assert 55 <= int(response.headers["retry-after"]) <= 60
        assert client.get("/health/live").status_code == 200
        with TestClient(app, client=("192.0.2.2", 1)) as other:
            assert other.get("/concepts").status_code == 200


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff", True),  # one host has all of its /64
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("nonsense", "other nonsense", True),
    ],
)
def test_who_counts_as_one_caller(
    attributor: Attributor, tmp_path: Path, first: str, second: str, same: bool
) -> None:
    app = create_app(Settings(data=tmp_path, rate_limit="1/minute"), attributor)
    with TestClient(app, client=(first, 1)) as client:
        assert client.get("/concepts").status_code == 200
        with TestClient(app, client=(second, 1)) as other:
            assert other.get("/concepts").status_code == (429 if same else 200)


def test_each_key_has_its_own_rate_or_the_servers(attributor: Attributor, tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    plain, slow, other = file.add("plain"), file.add("slow", rate="1/hour"), file.add("other")
    app = create_app(Settings(data=tmp_path, rate_limit="2/hour"), attributor)
    with TestClient(app) as client:

        def statuses(token: str) -> list[int]:
            headers = {"Authorization": f"Bearer {token}"}
            return [client.get("/concepts", headers=headers).status_code for _ in range(3)]

        assert statuses(plain) == [200, 200, 429]
        assert statuses(slow) == [200, 429, 429]
        assert statuses(other) == [200, 200, 429]
        assert statuses("wrong") == [401, 401, 401]
