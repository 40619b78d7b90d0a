"""How often a model is right on held-out scenes, through the runtime's own backend, prompt and pruning.

``python -m stprune_ros.evaluation.model_card`` writes the figures of the model card.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stprune_ros.evaluation.exam import BLANK, PICTURES, Exam, ringworld_rig
from stprune_ros.pruning.view_tokens import PruningConfig
from stprune_ros.ringworld.questions import (
    DESCRIBE_QUESTION,
    HINT_QUESTION,
    QUESTION_KINDS,
    Question,
    describe,
    hint_question,
    questions_about,
)
from stprune_ros.ringworld.scenes import Scene, read_shards
from stprune_ros.ringworld.truth import VIEW_NAMES
from stprune_ros.vlm.backend import Backend
from stprune_ros.vlm.prompt import Prompt


@dataclass
class Score:
    """Right answers by kind, and statements of the descriptions: true ones, said ones, ones to be said."""

    right: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    answers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    true: int = 0
    said: int = 0
    wanted: int = 0

    def add(self, form: str, question: Question, answer: str) -> None:
        """Count one answer under its kind and its form."""
        for name in {question.kind, form}:
            self.right[name].append(answer == question.answer)
        self.answers[form][question.answer] += 1

    def summary(self) -> dict[str, Any]:
        """Accuracy by kind and form; majority: what always giving the most frequent answer of each form would get."""
        table = {
            name: {'accuracy': round(sum(found) / len(found), 3), 'n': len(found)}
            for name, found in sorted(self.right.items())
        }
        for form, answers in self.answers.items():
            table[form]['majority'] = round(max(answers.values()) / sum(answers.values()), 3)
        if self.said or self.wanted:
            table['description'] = {
                'precision': round(self.true / max(self.said, 1), 3),
                'recall': round(self.true / max(self.wanted, 1), 3),
                'n': self.wanted,
            }
        return table


def statements(description: str) -> set[str]:
    """The single claims of a description: what to do, and each actor with the view that shows it."""
    claims = set()
    for sentence in description.split('.'):
        place, mark, rest = sentence.strip().partition(':')
        for claim in rest.split(',') if mark else []:
            claims.add(f'{place}: {claim.strip()}')
        if place and not mark:
            claims.add(place)
    return claims


def evaluate(
    backend: Backend,
    prompt: Prompt,
    scenes: Sequence[Scene],
    config: PruningConfig,
    questions: int = 8,
    shows: str = PICTURES,
    words: int = 64,
) -> dict[str, Any]:
    """Score a model on scenes at a keep ratio; ``shows`` as for `Exam.of`; ``words`` 0 leaves descriptions out."""
    score, rig = Score(), ringworld_rig()
    for scene in tqdm(scenes, desc=f'{config.method} {config.keep_ratio:g}', disable=None):
        truth = scene.truths[-1]
        context = Exam.of(scene, backend, rig, shows).prefill(config, backend, prompt)
        rng = np.random.default_rng([scene.seed, 6])
        for question in [hint_question(truth), *questions_about(truth, rng, questions)]:
            found = backend.score(context, question.text, question.candidates)
            score.add(_form(question), question, question.candidates[int(np.argmax(found))])
        if words:
            said = statements(backend.generate(context, DESCRIBE_QUESTION, words).text)
            wanted = statements(describe(truth))
            score.true += len(said & wanted)
            score.said += len(said)
            score.wanted += len(wanted)
    return score.summary()


def _form(question: Question) -> str:
    """The question without the view or the colour that it names."""
    text = question.text.split(' between ')[0]
    for name in sorted(VIEW_NAMES, key=len, reverse=True):
        text = text.replace(f' in {name}', '')
    for colour in question.text.split():
        if colour in ('red', 'blue', 'white', 'black', 'yellow', 'green'):
            text = text.replace(f' {colour}', '')
    return text.replace(' a car', ' the car')


def in_short(results: dict[str, Any]) -> dict[str, Any]:
    """The figures by kind of question only, with the hint and the descriptions."""
    names = {HINT_QUESTION: 'hint', 'description': 'description', **{kind: kind for kind in QUESTION_KINDS}}
    return {
        key: {names[name]: figures for name, figures in value.items() if name in names}
        if isinstance(value, dict)
        else value
        for key, value in results.items()
    }


def main() -> None:
    """Command line of the evaluation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument('--model', type=Path, default=Path('models/ringworld'))
    parser.add_argument('--scenes', type=Path, default=Path('out/ringworld/held_out'))
    parser.add_argument('--count', type=int, default=100)
    parser.add_argument('--keep', type=float, nargs='*', default=[1.0, 0.25, 0.1])
    parser.add_argument('--method', default='st_prune')
    parser.add_argument('--output', type=Path, default=None, help='JSON file; also printed')
    parser.add_argument('--words', type=int, default=64, help='longest description in tokens; 0: none')
    parser.add_argument('--blind', action='store_true', help='also with grey pictures')
    parser.add_argument(
        '--note', action='store_true', help='write the figures by kind into the stprune.json of the model'
    )
    args = parser.parse_args()
    from stprune_ros.vlm.hf.backend import TransformersBackend

    scenes = [scene for shard in read_shards(args.scenes) for scene in shard][: args.count]
    backend, prompt = TransformersBackend.load(args.model, device='cpu'), Prompt.load(args.model / 'prompt.yaml')
    results: dict[str, Any] = {'scenes': len(scenes), 'method': args.method}
    for keep in args.keep:
        config = PruningConfig(args.method, keep)
        results[f'keep {keep:g}'] = evaluate(backend, prompt, scenes, config, words=args.words)
    if args.blind:
        results['blind'] = evaluate(backend, prompt, scenes, PruningConfig('none', 1.0), shows=BLANK, words=0)
    text = json.dumps(results, indent=1)
    print(text)
    if args.note:
        note = args.model / 'stprune.json'
        facts = {**json.loads(note.read_text(encoding='utf-8')), 'held_out': in_short(results)}
        note.write_text(json.dumps(facts, indent=2) + '\n', encoding='utf-8')
    if args.output:
        args.output.write_text(text + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
