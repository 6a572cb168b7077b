import numpy as np
import pytest

from model.config import SelectionConfig, TrainConfig
from model.selection.questions import Questions
from model.selection.search import Search

COUNT, ASKED, WIDTH = 120, 40, 16
DEPTHS = tuple(f"depth{depth}" for depth in range(1, 6))


def made_up(loud: float = 1.0, seed: int = 0, **silent: float) -> Questions:
    """Readings of pictures and of their changes, in which ``loud`` features say nothing.

    Half of the features of each reading stay the same under changes. The other half are drawn anew,
    and are ``loud`` times as strong. A reading named in ``silent`` has that share of noise added.
    """
    random = np.random.default_rng(seed)
    change = np.tile(np.arange(3), ASKED)
    content = np.repeat(np.arange(ASKED), 3)
    other = np.where(change == 1, -1, content + ASKED)
    gallery, asked = {}, {}
    for name in ("pooled", "patches", *DEPTHS):
        own = random.normal(0, 1, (COUNT, WIDTH))
        source = np.where((change == 0) & (name in DEPTHS[:3]), other, content)
        seen = own[source]
        collage = change == 2
        seen = np.where(collage[:, None], (own[content] + own[other]) / np.sqrt(2), seen)
        noise = silent.get(name, 0.3)
        seen = seen + noise * WIDTH**0.5 * random.normal(0, 1, seen.shape)
        more = [loud * random.normal(0, 1, (rows, WIDTH)) for rows in (COUNT, len(change))]
        gallery[name] = np.concatenate([own, more[0]], axis=1).astype(np.float32)
        asked[name] = np.concatenate([seen, more[1]], axis=1).astype(np.float32)
    return Questions(gallery, asked, change, content, other, np.full(COUNT, -1))


def chosen(questions: Questions):
    choice = Search(questions, SelectionConfig(), TrainConfig()).run()
    assert choice is not None
    return choice


def test_loud_features_that_say_nothing_call_for_a_higher_power() -> None:
    quiet, loud = chosen(made_up(loud=0.0)), chosen(made_up(loud=3.0))
    usual = TrainConfig()
    assert quiet.descriptors["late"].power <= usual.descriptors["late"].power
    assert loud.descriptors["late"].power > usual.descriptors["late"].power
    assert loud.descriptors["early"].power >= usual.descriptors["early"].power


def test_a_stage_that_says_more_takes_the_usual_ones_place() -> None:
    choice = chosen(made_up(depth4=1.5, depth3=1.5, depth2=1.5, depth5=0.1))
    assert choice.depths["late"] == (5,)


def test_a_token_that_says_more_gets_weight() -> None:
    choice = chosen(
        made_up(pooled=1.5, depth4=1.5, depth3=1.5, depth2=1.5, depth5=1.5, patches=0.05)
    )
    assert choice.facets["subject"]["patches"] > 0
    assert choice.descriptors["patches"].standardise


def test_features_that_say_nothing_leave_the_usual_settings() -> None:
    blind = dict.fromkeys(("pooled", "patches", *DEPTHS), 1e3)
    choice, usual = chosen(made_up(**blind)), TrainConfig()
    assert choice.descriptors == usual.descriptors
    assert choice.facets == usual.facets
    assert choice.depths == usual.depths
    assert choice.curve  # what was tried is told


def test_equal_runs_choose_alike_and_tell_the_same_curve() -> None:
    first, second = chosen(made_up(loud=2.0)), chosen(made_up(loud=2.0))
    assert first == second
    parts = {point.part for point in first.curve}
    assert parts == {"pooled", "patches", "late", "early", "subject weights"}
    for point in first.curve:
        assert 0 <= point.criterion <= 1


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_features_that_do_not_vary_give_no_choice(value: float) -> None:
    questions = made_up()
    for features in (questions.gallery, questions.asked):
        features["depth4"][:] = value
    assert Search(questions, SelectionConfig(), TrainConfig()).run() is None
