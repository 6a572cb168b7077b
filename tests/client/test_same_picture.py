from tests.benchmarks.same_picture import check


def test_a_picture_is_one_picture_however_it_comes() -> None:
    outcomes, faults = check(range(120))
    assert faults == []
    assert outcomes["answered"] > 80
    assert outcomes["undecodable-image"] > 3
