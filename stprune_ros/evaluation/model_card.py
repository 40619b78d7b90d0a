"""How often a model is right on held-out scenes of ringworld, through the runtime's own backend, prompt and pruning.

``python -m stprune_ros.evaluation.model_card`` writes the figures of the model card.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stprune_ros.evaluation.case import Case, CaseSource, by_scene
from stprune_ros.evaluation.exam import EncodedScene, choose_answers
from stprune_ros.evaluation.ringworld_cases import ModelCardCases
from stprune_ros.pruning.config import PruningConfig
from stprune_ros.ringworld.questions import HINT_QUESTION, QUESTION_KINDS
from stprune_ros.vlm.backend import Backend, Context
from stprune_ros.vlm.prompt import Prompt


@dataclass
class Score:
    """Correct answers by kind and form, and claims of the descriptions: correct, made and expected ones."""

    correct: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    true_answers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    claims_correct: int = 0
    claims_made: int = 0
    claims_expected: int = 0

    def add_answer(self, case: Case, answer: str) -> None:
        """Count the answer to a case with candidates under its kind and its form."""
        for name in {case.kind, case.form}:
            self.correct[name].append(answer == case.answer)
        self.true_answers[case.form][case.answer] += 1

    def add_description(self, case: Case, text: str) -> None:
        """Count the claims of a description against those of the true one."""
        made, expected = claims(text), claims(case.answer)
        self.claims_correct += len(made & expected)
        self.claims_made += len(made)
        self.claims_expected += len(expected)

    def summary(self) -> dict[str, Any]:
        """Accuracy by kind and form; ``majority`` is what the most frequent answer of a form would get."""
        table: dict[str, Any] = {
            name: {'accuracy': round(sum(found) / len(found), 3), 'n': len(found)}
            for name, found in sorted(self.correct.items())
        }
        for form, answers in self.true_answers.items():
            table[form]['majority'] = round(max(answers.values()) / sum(answers.values()), 3)
        if self.claims_made or self.claims_expected:
            table['description'] = {
                'precision': round(self.claims_correct / max(self.claims_made, 1), 3),
                'recall': round(self.claims_correct / max(self.claims_expected, 1), 3),
                'n': self.claims_expected,
            }
        return table


def claims(description: str) -> set[str]:
    """The single claims of a description: what to do, and each object with the view that shows it."""
    found = set()
    for sentence in description.split('.'):
        view, mark, contents = sentence.strip().partition(':')
        for claim in contents.split(',') if mark else []:
            found.add(f'{view}: {claim.strip()}')
        if view and not mark:
            found.add(view)
    return found


def evaluate_model(
    backend: Backend,
    prompt: Prompt,
    source: CaseSource,
    configs: Mapping[str, PruningConfig],
    max_new_tokens: int = 64,
    blind: bool = False,
) -> dict[str, dict[str, Any]]:
    """Score a model on all cases of a source, once for each config, under the config's name.

    Without ``max_new_tokens`` nothing is described. With ``blind`` there is a score for grey images with all tokens.
    """
    scores = {name: Score() for name in (*configs, *(['blind'] if blind else []))}
    everything = PruningConfig('none', 1.0)
    for scene_id in tqdm(source.scene_ids, desc='scenes', disable=None):
        for scene, cases in by_scene(source.cases(scene_id)):
            encoded = EncodedScene.encode(scene, backend)
            for name, config in configs.items():
                _ask(scores[name], backend, encoded.prefill(config, backend, prompt), cases, max_new_tokens)
            if blind:
                grey = EncodedScene.encode(scene.with_grey_images(), backend)
                _ask(scores['blind'], backend, grey.prefill(everything, backend, prompt), cases, 0)
    return {name: score.summary() for name, score in scores.items()}


def _ask(score: Score, backend: Backend, context: Context, cases: list[Case], max_new_tokens: int) -> None:
    closed = [case for case in cases if case.candidates]
    for case, answer in zip(closed, choose_answers(backend, context, closed)):
        score.add_answer(case, answer)
    for case in cases:
        if max_new_tokens and not case.candidates:
            score.add_description(case, backend.generate(context, case.question, max_new_tokens).text)


def by_kind_only(results: dict[str, Any]) -> dict[str, Any]:
    """The figures by kind of question, of the hint and of the descriptions; those of the forms are left out."""
    names = {HINT_QUESTION: 'hint', 'description': 'description', **{kind: kind for kind in QUESTION_KINDS}}
    return {
        key: {names[name]: figures for name, figures in value.items() if name in names}
        if isinstance(value, dict)
        else value
        for key, value in results.items()
    }


def pruning_configs(methods: Sequence[str], keep: Sequence[float]) -> dict[str, PruningConfig]:
    """Every share of tokens under the first method as 'keep 0.1'; shares below 1 under others as 'random, keep 0.1'."""
    configs = {f'keep {share:g}': PruningConfig(methods[0], share) for share in keep}
    for method in methods[1:]:
        configs |= {f'{method}, keep {share:g}': PruningConfig(method, share) for share in keep if share < 1.0}
    return configs


def main() -> None:
    """Command line of the model card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument('--model', type=Path, default=Path('models/ringworld'))
    parser.add_argument('--count', type=int, default=100, help='held-out scenes')
    parser.add_argument('--keep', type=float, nargs='*', default=[1.0, 0.25, 0.1])
    parser.add_argument(
        '--method', nargs='+', default=['st_prune'], help='several: those after the first with fewer tokens only'
    )
    parser.add_argument('--output', type=Path, default=None, help='JSON file; also printed')
    parser.add_argument('--words', type=int, default=64, help='longest description in tokens; 0: none')
    parser.add_argument('--blind', action='store_true', help='also with grey images')
    parser.add_argument(
        '--note', action='store_true', help='write the figures by kind into the stprune.json of the model'
    )
    args = parser.parse_args()
    from stprune_ros.vlm.hf.backend import TransformersBackend

    backend, prompt = TransformersBackend.load(args.model, device='cpu'), Prompt.load(args.model / 'prompt.yaml')
    configs = pruning_configs(args.method, args.keep)
    scores = evaluate_model(backend, prompt, ModelCardCases(args.count), configs, args.words, args.blind)
    results = {'scenes': args.count, 'method': args.method[0], **scores}
    text = json.dumps(results, indent=1)
    print(text)
    if args.note:
        note = args.model / 'stprune.json'
        facts = {**json.loads(note.read_text(encoding='utf-8')), 'held_out': by_kind_only(results)}
        note.write_text(json.dumps(facts, indent=2) + '\n', encoding='utf-8')
    if args.output:
        args.output.write_text(text + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
