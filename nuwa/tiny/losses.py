"""Losses of the tiny models: answers, captions, and the auxiliary supervisions whose heads are dropped at export."""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuwa.scenes.scene import COLORS, SHAPE_SIZES, SHAPES
from nuwa.tiny.base import VISION_WIDTH, WIDTH
from nuwa.tiny.data import TrainingBatch
from nuwa.tiny.vocabulary import CONTENT_WORDS, Vocabulary

CLASSES = (len(COLORS) + 1, len(SHAPES) + 1, len(SHAPE_SIZES) + 1)  # class 0 is background
BOX_SCALE = 16.0  # pixels; unit of the distances to a box's sides
ALIGNMENT_SCALE = 12.0
ANSWER_WEIGHT, FORMAT_WEIGHT = 2.0, 0.1  # an answer word and a bracket, comma or end token; numbers weigh 1

CAPTION_WORDS = (*COLORS, *SHAPES)

Metrics = dict[str, Tensor]


def count_words(caption: Iterable[str]) -> Tensor:
    """How often a caption has each of the caption words: (W,)."""
    return torch.tensor([CAPTION_WORDS.index(word) for word in caption]).bincount(minlength=len(CAPTION_WORDS)).float()


class TrainingHeads(nn.Module):
    """What training adds to every model and export drops: patch head and naming head.

    ``classes``: of how many there are of what a patch shows; colour is the first of them.
    """

    def __init__(self, classes: Sequence[int] = CLASSES) -> None:
        super().__init__()
        self.classes = list(classes)
        self.patch = nn.Sequential(nn.LayerNorm(VISION_WIDTH), nn.Linear(VISION_WIDTH, sum(classes) + 4))
        self.names = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, sum(classes)))


class PictureHeads(TrainingHeads):
    """Caption matching and position head."""

    def __init__(self, classes: Sequence[int] = CLASSES) -> None:
        super().__init__(classes)
        embedding = 64
        self.image = nn.Linear(VISION_WIDTH, embedding, bias=False)
        self.words = nn.Linear(len(CAPTION_WORDS), embedding, bias=False)
        self.caption = nn.Linear(embedding, embedding, bias=False)
        self.scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.position = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 + 4))

    def embed_captions(self, counts: Tensor) -> Tensor:
        """Unit vectors (K, e) of captions given as word counts (K, W): mean word vector, GELU, linear."""
        mean = self.words(counts) / counts.sum(1, keepdim=True)
        return F.normalize(self.caption(F.gelu(4 * mean)), dim=-1)


def patch_loss(heads: TrainingHeads, patches: Tensor, batch: TrainingBatch) -> tuple[Tensor, Metrics]:
    """What every patch shows (colour, shape and size of its object), and the distances to its box's sides."""
    outputs = heads.patch(patches).float()
    classes, front = batch["classes"], batch["owner"] > 0
    *logits, sides = outputs.split([*heads.classes, 4], -1)
    naming = _naming(logits, classes)
    boxes = F.smooth_l1_loss(sides[front], batch["sides"][front] / BOX_SCALE, beta=0.1)
    right = [(part.argmax(-1) == classes[..., i])[front].float().mean() for i, part in enumerate(logits[:2])]
    error = (sides[front] * BOX_SCALE - batch["sides"][front]).abs().mean()
    return 0.5 * naming + boxes, {"patch_color": right[0], "patch_shape": right[1], "patch_side_px": error}


def _naming(logits: Sequence[Tensor], classes: Tensor) -> Tensor:
    """Cross-entropies of ``logits`` (B, N, K) of each of the ``classes`` (B, N, C); background counts less."""
    weight = torch.where(classes[..., 0] > 0, 1.0, 0.3)
    losses = (
        (F.cross_entropy(part.transpose(1, 2), classes[..., i], reduction="none") * weight).mean()
        for i, part in enumerate(logits)
    )
    return sum(losses, start=torch.zeros(()))


def naming_loss(heads: TrainingHeads, visual: Tensor, batch: TrainingBatch) -> Tensor:
    """What every visual token shows (`patch_loss`), read from states (B, N, d) inside the language model."""
    return _naming(heads.names(visual).float().split(heads.classes, -1), batch["token_classes"])


def caption_loss(heads: PictureHeads, summary: Tensor, batch: TrainingBatch) -> tuple[Tensor, Metrics]:
    """InfoNCE of pictures' states (B, d) against their captions, the other captions and the text-only negatives."""
    counts = torch.cat([batch["captions"], batch["negatives"]])
    image = F.normalize(heads.image(summary).float(), dim=-1)
    logits = heads.scale.clamp(max=math.log(50.0)).exp() * image @ heads.embed_captions(counts).float().T
    own = torch.arange(len(summary))
    same = (counts[None] == batch["captions"][:, None]).all(-1)
    same[own, own] = False
    logits = logits.masked_fill(same, -1e9)
    return F.cross_entropy(logits, own), {"caption_top1": (logits.argmax(1) == own).float().mean()}


class Answers:
    """The K answer tokens of a batch: their ids ``targets`` (K,) and what kinds of token they are.

    ``number`` (K,): a coordinate of a box, ``word`` (K,): a word that answers; the rest only gives the form.
    ``kind`` (K,): of its question. Counts and coordinates may share tokens.
    """

    def __init__(self, batch: TrainingBatch, words: Vocabulary):
        chosen = batch["targets"] >= 0
        self.targets = batch["targets"][chosen]
        boxed, self.kind = (batch[name][..., None].expand_as(chosen)[chosen] for name in ("boxed", "kind"))
        form = [words.ids[token] for token in (words.eos, *words.marks)]
        meant = ~torch.isin(self.targets, torch.tensor(form))
        self.number, self.word = boxed & meant, ~boxed & meant
        self.first, self.bins = words.ids[words.numbers[0]], len(words.numbers)

    def loss(self, logits: Tensor, sigma: float) -> Tensor:
        """Weighted cross-entropy of ``logits`` (K, V).

        Numbers have a soft target, a Gaussian of ``sigma`` bins around the true one, and its entropy is taken off.
        """
        logp = logits.log_softmax(-1)
        true = torch.where(self.number, self.targets - self.first, 0)
        soft = (-0.5 * ((torch.arange(self.bins) - true[:, None]) / sigma) ** 2).softmax(-1)
        spread = (soft * (soft.clamp_min(1e-9).log() - logp[:, self.first : self.first + self.bins])).sum(1)
        plain = F.nll_loss(logp, self.targets, reduction="none")
        weight = torch.where(self.number, 1.0, torch.where(self.word, ANSWER_WEIGHT, FORMAT_WEIGHT))
        return (torch.where(self.number, spread, plain) * weight).sum() / weight.sum()

    def metrics(self, logits: Tensor, kinds: Sequence[str]) -> Metrics:
        """Teacher-forced accuracy of words (all; by kind of question) and of boxes at IoU 0.5."""
        guess = logits.argmax(-1)
        right = (guess == self.targets).float()
        found, true = ((ids[self.number] - self.first).view(-1, 4).float() for ids in (guess, self.targets))
        edges = torch.minimum(found[:, 2:], true[:, 2:]) - torch.maximum(found[:, :2], true[:, :2])
        overlap = edges.clamp(min=0).prod(1)
        areas = sum((box[:, 2:] - box[:, :2]).clamp(min=0).prod(1) for box in (found, true))
        hit = overlap / (areas - overlap).clamp(min=1e-6) > 0.5
        by_kind = {kind: right[self.word & (self.kind == number)].mean() for number, kind in enumerate(kinds)}
        return {"vqa": right[self.word].mean(), "vg": hit.float().mean(), **by_kind}


def position_loss(
    heads: PictureHeads, visual: Tensor, cells: Tensor, grid: int, size: int, batch: TrainingBatch
) -> tuple[Tensor, Metrics]:
    """Absolute centre of a token and absolute box, read from image states (B, N, d) inside the language model.

    ``cells`` (B, N): where the tokens are on the full picture's ``grid`` x ``grid``, ``size`` pixels wide.
    """
    outputs, front = heads.position(visual).float(), batch["token_owner"] > 0
    centers = (torch.stack([cells % grid, cells // grid], -1) + 0.5) / grid
    before, after = batch["token_sides"].split(2, -1)
    boxes = torch.cat([centers - before / size, centers + after / size], -1)
    place = F.smooth_l1_loss(outputs[..., :2], centers, beta=0.05)
    box = F.smooth_l1_loss(outputs[..., 2:][front], boxes[front], beta=0.05)
    return place + box, {"position_cells": (outputs[..., :2] - centers).abs().mean() * grid}


def alignment_loss(visual: Tensor, questions: Tensor, batch: TrainingBatch) -> Tensor:
    """-log share of the patches of the objects asked about, in a softmax over patches of the cosine to the question.

    ``visual`` (B, N, d) and ``questions`` (B, M*L, d) are states halfway through the language model; a question is the
    mean over its tokens. It teaches what Nüwa's stage 2 reads.
    """
    slots, length = batch["ids"].shape[1:]
    asked = torch.arange(length) < batch["asked"][..., None]
    words = questions.float().unflatten(1, (slots, length)) * asked[..., None]
    mean = words.sum(2) / asked.sum(2, keepdim=True)
    logits = ALIGNMENT_SCALE * F.normalize(mean, dim=-1) @ F.normalize(visual.float(), dim=-1).mT
    wanted = batch["objects"].gather(2, batch["token_owner"][:, None].expand(-1, slots, -1))
    share = logits.logsumexp(-1) - logits.masked_fill(~wanted, -1e9).logsumexp(-1)
    return share[wanted.any(-1)].mean()


class AttentionSupervision:
    """Where some heads should look, as -log of the attention mass there; an ``Observer`` of the packed forward.

    ``words``: answer positions look at the content words of their own question. ``nouns``: nouns look at the patches
    of the objects they name. ``objects``: answer positions look at the patches of the objects asked about.
    """

    def __init__(self, batch: TrainingBatch, layers: dict[str, list[int]], words: Vocabulary):
        self.layers = layers
        self.losses: dict[str, list[Tensor]] = {name: [] for name in layers}
        self.first = len(words.before)
        position = torch.arange(batch["ids"].shape[-1])
        asked, length = batch["asked"][..., None], batch["length"][..., None]
        owner = batch["token_owner"][:, None]
        answering = (position >= asked - 1) & (position < length)
        content = torch.tensor([token.removeprefix(words.space) in CONTENT_WORDS for token in words.tokens])
        wanted = batch["objects"].gather(2, owner.expand(-1, asked.shape[1], -1))
        mentions = batch["mentions"]
        named = mentions.gather(3, owner[:, :, None].expand(-1, *mentions.shape[1:3], -1))
        self.looks = {  # heads, who (B, M, L) looks and where (B, M, 1 or L, K)
            "words": (slice(2, 4), answering, (content[batch["ids"]] & (position < asked))[:, :, None]),
            "nouns": (slice(2, 4), named.any(-1), named),
            "objects": (slice(0, 2), answering, wanted[:, :, None]),
        }

    def __call__(self, index: int, to_prefix: Tensor, to_own: Tensor) -> None:
        """Record layer ``index``: weights (B, H, M, L, P) to the image prefix, (B, H, M, L, L) to the own question."""
        for name, (heads, queries, keys) in self.looks.items():
            if index in self.layers[name]:
                weights = (to_own if name == "words" else to_prefix[..., self.first :])[:, heads]
                mass = (weights * keys[:, None].to(weights.dtype)).sum(-1).float()
                valid = queries & keys.any(-1)
                loss = -(mass.clamp_min(1e-4).log().mean(1) * valid).sum() / valid.sum().clamp(min=1)
                self.losses[name].append(loss)

    def means(self) -> Metrics:
        """Mean loss of every kind over its layers."""
        return {f"attend_{name}": torch.stack(values).mean() for name, values in self.losses.items()}
