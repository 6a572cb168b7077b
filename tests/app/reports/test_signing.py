"""Signatures of reports, and the keys that make them."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from typer.testing import CliRunner

from app.cli.main import cli
from app.main import create_app
from app.reports.report import content_hash
from app.reports.signing import (
    SigningError,
    is_signed,
    make_key_pair,
    public_text,
    read_private_key,
    read_public_key,
    sign,
)
from app.settings import Settings
from tests.app.cli.test_main import run
from tests.app.reports.test_report import Gallery, changed, rehashed, states, text_of


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return Gallery(tmp_path_factory.mktemp("gallery"))


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "report.pem"
    make_key_pair(path)
    return path


def public(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


@pytest.fixture(scope="module")
def signed(gallery: Gallery, key: Path) -> dict[str, Any]:
    record: dict[str, Any] = gallery.report(key=key, format="json").json()
    return record


# Reports


@pytest.mark.parametrize("form", ["json", "html"])
def test_a_signed_report_is_verified_by_the_public_key(
    gallery: Gallery, key: Path, form: str
) -> None:
    report = gallery.report(key=key, format=form)
    found = gallery.verify(report.content, public(key))
    assert found.complete, found
    assert states(found)["signature"] is True
    assert public_text(read_public_key(public(key))) in report.text
    without = gallery.verify(report.content)
    assert without.complete
    assert states(without)["signature"] is None
    assert "--public-key" in text_of(without, "signature")


def test_an_unsigned_report_does_not_pass_for_a_signed_one(
    gallery: Gallery, key: Path, signed: dict[str, Any]
) -> None:
    for content in (
        gallery.report(format="json").text,
        json.dumps({**signed, "signature": None}),
        json.dumps({name: value for name, value in signed.items() if name != "signature"}),
    ):
        found = gallery.verify(content, public(key))
        assert states(found)["hash"] is True
        assert states(found)["signature"] is False
        assert not found.passed


def test_a_report_of_another_key_is_refused(
    gallery: Gallery, signed: dict[str, Any], key: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    make_key_pair(other)
    assert states(gallery.verify(json.dumps(signed), public(other)))["signature"] is False
    # Its signature under the name of the right key is no signature of that key.
    forged = sign(signed["sha256"], read_private_key(other)).model_dump()
    forged["public_key"] = signed["signature"]["public_key"]
    for public_key in (public(key), None):
        found = gallery.verify(json.dumps({**signed, "signature": forged}), public_key)
        assert states(found)["signature"] is False
        assert not found.passed


def test_a_changed_report_with_a_right_hash_has_no_right_signature(
    gallery: Gallery, signed: dict[str, Any], key: Path
) -> None:
    for change in (
        lambda r: r["answer"]["concepts"][0].update(share=0.5),
        lambda r: r["query"].update(name="another.png"),
        lambda r: r.update(created_at="2026-01-01T00:00:00Z"),
        lambda r: r.update(added=1),
    ):
        found = gallery.verify(rehashed(changed(signed, change)), public(key))
        assert states(found)["hash"] is True
        assert states(found)["signature"] is False
        found = gallery.verify(json.dumps(changed(signed, change)), public(key))
        assert states(found)["hash"] is False
        assert states(found)["signature"] is False


def test_the_hash_does_not_depend_on_the_signature(signed: dict[str, Any]) -> None:
    assert content_hash(signed) == signed["sha256"]
    assert content_hash({**signed, "signature": None}) == signed["sha256"]


def test_a_page_that_names_another_key_is_found_out(gallery: Gallery, key: Path) -> None:
    page = gallery.report(key=key).text
    text = public_text(read_public_key(public(key)))
    shown = page.index(text)
    forged = f"{page[:shown]}{'A' * 43}={page[shown + len(text) :]}"
    assert states(gallery.verify(forged, public(key)))["page"] is False


def test_the_command_verifies_offline_whose_report_it_is(
    gallery: Gallery, key: Path, tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    file.write_bytes(gallery.report(key=key).content)
    words = ["verify-report", str(file), "--data", str(tmp_path), "--public-key"]
    done = CliRunner().invoke(cli, [*words, str(public(key))])
    assert done.exit_code == 2, done.output  # there is no index here to ask again
    assert "signed by the given key" in done.output
    assert "who made it" not in done.output
    other = tmp_path / "other"
    assert run("report-key", other) == 0
    done = CliRunner().invoke(cli, [*words, str(public(other))])
    assert done.exit_code == 1
    assert "another key than the given one" in done.output
    assert run("verify-report", file, "--public-key", key) == 1  # that is the private one


# Keys


def test_the_command_makes_a_key_pair_that_only_its_owner_can_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "key"
    assert run("report-key", path) == 0
    said = capsys.readouterr().out
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_private_key(path).public_key() == read_public_key(public(path))
    text = public_text(read_public_key(public(path)))
    assert text in said
    assert text in public(path).read_text()  # the PEM's line ends with it
    assert "PRIVATE" not in said
    before = path.read_bytes()
    assert run("report-key", path) == 1  # no key is overwritten
    assert path.read_bytes() == before
    path.unlink()
    assert run("report-key", path) == 1  # nor a public one
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o610])
def test_a_private_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    make_key_pair(path)
    path.chmod(mode)
    with pytest.raises(SigningError, match="chmod 600"):
        read_private_key(path)
    with pytest.raises(SigningError, match="chmod 600"):
        create_app(Settings(data=tmp_path, report_key=path))


def _rsa() -> bytes:
    return rsa.generate_private_key(65537, 1024).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _with_password() -> bytes:
    return ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


@pytest.mark.parametrize("content", [b"", b"nonsense", _rsa, _with_password])
def test_what_is_no_private_key_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "key"
    path.write_bytes(content() if callable(content) else content)
    path.chmod(0o600)
    with pytest.raises(SigningError, match="report-key"):
        read_private_key(path)
    with pytest.raises(SigningError):
        read_public_key(path)


def test_a_missing_key_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SigningError, match="cannot be read"):
        create_app(Settings(data=tmp_path, report_key=tmp_path / "none"))


def test_a_signature_is_of_one_hash(key: Path) -> None:
    signature = sign("ab" * 32, read_private_key(key))
    assert is_signed("ab" * 32, signature)
    assert not is_signed("ac" * 32, signature)
    assert not is_signed("ab" * 32, signature.model_copy(update={"public_key": "A" * 43 + "="}))


@pytest.mark.skipif(os.name != "posix", reason="needs file permissions")
def test_the_key_has_its_mode_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    opened = os.open

    def watch(path: Any, flags: int, mode: int = 0o777) -> int:
        modes.append(mode)
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", watch)
    make_key_pair(tmp_path / "key")
    assert modes == [0o600, 0o644]
