"""Questions about a scene, with answers known by construction, and the captions its salience is learned from.

Visual question answering asks for existence, colour, shape, number and relation and is answered by one word; visual
grounding asks where something is and is answered by a box in LLaVA text, ``[x0,y0,x1,y1]`` as fractions of the side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nuwa.scenes.scene import COLORS, IMAGE_SIZE, SHAPES, Scene, SceneObject

VQA_MIX = {"exist": 0.25, "color": 0.25, "shape": 0.2, "count": 0.15, "relation": 0.15}
VG_MIX = {"color_shape": 0.4, "size_color_shape": 0.15, "color": 0.12, "shape": 0.13, "extreme": 0.2}
EXTREMES = {"leftmost": (0, 1), "rightmost": (0, -1), "topmost": (1, 1), "bottommost": (1, -1)}
RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
MAX_COUNT = 7
CLEAR_GAP = 5  # pixels by which two centres differ before a question compares them
PLURALS = {shape: "crosses" if shape == "cross" else shape + "s" for shape in SHAPES}


@dataclass(frozen=True)
class Question:
    """A question and its answer; ``box`` in pixels for grounding.

    ``targets`` (objects asked about) and ``mentions`` (word position -> objects that the noun there names) index
    ``scene.objects``; only the auxiliary losses of training read them.
    """

    text: str
    answer: str
    kind: str
    box: tuple[int, int, int, int] | None = None
    targets: tuple[int, ...] = ()
    mentions: tuple[tuple[int, tuple[int, ...]], ...] = ()


def ask(scene: Scene, rng: np.random.Generator, task: str, mix: dict[str, float] | None = None) -> Question | None:
    """Draw a question of ``task`` ("vqa" or "vg"), its kind from ``mix``; None if the scene allows none."""
    makers, default = {"vqa": (_VQA, VQA_MIX), "vg": (_VG, VG_MIX)}[task]
    mix = default if mix is None else mix
    shares = np.array(list(mix.values()), float)
    order = rng.choice(len(mix), size=np.count_nonzero(shares), replace=False, p=shares / shares.sum())
    for kind in (list(mix)[i] for i in order):
        drawn = makers[kind](scene.objects, rng, kind)
        if drawn is not None:
            text, answer, targets = drawn
            box = scene.objects[targets[0]].box if task == "vg" else None
            mentions = _noun_mentions(scene.objects, text.split())
            return Question(text, box_text(box) if box else answer, kind, box, targets, mentions)
    return None


def box_text(box: Sequence[float], size: int = IMAGE_SIZE) -> str:
    """LLaVA's text for a pixel box (x0, y0, x1, y1): fractions of the side with two decimals.

    >>> box_text((0, 9.6, 48, 96))
    '[0.00,0.10,0.50,1.00]'
    """
    return "[" + ",".join(f"{min(max(value / size, 0.0), 1.0):.2f}" for value in box) + "]"


def sample_caption(scene: Scene, rng: np.random.Generator, temperature: float = 1.0) -> tuple[str, ...]:
    """Words of a caption that names one or two objects, drawn by a softmax over their prominence."""
    named = sample_prominent([o.prominence for o in scene.objects], rng, temperature)
    return tuple(word for i in named for word in (scene.objects[i].color, scene.objects[i].shape))


def sample_prominent(prominence: Sequence[float], rng: np.random.Generator, temperature: float = 1.0) -> list[int]:
    """One or two indices, drawn by a softmax over ``prominence``."""
    scores = np.array(prominence) / temperature
    shares = np.exp(scores - scores.max())
    number = min(len(shares), int(rng.integers(1, 3)))
    return rng.choice(len(shares), size=number, replace=False, p=shares / shares.sum()).tolist()


def _matches(objects: Sequence[SceneObject], color=None, shape=None, size=None) -> tuple[int, ...]:
    """Indices of the objects with the given properties."""
    wanted = {"color": color, "shape": shape, "size": size}
    return tuple(i for i, o in enumerate(objects) if all(v is None or getattr(o, k) == v for k, v in wanted.items()))


def _noun_mentions(objects: Sequence[SceneObject], words: list[str]) -> tuple:
    """For every noun of the question, the objects that it and the colour before it name."""
    singular = {plural: shape for shape, plural in PLURALS.items()}
    mentions = []
    for position, word in enumerate(words):
        noun = singular.get(word, word)
        if noun in SHAPES or noun in ("object", "objects"):
            color = words[position - 1] if words[position - 1] in COLORS else None
            mentions.append((position, _matches(objects, color, noun if noun in SHAPES else None)))
    return tuple(mentions)


def _exist(objects, rng, kind):
    if rng.random() < 0.5:
        chosen = objects[rng.integers(len(objects))]
        color, shape = chosen.color, chosen.shape
    else:
        color, shape = _absent_pair(objects, rng)
    targets = _matches(objects, color, shape)
    return f"is there a {color} {shape} ?", "yes" if targets else "no", targets


def _absent_pair(objects, rng) -> tuple[str, str]:
    """A colour and shape that no object has together; seven times in ten it shares one of them with an object."""
    present = {(o.color, o.shape) for o in objects}
    while True:
        color, shape = str(rng.choice(list(COLORS))), str(rng.choice(SHAPES))
        if rng.random() < 0.7:
            near = objects[rng.integers(len(objects))]
            color, shape = (color, near.shape) if rng.random() < 0.5 else (near.color, shape)
        if (color, shape) not in present:
            return color, shape


def _property(objects, rng, kind):
    """What color is the only object of a shape? What shape has the only one of a colour?"""
    known = {"color": "shape", "shape": "color"}[kind]
    unique = [o for o in objects if len(_matches(objects, **{known: getattr(o, known)})) == 1]
    if not unique:
        return None
    chosen = unique[rng.integers(len(unique))]
    noun = chosen.shape if known == "shape" else f"{chosen.color} object"
    targets = _matches(objects, **{known: getattr(chosen, known)})
    return f"what {kind} is the {noun} ?", getattr(chosen, kind), targets


def _count(objects, rng, kind):
    what, known = rng.random(), rng.random() < 0.8
    chosen = objects[rng.integers(len(objects))]
    if what < 0.45:
        color = chosen.color if known else str(rng.choice(list(COLORS)))
        targets, phrase = _matches(objects, color=color), f"{color} objects"
    elif what < 0.9:
        shape = chosen.shape if known else str(rng.choice(SHAPES))
        targets, phrase = _matches(objects, shape=shape), PLURALS[shape]
    else:
        targets, phrase = _matches(objects), "objects"
    if len(targets) > MAX_COUNT:
        return None
    return f"how many {phrase} are there ?", str(len(targets)), targets


def _relation(objects, rng, kind):
    unique = [i for i, o in enumerate(objects) if len(_matches(objects, o.color, o.shape)) == 1]
    if len(unique) < 2:
        return None
    first, second = (int(unique[i]) for i in rng.permutation(len(unique))[:2])
    name = list(RELATIONS)[rng.integers(len(RELATIONS))]
    axis, sign = RELATIONS[name]
    gap = objects[first].center[axis] - objects[second].center[axis]
    if abs(gap) < CLEAR_GAP:
        return None
    a, b = objects[first], objects[second]
    text = f"is the {a.color} {a.shape} {name} the {b.color} {b.shape} ?"
    return text, "yes" if gap * sign > 0 else "no", (first, second)


def _referring(objects, rng, kind):
    """Where is the one object that has the named properties?"""
    names = kind.split("_")
    for index in rng.permutation(len(objects)):
        chosen = objects[index]
        if len(_matches(objects, **{name: getattr(chosen, name) for name in names})) == 1:
            words = [getattr(chosen, name) for name in names] + ([] if "shape" in names else ["object"])
            return f"where is the {' '.join(words)} ?", "", (int(index),)
    return None


def _extreme(objects, rng, kind):
    """Where is the leftmost (rightmost, topmost, bottommost) object, of all or of one shape or colour?"""
    word = list(EXTREMES)[rng.integers(len(EXTREMES))]
    chosen, group = objects[rng.integers(len(objects))], rng.integers(3)
    wanted = ({}, {"shape": chosen.shape}, {"color": chosen.color})[group]
    noun = ("object", chosen.shape, f"{chosen.color} object")[group]
    members = _matches(objects, **wanted)
    axis, sign = EXTREMES[word]
    ranked = sorted(members, key=lambda i: sign * objects[i].center[axis])
    if len(ranked) < 2 or abs(objects[ranked[0]].center[axis] - objects[ranked[1]].center[axis]) < CLEAR_GAP:
        return None
    return f"where is the {word} {noun} ?", "", (ranked[0],)


# Each draws (text, answer, targets) about the objects of a scene, or None when they do not allow it; the answer of
# grounding is the box of its target.
_VQA = {"exist": _exist, "color": _property, "shape": _property, "count": _count, "relation": _relation}
_VG = {name: _extreme if name == "extreme" else _referring for name in VG_MIX}
