import json

import numpy as np
import pytest

from trainables.data.questions import Question
from trainables.data.tokens import Ragged, encode_questions, read_tokenizer, train_tokenizer

TEXTS = ["### Instruction:\nIs 17 a prime?\n\n### Response:\nthe correct answer is true" for _ in range(5)]


def test_ragged_packs_and_unpacks_rows():
    rows = [[1, 2, 3], [4], [], [5, 6]]
    ragged = Ragged.of(rows)
    assert ragged.rows() == rows
    assert ragged.lengths.tolist() == [3, 1, 0, 2]
    assert (ragged.values.dtype, ragged.starts.dtype) == (np.int32, np.int64)


def test_training_a_tokenizer_is_deterministic_and_loses_no_text():
    texts = [*TEXTS, "naïve 電 \t  text\r\n"]
    one, same = (train_tokenizer(texts, 300) for _ in range(2))
    assert one.tokenizer.to_str() == same.tokenizer.to_str()
    assert one.tokenizer.get_vocab_size() <= 300
    assert one.tokenizer.token_to_id("<|endoftext|>") == one.end == 0
    for text in (*texts, "bytes never seen: \x00 é 🙂"):
        assert one.tokenizer.decode(one.tokenizer.encode(text).ids) == text


@pytest.mark.parametrize("vocab_size", [256, 300.5, "many"])
def test_refuses_a_vocabulary_without_all_bytes(vocab_size):
    with pytest.raises(
        ValueError, match=r"^model: vocab_size must be a whole number above 256 \(each byte is a token\)"
    ):
        train_tokenizer(TEXTS, vocab_size)


QUESTIONS = [
    Question("Is it? ### Response:\n", ("it is true", "it is false"), 1, "boolq"),
    Question("Which? ### Response:\n", ("it is answer1", "it is answer2", "it is answer3"), 0, "ARC-Easy"),
    Question("And? ### Response:\n", ("it is true", "it is false"), 0, "boolq"),
]


def test_encoded_questions_decode_to_their_text():
    tokenizer = train_tokenizer([q.prompt + q.responses[q.answer] for q in QUESTIONS] * 3, 280)
    encoded = encode_questions(tokenizer, QUESTIONS)
    responses, prompts = encoded.responses.rows(), encoded.prompts.rows()
    assert encoded.task_names == ["ARC-Easy", "boolq"]
    assert encoded.tasks.tolist() == [1, 0, 1]
    assert encoded.answers.tolist() == [1, 0, 0]
    for i, question in enumerate(QUESTIONS):
        assert tokenizer.tokenizer.decode(prompts[i]) == question.prompt
        candidates = [row for row in encoded.candidates[i].tolist() if row >= 0]
        assert [tokenizer.tokenizer.decode(responses[row]) for row in candidates] == list(question.responses)
        assert {responses[row][-1] for row in candidates} == {tokenizer.end}
        # Encoding the whole text gives the same tokens: no token spans prompt and response.
        whole = tokenizer.tokenizer.encode(question.prompt + question.responses[question.answer]).ids
        assert prompts[i] + responses[encoded.correct[i]][:-1] == whole


def test_no_candidate_may_begin_with_another():
    tokenizer = train_tokenizer(TEXTS, 257)
    questions = [Question("Which?\n", ("answer1", "answer12"), 0, "")]
    with pytest.raises(
        ValueError,
        match=r"^answers: no candidate may begin with another of its question, got 'answer12' and 'answer1'$",
    ):
        encode_questions(tokenizer, questions)


def test_reads_the_tokenizer_of_a_checkpoint(tmp_path):
    trained = train_tokenizer(TEXTS, 280).tokenizer
    trained.add_special_tokens(["<|begin|>", "<|stop|>"])
    begin = trained.token_to_id("<|begin|>")
    from tokenizers.processors import TemplateProcessing

    trained.post_processor = TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", begin)])
    trained.enable_truncation(4)
    trained.enable_padding(length=64)
    trained.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [7, 8]}))
    assert read_tokenizer(tmp_path).end == 7
    for named in ("<|stop|>", {"content": "<|stop|>"}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": named}))
        tokenizer = read_tokenizer(tmp_path)
        assert tokenizer.end == trained.token_to_id("<|stop|>")
    encoded = encode_questions(tokenizer, QUESTIONS)
    assert {row[0] for row in encoded.prompts.rows()} == {begin}  # before the prompt, not before the response
    assert begin not in encoded.responses.values
    assert min(encoded.prompts.lengths) > 4  # neither cut nor padded
    assert len(set(encoded.prompts.lengths)) == 3


def test_refuses_a_checkpoint_without_a_tokenizer(tmp_path):
    with pytest.raises(ValueError, match=r"^model: base must have a tokenizer.json, got "):
        read_tokenizer(tmp_path)
    train_tokenizer(TEXTS, 257).tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"^model: base must name its end-of-text token \(eos_token\), got none in "):
        read_tokenizer(tmp_path)
