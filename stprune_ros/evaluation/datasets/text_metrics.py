"""BLEU, ROUGE-L and CIDEr as the captioning community computes them, on words without their punctuation.

BLEU comes from sacrebleu, the common subsequence of ROUGE-L from rouge-score, words from NLTK's Treebank tokenizer.
CIDEr is written here: what PyPI has of it brings Java archives (pycocoevalcap, last released in 2020) or models for
audio (aac-metrics). The reference (language-evaluation, which DriveLM calls) takes words from Stanford's tokenizer in
Java, of the same convention. Definitions: Papineni 2002, Lin 2004, Vedantam 2015.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from stprune_ros.errors import StpruneError

PACKAGES = {'sacrebleu': 'sacrebleu', 'rouge_score': 'rouge-score', 'nltk': 'nltk'}
# What the reference drops; brackets it keeps.
PUNCTUATION = frozenset(("''", "'", '``', '`', '.', '?', '!', ',', ':', '-', '--', '...', ';'))
# Where Stanford's tokenizer cuts, and NLTK's, which wants one sentence at a time, does not.
FULL_STOP = re.compile(r'\.(?=\s|$)')
COORDINATES = re.compile(r'(?<=[a-z_])(?=,\d)')
BETA = 1.2  # of ROUGE-L: how many times more recall counts than precision
ORDER = 4  # words of the longest n-gram
SIGMA = 6.0  # of CIDEr's penalty on another length, in pairs of words

Grams = Mapping[tuple[str, ...], int]


def require_packages(packages: Mapping[str, str] = PACKAGES) -> None:
    """Raise StpruneError naming the packages that are not installed; ``packages`` by their modules."""
    missing = [name for module, name in packages.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise StpruneError(f"`stprune eval --dataset` needs {', '.join(missing)}: pip install '.[datasets]'")


@cache
def words(text: str) -> tuple[str, ...]:
    """The words of a text in lower case; punctuation goes, and line breaks do not matter."""
    from nltk.tokenize import TreebankWordTokenizer

    text = FULL_STOP.sub(' .', COORDINATES.sub(' ', ' '.join(text.lower().split())))
    found = TreebankWordTokenizer().tokenize(text)
    return tuple(word for word in found if word not in PUNCTUATION)


def bleu(answers: Sequence[str], truths: Sequence[Sequence[str]]) -> list[float]:
    """BLEU-1 to BLEU-4 of a corpus, from 0 to 1, against the reference nearest in length; no smoothing."""
    from sacrebleu.metrics import BLEU

    most = max(map(len, truths), default=0)
    texts = [' '.join(words(answer)) for answer in answers]
    rows = [[' '.join(words(row[n])) if n < len(row) else None for row in truths] for n in range(most)]
    found = []
    for order in range(1, ORDER + 1):
        metric = BLEU(tokenize='none', force=True, smooth_method='none', max_ngram_order=order)
        found.append(float(metric.corpus_score(texts, rows).score) / 100)
    return found


def rouge_l(answer: str, truths: Sequence[str]) -> float:
    """ROUGE-L of one answer from 0 to 1: the best recall and the best precision of all references, with `BETA`."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(['rougeL'], tokenizer=_Words())
    found = [scorer.score(truth, answer)['rougeL'] for truth in truths]
    precision, recall = (max((getattr(one, part) for one in found), default=0.0) for part in ('precision', 'recall'))
    if not (precision and recall):
        return 0.0
    return float((1 + BETA**2) * precision * recall / (recall + BETA**2 * precision))


def cider(answers: Sequence[str], truths: Sequence[Sequence[str]]) -> np.ndarray:
    """CIDEr-D of each answer, from 0 to 10: (n,). How rare an n-gram is follows from the truths of all questions."""
    references = [[_grams(truth) for truth in row] for row in truths]
    documents: Counter[tuple[str, ...]] = Counter()
    for row in references:
        documents.update({gram for grams in row for gram in grams})
    known = math.log(max(len(truths), 1))

    def weighted(grams: Grams) -> list[dict[tuple[str, ...], float]]:
        vectors: list[dict[tuple[str, ...], float]] = [{} for _ in range(ORDER)]
        for gram, count in grams.items():
            vectors[len(gram) - 1][gram] = count * (known - math.log(max(documents[gram], 1)))
        return vectors

    scores = np.zeros(len(answers))
    for place, (answer, row) in enumerate(zip(answers, references, strict=True)):
        grams = _grams(answer)
        mine = weighted(grams)
        for reference in row:
            apart = _pairs(grams) - _pairs(reference)
            cosines = [_clipped_cosine(a, b) for a, b in zip(mine, weighted(reference))]
            scores[place] += 10 * np.mean(cosines) * math.exp(-(apart**2) / (2 * SIGMA**2)) / len(row)
    return scores


def _clipped_cosine(answer: Mapping[tuple[str, ...], float], truth: Mapping[tuple[str, ...], float]) -> float:
    """Cosine of two vectors of n-grams, where the answer gains nothing by saying more than the truth does."""
    lengths = [math.sqrt(sum(value**2 for value in side.values())) for side in (answer, truth)]
    if not all(lengths):
        return 0.0
    return sum(min(value, truth[gram]) * truth[gram] for gram, value in answer.items() if gram in truth) / (
        lengths[0] * lengths[1]
    )


def _grams(text: str) -> Grams:
    found = words(text)
    return Counter(found[at : at + n] for n in range(1, ORDER + 1) for at in range(len(found) - n + 1))


def _pairs(grams: Grams) -> int:
    return sum(count for gram, count in grams.items() if len(gram) == 2)


class _Words:
    """`words` as rouge-score asks for them."""

    def tokenize(self, text: str) -> list[str]:
        return list(words(text))
