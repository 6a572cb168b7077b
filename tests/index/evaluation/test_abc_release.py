"""Splits as published: both layouts, folders of files, and lists of queries."""

import json
from pathlib import Path

import pytest

from index.errors import EvaluationError
from index.evaluation.abc_release import locate, read_queries, read_splits, tail


def entry(name: str, case: str = "artchive") -> dict[str, object]:
    return {
        "exemplar": [f"dataset/exemplar/{case}/images/{name}/{i}.jpg" for i in range(2)],
        "synth": {
            "gpt": [f"dataset/synth/{case}/gpt/{name}/samples/{i:05d}.png" for i in range(3)],
            "object": [f"dataset/synth/{case}/object/{name}/samples/{i:05d}.png" for i in range(2)],
        },
        "class_id": name,
        "category": None,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of JSON files, of which two are splits for testing."""
    folder = tmp_path / "json"
    folder.mkdir()
    for case, names in {"artchive": ["african", "bailey"], "bamfg": ["101549_0"]}.items():
        content = [entry(name, case) for name in names]
        (folder / f"test_{case}.json").write_text(json.dumps(content))
    (folder / "train_artchive.json").write_text("{}")
    return folder


def test_a_folder_stands_for_its_test_files(folder: Path) -> None:
    splits = read_splits([folder])
    assert [split.name for split in splits] == ["test_artchive", "test_bamfg"]
    assert read_splits([folder, folder / "test_bamfg.json"]) == splits
    first = splits[0].queries[5]
    assert (first.model, first.class_id, first.category, first.prompt) == (1, "bailey", "", "gpt")


def test_a_folder_without_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"holds no \.json file"):
        read_splits([tmp_path])


LAYOUTS = {  # where the images lie -> folders that --root may name
    "dataset": (".", "dataset"),  # Google Drive
    "data/abc": (".", "data", "data/abc"),  # Hugging Face
}


@pytest.mark.parametrize(
    ("images", "root"), [(images, root) for images, roots in LAYOUTS.items() for root in roots]
)
def test_images_are_found_in_both_layouts(
    folder: Path, tmp_path: Path, images: str, root: str
) -> None:
    [split] = read_splits([folder / "test_artchive.json"])
    lists = [path for own in split.exemplars for path in own], [q.path for q in split.queries]
    for path in [*lists[0][1:], *lists[1]]:
        file = tmp_path / "release" / images / tail(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    for paths, base in zip(lists, locate(tmp_path / "release" / root, split), strict=True):
        gone = [path for path in paths if not base.resolve(path).is_file()]
        assert gone == (paths[:1] if paths is lists[0] else [])


def test_a_root_without_the_images_is_named(folder: Path, tmp_path: Path) -> None:
    [split] = read_splits([folder / "test_bamfg.json"])
    with pytest.raises(EvaluationError, match=r"the exemplars of test_bamfg\.json are not below"):
        locate(tmp_path, split)


@pytest.mark.parametrize("form", ["lines", "list", "tasks"])
def test_queries_are_chosen_by_any_form_of_list(folder: Path, tmp_path: Path, form: str) -> None:
    paths = [f"synth/artchive/{kind}/african/samples/00001.png" for kind in ("gpt", "object")]
    paths.append("synth/imagenet/gpt/n01440764_0000/samples/00000.png")
    file = tmp_path / "chosen"
    file.write_text(
        {
            "lines": "\n".join(["", f"dataset/{paths[0]}", *paths[1:], ""]),
            "list": json.dumps(paths),
            "tasks": json.dumps([{"synth_image_path": path, "prompt": "x"} for path in paths]),
        }[form]
    )
    [split] = read_splits([folder], read_queries(file))
    assert [tail(query.path) for query in split.queries] == paths[:2]
    assert len(split.published) == 10


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1]", '[{"prompt": "x"}]'])
def test_another_list_of_queries_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "chosen.json"
    file.write_text(text)
    with pytest.raises(EvaluationError, match="must have a path in each line"):
        read_queries(file)
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_queries(tmp_path / "gone")


@pytest.mark.parametrize("text", ['["synth/a.png", "synth', '[{"synth_image_path": "synth/a.png"'])
def test_a_list_of_queries_cut_short_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "chosen.json"
    file.write_text(text)
    with pytest.raises(EvaluationError, match=r"chosen\.json is not JSON: "):
        read_queries(file)


def test_queries_of_no_split_are_named(folder: Path) -> None:
    with pytest.raises(EvaluationError, match="none of the 1 paths of --queries"):
        read_splits([folder], {"synth/other.png"})
