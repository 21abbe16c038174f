"""Figures of free text are exact for models that are known; judges with other tokenizers can be compared."""

from __future__ import annotations

import json
import math
import random
import statistics

import pytest
import torch
from torch import Tensor

from diffuapriel.data.documents import DocumentCorpus
from diffuapriel.data.tales import TalesCorpus
from diffuapriel.evaluation.samples import distinct_n, split_at_eos, unigram_entropy
from diffuapriel.evaluation.text import quality
from diffuapriel.evaluation.text.copying import longest_copies
from diffuapriel.evaluation.text.quality import Judge, evaluate_text, score_texts
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.tokenizer import get_tokenizer
from tests.evaluation.known_models import Letters, Lookup, even

TOKENIZER = get_tokenizer("gpt2-4k")
EOS, LENGTH = TOKENIZER.eos_id, 24
WORDS = ["cat", "dog", "sun", "moon", "ran", "sat", "saw", "the", "a", "and", "old", "red", "sea", "sky", "hill"]
RNG = random.Random(0)
BOOKS = [" ".join(RNG.choices(WORDS, k=80)) for _ in range(30)]
CORPUS = DocumentCorpus("books", TOKENIZER, train=BOOKS[:-5], validation=BOOKS[-5:])


def writes(*texts: str | list[int]):
    """A denoiser that writes text (or ids) number i in row i of a batch, filled with <|endoftext|>."""
    ids = [TOKENIZER.encode(text) if isinstance(text, str) else text for text in texts]
    windows = [(row + [EOS] * LENGTH)[:LENGTH] for row in ids]

    def denoise(ids: Tensor, sigma: Tensor, positions: Tensor) -> Tensor:
        logits = torch.zeros(*ids.shape, TOKENIZER.vocab_size)
        logits.scatter_(2, torch.tensor(windows)[: len(ids), :, None], 60.0)
        return logits[positions]

    return denoise


def measure(*texts: str | list[int], **options):
    options = {"num_samples": len(texts), "batch_size": len(texts), "sampler": SamplerConfig(steps=2), **options}
    return evaluate_text(writes(*texts), CORPUS, length=LENGTH, **options)


def test_the_figures_are_those_of_the_samples():
    texts = ["the a and" + " the a and" * 3, " ".join(BOOKS[3].split()[7:18]), "never", "unheard of the sea"]
    report = measure(*texts)
    ids = [TOKENIZER.encode(text) for text in texts]
    found = report.generated
    assert found.distinct_n == tuple(distinct_n(ids, n) for n in (1, 2, 3))
    assert found.entropy == pytest.approx(sum(map(unigram_entropy, ids)) / 4)
    assert found.repeats == 1 / 4 and found.words_before_repeat == (3 + 4) / 2  # 3, 11, 1 and 4 words
    assert found.most_copied_words == 11
    assert report.tokens_per_pass == pytest.approx(sum(map(len, ids)) / (4 * 2))  # two steps for each
    assert report.tokens_per_pass_ci95[0] < report.tokens_per_pass and "tokens/pass" in report.table()
    true = CORPUS.batch(0, split="validation", batch_size=4, length=LENGTH, seed=0).tolist()
    documents = [[TOKENIZER.decode(part) for part in split_at_eos(ids, EOS)] for ids in true]
    assert report.validation.copied_words == statistics.median(longest_copies(documents, BOOKS[:-5])) != 11
    assert report.validation.most_copied_words < 11
    assert report.examples == tuple(texts[:3]) and report.searched_characters == sum(map(len, BOOKS[:-5]))
    assert json.loads(json.dumps(report.to_dict()))["generated"]["repeats"] == 1 / 4


def test_true_text_has_the_figures_of_validation_text():
    true = CORPUS.batch(0, split="validation", batch_size=5, length=LENGTH, seed=3).tolist()
    judge = {"even": Judge(even(TOKENIZER.vocab_size), TOKENIZER, LENGTH)}
    report = measure(*true, seed=3, judges=judge)
    assert report.generated == report.validation
    assert report.validation.copied_words < 12 < report.validation.words_before_repeat


def test_an_even_judge_takes_the_logarithm_of_its_vocabulary_per_token():
    samples = [["the cat sat", "the dog"], ["the old red hill and the old red sea"], ["moon"]]
    texts = [text for documents in samples for text in documents]
    found = {}
    for name in ("gpt2-4k", "tales-words"):
        tokenizer = get_tokenizer(name)
        tokens = sum(len(tokenizer.encode(text)) for text in texts) + 1  # one <|endoftext|>
        clean = tokenizer.vocab_size - 1
        for length in (64, 4):  # a text that is longer than the context is scored in windows
            score = score_texts(Judge(even(tokenizer.vocab_size), tokenizer, length), samples)
            assert score.perplexity == pytest.approx(clean, rel=1e-5)
            assert score.bits_per_byte == pytest.approx(tokens * math.log2(clean) / len("".join(texts)), rel=1e-5)
        found[name] = score.perplexity
    assert found["gpt2-4k"] > 3 * found["tales-words"], "perplexities are per token of the judge"


def test_an_enumerated_judge_gives_its_means_over_all_orders():
    model = Lookup(3)
    texts = ["cad", "bbb", "dab"]
    truth = [model.cost_over_all_orders((), Letters().encode(text)) for text in texts]
    score = score_texts(Judge(model, Letters(), 3), [[text] for text in texts])
    assert score.bits_per_byte == pytest.approx(sum(truth) / math.log(2) / 9, rel=1e-5)
    assert score.perplexity == pytest.approx(math.exp(sum(truth) / 9), rel=1e-5)
    assert score.bits_per_byte_ci95[0] < score.bits_per_byte < score.bits_per_byte_ci95[1]


def test_the_training_text_is_searched_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(quality, "MOST_CHARACTERS", len(BOOKS[0]) + len(BOOKS[1]) // 2)
    inside, outside = BOOKS[1][:50], BOOKS[1][-50:]
    assert measure(inside, "no", "no").generated.most_copied_words > 8
    report = measure(outside, "no", "no")
    assert report.generated.most_copied_words < 8 and report.searched_characters == quality.MOST_CHARACTERS


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="num_samples is 2; it must be 3 or more"):
        measure("a", "b")
    with pytest.raises(ValueError, match="hold no text; the model writes only padding"):
        measure("", "", "")
    with pytest.raises(ValueError, match="evaluate_tales measures samples of tales"):
        evaluate_text(writes("a"), TalesCorpus(TOKENIZER, 1), length=LENGTH)
