"""Language models fine-tuned with LoRA on questions with candidate answers."""

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsity
from trainables.architectures.causal_lm import SIZES, TINY, base_folder, network_config
from trainables.arguments import construct
from trainables.config import TrialConfig
from trainables.data.questions import Questions
from trainables.data.splits import split_indices
from trainables.data.tokens import (
    EncodedQuestions,
    encode_questions,
    parse_tokenizer,
    read_tokenizer,
    train_tokenizer,
)
from trainables.task import Task
from trainables.tasks._adapters import MergedWeights, add_adapters, find_projections, logits_only_at, merge_adapters
from trainables.tasks._answer_metrics import chance, draw_accuracy, ignores_question, majority
from trainables.tasks._generation import AnswerGenerator
from trainables.tasks._lora_settings import base_of, check_config
from trainables.tasks._question_batches import IGNORED, Batch, Batcher, take_turns
from trainables.tasks._scoring import CandidateScorer

__all__ = ["LoRA"]


@dataclass(frozen=True, eq=False)
class LoadedQuestions:
    """A dataset of questions as tokens, which the trials of a node share.

    Attributes:
        questions: All questions.
        training: int64, rows of `questions` to train on.
        validation: int64, rows to validate on.
        test: int64, rows to test on.
        cutoff: Maximum length of prompt and answer in training, in tokens.
        template: The template of prompts.
        end: The end-of-text token.
        tokenizer: The tokenizer as JSON if it was trained on this dataset, "" if it comes with the pretrained base.
    """

    questions: EncodedQuestions
    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    cutoff: int
    template: str
    end: int
    tokenizer: str


class LoRA(Task):
    """Fine-tuning of a language model with LoRA on questions.

    The adapters are merged into the network before it is pruned, evaluated or saved.

    Loss: cross-entropy in nats, the mean over the tokens of the batch's correct responses, end of text included.
    Prompts have no loss, unless train_on_inputs is on; then the training loss is the mean over all tokens but the first
    of each row, as in DoRA's training. If prompt and response exceed `cutoff` in training, tokens are removed from the
    prompt's start, except the first one (LLaMA's begin-of-text).

    Answer: the candidate with the highest sum of its tokens' log-probabilities after the prompt, end of text left out.
    No token is sampled. In the commonsense tasks the candidates differ in their last token only, so one forward pass
    scores all of them. Any other candidate needs its own row of the batch. With answer=generate, the test split is also
    answered in generated texts, as for the WCR paper's numbers (see `AnswerGenerator`). On a tiny model this takes 5 to
    11 times as long. The search never reads the test split.

    Metrics:
        - `acc`: the mean over tasks of their accuracies, `acc_TASK`.
        - `acc_greedy`: the same for the answers that are right and that greedy decoding gives. Every such answer is
          also right in the text that greedy decoding writes, up to its 32 tokens. So this is a lower bound of the
          accuracy of answers generated with one beam. Four beams may find another text, in rare cases.
        - `acc_generated`, on the test split with answer=generate: the mean over tasks of `acc_generated_TASK`, the
          accuracies of the generated answers.
        - `loss`: nats per token of the correct responses, over the split.
        - `chance`: the expected accuracy of a random guess, the mean over tasks of 1 / number of candidates.
        - `greedy_agreement`: the fraction of questions for which greedy decoding gives the chosen candidate.
        - `collapsed`: 1 if the choice depends on the candidates only, never on the question.

    Memory in bytes. Let P be the number of weights of the base, Q of those in the adapted projections, and L of those
    in LoRA's factors A and B. Training takes 4 P (2 P with base_dtype=bfloat16), 16 L (weights, gradients, AdamW's two
    moments), another 4 L or 8 L for SAM and its relatives, and the activations. regularize=merged adds 4 Q and 4 bytes
    per weight of the largest tensor. An evaluation adds 8 P (merged and pruned weights) and about 17 Q (scores, their
    order, masks); with scope=global on a GPU, another 20 Q. Without activations, for r = 32:

        Qwen2.5-1.5B  P 1.544e9  Q 1.310e9  L 36.9e6  training 6.8 GB (bfloat16 3.7 GB), with an evaluation 41 GB
        LLaMA-3.2-1B  P 1.236e9  Q 0.973e9  L 22.5e6  training 5.3 GB (bfloat16 2.8 GB), with an evaluation 32 GB

    Checkpoints hold the factors only: the base comes from its own files. Settings: see `LoRASettings`.

    Reference: Hu et al., "LLM-Adapters", EMNLP 2023, arXiv 2304.01933, and Yun, Jo & Lee 2025, arXiv 2511.14282,
    section 5.1.
    """

    objective = "acc"

    @classmethod
    def load(cls, config: TrialConfig, root: str | None = None) -> LoadedQuestions:
        sparsity.check("trainables.datasets", config.dataset, "dataset")
        check_config(config)
        questions = construct("data", sparsity.load("trainables.datasets", config.dataset), root, arguments=config.data)
        if not isinstance(questions, Questions):
            raise ValueError(
                f"dataset: must have questions with candidate answers (e.g. commonsense), got {config.dataset!r}"
            )
        training, validation = questions.split(config.train_size, subset=config.eval_size is not None)
        tiny = base_of(config) in TINY
        if tiny:
            examples = (questions.train[i] for i in questions.split()[0])  # the same ones whatever train_size is
            vocab_size = config.model.get("vocab_size", SIZES["vocab_size"])
            tokenizer = train_tokenizer((q.prompt + q.responses[q.answer] for q in examples), vocab_size)
        else:
            tokenizer = read_tokenizer(base_folder(base_of(config)))
        encoded = encode_questions(tokenizer, [*questions.train, *questions.test])
        if (longest := encoded.responses.lengths.max()) >= questions.cutoff:
            raise ValueError(
                f"data: cutoff must be above {longest} (the tokens of the longest answer), got {questions.cutoff}"
            )
        return LoadedQuestions(
            questions=encoded,
            training=training,
            validation=validation,
            test=len(questions.train) + split_indices(len(questions.test), 0.0)[0],
            cutoff=questions.cutoff,
            template=questions.template,
            end=tokenizer.end,
            tokenizer=tokenizer.tokenizer.to_str() if tiny else "",
        )

    def __init__(self, config: TrialConfig, data: LoadedQuestions, device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        self.config, self.data, self.questions = config, data, data.questions
        self.settings = check_config(config)
        self.rows = {
            "train": data.training,
            "validation": take_turns(data.validation, self.questions.tasks, config.eval_size),
            "test": take_turns(data.test, self.questions.tasks, config.eval_size),
        }
        self.splits_read = ("validation", "test") if config.read_test else ("validation",)
        self.batcher = Batcher(self.questions, data.cutoff, self.device)
        self.scorer = CandidateScorer(self.questions, self.batcher, self.forward)
        # the penalized model and its merged weights, if regularize=merged
        self._merged: tuple[nn.Module, MergedWeights] | None = None
        self._network_config: dict[str, Any] | None = None  # of the network that was built or placed

    # ---- the network -------------------------------------------------------------------------------------------

    def build_model(self) -> nn.Module:
        build = sparsity.load("trainables.architectures", self.config.architecture)
        network = construct("model", build, arguments=self.config.model)
        self._network_config = network_config(network)
        return add_adapters(network, self.settings, self.device)

    def deployed(self, model: nn.Module) -> nn.Module:
        """Merge the adapters into the plain network."""
        return merge_adapters(model, self.settings)

    def placed(self, network: nn.Module) -> nn.Module:
        self._network_config = network_config(network)
        for layer in find_projections(network.requires_grad_(False), self.settings.names).values():
            layer.weight.requires_grad_(True)  # as `merge_adapters` leaves it
        return super().placed(network)

    def prunable(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights of the adapted projections, by their names in the plain network."""
        layers = find_projections(model, self.settings.names)
        return {f"{name}.weight": getattr(layer, "base_layer", layer).weight for name, layer in layers.items()}

    def regularized(self, model: nn.Module) -> dict[str, Tensor]:
        """The factors A and B, or the merged weights with regularize=merged."""
        if self.settings.regularize == "factors" or self.config.regularizer == "none":
            return super().regularized(model)
        merged = MergedWeights(find_projections(model, self.settings.names))
        self._merged = (model, merged)
        return merged.weights

    def before_penalty(self, model: nn.Module) -> None:
        if self._merged and model is self._merged[0]:
            self._merged[1].update()

    def describe_model(self) -> dict:
        return {
            "architecture": self.config.architecture,
            "model": {"config": self._network_config},
            "input": {
                "tokenizer": self.data.tokenizer or base_of(self.config),
                "prompt": self.data.template,
                "end_of_text": self.data.end,
                "cutoff": self.data.cutoff,
                "num_training_prompts_cut": int((self.batcher.num_cut(self.rows["train"]) > 0).sum()),
            },
            "baselines": {split: self._baselines(split) for split in self.splits_read},
        }

    # ---- batches and loss --------------------------------------------------------------------------------------

    def steps_per_epoch(self, batch_size: int) -> int:
        return max(1, len(self.rows["train"]) // batch_size)

    def batches(self, split: str, batch_size: int, *, seed: int | None = None) -> Iterator[Batch]:
        """Prompts with their correct responses, cut to `cutoff`.

        A shuffled batch has its longest prompts first, so that its parts need little padding.
        """
        rows = self.rows[split]
        if seed is not None:
            rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).numpy()]
        chunks = np.split(rows, range(batch_size, len(rows), batch_size))
        for chosen in chunks if seed is None else chunks[: self.steps_per_epoch(batch_size)]:
            if seed is not None:
                chosen = chosen[np.argsort(-self.questions.prompts.lengths[chosen], kind="stable")]
            yield self.batcher.batch(
                chosen,
                self.questions.correct[chosen],
                self.batcher.num_cut(chosen),
                label_prompts=self.settings.train_on_inputs,
            )

    def parts(self, batch: Batch, num: int) -> list[tuple[float, Batch]]:
        return self.batcher.parts(batch, num)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = self.forward(model, batch)
        return F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED)

    def forward(self, model: Any, batch: Batch) -> Tensor:
        """Logits (N, P, vocabulary) at the batch's positions."""
        with self.forward_pass(model), logits_only_at(model.get_output_embeddings(), batch.positions):
            # No attention mask: attention is causal, and padding follows everything that is read.
            return model(input_ids=batch.tokens, use_cache=False).logits.float()

    def inputs(self, batch: Batch) -> Tensor:
        return batch.tokens

    def token_mask(self, batch: Batch) -> Tensor:
        lengths = torch.from_numpy(batch.lengths).to(self.device)
        return torch.arange(batch.tokens.shape[1], device=self.device) < lengths[:, None]

    # ---- metrics and figures -----------------------------------------------------------------------------------

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        rows, tasks = self.rows[split], self._tasks(split)
        predictions = self.scorer.predict(model, rows)
        guessing = chance(self.questions, rows)
        collapsed = ignores_question(self.questions.candidates[rows], predictions.chosen, self.questions.answers[rows])

        def by_task(values: np.ndarray) -> dict[str, float]:
            return {task: float(values[of_task].mean()) for task, of_task in tasks.items()}

        acc = {"acc": by_task(predictions.correct)}
        if split == "test" and self.settings.answer == "generate":
            with self.autocast():
                acc["acc_generated"] = by_task(self.generator.correct(model, rows))
        means = {name: float(np.mean(list(values.values()))) for name, values in acc.items()}
        return {
            **means,
            "acc_greedy": float(np.mean(list(by_task(predictions.correct & predictions.greedy).values()))),
            "loss": predictions.loss,
            **{f"{name}_{task}": value for name, values in acc.items() for task, value in values.items()},
            "chance": float(np.mean(list(by_task(guessing).values()))),
            "greedy_agreement": float(predictions.greedy.mean()),
            "collapsed": float(collapsed),
        }

    def illustrate(self, models: Mapping[float, nn.Module], folder: Path) -> None:
        """Write accuracy.png and accuracy.json: accuracies by task, chance, majority."""
        metrics: dict[str, Any] = {}
        for split in self.splits_read:
            rows = self.rows[split]
            correct = {f"{level:g}": self.scorer.predict(model, rows).correct for level, model in models.items()}
            baselines = self._baselines(split)
            metrics[split] = {}
            for task, of_task in self._tasks(split).items():
                num = of_task.sum()
                metrics[split][task] = {"num": int(num), **baselines[task]}
                for level, right in correct.items():
                    acc = float(right[of_task].mean())
                    error = float(np.sqrt(acc * (1 - acc) / num))
                    metrics[split][task][level] = {"acc": acc, "standard_error": error}
        (folder / "accuracy.json").write_text(json.dumps(metrics, indent=2))
        draw_accuracy(metrics, [f"{level:g}" for level in models]).savefig(folder / "accuracy.png", dpi=120)

    @functools.cached_property
    def generator(self) -> AnswerGenerator:
        """Answers questions in generated texts."""
        if self.data.tokenizer:
            tokenizer = parse_tokenizer(self.data.tokenizer, self.data.end)
        else:
            tokenizer = read_tokenizer(base_folder(base_of(self.config)))
        return AnswerGenerator(self.questions, tokenizer, self.device)

    def _tasks(self, split: str) -> dict[str, np.ndarray]:
        """A bool mask for each task of a split: which of the split's questions belong to it."""
        tasks = self.questions.tasks[self.rows[split]]
        return {self.questions.task_names[task]: tasks == task for task in np.unique(tasks)}

    def _baselines(self, split: str) -> dict[str, dict[str, float]]:
        """By task: the accuracies of a random guess and of the most frequent training answer."""
        rows = self.rows[split]
        values = {
            "chance": chance(self.questions, rows),
            "majority": majority(self.questions, rows, self.rows["train"]),
        }
        return {
            task: {name: float(value[of_task].mean()) for name, value in values.items()}
            for task, of_task in self._tasks(split).items()
        }
