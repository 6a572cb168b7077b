"""Keys: made, kept, found, revoked; and the requests they let in."""

import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from app.auth import keys as keys_module
from app.auth.keys import KeyFile, KeyRing
from app.auth.security import require_closed
from app.errors import KeysError
from app.main import create_app
from app.settings import Settings
from index.answering.attribution import Attributor
from tests.app.cli.test_main import run
from tests.app.conftest import CheckProblem, write_keys
from tests.ports import free_port
from tests.waiting import wait_until

ASK, ADMIN = "a key that may ask", "a key that may do everything"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "data" / "keys.json")


# The file


def test_a_key_is_random_and_only_its_hash_is_kept(file: KeyFile) -> None:
    tokens = [file.add("one"), file.add("two", scope="admin")]
    assert len(set(tokens)) == 2
    assert all(re.fullmatch(r"whence_[A-Za-z0-9_-]{43}", token) for token in tokens)
    kept = file.path.read_text()
    assert all(token not in kept and token[7:] not in kept for token in tokens)
    ring = KeyRing(file.path)
    assert [key.name for key in map(ring.find, tokens) if key] == ["one", "two"]
    assert ring.find(tokens[0][:-1]) is None
    assert ring.find("") is None


def test_only_the_owner_can_read_the_file(file: KeyFile) -> None:
    before = os.umask(0)
    try:
        file.add("one")
        file.add("two")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    names = {path.name for path in file.path.parent.iterdir()}
    assert names <= {"keys.json", "keys.lock", "keys.witness"}


def test_a_name_is_taken_once_and_free_again_when_revoked(file: KeyFile) -> None:
    token = file.add("one")
    with pytest.raises(KeysError, match="keys revoke one"):
        file.add("one")
    assert file.revoke("one").name == "one"
    with pytest.raises(KeysError, match="keys list"):
        file.revoke("one")
    assert file.add("one") != token


@pytest.mark.parametrize("name", ["", "a b", "-a", "a\nb", "x" * 65, "é"])
def test_names_are_plain(file: KeyFile, name: str) -> None:
    with pytest.raises(KeysError, match="names are"):
        file.add(name)
    assert file.read() is None


def test_a_rate_that_is_none_is_refused(file: KeyFile) -> None:
    with pytest.raises(KeysError, match="600/minute"):
        file.add("one", rate="often")


def test_many_who_add_at_once_lose_none(file: KeyFile) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(file.add, (f"key-{n}" for n in range(24))))
    assert {key.name for key in file.read() or ()} == {f"key-{n}" for n in range(24)}


@pytest.mark.parametrize("text", ["", "{", '{"keys": [{"name": "secret-name"}]}', "[]"])
def test_a_damaged_file_is_named_and_not_quoted_or_written(file: KeyFile, text: str) -> None:
    file.path.parent.mkdir()
    file.path.write_text(text)
    for act in (file.read, lambda: file.add("one"), lambda: file.revoke("one")):
        with pytest.raises(KeysError, match=r"keys\.json is damaged") as caught:
            act()
        assert "secret-name" not in str(caught.value)
    assert file.path.read_text() == text


def test_a_disk_that_is_full_changes_nothing(
    file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.add("one")
    before = file.path.read_bytes()

    def fail(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keys_module, "sync_to_disk", fail)
    with pytest.raises(KeysError, match="No space left"):
        file.add("two")
    assert file.path.read_bytes() == before
    names = {path.name for path in file.path.parent.iterdir()}
    assert names <= {"keys.json", "keys.lock", "keys.witness"}


def test_every_key_is_compared_and_in_constant_time(
    file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = [file.add(f"key-{n}") for n in range(3)]
    ring, compared = KeyRing(file.path), []
    plain = keys_module.hmac.compare_digest
    monkeypatch.setattr(
        keys_module.hmac, "compare_digest", lambda a, b: compared.append(a) or plain(a, b)
    )
    for token in (*tokens, "unknown"):
        compared.clear()
        ring.find(token)
        assert len(compared) == 3


# The server


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_keys(tmp_path, {ASK: "attribute", ADMIN: "admin"})
    return tmp_path


@pytest.fixture
def server(data: Path, attributor: Attributor) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(data=data), attributor)) as client:
        yield client


OPEN = [
    "/health/live",
    "/health/ready",
    "/limits",
    "/docs",
    "/openapi.json",
    "/docs/static/swagger-ui.css",
]
ASKING = [
    ("POST", "/attribute"),
    ("GET", "/concepts"),
    ("GET", "/concepts/emerald"),
    ("GET", "/exemplars/x/image"),
]
CHANGING = [
    ("DELETE", "/concepts/x"),
    ("DELETE", "/exemplars/x"),
    ("POST", "/admin/reload"),
]


SECRET = ["/heatmaps/{heatmap_id}.png"]  # an address that only an answer tells
BODIES = {"/takedowns": {"kind": "concept", "id": "x", "reason": "r"}}


@pytest.mark.parametrize("path", OPEN)
def test_what_tells_nothing_needs_no_key(server: TestClient, path: str) -> None:
    assert server.get(path).status_code == 200


def test_every_other_route_needs_a_key(server: TestClient, check_problem: CheckProblem) -> None:
    for path, operations in server.get("/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            response = server.request(method, re.sub(r"\{\w+\}", "x", path), json=BODIES.get(path))
            if path in {*OPEN, *SECRET}:
                assert "security" not in operation
            else:
                check_problem(response, 401, "unauthorized")
                assert response.headers["www-authenticate"] == "Bearer"
                assert {"401", "403", "429", "503"} <= set(operation["responses"])


@pytest.mark.parametrize(("method", "path"), ASKING)
@pytest.mark.parametrize("token", [ASK, ADMIN])
def test_either_scope_may_ask(server: TestClient, method: str, path: str, token: str) -> None:
    assert server.request(method, path, headers=bearer(token)).status_code in {200, 404, 422}


@pytest.mark.parametrize(("method", "path"), CHANGING)
def test_only_admin_may_change(
    server: TestClient, check_problem: CheckProblem, method: str, path: str
) -> None:
    problem = check_problem(server.request(method, path, headers=bearer(ASK)), 403, "forbidden")
    assert "--scope admin" in problem["detail"]
    headers = {**bearer(ADMIN), "X-Whence-Reason": "r"}
    assert server.request(method, path, headers=headers).status_code in {200, 404, 409}


@pytest.mark.parametrize(
    "authorization", ["Bearer", "Bearer ", f"Basic {ASK}", ASK, "Bearer wrong", f"Bearer {ASK}x"]
)
def test_wrong_keys_are_refused(
    server: TestClient, check_problem: CheckProblem, authorization: str
) -> None:
    response = server.get("/concepts", headers={"Authorization": authorization})
    check_problem(response, 401, "unauthorized")


def test_a_key_of_odd_bytes_is_wrong_and_not_an_error(
    server: TestClient, check_problem: CheckProblem
) -> None:
    headers = [(b"Authorization", b"Bearer \xff\xfe\x80")]
    check_problem(server.get("/concepts", headers=headers), 401, "unauthorized")


def test_a_key_that_is_refused_is_in_no_answer_and_no_log(
    server: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    response = server.get("/concepts", headers=bearer("mistyped-secret"))
    assert "mistyped-secret" not in response.text + caplog.text


def test_an_expired_key_is_refused(
    server: TestClient, data: Path, check_problem: CheckProblem
) -> None:
    token = KeyFile(data / "keys.json").add("old", expires_at=datetime.now(UTC) - timedelta(days=1))
    wait_until(lambda: "expired" in server.get("/concepts", headers=bearer(token)).text)
    check_problem(server.get("/concepts", headers=bearer(token)), 401, "unauthorized")


def test_added_and_revoked_keys_are_noticed(server: TestClient, data: Path) -> None:
    token = KeyFile(data / "keys.json").add("new")

    def status() -> int:
        return server.get("/concepts", headers=bearer(token)).status_code

    wait_until(lambda: status() == 200)
    KeyFile(data / "keys.json").revoke("new")
    wait_until(lambda: status() == 401)


def test_the_last_key_revoked_closes_the_server(
    server: TestClient, data: Path, check_problem: CheckProblem
) -> None:
    for name in ("key-0", "key-1"):
        KeyFile(data / "keys.json").revoke(name)
    wait_until(lambda: server.get("/concepts", headers=bearer(ASK)).status_code == 401)
    check_problem(server.get("/concepts"), 401, "unauthorized")


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_text("damaged")])
def test_a_file_that_is_lost_or_damaged_lets_nobody_in(
    server: TestClient, data: Path, check_problem: CheckProblem, harm: Callable[[Path], object]
) -> None:
    assert server.get("/concepts", headers=bearer(ASK)).status_code == 200
    harm(data / "keys.json")
    wait_until(lambda: server.get("/concepts").status_code == 503)
    response = server.get("/concepts", headers=bearer(ASK))
    check_problem(response, 503, "keys-unusable")
    assert response.headers["retry-after"]
    assert server.get("/health/live").status_code == 200
    write_keys(data, {ASK: "attribute"})
    wait_until(lambda: server.get("/concepts", headers=bearer(ASK)).status_code == 200)


def test_keys_can_lie_in_a_file_of_their_own(tmp_path: Path, attributor: Attributor) -> None:
    file = KeyFile(tmp_path / "secrets" / "whence")
    token = file.add("one")
    settings = Settings(data=tmp_path, keys_file=file.path)
    with TestClient(create_app(settings, attributor)) as client:
        assert client.get("/concepts").status_code == 401
        assert client.get("/concepts", headers=bearer(token)).status_code == 200


def test_a_lost_file_does_not_open_a_server_that_is_started_again(
    tmp_path: Path, attributor: Attributor, check_problem: CheckProblem
) -> None:
    file = KeyFile(tmp_path / "keys.json")
    file.add("one")
    file.path.unlink()
    settings = Settings(data=tmp_path, allow_anonymous=True)
    with pytest.raises(KeysError, match=r"whence keys add.*whence keys disable"):
        require_closed(settings)
    with TestClient(create_app(settings, attributor)) as client:
        check_problem(client.get("/concepts"), 503, "keys-unusable")
    token = file.add("again")
    with TestClient(create_app(settings, attributor)) as client:
        assert client.get("/concepts").status_code == 401
        assert client.get("/concepts", headers=bearer(token)).status_code == 200


def test_a_file_of_an_earlier_whence_gets_a_witness(tmp_path: Path) -> None:
    write_keys(tmp_path, {ASK: "attribute"})
    assert KeyRing(tmp_path / "keys.json").configured
    (tmp_path / "keys.json").unlink()
    with pytest.raises(KeysError, match="there were keys"):
        KeyFile(tmp_path / "keys.json").read()


def test_keys_are_disabled_on_purpose(tmp_path: Path, capsys) -> None:
    file = KeyFile(tmp_path / "keys.json")
    file.add("one")
    assert run("keys", "disable", "--yes", "--data", tmp_path) == 0
    assert "removed 1 keys" in capsys.readouterr().out
    assert file.read() is None


def test_a_file_that_was_named_must_be_there(tmp_path: Path, attributor: Attributor) -> None:
    settings = Settings(data=tmp_path, keys_file=tmp_path / "gone")
    with pytest.raises(KeysError, match="gone is missing"):
        require_closed(settings)
    with TestClient(create_app(settings, attributor)) as client:
        assert client.get("/concepts").status_code == 503


# Without keys


def ask_at(
    address: str,
    tmp_path: Path,
    attributor: Attributor,
    *,
    path: str = "/concepts",
    peer: str = "127.0.0.1",
    headers: dict[str, str] | None = None,
    **more: object,
) -> httpx.Response:
    """The answer to a connection that arrived at ``address`` of a server without keys."""
    app = create_app(Settings(data=tmp_path, **more), attributor)  # type: ignore[arg-type]
    host = f"[{address}]" if ":" in address else address
    sent = {"Host": "localhost", "X-Forwarded-For": "127.0.0.1", **(headers or {})}
    with TestClient(app, base_url=f"http://{host}:8000", client=(peer, 50_000)) as client:
        return client.get(path, headers=sent)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "127.0.0.1, ::1", "Host": "127.0.0.1:8000"},
        {"Forwarded": 'for=127.0.0.1;proto=http, for="[::1]:4711"', "Host": "[::1]:8000"},
        {"Host": "LOCALHOST:8000"},
        {"Host": "127.1.2.3"},
    ],
)
def test_a_proxy_for_this_machine_alone_needs_no_key(
    headers: dict[str, str], tmp_path: Path, attributor: Attributor
) -> None:
    assert ask_at("127.0.0.1", tmp_path, attributor, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "192.0.2.1"},
        {"X-Forwarded-For": "127.0.0.1, 192.0.2.1"},
        {"X-Forwarded-For": "192.0.2.1, 127.0.0.1"},
        {"X-Forwarded-For": "unknown"},
        {"Forwarded": "for=192.0.2.1"},
        {"Forwarded": 'proto=https;For="[2001:db8::1]:4711"'},
        {"Forwarded": "proto=https"},
        {"Host": "192.0.2.1"},
        {"Host": ""},
    ],
)
def test_a_proxy_or_another_name_does_not_open_the_server_to_the_world(
    headers: dict[str, str], tmp_path: Path, attributor: Attributor, check_problem: CheckProblem
) -> None:
    response = ask_at("127.0.0.1", tmp_path, attributor, headers=headers)
    assert "WHENCE_ALLOW_ANONYMOUS" in check_problem(response, 401, "unauthorized")["detail"]
    told = ask_at("127.0.0.1", tmp_path, attributor, headers=headers, allow_anonymous=True)
    assert told.status_code == 200


def test_a_peer_that_a_trusted_proxy_named_is_not_this_machine(
    tmp_path: Path, attributor: Attributor, check_problem: CheckProblem
) -> None:
    response = ask_at("127.0.0.1", tmp_path, attributor, peer="192.0.2.1")
    check_problem(response, 401, "unauthorized")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_this_machine_needs_no_key(address: str, tmp_path: Path, attributor: Attributor) -> None:
    assert ask_at(address, tmp_path, attributor).status_code == 200


@pytest.mark.parametrize("address", ["192.0.2.1", "10.0.0.1", "2001:db8::1", "::ffff:192.0.2.1"])
def test_another_machine_is_refused_unless_told_otherwise(
    address: str, tmp_path: Path, attributor: Attributor, check_problem: CheckProblem
) -> None:
    problem = check_problem(ask_at(address, tmp_path, attributor), 401, "unauthorized")
    assert "WHENCE_ALLOW_ANONYMOUS" in problem["detail"]
    told = ask_at(address, tmp_path, attributor, allow_anonymous=True)
    assert told.status_code == 200
    assert ask_at(address, tmp_path, attributor, path="/health/live").status_code == 200


def test_keys_go_before_allowing_anyone(data: Path, attributor: Attributor) -> None:
    assert ask_at("192.0.2.1", data, attributor, allow_anonymous=True).status_code == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_serving_others_without_keys_is_refused_at_the_start(host: str, tmp_path: Path) -> None:
    with pytest.raises(KeysError, match=r"whence keys add NAME --data .*WHENCE_ALLOW_ANONYMOUS"):
        require_closed(Settings(data=tmp_path, host=host))
    require_closed(Settings(data=tmp_path, host=host, allow_anonymous=True))
    KeyFile(tmp_path / "keys.json").add("one")
    require_closed(Settings(data=tmp_path, host=host))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_serving_this_machine_needs_no_keys(host: str, tmp_path: Path) -> None:
    require_closed(Settings(data=tmp_path, host=host))


def test_the_command_refuses_to_serve_others_without_keys(tmp_path: Path, capsys) -> None:
    assert run("serve", "--host", "0.0.0.0", "--port", free_port(), "--data", tmp_path) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: on 0.0.0.0 anyone could ask")
    assert "\n" not in said


# The command


def test_keys_are_made_listed_and_revoked(tmp_path: Path, capsys) -> None:
    where = ("--data", tmp_path)
    assert run("keys", "list", *where) == 0
    assert "there are no keys" in capsys.readouterr().err
    assert run("keys", "add", "gallery", "--days", 30, "--rate", "5/second", *where) == 0
    token = capsys.readouterr().out
    assert re.fullmatch(r"whence_[\w-]{43}\n", token)
    assert run("keys", "add", "boss", "--scope", "admin", *where) == 0
    capsys.readouterr()
    report = tmp_path / "keys-report.json"
    assert run("keys", "list", "--json", report, *where) == 0
    said = capsys.readouterr().out
    assert re.search(r"gallery  attribute  made [\d-]+  expires [\d-]+ [\d:]+ UTC  5/second", said)
    assert "boss  admin" in said
    assert token.strip() not in said
    listed = json.loads(report.read_text())["keys"]
    assert [key["name"] for key in listed] == ["gallery", "boss"]
    assert "sha256" not in listed[0]
    assert run("keys", "revoke", "gallery", *where) == 0
    assert run("keys", "revoke", "gallery", *where) == 1
    assert run("keys", "revoke", "boss", *where) == 0
    capsys.readouterr()
    assert run("keys", "list", *where) == 0
    assert "every key was revoked" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("add", "a b"), "names are"),
        (("add", "a", "--rate", "often"), "600/minute"),
        (("revoke", "nobody"), "no key named 'nobody'"),
    ],
)
def test_a_command_that_cannot_be_is_one_line(words, expected: str, tmp_path: Path, capsys) -> None:
    assert run("keys", *words, "--data", tmp_path) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("error:")
    assert expected in said
    assert "\n" not in said


def test_a_scope_that_is_none_is_refused(tmp_path: Path) -> None:
    assert run("keys", "add", "a", "--scope", "root", "--data", tmp_path) == 2
    assert not (tmp_path / "keys.json").exists()


def test_keys_that_could_not_be_read_once_count_again_when_they_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its permissions alone change: neither its time nor its size."""
    monkeypatch.setattr("app.auth.keys.CHECK_SECONDS", 0.0)
    file = KeyFile(tmp_path / "keys.json")
    token = file.add("ann")
    ring = KeyRing(file.path)
    assert ring.find(token)

    def refuse(_: KeyFile) -> None:
        raise KeysError("not permitted")

    with monkeypatch.context() as patch:  # root reads what no one may
        patch.setattr(KeyFile, "read", refuse)
        file.path.chmod(0o000)
        with pytest.raises(KeysError):
            ring.find(token)
    file.path.chmod(0o600)
    assert ring.find(token)
