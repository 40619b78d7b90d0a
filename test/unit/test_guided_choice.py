"""A choice among candidates must not depend on how many tokens or forms they have, only on what the model prefers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.errors import ModelError
from stprune_ros.vlm.guided_choice import Branch, GuidedChoice, guided_choice
from stprune_ros.vlm.hf.answers import unknown_token

END = 99
Path = tuple[int, ...]
Model = Callable[[Path, int], float]  # the logit of a token behind a path


def scores(choice: GuidedChoice, model: Model) -> list[float]:
    """Log-probabilities where the logits come from ``model``."""
    return choice.log_probabilities(
        [[model(branch.path, token) for token in branch.tokens] for branch in choice.branches]
    )


def noise(seed: int, spread: float = 2.0) -> Model:
    """A model with random logits, the same for the same path and token."""
    return lambda path, token: float(np.random.default_rng([seed, token, *path]).normal(0.0, spread))


def choice_of(*answers: Sequence[int]) -> GuidedChoice:
    """Candidates of one form each; the end token is added."""
    return GuidedChoice([[(*answer, END)] for answer in answers])


def softmax(*logits: float) -> list[float]:
    total = sum(math.exp(logit) for logit in logits)
    return [math.exp(logit) / total for logit in logits]


answer_sets = st.lists(
    st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple), min_size=1, max_size=8, unique=True
)
seeds = st.integers(0, 2**16)


def test_the_model_decides_at_each_branch_and_nowhere_else() -> None:
    """'go', 'slow down' and 'slow up', behind a question of two tokens."""
    choice = choice_of((7, 8, 1), (7, 8, 2, 3), (7, 8, 2, 4))
    assert choice.branches == (Branch((7, 8), (1, 2)), Branch((7, 8, 2), (3, 4)))
    first, second = softmax(0.5, 1.5), softmax(-1.0, 3.0)
    found = choice.log_probabilities([[0.5, 1.5], [-1.0, 3.0]])
    assert np.exp(found) == pytest.approx([first[0], first[1] * second[0], first[1] * second[1]])


def test_a_candidate_that_begins_another_is_told_apart_by_its_end() -> None:
    choice = choice_of((1,), (1, 2))
    assert choice.branches == (Branch((1,), (2, END)),)
    assert np.exp(choice.log_probabilities([[0.0, 2.0]])) == pytest.approx(softmax(2.0, 0.0))


def test_a_constant_in_the_logits_changes_nothing() -> None:
    choice = choice_of((1,), (2, 3), (2, 4))
    near = choice.log_probabilities([[0.5, 1.5], [-1.0, 3.0]])
    assert choice.log_probabilities([[1000.5, 1001.5], [-5001.0, -4997.0]]) == pytest.approx(near)


@given(answer_sets, seeds)
def test_probabilities_sum_to_one(answers: list[Path], seed: int) -> None:
    found = scores(choice_of(*answers), noise(seed, 20.0))
    assert sum(map(math.exp, found)) == pytest.approx(1.0)
    assert len(found) == len(answers)


@given(answer_sets, seeds, st.randoms())
def test_the_order_of_candidates_changes_nothing(answers: list[Path], seed: int, random: object) -> None:
    order = list(range(len(answers)))
    random.shuffle(order)  # type: ignore[attr-defined]
    found = scores(choice_of(*answers), noise(seed))
    assert scores(choice_of(*(answers[index] for index in order)), noise(seed)) == pytest.approx(
        [found[index] for index in order]
    )


@given(answer_sets, seeds, st.lists(st.integers(1, 4), min_size=5, max_size=5))
def test_more_tokens_for_a_word_change_nothing(answers: list[Path], seed: int, lengths: list[int]) -> None:
    """Token t becomes so many tokens, the later ones forced: whatever the model thinks of those does not count."""

    def pieces(answer: Path) -> Path:
        return tuple(10 * token + place for token in answer for place in range(lengths[token]))

    def known(path: Path, token: int) -> float:
        whole = tuple(piece // 10 for piece in path if piece % 10 == 0)
        return noise(seed)(whole, token // 10 if token != END else END) if token % 10 == 0 or token == END else 50.0

    split = scores(choice_of(*map(pieces, answers)), known)
    assert split == pytest.approx(scores(choice_of(*answers), noise(seed)))


@given(st.lists(st.integers(0, 30), min_size=2, max_size=9, unique=True), seeds)
def test_pieces_that_candidates_share_change_nothing(words: list[int], seed: int) -> None:
    """Words of one token each become two, the first by tens: a model gives it what the words had together."""
    model = noise(seed)

    def halved(path: Path, token: int) -> float:
        if path:
            return model((), 10 * path[0] + token)
        return float(np.logaddexp.reduce([model((), word) for word in words if word // 10 == token]))

    whole = scores(choice_of(*((word,) for word in words)), model)
    assert scores(choice_of(*((word // 10, word % 10) for word in words)), halved) == pytest.approx(whole)


def test_without_a_preference_each_candidate_wins_as_often_as_any_other() -> None:
    """One to four tokens, one of them the beginning of none: mean share and wins within what chance allows."""
    choice = choice_of((1,), (2, 3), (4, 5, 6), (7, 8, 9, 10))
    trials = 2000
    found = np.exp([scores(choice, noise(seed)) for seed in range(trials)])
    assert found.mean(axis=0) == pytest.approx([0.25] * 4, abs=3 * found.std() / math.sqrt(trials))
    wins = np.bincount(found.argmax(axis=1), minlength=4) / trials
    assert wins == pytest.approx([0.25] * 4, abs=3 * math.sqrt(0.25 * 0.75 / trials))


def test_nothing_to_decide() -> None:
    assert GuidedChoice([]).log_probabilities([]) == []
    assert choice_of((1, 2, 3)).branches == ()
    assert choice_of((1, 2, 3)).log_probabilities([]) == [0.0]


@pytest.mark.parametrize('logits', [[math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_logits_that_are_no_numbers_give_none(logits: list[float]) -> None:
    assert not np.isfinite(choice_of((1,), (2,)).log_probabilities([logits])).any()


def test_forms_of_a_candidate_add_up() -> None:
    choice = GuidedChoice([[(1, END), (2, END)], [(3, END), (4, 5, END)]])
    shares = softmax(0.1, 0.2, 0.3, 0.4)
    assert np.exp(choice.log_probabilities([[0.1, 0.2, 0.3, 0.4]])) == pytest.approx(
        [shares[0] + shares[1], shares[2] + shares[3]]
    )


ASKED = 'What now? '


class Words:
    """A tokenizer that has one token for the question and one for each text behind it, but for the ``known`` ones."""

    def __init__(self, known: Mapping[str, Sequence[int]] | None = None) -> None:
        self.known = {'': (), ASKED: (0,), **(known or {})}

    def __call__(self, text: str) -> tuple[int, ...]:
        if text in self.known:
            return tuple(self.known[text])
        if text.startswith(ASKED):
            return (0, *self(text.removeprefix(ASKED)))
        return tuple(self.known.setdefault(text, (1000 + len(self.known),)))


def choice_among(
    texts: Sequence[str], known: Mapping[str, Sequence[int]] | None = None, prefix: str = ''
) -> GuidedChoice:
    return guided_choice(texts, ASKED, prefix, Words(known), END)


def shares(texts: Sequence[str], preferred: Mapping[str, float], prefix: str = '') -> list[float]:
    """Probabilities where the model has the logits ``preferred`` of whole texts, 0 for others."""
    tokenizer = Words()
    choice = guided_choice(texts, ASKED, prefix, tokenizer, END)
    logits = {tokenizer(text)[0]: logit for text, logit in preferred.items()}
    return np.exp(scores(choice, lambda path, token: logits.get(token, 0.0))).tolist()


def test_capitals_count_for_every_candidate() -> None:
    assert shares(['stop', 'none', 'Yield'], {}) == pytest.approx([1 / 3] * 3)
    stop = shares(['stop', 'none'], {'Stop': 3.0})
    assert stop[0] == pytest.approx((1 + math.exp(3)) / (3 + math.exp(3)))
    halt = shares(['Abstand halten', 'none'], {'abstand halten': 3.0})
    assert halt[0] == pytest.approx((1 + math.exp(3)) / (3 + math.exp(3)))


@pytest.mark.parametrize('form', [' stop', ' Stop', 'stop', 'Stop'])
def test_the_template_s_blank_may_be_there_or_not(form: str) -> None:
    stop, none = shares(['stop', 'none'], {form: 3.0}, prefix=' ')
    assert stop == pytest.approx((3 + math.exp(3)) / (7 + math.exp(3)))
    assert none == pytest.approx(4 / (7 + math.exp(3)))


def test_words_before_an_answer_are_always_there() -> None:
    """Such as the end of a thought."""
    prefix = '</think>'
    stop, _ = shares(['stop', 'none'], {'</think>Stop': 3.0, 'stop': 9.0}, prefix)
    assert stop == pytest.approx((1 + math.exp(3)) / (3 + math.exp(3)))


def test_more_forms_are_no_advantage() -> None:
    """A script without case beside one with: no capital counts, and both are as likely."""
    assert shares(['\u505c\u8f66', 'stop'], {}) == pytest.approx([0.5, 0.5])
    assert shares(['\u505c\u8f66', 'stop'], {'Stop': 3.0}) == pytest.approx([0.5, 0.5])
    assert shares(['\u505c\u8f66', 'stop'], {'\u505c\u8f66': 1.0}, prefix=' ') == pytest.approx(
        [(1 + math.exp(1)) / (3 + math.exp(1)), 2 / (3 + math.exp(1))]
    )


def test_forms_of_the_same_tokens_count_once() -> None:
    """A tokenizer that knows no case, or one that drops blanks; and one that does so for a single word only."""
    same = {'stop': (1,), 'Stop': (1,), 'none': (2,), 'None': (2,)}
    blank = {f' {text}': ids for text, ids in same.items()}
    for choice in (
        choice_among(['stop', 'none'], same),
        choice_among(['stop', 'none'], {**same, **blank}, ' '),
        choice_among(['stop', 'none'], {**same, 'None': (3,)}),
    ):
        assert choice.branches == (Branch((0,), (1, 2)),)


def test_a_form_that_is_another_candidate_does_not_count() -> None:
    choice = choice_among(['polish', 'Polish', 'none'], {'polish': (1,), 'Polish': (2,), 'none': (3,)})
    assert choice.branches == (Branch((0,), (1, 2, 3)),)
    assert np.exp(choice.log_probabilities([[0.0, 1.0, 2.0]])) == pytest.approx(softmax(0.0, 1.0, 2.0))


def test_the_template_s_own_form_may_merge_with_the_question_and_no_other() -> None:
    """Behind a colon 'none' without a blank is a token of its own: a model that reads the colon cannot write it."""
    known = {f'{ASKED} none': (7,), f'{ASKED} None': (8,), f'{ASKED}none': (9,), 'none': (1,), 'None': (2,)}
    known |= {' stop': (3,), ' Stop': (4,), 'stop': (5,), 'Stop': (6,)}
    choice = choice_among(['none', 'stop'], known, ' ')
    assert choice.branches == (Branch((), (0, 7, 8)), Branch((0,), (1, 2, 3, 4, 5, 6)))


def test_candidates_of_the_same_tokens_are_named() -> None:
    with pytest.raises(ModelError, match=r"candidates 'halt' and 'stop' are the same tokens .*; rename one of them"):
        choice_among(['halt', 'none', 'stop'], {'halt': (1,), 'stop': (1,)})


def test_answers_end() -> None:
    choice = choice_among(['stop', 'stop now'], {'stop': (1,), 'stop now': (1, 2), 'Stop': (3,), 'Stop now': (3, 2)})
    assert choice.branches == (Branch((0,), (1, 3)), Branch((0, 1), (2, END)), Branch((0, 3), (2, END)))
    assert np.exp(choice.log_probabilities([[0.0, 0.0], [0.0, 2.0], [0.0, 2.0]])) == pytest.approx(softmax(2.0, 0.0))


def test_no_candidates_at_all() -> None:
    assert choice_among([]).log_probabilities([]) == []


def test_only_a_trained_model_lacks_words():
    tokenizer = SimpleNamespace(unk_token_id=0)
    assert (unknown_token(tokenizer, True), unknown_token(tokenizer, False)) == (0, None)
