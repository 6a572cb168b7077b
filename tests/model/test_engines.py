import logging
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from model import engines
from model.backbone import BackboneFeatures
from model.checkpoint import load_embedder, save_model
from model.config import Facet
from model.descriptors import DescriptorModel, identity_of
from model.embedder import AttributionModel, Embedder
from model.engines import (
    COSINE,
    EngineName,
    available_cores,
    by_speed,
    choose_engine,
    export_path,
    probe,
    set_threads,
)
from model.errors import ModelError
from tests.fakes import patches, tiny_model

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
CONVOLUTIONS, TRANSFORMER = "test_efficientnet", "test_vit"
IMAGES = [patches(seed, side=40) for seed in range(5)]
EXPORTED: list[EngineName] = ["onnx", "openvino"]


@pytest.fixture(autouse=True)
def same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models() -> dict[str, AttributionModel]:
    return {name: tiny_model(name).eval() for name in (CONVOLUTIONS, TRANSFORMER)}


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exporting takes seconds: once for each model is enough."""
    return tmp_path_factory.mktemp("engines")


def least_cosine(found: dict[Facet, np.ndarray], expected: dict[Facet, np.ndarray]) -> float:
    assert list(found) == list(expected)
    return min(float((found[facet] * expected[facet]).sum(1).min()) for facet in expected)


@pytest.mark.parametrize("name", [CONVOLUTIONS, TRANSFORMER])
@pytest.mark.parametrize("engine", EXPORTED)
def test_an_engine_gives_eagers_embeddings_for_any_number_of_images(
    name: str, engine: EngineName, models: dict[str, AttributionModel], exports: Path
) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(engine, engine))
    embedder = Embedder(models[name], name, device="cpu", engine=engine, engines=exports)
    assert embedder.engine == engine
    eager = Embedder(models[name], name, device="cpu")
    for images in (IMAGES, IMAGES[:1], IMAGES[:3]):
        found = embedder.embed(images)
        assert least_cosine(found, eager.embed(images)) >= 0.9999
        assert all(matrix.dtype == np.float32 for matrix in found.values())
    # What was returned does not change with the next run.
    first = embedder.embed(IMAGES[:1])
    kept = {facet: matrix.copy() for facet, matrix in first.items()}
    embedder.embed(IMAGES[1:2])
    assert all(np.array_equal(first[facet], kept[facet]) for facet in kept)


def test_the_export_is_kept_and_made_again_when_damaged(
    models: dict[str, AttributionModel], tmp_path: Path, caplog
) -> None:
    model = models[CONVOLUTIONS]
    path = export_path(tmp_path / "engines", "id")
    choose_engine(model, "onnx", CPU, export=path)
    made = path.stat().st_mtime_ns
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    choose_engine(model, "onnx", CPU, export=path)
    assert path.stat().st_mtime_ns == made
    path.write_bytes(path.read_bytes()[:1000])
    assert choose_engine(model, "onnx", CPU, export=path)[0] == "onnx"
    assert path.stat().st_size > 1000
    assert "made again" in caplog.text


def test_a_folder_that_cannot_be_written_costs_no_engine(
    models: dict[str, AttributionModel], tmp_path: Path, caplog
) -> None:
    (tmp_path / "file").touch()
    path = export_path(tmp_path / "file", "id")
    assert choose_engine(models[CONVOLUTIONS], "onnx", CPU, export=path)[0] == "onnx"
    assert "could not be kept" in caplog.text


def test_auto_takes_what_agrees_and_says_what_does_not(
    models: dict[str, AttributionModel], monkeypatch, caplog
) -> None:
    model = models[CONVOLUTIONS]

    def stray(pixels: torch.Tensor) -> dict[Facet, torch.Tensor]:
        return {facet: values.flip(1) for facet, values in model(pixels).items()}

    def broken(pixels: torch.Tensor) -> dict[Facet, torch.Tensor]:
        raise RuntimeError("no such kernel\nand a long trace")

    built = {"onnx": stray, "openvino": broken}
    monkeypatch.setattr(engines, "build_engine", lambda _, name, *__: built[name])
    assert choose_engine(model, "auto", CPU) == ("eager", model)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "onnx is left out: its subject outputs stray from eager float32's" in lines[0]
    assert lines[1] == "engine openvino is left out: no such kernel"
    built["openvino"] = model
    assert choose_engine(model, "auto", CPU) == ("openvino", model)


def test_an_answer_that_is_not_a_number_does_not_agree(
    models: dict[str, AttributionModel], monkeypatch
) -> None:
    model = models[CONVOLUTIONS]
    lost = lambda pixels: {f: v * torch.nan for f, v in model(pixels).items()}  # noqa: E731
    monkeypatch.setattr(engines, "build_engine", lambda *_: lost)
    assert choose_engine(model, "auto", CPU)[0] == "eager"


def test_an_engine_that_errs_only_for_single_images_does_not_agree(
    models: dict[str, AttributionModel], monkeypatch
) -> None:
    model = models[CONVOLUTIONS]

    def engine(pixels: torch.Tensor) -> dict[Facet, torch.Tensor]:
        return model(pixels if len(pixels) > 1 else pixels.flip(3))

    monkeypatch.setattr(engines, "build_engine", lambda *_: engine)
    assert choose_engine(model, "auto", CPU)[0] == "eager"


def test_what_is_not_installed_is_passed_over_in_silence_and_named_when_asked_for(
    models: dict[str, AttributionModel], monkeypatch, caplog
) -> None:
    caplog.set_level(logging.INFO)
    for library in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, library, None)
    model = models[CONVOLUTIONS]
    assert choose_engine(model, "auto", CPU) == ("eager", model)
    assert not caplog.records
    with pytest.raises(
        ModelError, match=r"openvino is not installed; .*pip install '\.\[openvino\]'"
    ):
        choose_engine(model, "openvino", CPU)


def test_libraries_are_imported_with_their_telemetry_off() -> None:
    program = "import model, os; print(*(v for name, v in os.environ.items() if 'TELEM' in name))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env={}, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


def test_a_named_engine_that_strays_is_refused(
    models: dict[str, AttributionModel], monkeypatch
) -> None:
    model = models[CONVOLUTIONS]
    stray = lambda pixels: {f: v.flip(1) for f, v in model(pixels).items()}  # noqa: E731
    monkeypatch.setattr(engines, "build_engine", lambda *_: stray)
    with pytest.raises(ModelError, match="'eager-bf16' cannot be used: its subject outputs"):
        choose_engine(model, "eager-bf16", CPU)


@pytest.mark.parametrize("name", [CONVOLUTIONS, TRANSFORMER])
def test_bfloat16_reaches_the_backbone_and_nothing_behind_it(
    name: str, models: dict[str, AttributionModel], monkeypatch
) -> None:
    model = models[name]
    seen: list[BackboneFeatures] = []
    describe = model.describe

    def watch(features: BackboneFeatures) -> dict[Facet, torch.Tensor]:
        assert not torch.is_autocast_enabled("cpu")
        seen.append(features)
        return describe(features)

    monkeypatch.setattr(model, "describe", watch)
    engine = engines.build_engine(model, "eager-bf16", CPU, None)
    with torch.inference_mode():
        pixels = probe(model.config.backbone)
        found, [features] = engine(pixels), list(seen)
        expected = model(pixels)
    types = {stage.dtype for stage in (features.pooled, *features.stages)}
    # A transformer's residual stream stays in float32, which is why it strays so little.
    assert torch.bfloat16 in types or name == TRANSFORMER
    for facet, values in found.items():
        assert values.dtype == torch.float32
        assert not torch.equal(values, expected[facet])


def test_the_order_follows_the_network_the_processor_and_the_device(
    models: dict[str, AttributionModel], monkeypatch
) -> None:
    convolutions, transformer = models[CONVOLUTIONS], models[TRANSFORMER]
    monkeypatch.setattr(engines, "_has_bf16", lambda: True)
    assert by_speed(convolutions, CPU) == ["onnx", "openvino"]
    assert by_speed(transformer, CPU) == ["eager-bf16", "openvino", "onnx"]
    monkeypatch.setattr(engines, "_has_bf16", lambda: False)
    assert by_speed(transformer, CPU) == ["openvino", "onnx"]
    assert by_speed(convolutions, torch.device("cuda:1")) == ["eager-bf16"]
    assert by_speed(convolutions, torch.device("mps")) == []


def test_compiling_leaves_open_the_number_of_images_and_nothing_else(
    models: dict[str, AttributionModel], monkeypatch
) -> None:
    model = models[CONVOLUTIONS]
    shapes: list[list[int | torch.SymInt]] = []

    def backend(graph: torch.fx.GraphModule, _: list[object]) -> torch.fx.GraphModule:
        given = [node.meta["example_value"] for node in graph.graph.find_nodes(op="placeholder")]
        shapes.extend(list(one.shape) for one in given if isinstance(one, torch.Tensor))
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch.compiler.reset()
    engine = engines.build_engine(model, "compile", CPU, None)
    with torch.inference_mode():
        for count in (8, 5, 3):
            pixels = probe(model.config.backbone, count)
            found, expected = engine(pixels), model(pixels)
            assert all(torch.allclose(found[f], expected[f], atol=1e-5) for f in expected)
    side = model.config.backbone.input_size
    [(count, *rest)] = [shape for shape in shapes if shape[1:] == [3, side, side]]
    assert not isinstance(count, int)
    assert all(isinstance(length, int) for length in rest)


def test_exported_engines_are_for_the_cpu(models: dict[str, AttributionModel]) -> None:
    with pytest.raises(ModelError, match="it runs on the CPU, and the device is cuda"):
        choose_engine(models[CONVOLUTIONS], "onnx", torch.device("cuda"))


def test_a_saved_model_keeps_its_id_with_every_engine(tmp_path: Path) -> None:
    model_id = save_model(tmp_path, tiny_model(), {})
    eager = load_embedder(tmp_path, model_id, device="cpu")
    other = load_embedder(
        tmp_path, model_id, device="cpu", engine="onnx", engines=tmp_path / "engines"
    )
    assert (eager.engine, other.engine) == ("eager", "onnx")
    assert eager.model_id == other.model_id == model_id
    assert least_cosine(other.embed(IMAGES), eager.embed(IMAGES)) >= COSINE


def test_one_export_serves_all_models_of_a_backbone(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "engines"
    model = tiny_model()
    core = DescriptorModel(model.backbone, model.extractor).eval()
    choose_engine(core, "onnx", CPU, export=export_path(folder, identity_of(core)))  # as training
    monkeypatch.setattr(engines, "_export", lambda *_: pytest.fail("it was exported twice"))
    for seed in (0, 1):
        with torch.no_grad():
            for head in model.heads.values():
                head.weight.copy_(torch.randn(head.weight.shape, generator=seeded(seed)))
        model_id = save_model(tmp_path / "models", model, {})
        embedder = load_embedder(
            tmp_path / "models", model_id, device="cpu", engine="onnx", engines=folder
        )
        eager = load_embedder(tmp_path / "models", model_id, device="cpu")
        assert least_cosine(embedder.embed(IMAGES), eager.embed(IMAGES)) >= COSINE
    assert len(list(folder.iterdir())) == 1


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_probe_has_something_at_every_scale() -> None:
    config = tiny_model().config.backbone
    pictures = probe(config, 4)
    assert pictures.shape == (4, 3, config.input_size, config.input_size)
    assert torch.equal(pictures, probe(config, 4))
    assert not torch.allclose(pictures[0], pictures[1])
    values = pictures * torch.tensor(config.std)[:, None, None]
    values += torch.tensor(config.mean)[:, None, None]
    assert 0 <= float(values.min()) < 0.2
    assert 0.8 < float(values.max()) <= 1


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1),
     ("1600000 100000", 8), ("nonsense", 8), (None, 8)],
)  # fmt: skip
def test_a_containers_share_of_the_machine_bounds_the_threads(
    quota: str | None, cores: int, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr("model.cores.CPU_QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(f"{quota}\n", encoding="ascii")
    assert available_cores() == cores


def test_threads_are_those_asked_for_or_at_most_one_a_core(monkeypatch) -> None:
    assert set_threads(3) == torch.get_num_threads() == 3
    monkeypatch.setattr(engines, "available_cores", lambda: 2)
    assert set_threads() == torch.get_num_threads() == 2
    assert set_threads(1) == set_threads() == 1  # never more than PyTorch itself would take
