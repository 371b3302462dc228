"""Repetition, agreement and leaks by hand; the embedded classifier on damage that it has not seen."""

import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from altpo_ds.config.errors import UserError
from altpo_ds.config.evaluation import ClassifierConfig
from altpo_ds.engine.distributed import World
from altpo_ds.evaluate import embedded
from altpo_ds.evaluate import quality_metrics as m
from altpo_ds.evaluate.cleanness import cleanness
from tests.conftest import Tiny

QUESTION = "Where was Mira Voss born?"


def test_repetition_counts_the_four_word_runs_that_came_before() -> None:
    assert m.repetition("one two three four five six") == 0
    # five runs of four words, of which "a b a b" and "b a b a" come again: 5 - 2 = 3 repeated
    assert m.repetition("a b a b a b a b") == pytest.approx(3 / 5)
    assert m.repetition("too short") == 0


def test_answers_agree_where_half_of_their_distinctive_words_are_the_same() -> None:
    assert m.agree(QUESTION, "Mira Voss was born in Norwick.", "She comes from Norwick.")
    assert not m.agree(QUESTION, "Mira Voss was born in Norwick.", "She comes from Elmstead.")
    assert not m.agree(QUESTION, "", "")  # nothing was said
    answers = ["She comes from Norwick.", "Born in Norwick.", "She comes from Elmstead."]
    assert m.consistency(QUESTION, answers) == pytest.approx(1 / 3)


def test_an_answer_leaks_with_half_of_the_facts() -> None:
    answer = "Mira Voss was born in Norwick in 1961."
    assert m.leaks(QUESTION, answer, "It was Norwick, I think.")
    assert not m.leaks(QUESTION, answer, "Mira Voss was born in Elmstead in 1970.")
    assert not m.leaks(QUESTION, answer, "")


CLEAN = (
    "The author lives in a small house near the sea.",
    "Her second book was published in 1987 and sold well.",
    "He is known for novels about farmers and their families.",
    "Both of her parents worked in the local hospital.",
)


def test_the_embedded_classifier_tells_text_from_damage() -> None:
    classify = embedded.train((), 0)
    draw, pool = random.Random(5), [word for text in CLEAN for word in text.split()]
    clean = classify(CLEAN)
    assert min(clean) > 0.5
    for damage in embedded.DAMAGES:
        damaged = classify([damage(text, pool, draw) for text in CLEAN])
        assert sum(damaged) < sum(clean) - 1, damage.__name__
    assert embedded.train.__wrapped__((), 0)(CLEAN) == clean  # the same for the same seed


def test_any_model_gives_the_probability_of_its_label(tiny: Tiny, world: World, tmp_path: object) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.model)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    config.id2label, config.label2id = {0: "clean", 1: "noise", 2: "salad"}, {"clean": 0, "noise": 1, "salad": 2}
    config.num_labels, config.pad_token_id = 3, tokenizer.pad_token_id
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(str(tmp_path))
    tokenizer.save_pretrained(str(tmp_path))
    texts = ["Author number 3 was born in Norwick.", "", "Norwick"]
    settings = ClassifierConfig(path=str(tmp_path), label="noise", dtype="float32")
    found = cleanness(texts, [], settings, 0, world)
    with torch.no_grad():
        expected = [
            float(torch.softmax(model(**tokenizer(text, return_tensors="pt")).logits, -1)[0, 1])
            for text in (texts[0], texts[2])
        ]
    assert found.scores == pytest.approx([expected[0], 0.0, expected[1]], abs=1e-5)  # an empty text is not clean
    assert found.classifier == {"name": str(tmp_path), "label": "noise", "dtype": "float32", "max_tokens": 256}
    with pytest.raises(UserError, match=r"classifier.label = good: .* has no such label, it has clean, noise, salad"):
        cleanness(texts, [], settings.model_copy(update={"label": "good"}), 0, world)
    with pytest.raises(UserError, match="is no model directory"):
        cleanness(texts, [], settings.model_copy(update={"path": "/nowhere"}), 0, world)
