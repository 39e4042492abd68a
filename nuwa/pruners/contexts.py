"""What a pruning method is shown, and how it answers: contexts and decisions.

Shape letters: B images (vision stage) or prompts (LLM stage), N tokens of a view, K kept tokens, L sequence length,
D feature width, H heads, I images of a prompt.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nuwa.pruning.layout import Grid, ImageLayout
from nuwa.pruning.selection import top_of_each_image


@dataclass
class VisionContext:
    """What a vision-stage method may look at: B views of one grid (of any images), tokens in raster order.

    ``features`` (B, N, D): the features at which tokens are kept or merged (LLaVA: before the projector). ``project``
    maps features to the LLM's width. ``taps`` holds what the method asked for, by the names it gave; a tap that the
    tower does not have is missing. ``ids`` names each view (the sample's id, for later views of an image their number
    as well), the only source of randomness together with the method's seed. ``axes`` are those of the LLM's position
    ids. ``views`` is how many each picture or frame has. A view shows one frame or, with the tiling `FramesTogether`,
    all ``frames`` of a video: its grid is then (frames * height, width), and token ``frame * height * width + cell`` is
    that cell of that frame. ``questions``: what is asked about each view's image, None where the session does not know.
    ``embed`` gives the LLM's embeddings (m, H) of token ids (m,), and ``source`` is where the model was loaded from, if
    anywhere.
    """

    grid: Grid
    features: Tensor
    taps: Mapping[str, Tensor]
    ids: Sequence[str]
    project: Callable[[Tensor], Tensor]
    views: int = 1
    frames: int = 1
    axes: int = 1
    questions: Sequence[str] | None = None
    embed: Callable[[Tensor], Tensor] | None = None
    source: str = ""

    def generator(self, image: int, seed: int) -> torch.Generator:
        """A CPU generator that depends only on the seed and the image's id."""
        return seeded_generator(self.ids[image], seed)


@dataclass
class VisionDecision:
    """Which tokens of a view stay, in the order in which the LLM is to see them.

    ``keep`` (B, K): raster indices, unique per row; a token that has no place in the grid (a CLS token) takes the index
    of a dropped one. ``features`` (B, K, D): the features to use instead of the old ones (merged, pooled), or None;
    ``projected`` (B, K, H): the same behind the projector, for methods that merge there.
    ``extras``: tensors (B, N) or (B, K) worth showing in pictures and analyses, e.g. ``salience``, ``pillar``.
    ``counts`` (B,): how many of the K each image really keeps, the first ones, where a method decides that by itself.

    A method that merges says who went where. ``members`` (B, N): the place in ``keep`` of the token that each one went
    into, its own for one that stays, -1 for one that is gone. ``sizes`` (B, K): how many tokens each kept one stands
    for, where that is not the number of its members. ``shares`` (B, N): what each token is multiplied by in the sum
    that it went into, where that is no mean; ``weights`` (B, K, N) where tokens went into several.
    """

    keep: Tensor
    features: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)
    counts: Tensor | None = None
    projected: Tensor | None = None
    members: Tensor | None = None
    sizes: Tensor | None = None
    shares: Tensor | None = None
    weights: Tensor | None = None


@dataclass
class LLMContext:
    """What an LLM-stage method may look at: the input of one decoder layer, rows left-padded to one length.

    ``hidden`` (B, L, D); ``image`` (B, L): ordinal of the row's image that a visual token belongs to, -1 for all other
    tokens (text, padding, and followers as newlines between rows of patches, which come and go with these);
    ``token`` (B, L): index among that image's tokens, -1 for text; ``valid`` (B, L): False on padding;
    ``ids[row][image]`` names each image, ``layouts[row][image]`` says where its tokens sit, ``extras[row][image]`` what
    the vision stage wrote down of them (`VisionDecision.extras`; of later views under numbered names).

    ``attention(query, rotary=True, among=None)`` gives the softmax attention rows (B, H, Q, L) float32 of *this* layer
    for the positions ``query`` (Q,) of the sequence (the last token is L - 1), recomputed for those rows only; without
    rotary embeddings if asked, and with the softmax over the tokens ``among`` (B, L) only. ``keys()`` gives the layer's
    rotated keys (B, L, ``kv_heads`` x width), ``values()`` its values in the same shape, ``rotary_kernel(query)`` what
    its rotary embeddings alone make of distances (B or 1, Q, L); ``final_norm`` is the norm before the model's head.
    ``position_ids`` (C, B, L), on one axis or three, are those in use; times the ``frequencies`` (width / 2,) they are
    the angles of the rotary embeddings. ``earlier`` holds the contexts that the method ``needs``. In ``notes`` a method
    may keep what a later stage reads again. ``transitions``, where they are needed, say what the blocks of some of all
    ``layers`` did to each token before: layer -> (B, L). Into ``scores`` a method puts what it finds of the tokens
    (B, L), by name: they are worth showing in pictures (`top_k` does it, with what it is given).
    """

    layer: int
    hidden: Tensor
    image: Tensor
    token: Tensor
    valid: Tensor
    ids: Sequence[Sequence[str]]
    attention: Callable[..., Tensor]
    keys: Callable[[], Tensor]
    values: Callable[[], Tensor]
    rotary_kernel: Callable[[Tensor], Tensor]
    final_norm: Callable[[Tensor], Tensor]
    position_ids: Tensor
    frequencies: Tensor
    kv_heads: int
    layers: int
    layouts: Sequence[Sequence[ImageLayout]] = ()
    extras: Sequence[Sequence[Mapping[str, Tensor]]] = ()
    earlier: Mapping[str, LLMContext] = field(default_factory=dict)
    transitions: Mapping[int, Tensor] = field(default_factory=dict)
    notes: dict[str, Tensor] = field(default_factory=dict)
    scores: dict[str, Tensor] = field(default_factory=dict)

    @property
    def previous(self) -> LLMContext:
        """The context of the layer before, for methods whose ``needs`` name it."""
        return self.earlier["previous"]

    @property
    def first(self) -> LLMContext:
        """The context of layer 0, before anything left inside the LLM, for methods whose ``needs`` name it."""
        return self.earlier["first"]

    @property
    def visual(self) -> Tensor:
        """(B, L) bool: the tokens that the method chooses from."""
        return self.image >= 0

    @property
    def text(self) -> Tensor:
        """(B, L) bool: every text token, the system prompt included."""
        return self.valid & (self.token < 0)

    @property
    def question(self) -> Tensor:
        """(B, L) bool: the text after a row's first visual token (all of its text, if it has no image).

        What stands between tokens of one image belongs to the image: it marks tiles (SmolVLM).
        """
        text = self.text
        following = self.image.masked_fill(~self.visual, self.image.shape[1]).flip(1).cummin(1).values.flip(1)
        before = self.image.cummax(1).values
        after = text & (before >= 0) & (before != following)
        return torch.where(after.any(1, keepdim=True), after, text)

    @property
    def member(self) -> Tensor:
        """(I, B, L) bool: the tokens of each image."""
        return self.image == torch.arange(max(map(len, self.ids)), device=self.image.device)[:, None, None]

    def each_image(self) -> Iterator[tuple[int, int, Tensor]]:
        """Row, ordinal and places (n,) of what is left of every image; n may be 0, or less than is to be kept.

        The device is read once, for the numbers of tokens.
        """
        member = self.member
        counts, places = member.sum(2).tolist(), member.byte().argsort(dim=2, descending=True, stable=True)
        for row, names in enumerate(self.ids):
            for ordinal in range(len(names)):
                yield row, ordinal, places[ordinal, row, : counts[ordinal][row]]

    def images_alike(self, keep: Tensor) -> Iterator[tuple[list[tuple[int, int]], Tensor, int]]:
        """Images of which as many tokens are left, and as many of the wanted ``keep`` (B, I) can stay, one or more.

        Row and ordinal of G of them, their places (G, n) in what has its first two dimensions (B, L) flattened, and the
        number that stays. The device is read once, for these numbers.
        """
        member = self.member
        left, wanted = torch.stack([member.sum(2), keep.T]).tolist()
        places = member.byte().argsort(dim=2, descending=True, stable=True)
        places = places + self.image.shape[1] * torch.arange(len(self.ids), device=places.device)[:, None]
        alike: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for row, names in enumerate(self.ids):
            for ordinal in range(len(names)):
                count = left[ordinal][row]
                alike[count, min(count, wanted[ordinal][row])].append((row, ordinal))
        for (count, stay), images in alike.items():
            if stay:
                yield images, torch.stack([places[ordinal, row, :count] for row, ordinal in images]), stay

    def scores_of(self, row: int, image: int) -> dict[str, Tensor]:
        """The ``scores`` of one image's tokens (n_tokens,) float, by name; NaN for those that had left and newlines."""
        mine = (self.image[row] == image).nonzero()[:, 0]
        whole, token = torch.full((self.layouts[row][image].n_tokens,), math.nan), self.token[row, mine].cpu()
        return {name: whole.scatter(0, token, score[row, mine].float().cpu()) for name, score in self.scores.items()}

    def top_k(self, score: Tensor, keep: Tensor, first: Tensor | None = None) -> Tensor:
        """Keep each image's best ``keep`` (B, I) visual tokens: scores (B, L) -> (B, L) bool.

        Tokens that come ``first`` (B, L) go before all others; scores are then below 1.
        """
        self.scores["score"] = score
        return top_of_each_image(score if first is None else score + first, self.image, keep)

    def last_attention(self, **options: object) -> Tensor:
        """Attention of the last token in this layer, mean over heads: (B, L). ``options`` as of ``attention``."""
        last = torch.tensor([self.hidden.shape[1] - 1], device=self.hidden.device)
        return self.attention(last, **options).mean(1)[:, 0]

    def random_scores(self, seed: int) -> Tensor:
        """A random score (B, L) for each visual token that depends on the seed, the layer and the image's id only."""
        score = torch.zeros(self.image.shape, device=self.image.device)
        for row, ordinal, mine in self.each_image():
            score[row, mine] = torch.rand(len(mine), generator=self.generator(row, ordinal, seed)).to(score.device)
        return score

    def generator(self, row: int, image: int, seed: int) -> torch.Generator:
        """A CPU generator that depends only on the seed, the layer and the image's id."""
        return seeded_generator(f"{self.ids[row][image]}@{self.layer}", seed)


@dataclass
class LLMDecision:
    """Which tokens stay on entry of a layer, and what new states some of them have.

    ``keep`` (B, L) bool: the visual tokens that stay; what it says of text is not read. ``hidden`` (B, L, D): the
    states to go on with instead of the layer's input, or None; a merged token takes the slot (and the place in the
    image) of a dropped one. ``order`` (B, L) long: sort key of the tokens of a row, non-negative; None: as they stand.
    ``members`` (B, L) long: the place of the token that each visual one went into, its own for one that stays, -1 for
    one that is gone; None where nothing was merged.
    """

    keep: Tensor
    hidden: Tensor | None = None
    order: Tensor | None = None
    members: Tensor | None = None


def seeded_generator(name: str, seed: int) -> torch.Generator:
    """A CPU generator seeded by a name and a number, the same on every machine and in every batch."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
