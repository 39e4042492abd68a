"""Every scorer against what lmms-eval v0.3.4's own functions gave on made-up answers: per sample, and as a whole."""

import json
import random
from pathlib import Path

import pytest

from nuwa.benchmarks import (
    evalai,
    gqa,
    mmbench,
    mme,
    mmmu,
    mmvet,
    pope,
    qwen_refcoco,
    refcoco,
    scienceqa,
    seedbench,
    vqa,
)
from nuwa.benchmarks.column_checks import checked
from nuwa.benchmarks.scoring import NO_BOX, normalise_answer, parse_box, unit_box

GOLDEN = Path(__file__).parents[1] / "golden/scoring"


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def near(value):
    return pytest.approx(value, abs=1e-6)


def single(scores):
    """The only score, beside which may stand whether the answer could be read."""
    (value,) = (value for name, value in scores.items() if not name.endswith("/parsed"))
    return value


def scorer(kind, **options):
    """What a data set scores a document and an answer with."""
    return kind.unloaded(options).score_document


@pytest.mark.parametrize(
    ("name", "score", "metric"),
    [("gqa", scorer(gqa.GQA), "exact_match"), ("scienceqa_img", scorer(scienceqa.ScienceQA), "exact_match"),
     ("textvqa_val", scorer(vqa.TextVQA), "exact_match"), ("mmvet", None, "score")],
)  # fmt: skip
def test_means_of_samples(name, score, metric):
    data = golden(name)
    values = []
    for sample in data["samples"]:
        if score is None:
            replies = list(sample["judge_replies"])
            judge = lambda prompt, temperature, replies=replies: replies.pop(0)  # noqa: E731
            values.append(single(mmvet.score_mmvet(sample["doc"], sample["prediction"], judge)))
            assert len(sample["judge_replies"]) - len(replies) == sample["judge_calls"], sample
        else:
            values.append(single(score(sample["doc"], sample["prediction"])))
        assert values[-1] == near(float(sample["per_sample"][metric])), sample
    if metric in data["aggregate"]:
        assert mean(values) == near(data["aggregate"][metric])


def test_vqav2():
    data = golden("vqav2_val")
    column = vqa.VQAv2.columns["answers"]
    for sample in data["samples"]:
        doc = {"answers": column(sample["doc"]["answers"])}
        sample["mine"] = single(scorer(vqa.VQAv2)(doc, sample["prediction"]))
        assert sample["mine"] == near(sample["per_sample"]["exact_match"]), sample
    assert mean(sample["mine"] for sample in data["samples"]) == near(data["aggregate"]["exact_match"])


@pytest.mark.parametrize(
    ("agreed", "said", "as_released", "corrected"),
    [("none", "none", 0.0, 1.0), ("A", "A", 0.0, 1.0), ("Yes", "Yes", 0.0, 1.0), ("it's", "it's", 0.0, 1.0),
     ("two", "two", 0.0, 1.0), ("don't", "dont", 1.0, 1.0), ("black", "Black.", 1.0, 1.0), ("black", "red", 0.0, 0.0)],
)  # fmt: skip
def test_vqav2_where_all_annotators_agree(agreed, said, as_released, corrected):
    """lmms-eval's mended rule (#794): both sides are normalised, whether annotators agree or not."""
    doc = {"answers": [agreed] * 10}
    assert single(scorer(vqa.VQAv2)(doc, said)) == as_released
    assert single(scorer(vqa.VQAv2, normalise_agreed=True)(doc, said)) == corrected
    mixed = {"answers": [agreed] * 9 + ["other"]}
    assert single(scorer(vqa.VQAv2, normalise_agreed=True)(mixed, said)) == corrected


@pytest.mark.parametrize("name", ["textvqa_val", "vqav2_val"])
def test_answers_are_normalised_word_for_word(name):
    data = golden(name)
    predictions = [sample["prediction"] for sample in data["samples"]]
    assert [evalai.normalise_vqa(text) for text in predictions] == data["processed_prediction"]


def test_contractions():
    for wrong, right in {
        "dont": "don't", "couldnt've": "couldn't've", "couldn'tve": "couldn't've", "yall'd've": "y'all'd've",
        "y'allll": "y'all'll", "twas": "'twas", "'ow'sat": "'ow's'at", "somebody'd": "somebodyd", "hed've": "he'd've",
    }.items():  # fmt: skip
        assert evalai.CONTRACTIONS[wrong] == right
    assert not {"its", "well", "wed", "shed", "hell", "id"} & set(evalai.CONTRACTIONS)


def test_seedbench():
    data = golden("seedbench")
    right = {"image": [], "video": []}
    for sample in data["samples"]:
        value = single(scorer(seedbench.SEEDBench)(sample["doc"], sample["prediction"]))
        assert value == sample["per_sample"]["correct"]
        right[sample["doc"]["data_type"]].append(value)
    assert mean(right["image"]) == near(data["aggregate"]["seed_image"])
    assert mean(right["image"] + right["video"]) == near(data["aggregate"]["seed_all"])


def numbers(kind, rows, **options):
    """What a data set prints for journal rows."""
    return kind.unloaded(options).metrics(list(rows))


def answered(pair):
    """A document and an answer as a journal row of POPE."""
    return {"target": pair[0], "prediction": pair[1], "scores": scorer(pope.POPE)(*pair)}


@pytest.mark.parametrize("name", ["pope", "real_pope"])
def test_pope(name):
    data = golden(name)
    pairs = [(sample["doc"], sample["prediction"]) for sample in data["samples"]]
    for (doc, text), sample in zip(pairs, data["samples"], strict=True):
        assert single(scorer(pope.POPE)(doc, text)) == sample["per_sample"]["score"]
    groups = {"": (pairs, data["aggregate"])}
    for name, expected in data.get("sub_aggregates", {}).items():
        own = [pair for pair in pairs if pair[0]["category"] == name]
        if name == "all_no_predictions":  # nothing is called yes, so that precision has no denominator
            own = [pair for pair in pairs if normalise_answer(pair[1], False) == "no"]
        groups[name] = (own, expected)
    for own, expected in groups.values():
        found = numbers(pope.POPE, map(answered, own), yes_ratio_of="truth")
        read = mean(normalise_answer(text, False) in ("yes", "no") for _, text in own)
        assert found.pop("pope/parsed") == near(read)
        assert {name: value for name, value in found.items() if name.count("/") == 1} == near(
            {f"pope/{key.removeprefix('pope_')}": value for key, value in expected.items()}
        )
    silent = [answered((doc, "No")) for doc, _ in pairs]
    assert numbers(pope.POPE, silent, yes_ratio_of="prediction")["pope/yes_ratio"] == 0.0
    for category in groups.keys() - {"", "all_no_predictions"}:
        whole = numbers(pope.POPE, map(answered, pairs), yes_ratio_of="truth")
        assert whole[f"pope/f1_score/{category}"] == near(groups[category][1]["pope_f1_score"])


def test_mme():
    data = golden("mme")
    pairs = [(sample["doc"], sample["prediction"]) for sample in data["samples"]]
    for (doc, text), sample in zip(pairs, data["samples"], strict=True):
        assert mme.parse_yes_no(text) == sample["per_sample"]["parsed"], text
        assert single(scorer(mme.MME)(doc, text)) == sample["per_sample"]["score"]
        assert scorer(mme.MME)(doc, text)["mme/parsed"] == float(sample["per_sample"]["parsed"] != "other")
    rows = [{"target": doc, "prediction": text} for doc, text in pairs]
    found = numbers(mme.MME, rows)
    assert {name: found[f"mme/{name}"] for name in data["per_category"]} == near(data["per_category"])
    for name, value in data["aggregate"].items():
        assert found[f"mme/{name.removeprefix('mme_')}"] == near(value)
    assert found["mme/total_score"] == near(data["mme_total_perception_plus_cognition"])
    one, more = (numbers(mme.MME, rows[:count]) for count in (2, 3))
    assert one.pop("mme/parsed") == mean(mme.parse_yes_no(text) != "other" for _, text in pairs[:2])
    assert more.pop("mme/parsed") == mean(mme.parse_yes_no(text) != "other" for _, text in pairs[:3])
    assert one == more  # a picture of which a question is missing does not count
    assert one["mme/cognition_score"] == 0.0 and one["mme/total_score"] == one["mme/perception_score"] > 0


def test_mmbench():
    data = golden("mmbench_en_dev")
    scored = []
    for sample in data["samples"]:
        doc, text = sample["doc"], sample["prediction"].strip()
        assert mmbench.parse_letter(text) == sample["per_sample"]["option_inferred"], text
        assert mmbench.parse_answer(doc, text) == sample["per_sample"]["prefetch"], text
        scored.append({"target": doc, "scores": scorer(mmbench.MMBench)(doc, text)})
        assert scored[-1]["scores"]["mmbench/parsed"] == float(sample["per_sample"]["prefetch"] is not None)
    found = numbers(mmbench.MMBench, scored, circular=True)
    _same_as_mmbench(found, "circular", data["aggregate_unparsed_wrong"])
    assert next(iter(found)) == "mmbench/circular" and list(found)[-1] == "mmbench/parsed"
    assert found["mmbench/parsed"] == near(mean(bool(sample["per_sample"]["prefetch"]) for sample in data["samples"]))
    base_rows = [row for row in scored if row["target"]["index"] < mmbench.ROTATION]
    vanilla = numbers(mmbench.MMBench, base_rows, circular=False)
    _same_as_mmbench(vanilla, "vanilla", data["aggregate_vanilla_base_rows_unparsed_wrong"])
    assert found["mmbench/vanilla"] == vanilla["mmbench/vanilla"] and next(iter(vanilla)) == "mmbench/vanilla"
    for base, hit in data["circular_hits_unparsed_wrong"].items():
        own = [row for row in scored if row["target"]["index"] % mmbench.ROTATION == int(base)]
        assert numbers(mmbench.MMBench, own, circular=True)["mmbench/circular"] == hit


def test_mmbench_with_the_letters_that_the_reference_draws():
    """Without a judge it draws letters (seed 2680) of a question's rotations until one is wrong."""
    data, draws = golden("mmbench_en_dev"), random.Random(2680)
    groups: dict[int, list] = {}
    for sample in sorted(data["samples"], key=lambda sample: sample["doc"]["index"]):
        groups.setdefault(sample["doc"]["index"] % mmbench.ROTATION, []).append(sample)
    rows = []
    for group in groups.values():
        said = [(sample["doc"], sample["per_sample"]["prefetch"]) for sample in group]
        hopeless = any(letter not in (None, doc["answer"]) for doc, letter in said)
        for doc, letter in said:
            if letter is None and not hopeless:
                letter = draws.choice("ABCDE")
                hopeless = letter != doc["answer"]
            rows.append({"target": doc, "scores": scorer(mmbench.MMBench)(doc, letter or "")})
    found = numbers(mmbench.MMBench, rows, circular=True)
    _same_as_mmbench(found, "circular", data["aggregate_lmms_eval_no_api_random_fallback"])


def _same_as_mmbench(found, name, expected):
    assert 100 * found[f"mmbench/{name}"] == near(expected["gpt_eval_score"])
    for mine, theirs in (("category", "category"), ("L2-category", "l2_category")):
        for value, share in expected[theirs].items():
            assert found[f"mmbench/{name}/{mine}/{value}"] == near(share)


def test_mmbench_draws_a_letter_for_the_row_alone():
    options = dict.fromkeys("ABCD", "red")
    docs = [{"index": index, "answer": "A", **options} for index in range(400)]
    drawn = [single(scorer(mmbench.MMBench, unparsed="random")(doc, "no idea")) for doc in docs]
    lucky = [index for index, hit in enumerate(drawn[:40]) if hit]
    assert lucky == [0, 10, 15, 22, 32, 38], "earlier runs drew other letters"
    assert 0.1 < mean(drawn) < 0.3
    assert all(single(scorer(mmbench.MMBench)(doc, "no idea")) == 0.0 for doc in docs)


def test_mmmu():
    data = golden("mmmu_val")
    read = []
    for sample in data["samples"]:
        doc, text, expected = sample["doc"], sample["prediction"], sample["per_sample"]
        if expected["random_fallback"]:
            assert mmmu.parse_choice(mmmu.listed(doc["options"]), text) is None
            assert scorer(mmmu.MMMU)(doc, text) == {"mmmu/acc": 0.0, "mmmu/parsed": 0.0}
            continue
        if doc["question_type"] == "open":
            assert set(mmmu.parse_open(text)) == set(expected["parsed"]), text
        else:
            assert mmmu.parse_choice(mmmu.listed(doc["options"]), text) == expected["parsed"], text
        read.append(single(scorer(mmmu.MMMU)(doc, text)))
        assert read[-1] == expected["correct"], sample
    assert len(read) == data["aggregate"]["n"]
    assert round(mean(read), 5) == near(data["aggregate"]["mmmu_acc"])


def test_mmvet_capabilities_and_no_judge():
    data = golden("mmvet")
    docs = [sample["doc"] for sample in data["samples"]]
    marks = [{"mmvet/score": sample["per_sample"]["score"]} for sample in data["samples"]]
    rows = [{"target": doc, "scores": mark} for doc, mark in zip(docs, marks, strict=True)]
    found = numbers(mmvet.MMVet, rows)
    assert 100 * found["mmvet/score"] == near(data["aggregate"]["gpt_eval_score"])
    for name, value in data["per_capability"].items():
        assert 100 * found[f"mmvet/score/{name}"] == near(value)
    assert mmvet.score_mmvet(docs[0], "a dog", None) == {}
    assert numbers(mmvet.MMVet, [{"target": docs[0], "scores": {}}]) == {}


@pytest.mark.parametrize("name", ["refcoco_bbox_rec_test", "refcoco+_bbox_rec_testA", "refcocog_bbox_rec_test"])
def test_refcoco(name):
    data = golden(name)
    family, rows = refcoco.RefCOCO.unloaded({}), []
    made = [
        family.document(
            {"answer": row["answer"], "bbox": row["bbox_xywh"]}, part, [(row["image_width"], row["image_height"])]
        )
        for row in data["raw_rows"]
        for part in range(len(row["answer"]))
    ]
    assert [list(doc["bbox"]) for doc in made] == [sample["doc"]["bbox"] for sample in data["samples"]]
    for sample in data["samples"]:
        assert list(parse_box(sample["prediction"].strip()) or NO_BOX) == sample["parsed"], sample["prediction"]
        rows.append(scorer(refcoco.RefCOCO)(sample["doc"], sample["prediction"]))
        expected = {f"refcoco/{key.removeprefix('refcoco_')}": float(v) for key, v in sample["per_sample"].items()}
        assert {key: rows[-1][key] for key in expected} == near(expected)
    for key, value in data["aggregate"].items():
        assert mean(row[f"refcoco/{key.removeprefix('refcoco_')}"] for row in rows) == near(value)


def test_real_refcoco_in_both_frames():
    data, by_style = golden("real_refcoco_nuwa"), {}
    for sample in data["samples"]:
        scores = scorer(refcoco.RefCOCO)(sample["doc"], sample["prediction"])
        by_style.setdefault(sample["style"], []).append(scores)
        assert scores["refcoco/IoU"] == near(sample["per_sample"]["IoU"])
        fair = scorer(refcoco.RefCOCO, box_frame="padded")(sample["doc"], sample["prediction"])
        assert fair["refcoco/IoU"] == scores["refcoco_padded/IoU"]
        assert fair["refcoco_original/IoU"] == scores["refcoco/IoU"]
        if sample["style"] == "padded_frame_2dec":  # scored in its own frame, the answer is right to two decimals
            assert fair["refcoco/IoU"] > 0.9
    for style, expected in data["aggregate"].items():
        for key, value in expected.items():
            assert mean(row[f"refcoco/{key.removeprefix('refcoco_')}"] for row in by_style[style]) == near(value)


def test_targets_are_rounded_as_the_reference_stores_them():
    """An answer whose centre lies on the edge of the box, in double precision inside of it, in single outside."""
    corners = (31.920000076293945, 57.65999984741211, 142.3300018310547, 367.9100036621094)
    x0, y0, x1, y1 = corners
    row = {"answer": ["the cup"], "bbox": [x0, y0, x1 - x0, y1 - y0]}
    doc = refcoco.RefCOCO.unloaded({}).document(row, 0, [(425, 640)])
    assert doc["bbox"] == unit_box(corners, 425, 640, "it")
    scores = scorer(refcoco.RefCOCO)(doc, "[0.2426, 0.0901, 0.5774, 0.6650]")
    assert scores["refcoco/Center_ACC"] == 0.0 and scores["refcoco/parsed"] == 1.0


def test_qwen_refcoco():
    data = golden("nuwa_qwen_refcoco")
    for entry in data["smart_resize"]:
        assert list(qwen_refcoco.resized(entry["width"], entry["height"])) == entry["resized_w_h"]
    right = []
    for sample in data["samples"]:
        doc, expected = sample["doc"], sample["per_sample"]
        assert list(qwen_refcoco.resized(doc["width"], doc["height"])) == expected["resized"]
        boxes = qwen_refcoco.parse_boxes(sample["prediction"])
        assert [list(box) for box in boxes] == expected["parsed"]
        moved = [qwen_refcoco.to_picture(box, doc["width"], doc["height"]) for box in boxes]
        assert moved == [near(tuple(box)) for box in expected["boxes_original_frame"]]
        assert [qwen_refcoco.pixel_iou(box, tuple(doc["solution"])) for box in moved] == near(expected["ious"])
        right.append(scorer(qwen_refcoco.QwenRefCOCO)(doc, sample["prediction"])["qwen_refcoco/accuracy"])
        assert right[-1] == expected["correct"]
    assert 100 * mean(right) == near(data["aggregate"]["accuracy_percent"])


def test_only_32_periods_are_deleted():
    """The reference passes a flag where the count belongs."""
    assert evalai.without_punctuation("." * 40) == "." * 8


def test_missing_options_of_mmbench_have_the_text_nan():
    assert mmbench.option(None) == mmbench.option("") == mmbench.option("nan") == "nan"


def test_scienceqa_prefix():
    assert scorer(scienceqa.ScienceQA, accept_prefix=True)({"answer": 1}, "b")["scienceqa/exact_match"] == 1.0
    assert scorer(scienceqa.ScienceQA)({"answer": 1}, "B. a dog")["scienceqa/exact_match"] == 0.0
    assert scorer(scienceqa.ScienceQA, accept_prefix=True)({"answer": 1}, "B. a dog")["scienceqa/exact_match"] == 1.0
    assert scorer(scienceqa.ScienceQA, accept_prefix=True)({"answer": 0}, "B. a dog")["scienceqa/exact_match"] == 0.0


@pytest.mark.parametrize(
    ("kind", "doc", "read", "unread"),
    [(pope.POPE, {"answer": "yes"}, ["Yes", " no\n"], ["Yes.", "maybe", ""]),
     (mme.MME, {"answer": "Yes"}, ["Y.", "No, it is not"], ["It is not", ""]),
     (mmmu.MMMU, {"question_type": "multiple-choice", "options": "['red', 'blue']", "answer": "A"},
      ["(B)", "A"], ["", "C"]),
     (mmmu.MMMU, {"question_type": "open", "options": "[]", "answer": "24"}, ["about 7"], ["", " "]),
     (scienceqa.ScienceQA, {"answer": 0}, ["A", "b"], ["A. the dog", "", "AB"]),
     (seedbench.SEEDBench, {"answer": "A"}, ["A", "d it is"], ["", "(A)", "the"])],
)  # fmt: skip
def test_answers_that_could_not_be_read_are_told_from_wrong_ones(kind, doc, read, unread):
    def parsed(text):
        (value,) = (value for name, value in scorer(kind)(doc, text).items() if name.endswith("/parsed"))
        return value

    assert [*map(parsed, read)] == [1.0] * len(read) and [*map(parsed, unread)] == [0.0] * len(unread)


def test_popes_f1_stands_beside_the_share_that_could_be_read():
    said = [("yes", "yes"), ("no", "no"), ("yes", "maybe"), ("no", "I cannot tell")]
    rows = [answered(({"answer": truth, "category": "random"}, text)) for truth, text in said]
    found = numbers(pope.POPE, rows, yes_ratio_of="truth")
    assert (found["pope/f1_score"], found["pope/parsed"]) == (1.0, 0.5)


MALFORMED = ["", " ", "\n", "[", "[]", "[1,2,3]", "[nan, 0, 0, 1]", "((((", "\x00", "é" * 300, "<image>", "-", "1e999"]


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_answers_score_and_never_raise(text):
    """An answer is whatever a model says; each of these is wrong everywhere."""
    box = {"bbox": (0.1, 0.1, 0.5, 0.5), "image_width": 64, "image_height": 48}
    pixels = {"solution": [10, 10, 30, 30], "width": 64, "height": 48}
    options = {"A": "red", "B": "blue", "C": "nan", "D": "nan"}
    choice = {"question_type": "multiple-choice", "options": "['red', 'blue']", "answer": "A"}
    values = [
        single(scorer(gqa.GQA)({"answer": "dog"}, text)),
        single(scorer(pope.POPE)({"answer": "yes"}, text)),
        single(scorer(vqa.VQAv2)({"answers": ["dog"] * 10}, text)),
        single(scorer(vqa.TextVQA)({"answers": ["dog"] * 10}, text)),
        single(scorer(mme.MME)({"answer": "Yes"}, text)),
        single(scorer(mmbench.MMBench)({"index": 1, "answer": "A", **options}, text)),
        single(scorer(mmmu.MMMU)(choice, text)),
        single(scorer(mmmu.MMMU)({"question_type": "open", "options": "[]", "answer": "24"}, text)),
        single(scorer(scienceqa.ScienceQA)({"answer": 0}, text)),
        single(scorer(seedbench.SEEDBench)({"answer": "A"}, text)),
        scorer(refcoco.RefCOCO)(box, text)["refcoco/ACC@0.1"],
        scorer(qwen_refcoco.QwenRefCOCO)(pixels, text)["qwen_refcoco/accuracy"],
    ]
    assert values == [0.0] * len(values)


def test_golden_documents_pass_the_column_checks():
    """The checks on columns let through what the reference was run on."""
    for family, name in [
        (gqa.GQA, "gqa"), (pope.POPE, "pope"), (mme.MME, "mme"), (mmbench.MMBench, "mmbench_en_dev"),
        (mmmu.MMMU, "mmmu_val"),
        (scienceqa.ScienceQA, "scienceqa_img"), (seedbench.SEEDBench, "seedbench"), (mmvet.MMVet, "mmvet"),
        (vqa.VQAv2, "vqav2_val"), (vqa.TextVQA, "textvqa_val"), (qwen_refcoco.QwenRefCOCO, "nuwa_qwen_refcoco"),
    ]:  # fmt: skip
        for sample in golden(name)["samples"]:
            checked(sample["doc"], family.columns)
