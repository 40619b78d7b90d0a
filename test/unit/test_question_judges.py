"""Judges of free texts: plug-ins, text classifiers, and what they may not do."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.question_runs import evaluate, measure, rows_of, sentence_of, table_of, tiny_params
from helpers.question_sets import (
    grey_set,
    make_nuinstruct,
    needs_packages,
    qa,
)

from stprune_ros.errors import ModelError, StpruneError
from stprune_ros.evaluation.datasets.judge import Judge, load_judge

pytestmark = needs_packages


@pytest.fixture(scope='module')
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_params(tmp_path_factory.mktemp('params'))


JUDGE = """
calls = []

def half(question, truths, answer):
    with open(CALLS, 'a') as file:
        file.write(f'{question}|{len(truths)}\\n')
    return 0.5

def wild(question, truths, answer):
    return 7

def broken(question, truths, answer):
    raise RuntimeError('no network')
"""


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the judges of module my_judges count their calls."""
    calls = tmp_path / 'calls'
    (tmp_path / 'my_judges.py').write_text(JUDGE.replace('CALLS', repr(str(calls))))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, 'my_judges', raising=False)
    return calls


def test_a_judge_is_asked_once_for_each_answer_and_only_where_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny: Path, plug_in: Path
) -> None:
    groups = {'perception': [qa('what is there?', 'a car', 2)], 'planning': [qa('is that safe?', 'no', 1)]}
    groups['prediction'] = [qa('where?', 'at 1.0, 2.0', 3), qa('and what else?', '', 1), qa('Is it?', 'No.', 0)]
    data = grey_set(tmp_path / 'set', {'f': groups, 'g': groups})
    options = ('--params', str(tiny), '--method', 'uniform')
    assert evaluate(tmp_path, 'drivelm', data, *options) == 0
    assert not plug_in.exists()
    assert '2 of 10 questions are for a judge and not scored: name one with --judge' in capsys.readouterr().err
    [challenge, *_] = table_of(tmp_path)['challenge']
    assert (challenge['chatgpt'], challenge['match'], challenge['final']) == (None, None, None)
    for _ in range(2):
        assert evaluate(tmp_path, 'drivelm', data, *options, '--judge', 'my_judges:half', '--resume') == 0
        calls = Counter(plug_in.read_text().splitlines())
        assert calls == {'is that safe?|1': 2 * 3, 'where?|1': 2 * 3}
    table = table_of(tmp_path)
    assert measure(table, 'judge')['value'] == 0.5 and measure(table, 'judge')['questions'] == 4
    assert rows_of(table)['none', 1.0, 'judge']['accuracy'] == 0.5
    [challenge, *_] = table['challenge']
    assert (challenge['chatgpt'], challenge['match']) == (0.5, 0.25) and challenge['final'] >= 0.4 * 0.5
    assert not any('for a judge' in note for note in table['notes'])


def test_a_judge_without_questions_for_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny: Path, plug_in: Path
) -> None:
    data = make_nuinstruct(tmp_path / 'set')
    assert evaluate(tmp_path, 'nuinstruct', data, '--params', str(tiny), '--judge', 'my_judges:half') == 1
    assert sentence_of(capsys) == 'no question of nuinstruct is for a judge: omit --judge'


def test_judges_that_are_none_end_in_a_sentence(tmp_path: Path, plug_in: Path) -> None:
    with pytest.raises(
        StpruneError, match="--judge 'nowhere' is neither a folder with a text classifier nor MODULE:FUNC"
    ):
        load_judge('nowhere')
    with pytest.raises(StpruneError, match="judge 'my_judges:other' cannot be imported: module 'my_judges' has no"):
        load_judge('my_judges:other')
    with pytest.raises(StpruneError, match="judge 'no_such_module:f' cannot be imported: No module named"):
        load_judge('no_such_module:f')
    with pytest.raises(StpruneError, match="judge 'my_judges:wild' said 7, which is no number from 0 to 1"):
        load_judge('my_judges:wild').score('q', ['t'], 'a')
    with pytest.raises(StpruneError, match="judge 'my_judges:broken' failed: RuntimeError: no network"):
        load_judge('my_judges:broken').score('q', ['t'], 'a')
    assert Judge('x', lambda question, truths, answer: len(truths) / 4).score('q', ['a', 'b'], 'c') == 0.5


def tiny_classifier(folder: Path, labels: int = 1) -> Any:
    """A text classifier with random weights, in safetensors, and the model itself."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder.mkdir()
    letters = 'abcdefghijklmnopqrstuvwxyz0123456789:.?!QAS'
    marks = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    (folder / 'vocab.txt').write_text('\n'.join([*marks, *letters, *(f'##{letter}' for letter in letters)]))
    BertTokenizerFast(vocab_file=str(folder / 'vocab.txt'), do_lower_case=False).save_pretrained(folder)
    torch.manual_seed(3)
    size = {'hidden_size': 16, 'intermediate_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2}
    config = BertConfig(vocab_size=5 + 2 * len(letters), num_labels=labels, initializer_range=0.5, **size)
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    return model


def test_a_text_classifier_judges_as_lingo_judge_does(tmp_path: Path) -> None:
    """The input is that of the published judge, the logit above 0 means right, and one true answer is enough."""
    import torch
    from transformers import AutoTokenizer

    model, tokenizer = tiny_classifier(tmp_path / 'lingo'), AutoTokenizer.from_pretrained(tmp_path / 'lingo')

    def logit(truth: str, answer: str) -> float:
        text = f'[CLS]\nQuestion: How many?\nAnswer: {truth}\nStudent: {answer}'
        with torch.inference_mode():
            return float(model(**tokenizer(text, return_tensors='pt')).logits)

    answers, truths = ('one', 'two cars', 'none'), (['one'], ['a car', '2'], ['no', 'yes', 'x y z'])
    best = {
        (answer, n): max(logit(truth, answer) for truth in row) for answer in answers for n, row in enumerate(truths)
    }
    with torch.no_grad():
        model.classifier.bias -= float(np.median(list(best.values()))) + 1e-4
    model.save_pretrained(tmp_path / 'lingo')
    judge = load_judge(str(tmp_path / 'lingo'))
    assert judge.name.startswith('lingo@')
    verdicts = []
    for answer, n in best:
        expected = max(logit(truth, answer) for truth in truths[n]) > 0
        assert judge.score('How many?', [f' {truth.upper()} ' for truth in truths[n]], answer.upper()) == expected
        verdicts.append(expected)
    assert set(verdicts) == {True, False}


def test_classifiers_that_cannot_judge_are_refused(tmp_path: Path) -> None:
    tiny_classifier(tmp_path / 'two', labels=2)
    with pytest.raises(ModelError, match='has 2 logits; one that judges has one'):
        load_judge(str(tmp_path / 'two'))
    model = tiny_classifier(tmp_path / 'half')
    model.bert.save_pretrained(tmp_path / 'half')
    with pytest.raises(ModelError, match='lacks 2 weights of a text classifier'):
        load_judge(str(tmp_path / 'half'))
    (tmp_path / 'half' / 'model.safetensors').rename(tmp_path / 'half' / 'pytorch_model.bin')
    with pytest.raises(ModelError, match='has no .safetensors file; weights in other formats are not read'):
        load_judge(str(tmp_path / 'half'))
