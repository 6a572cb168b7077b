import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from index.answering.attribution import Attribution, Attributor
from index.answering.explanation import COLOUR, LONGEST, SIDE, Explanation, Heatmap, explain_answer
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import read_sources
from index.layout import DataFolder
from index.snapshot import Snapshot, open_published
from model.embedder import Embedder
from model.explain import Patches
from model.regions import crops, parts_of
from tests.fakes import FakeEmbedder, build_snapshot, patches, tiny_model

PICTURES = {
    f"Concept {n}": [patches(10 * n + k, side=64).resize((64, 48 + 16 * k)) for k in range(3)]
    for n in range(8)
}


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attributor]:
    snapshot = build_snapshot(tmp_path_factory.mktemp("data"), PICTURES)
    yield Attributor(FakeEmbedder(), snapshot)
    snapshot.close()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attributor]:
    data = DataFolder(tmp_path_factory.mktemp("data"))
    for name, pictures in PICTURES.items():
        folder = data.root / "gallery" / name
        folder.mkdir(parents=True)
        for number, picture in enumerate(pictures):
            picture.save(folder / f"{number}.png")
    embedder = Embedder(tiny_model(dimension=32, input_size=64), "tiny", device="cpu")
    rebuild(data, read_sources([data.root / "gallery"]), embedder, RebuildOptions(canary_rate=0))
    snapshot: Snapshot = open_published(data.index)
    yield Attributor(embedder, snapshot)
    snapshot.close()


def ask(
    attributor: Attributor, image: Image.Image, *, most: int = 100, **options: int
) -> tuple[Attribution, dict[str, Explanation]]:
    embedder = attributor.embedder
    parts = parts_of(image.size)
    read = [embedder.preprocess(part) for part in crops(image, image.size, parts)]
    queries, seen = embedder.embed_with_patches(read)
    [answer] = attributor.rank(queries, parts=[parts], **options)
    return answer, explain_answer(attributor, answer, seen, queries, image.size, parts, most=most)


@pytest.mark.parametrize("house", ["fake", "real"])
def test_the_querys_heatmap_sums_to_the_similarity_that_is_told(
    house: str, request: pytest.FixtureRequest
) -> None:
    attributor = request.getfixturevalue(house)
    image = patches(21, side=80)
    answer, explained = ask(attributor, image)
    shown = [hit for concept in answer.concepts for hit in concept.exemplars]
    assert list(explained) != []
    assert set(explained) == {hit.exemplar.id for hit in shown}
    assert len({hit.facet for hit in shown}) == 2 or house == "fake"
    for hit in shown:
        explanation = explained[hit.exemplar.id]
        assert explanation.query.values.sum() == pytest.approx(hit.similarity, abs=1e-3)
        # The thumbnail is a JPEG of the exemplar: nearly the same.
        assert explanation.exemplar.values.sum() == pytest.approx(hit.similarity, abs=0.1)
        assert explanation.query.size == image.size
        assert explanation.exemplar.size == (hit.exemplar.width, hit.exemplar.height)


def test_a_long_querys_heatmap_lies_over_the_square_that_its_concept_was_found_in(
    real: Attributor,
) -> None:
    canvas = Image.new("RGB", (300, 100), "#777")
    canvas.paste(PICTURES["Concept 2"][1].resize((100, 100)), (200, 0))
    answer, explained = ask(real, canvas, top_k=3, exemplars=1)
    left, top, right, bottom = real.embedder.view_box(100, 100)
    boxes = [(x + left, top, x + right, bottom) for x in (0, 50, 100, 150, 200)]
    first = answer.concepts[0]
    assert (first.concept.name, first.square) == ("Concept 2", 4)
    for concept in answer.concepts:
        [hit] = concept.exemplars
        heatmap = explained[hit.exemplar.id].query
        assert heatmap.box == pytest.approx(boxes[concept.square])
        assert heatmap.size == (300, 100)
        assert heatmap.values.sum() == pytest.approx(hit.similarity, abs=1e-3)


def test_each_exemplar_has_its_own_heatmaps(real: Attributor) -> None:
    _, explained = ask(real, patches(21, side=80))
    for side in ("query", "exemplar"):
        drawn = {getattr(explanation, side).png() for explanation in explained.values()}
        assert len(drawn) == len(explained)


@pytest.mark.parametrize("most", [0, 1, 5, 11, 24, 100])
def test_the_first_exemplar_of_each_concept_is_explained_first(fake: Attributor, most: int) -> None:
    answer, explained = ask(fake, patches(21, side=80), most=most, top_k=8, exemplars=3)
    lists = [[hit.exemplar.id for hit in concept.exemplars] for concept in answer.concepts]
    in_turn = [ids[place] for place in range(3) for ids in lists]
    assert len(in_turn) == 24
    assert set(explained) == set(in_turn[:most])


def test_an_answer_without_exemplars_needs_no_explanation(fake: Attributor) -> None:
    class Watched(FakeEmbedder):
        def contributions(self, *arguments: object) -> np.ndarray:
            raise AssertionError

    answer, explained = ask(Attributor(Watched(), fake.snapshot), patches(21), exemplars=0)
    assert answer.concepts
    assert explained == {}


def test_all_exemplars_take_one_more_forward_pass(fake: Attributor) -> None:
    class Counting(FakeEmbedder):
        passes: list[int]

        def embed_with_patches(self, pixels) -> tuple[dict, list[Patches]]:
            self.passes.append(len(pixels))
            return super().embed_with_patches(pixels)

    embedder = Counting()
    embedder.passes = []
    ask(Attributor(embedder, fake.snapshot), patches(21), top_k=2, exemplars=3)
    assert embedder.passes == [1, 6]


# The drawing


def opacity(heatmap: Heatmap) -> np.ndarray:
    """(H, W) 0 to 255."""
    with Image.open(io.BytesIO(heatmap.png())) as drawn:
        assert drawn.format == "PNG"
        pixels = np.asarray(drawn.convert("RGBA"))
    assert (pixels[..., :3] == COLOUR).all()
    return pixels[..., 3].astype(int)


def peak(row: int, column: int) -> np.ndarray:
    values = np.zeros((28, 28), dtype=np.float32)
    values[row : row + 3, column : column + 3] = 0.1
    return values


@pytest.mark.parametrize("size", [(200, 100), (100, 200), (640, 640), (30, 17), (4000, 10)])
def test_a_drawing_has_the_whole_pictures_shape(size: tuple[int, int]) -> None:
    width, height = size
    side = min(size)
    box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    drawn = opacity(Heatmap(peak(5, 5), size, box))
    if max(size) / min(size) <= 4 / 3:
        assert max(drawn.shape) == SIDE
    else:  # as thin as at 4:3, but for what is too long
        assert min(drawn.shape) == 0.75 * SIDE or max(drawn.shape) == LONGEST
    assert (
        drawn.shape[1] / drawn.shape[0] == pytest.approx(width / height, rel=0.1)
        or min(drawn.shape) == 1
    )


def test_what_was_not_seen_is_transparent_and_the_rest_lies_in_its_place() -> None:
    # A wide picture, of which the middle 80 x 80 pixels were seen.
    drawn = opacity(Heatmap(peak(0, 25), (200, 100), (60.0, 10.0, 140.0, 90.0)))
    scale = drawn.shape[1] / 200
    seen = np.zeros(drawn.shape, dtype=bool)
    seen[round(10 * scale) : round(90 * scale), round(60 * scale) : round(140 * scale)] = True
    assert (drawn[~seen] == 0).all()
    row, column = np.unravel_index(drawn.argmax(), drawn.shape)
    assert drawn.max() == 255
    # The peak is in the upper right corner of what was seen: near (136, 14) of the picture.
    assert (column / scale, row / scale) == pytest.approx((136, 14), abs=5)


def test_only_what_speaks_for_the_likeness_is_drawn() -> None:
    values = np.linspace(-1, 1, 28 * 28, dtype=np.float32).reshape(28, 28)
    drawn = opacity(Heatmap(values, (96, 96), (0.0, 0.0, 96.0, 96.0)))
    assert (drawn[: int(0.46 * SIDE)] == 0).all()
    assert (np.diff(drawn.mean(axis=1)[int(0.55 * SIDE) : int(0.9 * SIDE)]) > 0).all()


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-9, 0.5])
def test_an_even_heatmap_is_drawn_without_a_warning(value: float) -> None:
    values = np.full((28, 28), value, dtype=np.float32)
    drawn = opacity(Heatmap(values, (50, 50), (3.0, 3.0, 47.0, 47.0)))
    assert drawn.max() == (255 if value > 0 else 0)


def test_a_drawing_is_small() -> None:
    values = np.random.default_rng(0).random((28, 28), dtype=np.float32)
    assert len(Heatmap(values, (512, 512), (0.0, 0.0, 512.0, 512.0)).png()) < 16_000
