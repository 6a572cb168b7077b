"""Add heads to an exported backbone, so that one export serves all models of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from model.config import Descriptor, Facet
from model.head import AttributionHead


def with_heads(
    data: bytes,
    heads: Mapping[Descriptor, AttributionHead],
    facets: Mapping[Facet, Mapping[Descriptor, float]],
) -> bytes:
    """Return a model in ONNX's format that embeds, of one that computes descriptors.

    Args:
        data: the model, whose outputs are (B, D) descriptors under their names.
        heads: of each descriptor.
        facets: weights of each facet's descriptors, as `model.embedder.AttributionModel.combine`
            uses them; each facet becomes an output (B, K) under its name.
    """
    model = onnx.load_model_from_string(data)
    graph = model.graph

    def constant(name: str, values: NDArray[np.float32]) -> str:
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        graph.node.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    found: dict[Descriptor, str] = {}
    for name, head in heads.items():
        mean, weight = (one.detach().float().cpu().numpy() for one in (head.mean, head.weight))
        centred = node(
            "Sub", [name, constant(f"whence/{name}/mean", mean)], f"whence/{name}/centred"
        )
        matrix = constant(f"whence/{name}/weight", weight.T)
        components = node("MatMul", [centred, matrix], f"whence/{name}/components")
        found[name] = node("LpNormalization", [components], f"whence/{name}/unit", axis=-1, p=2)
    del graph.output[:]
    for facet, weights in facets.items():
        total, parts = sum(weights.values()), []
        for name, share in weights.items():
            factor = constant(
                f"whence/{facet}/{name}/factor", np.array((share / total) ** 0.5, np.float32)
            )
            parts.append(node("Mul", [found[name], factor], f"whence/{facet}/{name}/part"))
        node("Concat", parts, facet, axis=1)
        size = sum(heads[name].dimension for name in weights)
        graph.output.append(
            helper.make_tensor_value_info(facet, onnx.TensorProto.FLOAT, [None, size])
        )
    extended: bytes = model.SerializeToString()
    return extended
