"""The service that one writes in an afternoon, which the benchmarks compare Whence with.

    python -m tests.benchmarks.plain_handler GALLERY/plain --port PORT

One FastAPI handler decodes an upload, embeds it with timm's network as PyTorch runs it, one image
at a time, and names the concepts of the exemplars whose pooled features are nearest.
"""

import argparse
import io
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import timm
import torch
import uvicorn
from fastapi import FastAPI, File
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data.transforms_factory import create_transform

from model.backbone import Backbone

NEAREST, SHOWN = 50, 5
BATCH = 32


def save_plain(folder: Path, backbone: Backbone, source: Path) -> None:
    """Write the network's weights, and the pooled features of a source folder's images."""
    folder.mkdir()
    (folder / "network.json").write_text(backbone.config.model_dump_json())
    state = {name: value.contiguous() for name, value in backbone.network.state_dict().items()}
    save_file(state, folder / "network.safetensors")
    network, transform = load_network(folder)
    files = sorted(source.glob("*/*"))
    vectors = []
    for first in range(0, len(files), BATCH):
        images = [Image.open(path).convert("RGB") for path in files[first : first + BATCH]]
        vectors.append(embed(network, torch.stack([transform(image) for image in images])))
    names = np.array([path.parent.name for path in files])
    np.savez(folder / "exemplars.npz", vectors=np.concatenate(vectors), names=names)


def load_network(folder: Path) -> tuple[torch.nn.Module, Any]:
    """The network without its classifier, and timm's transform for it."""
    config = json.loads((folder / "network.json").read_text())
    network = timm.create_model(config["name"], num_classes=0, **config["options"])
    network.load_state_dict(load_file(folder / "network.safetensors"))
    transform = create_transform(
        (3, config["input_size"], config["input_size"]),
        mean=config["mean"],
        std=config["std"],
        crop_pct=config["crop_pct"],
        interpolation=config["interpolation"],
    )
    return network.eval(), transform


def embed(network: torch.nn.Module, pixels: torch.Tensor) -> np.ndarray:
    """Pooled features of unit length, (B, D), of pixels (B, 3, S, S)."""
    with torch.inference_mode():
        vectors: np.ndarray = torch.nn.functional.normalize(network(pixels), dim=1).numpy()
    return vectors


def create_app(folder: Path) -> FastAPI:
    """Load everything, and answer."""
    app = FastAPI()
    network, transform = load_network(folder)
    with np.load(folder / "exemplars.npz") as saved:
        vectors, names = saved["vectors"], saved["names"]

    @app.get("/health/ready")
    async def ready() -> None:
        """Answer 200: everything is loaded before the server listens."""

    @app.post("/attribute")
    async def attribute(image: Annotated[bytes, File()]) -> list[dict[str, Any]]:
        # Not `def`, of which FastAPI runs many at a time on threads.
        pixels = transform(Image.open(io.BytesIO(image)).convert("RGB"))[None]
        similarities = vectors @ embed(network, pixels)[0]
        best: dict[str, float] = {}
        for row in np.argsort(-similarities)[:NEAREST]:
            best.setdefault(str(names[row]), float(similarities[row]))
        return [{"name": name, "score": score} for name, score in list(best.items())[:SHOWN]]

    return app


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    uvicorn.run(create_app(options.folder), port=options.port, log_level="critical")


if __name__ == "__main__":
    main()
