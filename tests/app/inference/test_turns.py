from app.inference.turns import Turns


def test_callers_take_turns_and_the_items_of_one_keep_their_order() -> None:
    turns: Turns[int] = Turns()
    for number in (1, 2, 3):
        turns.append("a", number)
    turns.append("b", 10)
    turns.append(None, 20)
    turns.append("b", 11)
    assert len(turns) == 6
    assert [turns.popleft() for _ in range(4)] == [1, 10, 20, 2]
    turns.append("c", 30)  # behind those that wait
    assert [turns.popleft() for _ in range(len(turns))] == [11, 3, 30]
    assert not len(turns)
