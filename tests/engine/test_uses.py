"""Sessions as programs use them: drafts, threads, blocks left early, copies, sessions that were lost."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.families import FAMILIES
from helpers.family import generate
from helpers.support import Fixed, batch, pixels, prompt, random_llava
from transformers import CompileConfig, DynamicCache, LlamaForCausalLM

import nuwa
from nuwa.engine.arguments import cache_of
from nuwa.engine.guards import SessionError
from nuwa.pruning.budget import Budget

GREEDY = {"max_new_tokens": 8, "do_sample": False}
METHODS = ["fastv", "nuwa", "sparsevlm", "visionzip"]
REPEATING = [20, 21, 22, 23, 30, 20, 21]
"""The end of a prompt whose last tokens occurred before: prompt lookup drafts the third to fifth."""


def method(name):
    return nuwa.load_pruner(name, budget=Budget(ratio=0.3))


@pytest.fixture
def model():
    return random_llava()


def question(seed=0, end=REPEATING):
    ids = torch.tensor([[*prompt(5, "image", 2), *end]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels(1, seed)}


@pytest.mark.parametrize("position", ["perc", "pesp"])
@pytest.mark.parametrize("name", METHODS)
def test_drafts_in_the_first_pass(model, name, position):
    """Drafted by the prompt's own words, and refused for the most part: no method sees them."""
    drafted, forward = (
        [],
        model.model.register_forward_pre_hook(
            lambda module, args, kwargs: drafted.append(kwargs["input_ids"].shape[1]), with_kwargs=True
        ),
    )
    ours = generate(model, question(), method(name), position, prompt_lookup_num_tokens=3)
    forward.remove()
    assert drafted[0] == question()["input_ids"].shape[1] + 3
    assert torch.equal(ours, generate(model, question(), method(name), position))


@torch.no_grad()
@pytest.mark.parametrize("name", METHODS)
def test_drafts_that_are_right_from_the_first_pass_on(model, name):
    """A prompt that holds the answer greedy decoding gives, so that the first drafts are accepted."""
    pruner = method(name)
    end = [*REPEATING[:5], 40]
    answer = generate(model, question(end=end), pruner)[0, -8:].tolist()
    for _ in range(6):  # the answer changes with the words before it, until it is among them
        end = [40, *answer[:4], *REPEATING[:5], 40]
        answer, asked = generate(model, question(end=end), pruner)[0, -8:].tolist(), answer
        if answer[:3] == asked[:3]:
            break
    ours = generate(model, question(end=end), pruner, prompt_lookup_num_tokens=4)
    assert ours[0, -8:].tolist() == answer


@pytest.mark.parametrize("family", ["llava", "llava_next"])
@pytest.mark.parametrize("name", ["fastv", "nuwa"])
def test_an_assistant(family, name):
    """The same model as a text-only one writes drafts, some of them right."""
    family = FAMILIES[family]
    whole, inputs = family.model(), family.inputs("middle")
    config = copy.deepcopy(random_llava().config.text_config)
    assistant = LlamaForCausalLM(config).eval()
    assistant.generation_config.eos_token_id = None
    greedy = generate(whole, inputs, method(name))
    assert torch.equal(generate(whole, inputs, method(name), assistant_model=assistant), greedy)


@torch.no_grad()
@pytest.mark.parametrize("name", METHODS)
def test_two_threads_of_one_session(model, name):
    asked = [question(seed, end) for seed, end in enumerate(([9, 10], REPEATING, [11], [7, 8, 9, 12]))]
    alone = [generate(model, one, method(name)) for one in asked]
    with nuwa.prune(model, method(name), "pesp") as session, ThreadPoolExecutor(4) as pool:
        together = list(pool.map(torch.no_grad()(lambda one: model.generate(**one, **GREEDY)), asked * 3))
    for found, expected in zip(together, alone * 3, strict=True):
        assert torch.equal(found, expected)
    assert session.report().images_seen == 12


@torch.no_grad()
def test_what_a_thread_says_of_its_images_is_its_own(model):
    pruner, names = nuwa.load_pruner("random", budget=8), ["a", "b", "c", "d"]

    @torch.no_grad()
    def draw(name):
        with session.about([name]):
            return model(**question()).logits

    with nuwa.prune(model, pruner) as session:
        alone = [draw(name) for name in names]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(draw, names))
    assert all(torch.equal(*pair) for pair in zip(alone, together, strict=True))
    assert not torch.equal(alone[0], alone[1])


@pytest.mark.parametrize("position", ["perc", "pesp"])
def test_a_stream_that_outlives_its_block_is_refused(model, position):
    """Whatever it says before is right; then it stops with a reason."""
    expected, said, failures = generate(model, question(), method("nuwa"), position), [], []
    written, left = threading.Event(), threading.Event()

    class Streamer:
        def put(self, value):
            said.append(value)
            if len(said) == 3:
                written.set()
                left.wait(30)

        def end(self):
            pass

    def stream():
        try:
            generate(model, question(), streamer=Streamer())
        except SessionError as error:
            failures.append(str(error))

    thread = threading.Thread(target=stream)
    with nuwa.prune(model, method("nuwa"), position):
        thread.start()
        assert written.wait(30)
    left.set()
    thread.join(30)
    assert len(failures) == 1 and "outside its session" in failures[0]
    length = expected.shape[1] - 8
    assert [int(value) for value in said[1:]] == expected[0, length : length + len(said) - 1].tolist()


def test_leaving_waits_for_a_call_that_is_running(model):
    entered, go_on = threading.Event(), threading.Event()

    def wait(module, args):
        entered.set()
        go_on.wait(30)

    with torch.no_grad(), nuwa.prune(model, Fixed(3, (2,)), "perc"):
        expected = model(**question()).logits
    session, found = nuwa.prune(model, Fixed(3, (2,)), "perc"), []
    with session:
        handle = model.model.language_model.layers[1].register_forward_pre_hook(wait)
        thread = threading.Thread(target=lambda: found.append(model(**question()).logits))
        thread.start()
        assert entered.wait(30)
        threading.Timer(0.05, go_on.set).start()
    thread.join(30)
    handle.remove()
    assert torch.equal(found[0], expected)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_pruned_cache_outside_its_session(family):
    family = FAMILIES[family]
    model = family.model()
    with nuwa.prune(model, Fixed(3)):
        cache = cache_of(model(**family.inputs("middle")))
    with pytest.raises(SessionError, match="outside its session"):
        model(input_ids=torch.tensor([[9]]), past_key_values=cache)
    cache.reset()
    text = {"input_ids": torch.tensor([[9, 10, 11]])}
    expected = model(**text).logits
    torch.testing.assert_close(model(**text, past_key_values=cache).logits, expected, atol=0, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_copy_made_inside_is_clean(family):
    family = FAMILIES[family]
    model = copy.deepcopy(family.model())
    inputs, hooks = family.inputs("middle"), lambda m: [len(x._forward_pre_hooks) for x in m.modules()]
    model(**inputs)
    plain, before = model(**inputs).logits, hooks(model)
    with nuwa.prune(model, Fixed(3, (2,))):
        pruned = model(**inputs).logits
        twin = copy.deepcopy(model)
        assert torch.equal(twin(**inputs).logits, plain)
        assert torch.equal(model(**inputs).logits, pruned)
        assert hooks(twin) == before
        with nuwa.prune(twin, Fixed(3, (2,))):
            assert torch.equal(twin(**inputs).logits, pruned)
    assert torch.equal(model(**inputs).logits, plain)
    assert twin.model is not model.model and not torch.equal(plain, pruned)
    assert vars(model).keys() == vars(family.model()).keys()


@torch.no_grad()
def test_a_lost_session_is_detached(model):
    plain = model(**question()).logits
    nuwa.detach(model)
    nuwa.prune(model, Fixed(3)).__enter__()
    assert not torch.equal(model(**question()).logits, plain)
    with pytest.raises(SessionError, match=r"nuwa\.detach"), nuwa.prune(model, Fixed(3)):
        pass
    nuwa.detach(model)
    assert torch.equal(model(**question()).logits, plain)


@torch.no_grad()
def test_a_block_whose_session_was_detached_is_left_as_any_other(model):
    plain = model(**question()).logits
    with nuwa.prune(model, Fixed(3)):
        nuwa.detach(model)
        assert torch.equal(model(**question()).logits, plain)
    assert torch.equal(model(**question()).logits, plain)


@torch.no_grad()
def test_a_failure_in_a_layer_leaves_a_clean_model_and_session(model):
    plain = model(**question()).logits

    def fail(module, args):
        raise KeyError("layer")

    with nuwa.prune(model, method("nuwa")):
        expected = model(**question()).logits
        for layer in (0, 4):
            handle = model.model.language_model.layers[layer].register_forward_pre_hook(fail)
            with pytest.raises(KeyError):
                model(**question())
            handle.remove()
        text = model.model.language_model(inputs_embeds=torch.ones(1, 3, 48)).last_hidden_state
        assert torch.equal(model(**question()).logits, expected)
    assert torch.equal(model.model.language_model(inputs_embeds=torch.ones(1, 3, 48)).last_hidden_state, text)
    assert torch.equal(model(**question()).logits, plain)


def test_a_batch_of_two_without_a_picture_is_left_alone(model):
    text = batch(prompt(4), prompt(9))
    expected = generate(model, text)
    assert torch.equal(generate(model, text, method("nuwa")), expected)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("turn", ["first", "second"])
@pytest.mark.parametrize("name", ["fastv", "visionzip"])
def test_a_cache_in_which_a_call_was_interrupted_is_refused_and_its_copy_goes_on(model, name, turn, error):
    """Its layers hold different parts of the call. Behind an interrupt torch runs no hook."""

    def interrupt(*given):
        raise error

    def go_on(cache):
        ids = torch.tensor([[9, 11]])
        mask = torch.ones(1, cache.get_seq_length() + 2, dtype=torch.long)
        return model(input_ids=ids, attention_mask=mask, past_key_values=cache).logits

    with torch.no_grad(), nuwa.prune(model, method(name)) as session:
        cache = model(**question(), use_cache=True).past_key_values if turn == "second" else DynamicCache()
        copies = [copy.deepcopy(cache) for _ in range(2)]
        handle = model.model.language_model.layers[2].register_forward_pre_hook(interrupt)
        with pytest.raises(error):
            go_on(cache) if turn == "second" else model(**question(), past_key_values=cache)
        handle.remove()
        with pytest.raises(SessionError, match="interrupted while it read into this cache"):
            go_on(cache)
        with pytest.raises(SessionError, match="interrupted while it read into this cache"):
            go_on(copy.deepcopy(cache))
        if turn == "second":
            assert torch.equal(go_on(copies[0]), go_on(copies[1]))
        cache.reset()
        assert torch.equal(model(**question(), past_key_values=cache).logits, model(**question()).logits)
    assert session.report().images_seen == (3 if turn == "second" else 2)


@pytest.mark.parametrize("position", ["perc", "pesp", "rpme"])
@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl"])
def test_a_static_cache_for_methods_before_the_llm(family, position):
    """A pruned prompt is a shorter prompt; also of rows that are padded."""
    family = FAMILIES[family]
    model = family.model()
    static = {"cache_implementation": "static", "disable_compile": True}
    for inputs in (family.inputs("middle"), family.inputs("middle", "two")):
        for pruner in (method("visionzip"), Fixed(3)):
            expected = generate(model, inputs, pruner, position)
            assert torch.equal(generate(model, inputs, pruner, position, **static), expected)
    plain = generate(model, inputs)
    assert torch.equal(generate(model, inputs, **static), plain) and not torch.equal(plain, expected)


@pytest.mark.parametrize("name", ["fastv", "nuwa"])
def test_a_static_cache_for_others_is_refused(model, name):
    with pytest.raises(SessionError, match="before the LLM only"):
        generate(model, question(), method(name), cache_implementation="static", disable_compile=True)


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")
def test_compiled_decoding_on_a_static_cache(model, backend):
    """As `generate` compiles it on a GPU: a forward of the whole model, in pieces around the hooks."""
    expected = generate(model, question(), method("visionzip"))
    settings = CompileConfig(backend=backend, fullgraph=False, mode="default" if backend == "inductor" else None)
    settings._compile_all_devices = True  # transformers' own way to compile on a CPU, for tests
    counters = torch._dynamo.utils.counters
    counters.clear()
    options = {"cache_implementation": "static", "compile_config": settings}
    assert torch.equal(generate(model, question(), method("visionzip"), **options), expected)
    assert counters["stats"]["unique_graphs"] > 0


@pytest.mark.parametrize("name", ["nuwa", "visionzip"])
@pytest.mark.filterwarnings("ignore")
def test_compiled_layers(model, name):
    """Dynamo alone, without a backend: hooks stay as they are."""
    expected = generate(model, question(), method(name), max_new_tokens=2)
    model.model.language_model.compile(backend="eager")
    assert torch.equal(generate(model, question(), method(name), max_new_tokens=2), expected)
