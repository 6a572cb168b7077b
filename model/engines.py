"""Engines that run the forward pass: eager or compiled PyTorch, ONNX Runtime, OpenVINO.

An engine is used only if its outputs for a test batch agree with those of eager float32. Their
speeds are measured by `tests.benchmarks.engines`. The server, rebuilds, evaluations and training
choose theirs by the same rule. Engines in float32 differ by rounding, and those in bfloat16 by a
cosine of 0.0005 at most on the test pictures, so that all may write into one cache of embeddings.

    eager, compile              float32, as the model was trained
    eager-bf16, compile-bf16    the backbone in bfloat16, descriptors and heads in float32
    onnx                        float32 on a CPU by ONNX Runtime
    openvino                    float32 on a CPU; an optional install of the same name
    auto                        the fastest that is installed and agrees, else eager
"""

import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar, get_args

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from model.backbone import Backbone, BackboneFeatures
from model.config import BackboneConfig, EngineName
from model.cores import available_cores
from model.descriptors import EDITION
from model.errors import ModelError

ENGINES: tuple[EngineName, ...] = get_args(EngineName)
Name = TypeVar("Name", bound=str)  # of an output: a facet, a descriptor, a stage
Engine: TypeAlias = Callable[[torch.Tensor], dict[Name, torch.Tensor]]

COSINE = 0.999  # to eager float32's result, of every image and output
# The error of bfloat16 depends on the picture, so the few test pictures need a stricter limit.
COSINE_BF16 = 0.9995

log = logging.getLogger(__name__)


class EngineError(Exception):
    """Raised for an engine that cannot be used here; its text says why."""


class Model(Protocol[Name]):
    """A module with named outputs, computed from a backbone's features.

    `model.embedder.AttributionModel` embeds, `model.features.DescriptorModel` stops before the
    heads, and `model.pretraining.teacher.FeatureModel` before the descriptors.
    """

    backbone: Backbone
    centred: bool  # outputs have a mean that all images share, and agreement leaves out

    @property
    def input_size(self) -> int:
        """Return the side of the input in pixels."""

    @property
    def outputs(self) -> Sequence[Name]:
        """Return the names of the outputs, in the order in which they are computed."""

    def __call__(self, pixels: torch.Tensor) -> dict[Name, torch.Tensor]:
        """Compute the outputs of (B, 3, S, S) pixels: name -> (B, ...)."""

    def describe(self, features: BackboneFeatures) -> dict[Name, torch.Tensor]:
        """Compute the outputs of backbone features: name -> (B, ...)."""


@dataclass(frozen=True)
class Part:
    """The part of a model that is exported, to serve other models that share it.

    Attributes:
        model: the part.
        extend: adds the rest of the whole model to the part's export.
    """

    model: Model[Any]
    extend: Callable[[bytes], bytes]


def choose_engine(
    model: Model[Name],
    name: EngineName,
    device: torch.device,
    *,
    export: Path | None = None,
    part: Part | None = None,
) -> tuple[EngineName, Engine[Name]]:
    """Choose an engine; ``auto`` takes the fastest that is installed and agrees with eager.

    Args:
        model: in evaluation mode, on ``device``.
        name: of the engine.
        device: where the model lies.
        export: where to keep the model, or its part, in ONNX's format, for the next start.
        part: exported in the model's place; by default the whole model is.

    Returns:
        The engine's name, never ``auto``, and the engine, which has run once.

    Raises:
        ModelError: the engine that was named is not installed, cannot run the model or does not
            agree with eager float32; never for ``auto`` and ``eager``.
    """
    for candidate in by_speed(model, device) if name == "auto" else [name]:
        if candidate == "eager":
            break
        try:
            engine = build_engine(model, candidate, device, export, part)
            _require_agreement(model, engine, candidate, device)
            return candidate, engine
        except ImportError as error:
            problem = (
                f"{error.name} is not installed; in the project's folder: "
                f"pip install '.[{candidate}]'"
                if error.name
                else str(error)
            )
            level = logging.DEBUG
        except Exception as error:  # compilers and converters raise whatever they like
            problem = f"{error}".strip().partition("\n")[0] or type(error).__name__
            level = logging.WARNING
        if name != "auto":
            raise ModelError(
                f"engine {name!r} cannot be used: {problem}; or let WHENCE_ENGINE be auto"
            )
        log.log(level, "engine %s is left out: %s", candidate, problem)
    return "eager", model


def export_path(folder: Path, model_id: str) -> Path:
    """Returns the path of a model's ONNX export, named by all that its content depends on."""
    return folder / f"{model_id}-descriptors{EDITION}-named-torch{torch.__version__}.onnx"


def set_threads(count: int = 0) -> int:
    """Set the number of inference threads; 0 is one for each core that this process may use.

    PyTorch's default ignores a container's quota and, for some threads, the cores that the process
    is bound to. More threads than cores wait for one another.

    Returns:
        The number of threads.
    """
    torch.set_num_threads(count or min(torch.get_num_threads(), available_cores()))
    return torch.get_num_threads()


def by_speed(model: Model[Any], device: torch.device) -> list[EngineName]:
    """Returns the engines that ``auto`` tries before eager, fastest first.

    The order on CPUs is the one measured in tests/benchmarks/README.md. The order on CUDA was not
    measured. ``compile`` is left out: on CPUs ONNX Runtime or bfloat16 gains about as much, without
    a C++ compiler and without most of a minute at the first start.
    """
    if device.type == "cuda":
        return ["eager-bf16"]
    if device.type != "cpu":
        return []
    parameters = [
        (isinstance(part, nn.Linear), weight.numel())
        for part in model.backbone.modules()
        for weight in part.parameters(recurse=False)
    ]
    linear = sum(count for is_linear, count in parameters if is_linear)
    # Matrix products gain most from bfloat16 where the processor has it; convolutional networks
    # gain more from ONNX Runtime in float32, and stray too far in bfloat16.
    transformer = linear > sum(count for _, count in parameters) / 2
    if not transformer:
        return ["onnx", "openvino"]
    return ["eager-bf16", "openvino", "onnx"] if _has_bf16() else ["openvino", "onnx"]


def _has_bf16() -> bool:
    """Returns True if the CPU multiplies bfloat16 in hardware; else float32 is faster."""
    # PyTorch's older versions lack it.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def batch_limit(device: torch.device) -> int:
    """Returns the number of images in a forward pass.

    On a CPU more take longer each and need more memory, since activations leave the caches.
    """
    return 16 if device.type == "cpu" else 64


def is_bfloat16(name: EngineName) -> bool:
    """Return True for an engine that runs the backbone in bfloat16, False for float32."""
    return name.endswith("-bf16")


def precision(name: EngineName, device: torch.device) -> torch.autocast:
    """Returns the autocast context in which the named engine runs the backbone."""
    return torch.autocast(device.type, torch.bfloat16, enabled=is_bfloat16(name))


class _Bfloat16(nn.Module):
    """Wraps a model so that its backbone runs in bfloat16."""

    def __init__(self, model: Model[Any], device: torch.device) -> None:
        super().__init__()
        self._model, self._device = model, device

    def forward(self, pixels: torch.Tensor) -> dict[Any, torch.Tensor]:
        with precision("eager-bf16", self._device):
            features = self._model.backbone(pixels)
        # Correlations are differences of large sums and stay in float32.
        return self._model.describe(features)


class _Exportable(nn.Module):
    """Wraps a model so that it returns a tuple, as the export needs."""

    def __init__(self, model: Model[Any]) -> None:
        super().__init__()
        self._model = model

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self._model(pixels).values())


def build_engine(
    model: Model[Name],
    name: EngineName,
    device: torch.device,
    export: Path | None,
    part: Part | None = None,
) -> Engine[Name]:
    """Build the named engine without comparing its results.

    Raises:
        ImportError: a library that it needs is not installed.
        Exception: its compiler or converter failed.
    """
    if name in {"onnx", "openvino"}:
        if device.type != "cpu":
            raise EngineError(f"it runs on the CPU, and the device is {device}")
        return (_onnx if name == "onnx" else _openvino)(model, export, part)
    engine: Any = _Bfloat16(model, device) if is_bfloat16(name) else model
    return _compiled(engine) if name.startswith("compile") else engine


def _compiled(engine: Engine[Name]) -> Engine[Name]:
    """Compile an engine for any number of images of one size.

    ``dynamic=True`` would also leave height and width open. The starter's padding depends on them:
    its compilation then had not ended after eight minutes, and takes most of a minute this way.
    """
    compiled = torch.compile(engine)

    def run(pixels: torch.Tensor) -> dict[Name, torch.Tensor]:
        torch._dynamo.maybe_mark_dynamic(pixels, 0)
        return compiled(pixels)

    return run


def _onnx(model: Model[Name], export: Path | None, part: Part | None) -> Engine[Name]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take the cores from those that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = _loaded(
        model,
        export,
        part,
        partial(
            onnxruntime.InferenceSession, sess_options=options, providers=["CPUExecutionProvider"]
        ),
    )
    names = [str(name) for name in model.outputs]
    return partial(_run, model.outputs, lambda pixels: session.run(names, {"pixels": pixels}))


def _openvino(model: Model[Name], export: Path | None, part: Part | None) -> Engine[Name]:
    # OpenVINO reports each import to its maker, unless this package of its own is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino  # an extra

    core = openvino.Core()
    compiled = _loaded(
        model,
        export,
        part,
        lambda data: core.compile_model(
            core.read_model(data, b""),
            "CPU",
            {
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "INFERENCE_PRECISION_HINT": "f32",
                "PERFORMANCE_HINT": "LATENCY",  # all threads on one batch
            },
        ),
    )

    def infer(pixels: Any) -> list[Any]:
        found = compiled([pixels])
        return [found[str(name)] for name in model.outputs]

    return partial(_run, model.outputs, infer)


def _run(
    outputs: Sequence[Name], infer: Callable[[Any], Iterable[Any]], pixels: torch.Tensor
) -> dict[Name, torch.Tensor]:
    results = infer(pixels.contiguous().numpy())
    return {
        name: torch.from_numpy(values.copy()) for name, values in zip(outputs, results, strict=True)
    }


def _loaded(
    model: Model[Any], export: Path | None, part: Part | None, load: Callable[[bytes], Any]
) -> Any:
    """Load the exported model, and export it again if the kept file is damaged."""

    def whole(data: bytes) -> Any:
        return load(part.extend(data) if part else data)

    if export and export.is_file():
        try:
            return whole(export.read_bytes())
        except Exception as error:  # each library has its own; a new export settles it
            log.warning("%s cannot be used (%s) and is made again", export.name, error)
    return whole(_export(part.model if part else model, export))


def _export(model: Model[Any], path: Path | None) -> bytes:
    """Export a model to ONNX for any batch size, and keep it at ``path``, whole or not at all."""
    with torch.no_grad():
        program: Any = torch.onnx.export(
            _Exportable(model).eval(),
            (probe(model.backbone.config, 2, size=model.input_size),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
            input_names=["pixels"],
            output_names=[str(name) for name in model.outputs],
            verbose=False,
        )
    data: bytes = program.model_proto.SerializeToString()
    if path:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            building = path.with_name(f".{path.name}.{os.getpid()}")
            building.write_bytes(data)
            building.replace(path)
        except OSError as error:  # a full disk costs the next start some seconds, not the engine
            log.warning("the exported model could not be kept: %s", error)
    return data


def probe(config: BackboneConfig, count: int = 8, *, size: int | None = None) -> torch.Tensor:
    """Draw test pictures for engines: (count, 3, S, S) float32, preprocessed.

    They are noise at every scale, stronger at coarser scales as in photographs, because fine noise
    alone exercises little of a network.
    """
    size = size or config.input_size
    generator = torch.Generator().manual_seed(0)
    picture = torch.zeros(count, 3, size, size)
    side = 2
    while side <= size:
        noise = torch.randn(count, 3, side, side, generator=generator)
        picture += F.interpolate(noise, size=(size, size), mode="bicubic") / side**0.5
        side *= 2
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
    return (torch.sigmoid(2 * picture) - mean) / std


@torch.inference_mode()
def _require_agreement(
    model: Model[Name], engine: Engine[Name], name: EngineName, device: torch.device
) -> None:
    """Compare an engine's outputs for test pictures with those of eager float32.

    Raises:
        EngineError: the cosine of an output is too low.
    """
    pixels = probe(model.backbone.config, size=model.input_size).to(device)
    wanted = COSINE_BF16 if is_bfloat16(name) else COSINE
    expected = model(pixels)
    for given in (pixels, pixels[:1]):  # one image alone often takes other code, warmed here
        for output, found in engine(given).items():
            right, values = expected[output].flatten(1), found.float().flatten(1)
            if model.centred:
                mean = right.mean(dim=0)
                right, values = right - mean, values - mean
            cosine = float(F.cosine_similarity(values, right[: len(given)]).min())
            if not cosine >= wanted:  # not a number is not enough either
                raise EngineError(
                    f"its {output} outputs stray from eager float32's (cosine {cosine:.5f}, "
                    f"at least {wanted} is asked for)"
                )
