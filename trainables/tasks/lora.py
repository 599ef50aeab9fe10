"""Language models fine-tuned with LoRA on questions with candidate answers; pruned after the adapters are merged."""

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import sparsity
from sparsity.gates import Gated
from trainables.architectures.causal_lm import DEFAULT_BASE, SIZES, TINY, base_folder, network_config, quiet
from trainables.config import TrialConfig, check_name, construct
from trainables.data.images import split
from trainables.data.records import Records
from trainables.task import Task
from trainables.tasks._answers import Plan, chance, collapsed, draw_accuracy, majority, spread
from trainables.tasks._tokens import Encoded, encode, read_tokenizer, train_tokenizer

__all__ = ["LoRA"]

EVALUATION_BATCH = 64  # records
IGNORED = -100  # a label that no loss counts
UNFIT = {  # criterion -> why
    "compensation": "the projections have no bias to hold a shift",
    "grasp": "its outputs are no tensor",
    "synflow": "a token cannot be 1",
}


@dataclass(frozen=True)
class Settings:
    """r, alpha, dropout: of LoRA. A layer computes W0 x + (alpha / r) B A dropout(x), A (r, in) and B (out, r) trained,
        B from 0 on.
    projections: names of the linear layers that are adapted and, merged, pruned, with commas between them.
    regularize: what the penalty sees: "factors", each A and each B, or "merged", each W0 + (alpha / r) B A.
    base_dtype: "float32" or "bfloat16", what the frozen weights are kept in while training. Of a checkpoint in bfloat16
        the latter loses nothing, and takes half the memory; merged weights are float32 in any case.
    gradient_checkpointing: compute each block's activations again in the backward pass instead of keeping them.
    ValueError for a value out of range.
    """

    r: int = 32
    alpha: float = 64
    dropout: float = 0.05
    projections: str = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    regularize: str = "factors"
    base_dtype: str = "float32"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.r, int) or self.r < 1:
            raise ValueError(f"task_args: r must be a whole number >= 1 (it is a rank), got {self.r!r}")
        if not self.alpha > 0:
            raise ValueError(f"task_args: alpha must be > 0 (it scales what is learned), got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"task_args: dropout must be in [0, 1), got {self.dropout}")
        for name, choices in (("regularize", ("factors", "merged")), ("base_dtype", ("float32", "bfloat16"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"task_args: {name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")

    @property
    def names(self) -> list[str]:
        return [name.strip() for name in self.projections.split(",") if name.strip()]


@dataclass(frozen=True, eq=False)
class LoadedRecords:
    """A data set as the trials of a node share it, in numbers.

    records: all of them. training, validation, test: rows of them. end: the end-of-text token. tokenizer: its JSON
    where it was trained here, "" where it is the base's own.
    """

    records: Encoded
    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    cutoff: int
    template: str
    end: int
    tokenizer: str


class Batch(NamedTuple):
    """tokens (N, T): prompt and response, 0 behind them. positions, labels (N, P): where the response's tokens are
    predicted, and which they are, IGNORED behind the last. lengths, num_labels: of each row, on the host, so that
    nothing waits for the device."""

    tokens: Tensor
    positions: Tensor
    labels: Tensor
    lengths: np.ndarray
    num_labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Answered:
    """chosen, right, greedy: for each record the index of the chosen candidate (-1 where a score is nan), whether it is
    the right one, and whether greedy decoding gives it. loss: nats per token of the right answers."""

    chosen: np.ndarray
    right: np.ndarray
    greedy: np.ndarray
    loss: float


class LoRA(Task):
    """Next-token cross-entropy on the answers; pruned and measured with the adapters merged in.

    Loss: nats, the mean over the tokens of a batch's responses, end of text included; prompts have none. A training
    prompt that is too long for `cutoff` loses tokens behind its first one (LLaMA's begin-of-text), never the answer's.
    Metrics: `acc`, the mean over the tasks of the accuracy of each, `acc_TASK`; `loss`, as above, over the split;
    `chance`, what guessing gives on average (a mean over tasks of 1 / number of candidates); `greedy_agreement`, the
    share of records for which greedy decoding gives the very candidate that was chosen.
    A network that chooses by the candidates alone, the same answer to every question that has them, is `collapsed`.
    A record's chosen candidate is that of the highest sum of its tokens' log-probabilities behind the prompt, end of
    text left out. One forward pass of prompt and right answer gives those of every candidate that differs from it in
    its last token alone, as all of the commonsense tasks' do; any other candidate has a row of its own in the batch.
    No token is sampled, and nothing depends on the right answer: a place sees only what is before it.
    Source of the protocol: Hu et al. 2023 (arXiv 2304.01933) and Yun, Jo & Lee 2025 (arXiv 2511.14282), section 5.1.

    Memory, for P weights of the base, of them Q in the adapted projections, and L in the factors: training takes 4 P
    bytes (2 P with base_dtype=bfloat16), 16 L (weight, gradient, AdamW's two means), 4 L or 8 L for SAM's family, and
    the activations; regularize=merged 4 Q more, and 4 of the largest tensor's. An evaluation takes 8 P (merged, pruned)
    and about 17 Q (scores, their order, masks) beside the training's; scope global, which sorts all together, on a GPU
    about 20 Q more. Before activations, for r = 32:
        Qwen2.5-1.5B  P 1.544e9  Q 1.310e9  L 36.9e6  training 6.8 GB (bfloat16 3.7 GB), with an evaluation 41 GB
        LLaMA-3.2-1B  P 1.236e9  Q 0.973e9  L 22.5e6  training 5.3 GB (bfloat16 2.8 GB), with an evaluation 32 GB
    Checkpoints hold the factors alone: the base comes from its own files.
    """

    objective = "acc"

    @classmethod
    def load(cls, config: TrialConfig, root: str | None = None) -> LoadedRecords:
        check_name("trainables.datasets", config.dataset, "dataset")
        check_trial(config)
        records = construct("data", sparsity.find("trainables.datasets", config.dataset), root, arguments=config.data)
        if not isinstance(records, Records):
            raise ValueError(
                f"dataset: must be one of records with answers, such as commonsense, got {config.dataset!r}"
            )
        training, validation = records.split(config.train_size)
        tiny = base_of(config) in TINY
        if tiny:
            texts = (records.train[i] for i in records.split()[0])  # the same whatever train_size is
            vocab_size = config.model.get("vocab_size", SIZES["vocab_size"])
            tokenizer = train_tokenizer((text.prompt + text.responses[text.answer] for text in texts), vocab_size)
        else:
            tokenizer = read_tokenizer(base_folder(base_of(config)))
        encoded = encode(tokenizer, [*records.train, *records.test])
        if (longest := encoded.table.lengths.max()) >= records.cutoff:
            raise ValueError(f"data: cutoff must be above {longest} (the tokens of an answer), got {records.cutoff}")
        return LoadedRecords(
            records=encoded,
            training=training,
            validation=validation,
            test=len(records.train) + split(len(records.test), 0.0)[0],
            cutoff=records.cutoff,
            template=records.template,
            end=tokenizer.end,
            tokenizer=tokenizer.tokenizer.to_str() if tiny else "",
        )

    def __init__(self, config: TrialConfig, data: LoadedRecords, device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        self.config, self.data, self.records = config, data, data.records
        self.settings = check_trial(config)
        self.rows = {
            "train": data.training,
            "validation": spread(data.validation, self.records.tasks, config.eval_size),
            "test": spread(data.test, self.records.tasks, config.eval_size),
        }
        self.splits_read = ("validation", "test") if config.read_test else ("validation",)
        # Copies: the arrays lie read-only in memory that all trials of a node share.
        self._prompts, self._table = (
            torch.tensor(tokens.values, device=self.device) for tokens in (self.records.prompts, self.records.table)
        )
        self._plan = Plan(self.records.table)
        self._merged: list[tuple[Tensor, Any]] = []  # what the penalty sees with regularize=merged, and of which layer
        self._merged_of: nn.Module | None = None
        self._network_config: dict[str, Any] | None = None  # of build_model

    # ---- the network -------------------------------------------------------------------------------------------

    def build_model(self) -> nn.Module:
        build = sparsity.find("trainables.architectures", self.config.architecture)
        network = construct("model", build, arguments=self.config.model)
        self._network_config = network_config(network)
        adapted = list(self.projections(network))
        if missing := [name for name in self.settings.names if not any(n.split(".")[-1] == name for n in adapted)]:
            kinds = {
                name.split(".")[-1] for name, m in network.named_modules() if getattr(m, "weight", None) is not None
            }
            raise ValueError(
                f"task_args: projections must be names of linear layers of the model, got {', '.join(missing)}, while "
                f"{type(network).__name__} has {', '.join(sorted(kinds))}"
            )
        for parameter in network.parameters():  # and no buffer: positions are angles, which bfloat16 has too few of
            parameter.data = parameter.data.to(getattr(torch, self.settings.base_dtype))
        quiet()
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(
            r=self.settings.r,
            lora_alpha=self.settings.alpha,  # type: ignore[arg-type]
            lora_dropout=self.settings.dropout,
            target_modules=adapted,
            bias="none",
        )
        with warnings.catch_warnings():  # peft asks transformers by a name that it is to lose
            warnings.simplefilter("ignore", FutureWarning)
            model = get_peft_model(network.to(self.device), lora)  # the factors are float32 whatever the base is
        if self.settings.gradient_checkpointing:
            network.activation_checkpointing_enable()
        model.register_state_dict_post_hook(drop_frozen)
        model.register_load_state_dict_post_hook(excuse_frozen)
        return model

    def projections(self, model: Any) -> dict[str, Any]:
        """The layers that are adapted or, in a plain network, can be, by their names in the plain network."""
        network = model.get_base_model() if hasattr(model, "get_base_model") else model
        return {
            name: module
            for name, module in network.named_modules()
            if name.split(".")[-1] in self.settings.names
            and (isinstance(module, nn.Linear) or hasattr(module, "base_layer"))
        }

    def deployed(self, model: Any) -> nn.Module:
        """The plain network with weights W0 + (alpha / r) B A, all in float32."""
        network = model.float().merge_and_unload()
        if self.settings.gradient_checkpointing:
            network.activation_checkpointing_disable()
        for layer in self.projections(network).values():
            layer.weight.requires_grad_(True)  # a criterion may ask for their gradient
        return network

    def prunable(self, model: nn.Module) -> dict[str, Tensor]:
        found = self.projections(model)
        return {f"{name}.weight": getattr(layer, "base_layer", layer).weight for name, layer in found.items()}

    def regularized(self, model: nn.Module) -> dict[str, Tensor]:
        if self.settings.regularize == "factors" or self.config.regularizer == "none":
            return super().regularized(model)
        layers = self.projections(model)
        merged = {
            name: torch.empty_like(layer.base_layer.weight, dtype=torch.float32) for name, layer in layers.items()
        }
        self._merged, self._merged_of = list(zip(merged.values(), layers.values(), strict=True)), model
        self._merge()
        return merged

    def _merge(self) -> None:
        """Compute the tensors that the penalty holds anew, in place, as functions of the factors: its gradient flows
        on to those."""
        for weight, layer in self._merged:
            weight.detach_()
            weight.copy_(layer.base_layer.weight)
            weight.addmm_(
                layer.lora_B["default"].weight, layer.lora_A["default"].weight, alpha=layer.scaling["default"]
            )

    def describe_model(self) -> dict:
        return {
            "architecture": self.config.architecture,
            "model": {"config": self._network_config},
            "input": {
                "tokenizer": self.data.tokenizer or base_of(self.config),
                "prompt": self.data.template,
                "end_of_text": self.data.end,
                "cutoff": self.data.cutoff,
                "num_training_prompts_cut": int((self._num_cut(self.rows["train"]) > 0).sum()),
            },
            "baselines": {name: self._baselines(name) for name in self.splits_read},
        }

    def _baselines(self, name: str) -> dict[str, dict[str, float]]:
        """By task: what guessing gives, and the answer that is the most frequent in training for these candidates."""
        rows = self.rows[name]
        values = {"chance": chance(self.records, rows), "majority": majority(self.records, rows, self.rows["train"])}
        return {
            task: {kind: float(value[of].mean()) for kind, value in values.items()}
            for task, of in self._tasks(name).items()
        }

    # ---- batches -----------------------------------------------------------------------------------------------

    def steps_per_epoch(self, batch_size: int) -> int:
        return max(1, len(self.rows["train"]) // batch_size)

    def batches(self, split: str, batch_size: int, *, seed: int | None = None) -> Iterator[Batch]:
        """Prompts with the right answers, cut where they are too long; a shuffled batch has its longest rows first."""
        rows = self.rows[split]
        if seed is not None:
            rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).numpy()]
        chunks = np.split(rows, range(batch_size, len(rows), batch_size))
        for chosen in chunks if seed is None else chunks[: self.steps_per_epoch(batch_size)]:
            if seed is not None:
                chosen = chosen[np.argsort(-self.records.prompts.lengths[chosen], kind="stable")]
            yield self._batch(chosen, self.records.correct[chosen], self._num_cut(chosen))

    def _num_cut(self, rows: np.ndarray) -> np.ndarray:
        """Tokens by which each row's prompt and right answer are too long for the cutoff."""
        lengths = self.records.prompts.lengths[rows] + self.records.table.lengths[self.records.correct[rows]]
        return np.maximum(lengths - self.data.cutoff, 0)

    def _batch(self, rows: np.ndarray, which: np.ndarray, cut: np.ndarray) -> Batch:
        """The prompts of `rows`, less `cut` tokens behind the first, each with the response `which` behind it. Only
        places and lengths go to the device: the tokens are there."""
        records, prompts, table = self.records, self._prompts, self._table
        prompt, response = records.prompts.lengths[rows] - cut, records.table.lengths[which]
        numbers = np.stack([records.prompts.starts[rows], records.table.starts[which], prompt, response, cut])
        start, place, p, r, skipped = torch.from_numpy(numbers).to(self.device)[:, :, None].unbind()
        lengths = prompt + response - 1  # the end of text is predicted, and predicts nothing
        t = torch.arange(int(lengths.max()), device=self.device)
        of_prompt = prompts[(start + t + skipped * (t > 0)).clamp_(max=len(prompts) - 1)]
        of_response = table[(place + t - p).clamp_(0, len(table) - 1)]
        tokens = torch.where(t < p, of_prompt, of_response).long() * (t < p + r - 1)
        k = torch.arange(int(response.max()), device=self.device)
        labels = torch.where(k < r, table[(place + k).clamp_(max=len(table) - 1)].long(), IGNORED)
        return Batch(tokens, (p - 1 + k).minimum(p + r - 2), labels, lengths, response)

    def parts(self, batch: Batch, num: int) -> list[tuple[float, Batch]]:
        """Weighted by the tokens of their answers, which `loss` is the mean of; each as short as its longest row."""
        total, found = batch.num_labels.sum(), []
        for rows in np.array_split(np.arange(len(batch.lengths)), min(num, len(batch.lengths))):
            inside = slice(rows[0], rows[-1] + 1)
            lengths, num_labels = batch.lengths[inside], batch.num_labels[inside]
            length, num_positions = int(lengths.max()), int(num_labels.max())
            tokens, positions = batch.tokens[inside, :length], batch.positions[inside, :num_positions]
            part = Batch(tokens, positions, batch.labels[inside, :num_positions], lengths, num_labels)
            found.append((float(num_labels.sum() / total), part))
        return found

    # ---- loss and metrics --------------------------------------------------------------------------------------

    def before_penalty(self, model: nn.Module) -> None:
        if model is self._merged_of:
            self._merge()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = self.forward(model, batch)
        return F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED)

    def forward(self, model: Any, batch: Batch) -> Tensor:
        """Logits (N, P, vocabulary) at the places where a response's tokens are predicted, and at no other."""
        # Who wants gradients in evaluation mode (a criterion, sharpness) may want their gradients too, which the fused
        # kernels of attention do not have.
        second = torch.is_grad_enabled() and not model.training
        kernel = sdpa_kernel(SDPBackend.MATH) if second else contextlib.nullcontext()
        with self.autocast(), kernel, only_at(model.get_output_embeddings(), batch.positions):
            # No mask: attention is causal, and what is padded stands behind everything that is read.
            return model(input_ids=batch.tokens, use_cache=False).logits.float()

    def inputs(self, batch: Batch) -> Tensor:
        return batch.tokens

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        answered, of_task = self.answer(model, split), self._tasks(split)
        by_task = {task: float(answered.right[of].mean()) for task, of in of_task.items()}
        rows = self.rows[split]
        guessing = chance(self.records, rows)
        return {
            "acc": float(np.mean(list(by_task.values()))),
            "loss": answered.loss,
            **{f"acc_{task}": value for task, value in by_task.items()},
            "chance": float(np.mean([guessing[of].mean() for of in of_task.values()])),
            "greedy_agreement": float(answered.greedy.mean()),
            "collapsed": float(
                collapsed(self.records.responses[rows], answered.chosen, self.records.answers[rows]),
            ),
        }

    def _tasks(self, name: str) -> dict[str, np.ndarray]:
        """Which of a split's records belong to each task, of those that it has."""
        of = self.records.tasks[self.rows[name]]
        return {self.records.task_names[task]: of == task for task in np.unique(of)}

    @torch.no_grad()
    def answer(self, model: nn.Module, split: str) -> Answered:
        """What the model chooses, for each record of a split. Leaves its mode as it was."""
        was_training = model.training
        model.eval()
        rows = self.rows[split]
        order = np.argsort(self.records.prompts.lengths[rows], kind="stable")  # rows of like length go together
        chosens, right, greedy, loss = [], [], [], torch.zeros((), dtype=torch.float64, device=self.device)
        for chunk in np.split(rows[order], range(EVALUATION_BATCH, len(order), EVALUATION_BATCH)):
            scores, is_greedy, nats = self.score(model, chunk)
            chosen, wrong = scores.argmax(1), scores.isnan().any(1)  # argmax takes a nan for the largest
            right.append((chosen == torch.from_numpy(self.records.answers[chunk]).to(self.device)) & ~wrong)
            greedy.append(is_greedy.gather(1, chosen[:, None])[:, 0] & ~wrong)
            chosens.append(chosen.masked_fill(wrong, -1))
            loss += nats
        model.train(was_training)
        back, num_tokens = np.argsort(order), self.records.table.lengths[self.records.correct[rows]].sum()
        # A pruned network can overflow; the metric stays a number.
        mean = min(torch.nan_to_num(loss, nan=torch.inf).item() / int(num_tokens), 1e9)
        columns = [torch.cat(parts).cpu().numpy()[back] for parts in (chosens, right, greedy)]
        return Answered(columns[0], columns[1], columns[2], mean)

    def score(self, model: nn.Module, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Of the candidates (n, K) of some records: the log-probability of each one's tokens, -inf where there is none,
        and whether greedy decoding gives them; and the summed loss of the right answers, end of text included."""
        records, device = self.records, self.device
        responses = records.responses[rows]
        record, which, row_of = self._plan(responses, records.correct[rows])
        batch = self._batch(rows[record], which, np.zeros_like(which))
        logits = self.forward(model, batch)
        norm = logits.logsumexp(-1)
        row, starts, lengths = (
            torch.from_numpy(numbers).to(device)[..., None]
            for numbers in (row_of, records.table.starts[responses], records.table.lengths[responses])
        )
        k = torch.arange(logits.shape[1], device=device)
        tokens = self._table[(starts + k).clamp_(max=len(self._table) - 1)].long()
        outside = k >= lengths - 1  # the end of text is left out
        scores = (logits[row, k, tokens] - norm[row, k]).masked_fill_(outside, 0).sum(-1)
        greedy = ((logits.argmax(-1)[row, k] == tokens) | outside).all(-1)
        first = torch.from_numpy(row_of[np.arange(len(rows)), records.answers[rows]]).to(device)
        nats = F.cross_entropy(logits[first].flatten(0, 1), batch.labels[first].flatten(), reduction="sum")
        there = torch.from_numpy(responses >= 0).to(device)
        return scores.masked_fill_(~there, -torch.inf), greedy & there, nats.double()

    # ---- figures -----------------------------------------------------------------------------------------------

    def illustrate(self, models: Mapping[float, nn.Module], folder: Path) -> None:
        """accuracy.png and accuracy.json: each task's accuracy with its standard error, beside chance and majority."""
        found: dict[str, Any] = {}
        for name in self.splits_read:
            answered = {f"{level:g}": self.answer(model, name).right for level, model in models.items()}
            found[name] = {}
            for task, of in self._tasks(name).items():
                found[name][task] = {"num": int(of.sum()), **self._baselines(name)[task]}
                for level, right in answered.items():
                    acc = float(right[of].mean())
                    error = float(np.sqrt(acc * (1 - acc) / of.sum()))
                    found[name][task][level] = {"acc": acc, "standard_error": error}
        (folder / "accuracy.json").write_text(json.dumps(found, indent=2))
        draw_accuracy(found, [f"{level:g}" for level in models]).savefig(folder / "accuracy.png", dpi=120)


def base_of(config: TrialConfig) -> str:
    return str(config.model.get("base", DEFAULT_BASE))


def check_trial(config: TrialConfig) -> Settings:
    """The protocol of a configuration. ValueError, one line, for what does not go with adapters."""
    protocol = construct("task_args", Settings, arguments=config.task_args)
    if config.architecture != "causal_lm":
        raise ValueError(f"lora: architecture must be causal_lm, got {config.architecture}")
    if config.pruning_schedule != "one_shot":
        raise ValueError(
            f"lora: pruning_schedule must be one_shot (adapters fill what a round removed), got {config.pruning_schedule}"
        )
    if reason := UNFIT.get(config.criterion):
        raise ValueError(f"lora: criterion must fit a language model ({reason}), got {config.criterion}")
    if protocol.regularize == "merged" and issubclass(sparsity.load("regularizers", config.regularizer), Gated):
        raise ValueError(
            f"task_args: regularize must be factors with {config.regularizer} (gates are put on parameters)"
        )
    return protocol


@contextlib.contextmanager
def only_at(head: nn.Module, positions: Tensor) -> Iterator[None]:
    """The head sees only these places of each row: logits of a whole prompt would be the largest tensor of all."""

    def chosen(_: nn.Module, args: tuple) -> tuple:
        hidden = args[0]
        return (hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1])),)

    hook = head.register_forward_pre_hook(chosen)
    try:
        yield
    finally:
        hook.remove()


def drop_frozen(model: nn.Module, state: dict, prefix: str, _: dict) -> None:
    """The state of a network with adapters is that of what is trained: the base comes from its own files."""
    for name, parameter in model.named_parameters(prefix.rstrip("."), remove_duplicate=False):
        if not parameter.requires_grad:
            del state[name]


def excuse_frozen(model: nn.Module, incompatible: Any) -> None:
    frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if name not in frozen]
