import logging
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fastapi.openapi.models import OpenAPI
from fastapi.testclient import TestClient

from app.errors import BusyError, InternalError, RequestError
from app.main import create_app
from app.settings import Settings
from index.answering.attribution import Attributor
from model.errors import BackboneError, ImageError, WhenceError
from tests.app.conftest import CheckProblem
from tests.fakes import FakeEmbedder
from tests.problems import ANSWERED, KINDS

LOGGER = "app.http.problems"


def test_unknown_paths_are_not_found(client: TestClient, check_problem: CheckProblem) -> None:
    problem = check_problem(client.get("/no/such/page"), 404, "not-found")
    assert "/no/such/page" in problem["detail"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_other_methods_are_not_allowed(
    client: TestClient, check_problem: CheckProblem, method: str
) -> None:
    response = client.request(method, "/attribute")
    assert method in check_problem(response, 405, "method-not-allowed")["detail"]
    assert response.headers["allow"] == "POST"


class BrokenEmbedder(FakeEmbedder):
    def embed_pixels(self, pixels: object) -> Any:
        raise RuntimeError("secret: /home/someone/weights")


def test_unexpected_errors_are_logged_and_not_told(
    attributor: Attributor,
    tmp_path: Path,
    check_problem: CheckProblem,
    caplog: pytest.LogCaptureFixture,
    query: bytes,
) -> None:
    app = create_app(Settings(data=tmp_path), Attributor(BrokenEmbedder(), attributor.snapshot))
    with TestClient(app, raise_server_exceptions=False) as client:
        response = client.post("/attribute", files={"image": query})
        problem = check_problem(response, 500, "internal-error")
        assert "secret" not in response.text
        assert "RuntimeError" not in response.text
        assert client.get("/health/live").status_code == 200
    [record] = [r for r in caplog.records if r.levelno == logging.ERROR and r.name == LOGGER]
    assert problem["instance"] in record.getMessage()


def test_the_log_tells_why_there_is_no_answer_and_cannot_be_forged(
    tmp_path: Path, check_problem: CheckProblem, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=LOGGER)
    with TestClient(create_app(Settings(data=tmp_path / "x\nERROR forged"))) as client:
        problem = check_problem(client.get("/health/ready"), 503, "no-index")
    [message] = [r.getMessage() for r in caplog.records if r.name == LOGGER]
    assert problem["instance"] in message
    assert "whence rebuild" in message
    assert "\n" not in message


def test_each_occurrence_has_its_own_instance(client: TestClient) -> None:
    assert client.get("/x").json()["instance"] != client.get("/x").json()["instance"]


def test_each_type_has_one_status_title_and_example() -> None:
    for error in ANSWERED:
        kind = KINDS[error.type]
        assert (error.status, error.title, error.example) == (
            kind.status,
            kind.title,
            kind.example,
        ), error


def test_only_bases_inherit_that_they_are_internal() -> None:
    # Any other error without attributes of its own would be answered as an error of the server.
    internal = {error for error in ANSWERED if error.type == InternalError.type}
    assert internal == {WhenceError, ImageError, RequestError, BusyError, InternalError}


def test_the_message_of_an_internal_error_is_not_told(
    client: TestClient, check_problem: CheckProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BackboneError("secret: /home/someone/weights")

    monkeypatch.setattr("index.catalog.Catalog.concepts", fail)
    response = client.get("/concepts")
    check_problem(response, 500, "internal-error")
    assert "secret" not in response.text


# OpenAPI


@pytest.fixture(scope="module")
def description(client: TestClient) -> dict[str, Any]:
    described: dict[str, Any] = client.get("/openapi.json").json()
    return described


def operations(description: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method} {path}": operation
        for path, item in description["paths"].items()
        for method, operation in item.items()
    }


def test_the_description_is_valid(description: dict[str, Any]) -> None:
    OpenAPI.model_validate(description)
    ids = [operation["operationId"] for operation in operations(description).values()]
    assert len(set(ids)) == len(ids)

    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            inside = [ref for value in node.values() for ref in references(value)]
            return [*inside, node["$ref"]] if "$ref" in node else inside
        return (
            [ref for value in node for ref in references(value)] if isinstance(node, list) else []
        )

    schemas = description["components"]["schemas"]
    used = {ref.removeprefix("#/components/schemas/") for ref in references(description)}
    assert used == set(schemas)  # nothing is missing, nothing is left over


def test_everything_is_described(description: dict[str, Any]) -> None:
    for name, operation in operations(description).items():
        assert operation["summary"], name
        assert operation["description"], name
    for name, schema in description["components"]["schemas"].items():
        for field, value in schema["properties"].items():
            assert value.get("description"), f"{name}.{field}"


def test_each_problem_is_documented_with_an_example(description: dict[str, Any]) -> None:
    schemas = description["components"]["schemas"]
    schema = {**schemas["Problem"], "$defs": schemas, "components": {"schemas": schemas}}
    seen = set()
    for operation in operations(description).values():
        for status, response in operation["responses"].items():
            if int(status) < 400:
                continue
            [(media_type, content)] = response["content"].items()
            assert media_type == "application/problem+json"
            for name, example in content["examples"].items():
                jsonschema.validate(example["value"], schema)
                assert example["value"]["status"] == int(status)
                seen.add(name)
    # The router's, read by nobody, and what is refused before any route is found.
    undocumented = {"method-not-allowed", "client-gone", "origin-refused", "malformed-request"}
    undocumented |= {"unavailable"}  # the proxy's
    assert seen == set(KINDS) - undocumented


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/concepts", "ConceptList"),
        ("/concepts/navy-blue", "ConceptDetail"),
        ("/health/live", "Live"),
        ("/health/ready", "Ready"),
        ("/concepts/nobody", "Problem"),
    ],
)
def test_answers_fit_the_description(
    client: TestClient, description: dict[str, Any], path: str, name: str
) -> None:
    fits(client.get(path).json(), description, name)


def test_an_attribution_fits_the_description(
    client: TestClient, description: dict[str, Any], query: bytes
) -> None:
    answer = client.post("/attribute", files={"image": query}).json()
    fits(answer, description, "AttributionResponse")


def fits(value: object, description: dict[str, Any], name: str) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": description["components"]}
    jsonschema.validate(value, schema)


def test_the_docs_page_is_there(client: TestClient) -> None:
    response = client.get("/docs")
    assert response.status_code == 200
    assert "openapi.json" in response.text
