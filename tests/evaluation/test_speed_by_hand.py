"""The speed probe with a clock that ticks once a look, so that every number is known."""

from types import SimpleNamespace

import pytest
import torch
from transformers.utils import ModelOutput

from nuwa.evaluation import speed
from nuwa.evaluation.speed import Clock, probe_speed
from nuwa.pruning.flops import ModelShape, llm_flops
from nuwa.samples import Sample, SampleError
from nuwa.schema import ProbeConfig

CPU = torch.device("cpu")


@pytest.fixture
def ticks(monkeypatch):
    """Every look at the clock is a second later."""
    count = iter(range(1, 1000))
    monkeypatch.setattr("time.perf_counter", lambda: next(count))


def test_a_clock_adds_up_milliseconds(ticks, monkeypatch):
    waited = []
    monkeypatch.setattr("torch.cuda.synchronize", waited.append)
    clock = Clock(CPU)
    assert clock.now() == 1000
    for _ in range(2):
        with clock.timing("a"):
            pass
    assert clock.timing("b")(max)(3, 4) == 4 and clock.spent == {"a": 2000, "b": 1000} and not waited
    gpu = Clock(torch.device("cuda:1"))
    gpu.now()
    assert waited == [torch.device("cuda:1")]


class Model:
    """Its logits rise, so that the last token is the largest; ``told`` is what each call was given."""

    def __init__(self):
        self.told = []

    def forward(self, past_key_values=None, **options):
        self.told.append(options | ({} if past_key_values is None else {"past_key_values": past_key_values}))
        keys = torch.zeros(1, 2, 5, 4)
        cache = SimpleNamespace(
            layers=[SimpleNamespace(keys=keys, values=keys), SimpleNamespace(keys=keys, values=keys)]
        )
        return ModelOutput(logits=torch.arange(6.0).expand(2, 1, 6), past_key_values=cache)

    __call__ = forward


def adapter(axes=1):
    projector = torch.nn.Identity()

    def encode_images(pixel_values):
        return projector(projector(pixel_values))

    made = SimpleNamespace(model=Model(), axes=axes, projector=projector, encode_images=encode_images)
    made.kinds, made.pixels_at = {"image": made}, "pixel_values"
    return made


INPUTS = {
    "input_ids": torch.zeros(2, 3),
    "attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1]]),
    "pixel_values": torch.ones(1),
}


def test_a_round_by_hand(ticks):
    """Looks at the clock: ttft, encode, two for each call of the projector, ..., so that each span is known."""
    family = adapter()
    measured, lengths = speed._round(family, INPUTS, Clock(CPU), 4)
    assert lengths == [5, 5]
    assert measured == {
        "projector_ms": 2000, "encode_ms": 5000, "prefill_ms": 1000, "ttft_ms": 9000, "decode_ms_per_token": 250,
        "samples_per_second": 0.2, "kv_mb": 4 * 40 * 4 / 2**20,
    }  # fmt: skip
    prompt, *steps = family.model.told
    assert set(prompt) == {"input_ids", "attention_mask", "mm_encoder_outputs", "use_cache", "logits_to_keep"}
    assert prompt["logits_to_keep"] == 1 and prompt["use_cache"] and len(steps) == 4
    assert not family.projector._forward_hooks and not family.projector._forward_pre_hooks
    assert [step["attention_mask"].sum(1).tolist() for step in steps] == [[3, 4], [4, 5], [5, 6], [6, 7]]
    assert [step["position_ids"].tolist() for step in steps] == [[[2], [3]], [[3], [4]], [[4], [5]], [[5], [6]]]
    assert all(step["input_ids"].tolist() == [[5], [5]] for step in steps)
    assert all(step["use_cache"] and step["logits_to_keep"] == 1 and step["past_key_values"].layers for step in steps)


def test_pictures_and_videos_are_encoded_by_their_own(ticks):
    """Each encoder gets the inputs that it names; the model gets the others."""
    family = adapter()
    video = SimpleNamespace(pixels_at="pixel_values_videos", encode_images=lambda pixel_values_videos, grid: grid + 1)
    family.kinds = {"image": family, "video": video}
    speed._round(family, INPUTS | {"pixel_values_videos": torch.zeros(3), "grid": torch.ones(2)}, Clock(CPU), 1)
    prompt = family.model.told[0]
    assert {kind: x.tolist() for kind, x in prompt["mm_encoder_outputs"].items()} == {"image": [1.0], "video": [2, 2]}
    assert "grid" in prompt and not {"pixel_values", "pixel_values_videos"} & set(prompt)


def test_steps_under_mrope_have_ids_on_three_axes():
    family = adapter(axes=3)
    speed._decode(family, INPUTS["attention_mask"], family.model(), 1)
    assert family.model.told[-1]["position_ids"].tolist() == [[[2], [3]]] * 3


def test_peak_memory_of_a_gpu(ticks, monkeypatch):
    reset = []
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: None)
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", reset.append)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: 3 * 1024 * 1024)
    measured, _ = speed._round(adapter(), INPUTS, Clock(torch.device("cuda:1")), 1)
    assert measured["peak_memory_mb"] == 3.0 and reset == [torch.device("cuda:1")]


def test_a_comparison_by_hand():
    shape = ModelShape(layers=2, hidden=8, intermediate=16, kv_heads=2, head_dim=3, vision_hidden=5)
    slow = {"encode_ms": 4.0, "prefill_ms": 8.0, "ttft_ms": 12.0, "decode_ms_per_token": 3.0}
    fast = {"encode_ms": 5.0, "prefill_ms": 2.0, "ttft_ms": 7.0, "decode_ms_per_token": 1.5}
    found = speed._comparison(
        SimpleNamespace(shape=shape), {"vanilla": [slow], "pruned": [fast]}, {"vanilla": [9, 9], "pruned": [9, 3]}
    )
    medians = {name: value["median"] for name, value in found["speedup"].items()}
    assert medians == {"encode_ms": 0.8, "prefill_ms": 4.0, "ttft_ms": 12 / 7, "decode_ms_per_token": 2.0}
    assert found["compression_ms"]["median"] == 1.0
    promised = llm_flops([9, 9], shape) / llm_flops([9, 3], shape)
    assert found["theoretical_prefill_speedup"] == promised and found["reached"] == 4.0 / promised


def test_quartiles():
    assert speed._quartiles([3.0, 1.0, 2.0]) == {"median": 2.0, "q1": 1.0, "q3": 3.0}
    assert speed._quartiles([1.0, 2.0]) == {"median": 1.5, "q1": 0.75, "q3": 2.25}
    assert speed._quartiles([4.0]) == {"median": 4.0, "q1": 4.0, "q3": 4.0}
    assert speed._summary([{"a": 1.0}, {"a": 2.0, "b": 0.0}]) == {"a": speed._quartiles([1.0, 2.0])}


class Album:
    """Samples of which the first is broken and the second is text."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        if index == 0:
            raise SampleError("broken")
        pictures, videos = ("picture",) * (index in (2, 3)), ("video",) * (index == 4)
        return Sample(str(index), "vqa", pictures, "?", "yes", videos=videos)


def test_batches_repeat_the_samples_and_warm_up_rounds_do_not_count(monkeypatch):
    batches, rounds = [], iter(range(100))

    def encode(batch):
        batches.append([sample.id for sample in batch])
        return {"input_ids": torch.zeros(len(batch), 7)}

    loaded = SimpleNamespace(model=None, encode=encode, questions=lambda batch: None)
    monkeypatch.setattr(speed, "adapter_for", lambda model: None)
    monkeypatch.setattr(speed, "_round", lambda *given: ({"encode_ms": float(next(rounds))}, [given[3]]))
    options = ProbeConfig(batch_sizes=[1, 4], new_tokens=6, warmup=2, repeats=3)
    small, large = probe_speed(loaded, Album(), None, "native", options)
    assert batches == [["2"], ["2", "3", "4", "2"]]
    sizes = {"prompt_tokens": 7, "new_tokens": 6, "warmup": 2, "repeats": 3}
    assert small == {"batch": 1, **sizes, "variants": {"vanilla": {"encode_ms": {"median": 3.0, "q1": 2.0, "q3": 4.0}}}}
    assert large["batch"] == 4 and large["variants"]["vanilla"]["encode_ms"]["median"] == 8.0
