"""Training a generator: packed rows, the loss of their answers alone, per-token loss on dev.

Notable: with fewer layers tuned than there are, what the others make of each row is computed once and kept. The loss of
a step is the mean over all its answers' tokens, however the rows are split over passes and processes. Not here: the
loop (``loop``), what happens before and after it (``tune``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from locum.core.progress import track
from locum.models.architectures import Architecture
from locum.train.answer_loss import answer_loss
from locum.train.checkpoint import CheckpointFolder
from locum.train.forward import Machine
from locum.train.frozen import FrozenPrefix
from locum.train.lean import make_lean
from locum.train.loop import Score, Trainer
from locum.train.mixing import epoch_rows, step_rows
from locum.train.optimiser import generator_optimiser
from locum.train.outcome import Clock
from locum.train.packing import Example, Pack, pack, packs_of
from locum.train.ranks import ALONE, Ranks
from locum.train.recipe import TuneRecipe
from locum.train.schedule import Schedule

PACK_TOKENS = {"cpu": 1024, "cuda": 16384}  # of one forward pass, by kind of device


class Decoder:
    """A causal model as training uses it: packs in, states and losses out.

    Args:
        model: of transformers, its attention set to ``attention.NAME``; adapters may be on.
        architecture: of it.
        machine: where it runs.
    """

    def __init__(self, model: Any, architecture: Architecture, machine: Machine) -> None:
        self.model, self.architecture, self.machine = model, architecture, machine
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT's wrapper has one
        self.body = causal.base_model
        self.head: Tensor = causal.get_output_embeddings().weight  # [V, D]
        make_lean(self.body, architecture)
        self.pack_tokens = PACK_TOKENS.get(machine.device.type, PACK_TOKENS["cpu"])
        self.softcap: float | None = getattr(causal.config, "final_logit_softcapping", None)

    def states(self, laid_out: Pack, given: Tensor | None = None) -> Tensor:
        """Last hidden states ``[N, D]``.

        Args:
            laid_out: the rows.
            given: what frozen layers made of them, ``[N, D]``, in place of their ids.
        """
        device = self.machine.device
        if given is None:
            source = {"input_ids": laid_out.ids.unsqueeze(0).to(device)}
        else:
            source = {"inputs_embeds": given.unsqueeze(0).to(device, torch.float32)}
        positions = laid_out.positions.unsqueeze(0).to(device)
        output = self.body(**source, position_ids=positions, spans=laid_out.spans, use_cache=False)
        return output.last_hidden_state[0]

    def loss(self, laid_out: Pack, given: Tensor | None = None) -> Tensor:
        """Summed cross-entropy of the answers' tokens."""
        device = self.machine.device
        with self.machine.autocast():
            states = self.states(laid_out, given)[laid_out.reads.to(device)]  # [A, D]
            return answer_loss(states, self.head, laid_out.targets.to(device), softcap=self.softcap)


class FrozenStates:
    """What a frozen prefix makes of each row, computed once.

    Args:
        decoder: whose prefix has been split off.
        prefix: of its layers.
    """

    def __init__(self, decoder: Decoder, prefix: FrozenPrefix) -> None:
        self._decoder, self._prefix = decoder, prefix

    @torch.no_grad()
    def read(self, examples: Sequence[Example], label: str) -> list[Tensor]:
        """States ``[T, D]`` of each row, in bfloat16 where that is what layers exchange."""
        found: list[Tensor] = [torch.empty(0)] * len(examples)
        machine = self._decoder.machine
        with track(label, len(examples), "row") as tracker, self._prefix.alone(), machine.autocast():
            for rows in packs_of(range(len(examples)), examples, None, self._decoder.pack_tokens, share=False):
                states = self._decoder.states(pack([examples[row] for row in rows], share=False)).cpu()
                kept = states.bfloat16() if machine.bfloat16 else states
                for row, part in zip(rows, kept.split([len(examples[row].ids) for row in rows]), strict=True):
                    found[row] = part.clone()
                tracker.advance(len(rows))
        return found


class GeneratorTrainer(Trainer):
    """Trains one decoder by a schedule.

    Args:
        decoder: what is tuned; weights that do not require gradients stay as they are.
        train, dev: encoded rows.
        states: what frozen layers made of the rows of train and dev, or None.
        mixing: temperature of the mixture of tasks.
        for_task: whose dev loss says which weights are kept; None: all rows of dev.
    """

    def __init__(
        self,
        decoder: Decoder,
        train: Sequence[Example],
        dev: Sequence[Example],
        *,
        states: tuple[list[Tensor], list[Tensor]] | None,
        mixing: float,
        recipe: TuneRecipe,
        schedule: Schedule,
        checkpoints: CheckpointFolder,
        clock: Clock,
        seed: int,
        for_task: str | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__(
            decoder.model,
            generator_optimiser(decoder.model, recipe),
            average=None,
            recipe=recipe,
            schedule=schedule,
            checkpoints=checkpoints,
            clock=clock,
            seed=seed,
            ranks=ranks,
        )
        self.decoder, self.train_rows, self.dev_rows, self.mixing = decoder, train, dev, mixing
        self.train_states, self.dev_states = states or (None, None)
        self.for_task = for_task
        self.spent_s, self.tokens = 0.0, 0

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens of rows, prompts and answers, a second of the steps taken; None before the first."""
        return round(self.tokens / self.spent_s, 1) if self.spent_s else None

    def batches(self, epoch: int) -> list[list[int]]:
        """Random rows of the mixture."""
        tasks = [row.task for row in self.train_rows]
        return step_rows(epoch_rows(tasks, self.mixing, self.seed, epoch), self.pace.batch_rows)

    def step(self, batch: list[int]) -> float:
        """One optimiser step, timed."""
        started_s = time.monotonic()
        loss = super().step(batch)
        self.spent_s += time.monotonic() - started_s
        self.tokens += sum(self.train_rows[row].length for row in batch)
        return loss

    def losses(self, batch: list[int]) -> Iterator[Tensor]:
        """Each pack's share of the mean over the tokens of all answers, of this process's rows."""
        wanted = sum(len(self.train_rows[row].answer) for row in batch)
        by_length = sorted(batch, key=lambda row: (self.train_rows[row].length, row))
        mine = by_length[self.ranks.rank :: self.ranks.world]
        for rows in packs_of(mine, self.train_rows, self.schedule.micro_batch, self.decoder.pack_tokens):
            yield self._loss(rows, self.train_rows, self.train_states) / wanted

    @torch.no_grad()
    def score(self) -> Score:
        """Mean loss of a token of dev's answers, of the task that counts or of all, and by task."""
        was_training = self.model.training
        self.model.eval()
        tasks = sorted({row.task or "" for row in self.dev_rows})
        sums = [0.0] * (2 * len(tasks))  # loss and tokens of each task
        with track("evaluate", len(self.dev_rows), "row") as tracker:
            for place, task in enumerate(tasks):
                of_task = [number for number, row in enumerate(self.dev_rows) if (row.task or "") == task]
                mine = of_task[self.ranks.rank :: self.ranks.world]
                for rows in packs_of(mine, self.dev_rows, self.schedule.micro_batch, self.decoder.pack_tokens):
                    sums[2 * place] += self._loss(rows, self.dev_rows, self.dev_states).item()
                    sums[2 * place + 1] += sum(len(self.dev_rows[row].answer) for row in rows)
                    tracker.advance(len(rows))
        self.model.train(was_training)
        sums = self.ranks.sums(sums)
        losses, tokens = sums[::2], sums[1::2]
        by_task = {task: loss / count for task, loss, count in zip(tasks, losses, tokens, strict=True) if task}
        counted = sum(losses) / sum(tokens) if self.for_task is None else by_task[self.for_task]
        return Score(counted, losses=by_task)

    def measure(self) -> float:
        """Seconds a token of forward and backward passes, on the first rows of the first epoch."""
        rows = self.batches(0)[0]
        self.model.train()
        for part in (rows[:1], rows[: max(2, len(rows) // 2)]):  # the first warms up
            started_s = time.monotonic()
            for loss in self.losses(part):
                loss.backward()
            seconds = time.monotonic() - started_s
            self.optimiser.zero_grad(set_to_none=True)
        return seconds * self.ranks.world / sum(self.train_rows[row].length for row in part)

    def _loss(self, rows: list[int], examples: Sequence[Example], states: list[Tensor] | None) -> Tensor:
        laid_out = pack([examples[row] for row in rows])
        if states is None:
            return self.decoder.loss(laid_out)
        given = torch.cat([states[rows[number]][part] for number, part in laid_out.pieces])
        return self.decoder.loss(laid_out, given)
