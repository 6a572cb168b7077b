import torch

from model.head import AttributionHead


def test_head_centres_maps_and_normalises() -> None:
    head = AttributionHead(torch.tensor([1.0, 1.0]), torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    features = torch.tensor([[2.0, 2.0], [1.0, 3.0]])
    assert head.components(features).tolist() == [[3.0, 4.0], [0.0, 8.0]]
    assert torch.allclose(head(features), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))


def test_head_may_have_fewer_components_than_features() -> None:
    head = AttributionHead(torch.zeros(5), torch.randn(3, 5))
    embedding = head(torch.randn(4, 5))
    assert head.dimension == 3
    assert embedding.shape == (4, 3)
    assert torch.allclose(embedding.norm(dim=1), torch.ones(4))


def test_head_takes_views_in_a_dimension_of_their_own() -> None:
    head, views = AttributionHead(torch.randn(5), torch.randn(3, 5)), torch.randn(4, 2, 5)
    assert torch.allclose(head(views)[:, 1], head(views[:, 1]))


def test_head_trains_its_map_and_keeps_its_mean() -> None:
    head = AttributionHead(torch.ones(2), torch.eye(2))
    assert [name for name, _ in head.named_parameters()] == ["weight"]
    assert set(head.state_dict()) == {"mean", "weight"}


def test_head_keeps_copies_of_what_it_starts_from() -> None:
    mean, weight = torch.zeros(2), torch.eye(2)
    head = AttributionHead(mean, weight)
    mean.fill_(9)
    weight.fill_(9)
    assert head.mean.tolist() == [0, 0]
    assert head.weight.tolist() == [[1, 0], [0, 1]]
