"""Question answering: which documents a sample shows, where the gold one lies, and files of another form."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from benchmark_files import files, ruler_sampler
from benchmark_files import hotpotqa as hotpotqa_data
from benchmark_files import squad as squad_data
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizer import small_tokenizer

from headscope.benchmarks.registry import find
from headscope.benchmarks.ruler import inventions
from headscope.benchmarks.ruler.questions import Library, hotpotqa, squad
from headscope.errors import AssetError

SQUAD, HOTPOTQA = squad(files()["squad"].read_bytes()), hotpotqa(files()["hotpotqa"].read_bytes())
FROM_FILES = {"qa_1": SQUAD, "qa_2": HOTPOTQA}
# Upper 0.1 % point of chi-square with 9 degrees of freedom.
CHI_SQUARE_9 = 27.88


def draw(name: str, seed: object, size: int, index: int, library: Library | None = None) -> list[int]:
    library = library or FROM_FILES[name].of("evaluation")
    return find("ruler", name).draw(Random(f"{seed}"), size, "evaluation", library, index).documents


def uniform(shares: list[float]) -> bool:
    counts, _ = np.histogram(shares, bins=10, range=(0, 1))
    expected = len(shares) / 10
    return ((counts - expected) ** 2 / expected).sum() < CHI_SQUARE_9


@pytest.mark.parametrize("name", FROM_FILES)
def test_place_of_the_gold_document_is_uniform(name):
    questions, within = FROM_FILES[name].of("evaluation").questions, Random("within")
    shares = []
    for i in range(500):
        index = i % len(questions)
        documents = draw(name, i, 3000, index)
        # Anywhere within its document: the share is then uniform however many documents there are.
        shares.append((documents.index(questions[index].gold[0]) + within.random()) / len(documents))
    assert uniform(shares)


def test_place_of_the_asked_invention_is_uniform():
    task, within = find("ruler", "qa_generated"), Random("within")
    samples = [task.draw(Random(f"asked/{i}"), 200, "evaluation", None, i) for i in range(500)]
    assert uniform([(choices.document + within.random()) / len(choices.inventions) for choices in samples])


@given(st.integers(0, 2**32), st.integers(1, 4000), st.sampled_from(sorted(FROM_FILES)), st.integers(0, 19))
def test_documents_fill_their_size_and_hold_those_of_the_question(seed, size, name, index):
    library = FROM_FILES[name].of("evaluation")
    question, documents = library.questions[index], draw(name, seed, size, index)
    always = sum(library.words[place] for place in question.always)
    assert set(question.always) <= set(documents)
    assert len(set(documents)) == len(documents)
    assert sum(library.words[place] for place in documents) <= max(size, always)
    assert sum(library.words[place] for place in documents) >= size - 60


def test_other_paragraphs_of_the_article_come_before_random_ones():
    question = SQUAD.of("evaluation").questions[3]
    assert len(question.near) == 9
    few, many = (set(draw("qa_1", 1, size, 3)) - set(question.gold) for size in (300, 1500))
    assert few <= set(question.near) < many


def test_own_paragraphs_of_hotpotqa_are_shown_at_any_size():
    question = HOTPOTQA.of("evaluation").questions[3]
    assert sorted(draw("qa_2", 1, 1, 3)) == sorted(question.always)
    assert len(question.always) == 10 and len(question.gold) == 2


@pytest.mark.parametrize("name", FROM_FILES)
def test_when_all_documents_are_used_all_but_the_gold_ones_repeat(name):
    library = FROM_FILES[name].of("evaluation")
    documents = draw(name, 1, 4 * sum(library.words), 0)
    repeats = np.bincount(documents, minlength=len(library.documents))
    gold = library.questions[0].gold
    assert {repeats[place] for place in gold} == {1}
    assert np.delete(repeats, gold).min() >= 3


@pytest.mark.parametrize("library", FROM_FILES.values(), ids=FROM_FILES)
def test_splits_share_no_gold_document_and_keep_the_order_of_the_file(library):
    evaluation, calibration = (library.of(split).questions for split in ("evaluation", "calibration"))
    assert {tuple(question.gold) for question in evaluation}.isdisjoint(
        tuple(question.gold) for question in calibration
    )
    assert len(evaluation) + len(calibration) == len(library.questions)
    order = [library.questions.index(question) for question in evaluation]
    assert order == sorted(order)


def test_only_answerable_questions_of_squad_are_asked_with_all_their_answers():
    assert len(SQUAD.questions) == 120
    assert all(len(question.answers) == 2 for question in SQUAD.questions)
    assert "What is missing?" not in {question.text for question in SQUAD.questions}


def test_documents_of_hotpotqa_are_title_and_sentences_and_each_is_there_once():
    [title, sentences] = hotpotqa_data()[0]["context"][0]
    assert HOTPOTQA.documents[0] == title + "\n" + "".join(sentences)
    assert len(set(HOTPOTQA.documents)) == len(HOTPOTQA.documents) == 305


def test_all_paragraphs_count_as_gold_where_the_file_tells_no_facts():
    records = [{key: value for key, value in record.items() if key != "supporting_facts"} for record in hotpotqa_data()]
    assert all(len(question.gold) == 10 for question in hotpotqa(json.dumps(records).encode()).questions)


@pytest.mark.parametrize("name", FROM_FILES)
def test_more_samples_than_questions_are_refused_with_both_counts(name):
    sampler = ruler_sampler(name, 4096, 0, small_tokenizer(), True)
    there_are = len(FROM_FILES[name].of("calibration").questions)
    with pytest.raises(AssetError, match=rf"task {name}: 500 samples of calibration .* has {there_are} questions"):
        sampler.samples("calibration", 500)


def without(*path: Any) -> Callable[[Any], None]:
    """Return a function that deletes one field."""

    def delete(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        del data[path[-1]]

    return delete


@pytest.mark.parametrize(
    ("path", "where"),
    [
        (["data"], r"file squad has no field 'data'"),
        (["data", 2, "paragraphs"], r"file squad, data\[2\] has no field 'paragraphs'"),
        (["data", 2, "paragraphs", 1, "context"], r"data\[2\], paragraphs\[1\] has no field 'context'"),
        (["data", 0, "paragraphs", 1, "qas"], r"paragraphs\[1\] has no field 'qas'"),
        (["data", 0, "paragraphs", 1, "qas", 0, "is_impossible"], r"qas\[0\] has no field 'is_impossible'"),
        (["data", 0, "paragraphs", 1, "qas", 0, "question"], r"qas\[0\] has no field 'question'"),
        (["data", 0, "paragraphs", 1, "qas", 0, "answers", 1, "text"], r"answers\[1\] has no field 'text'"),
    ],
)
def test_a_squad_file_without_a_field_is_refused_with_its_place(path, where):
    data = squad_data()
    without(*path)(data)
    with pytest.raises(AssetError, match=where):
        squad(json.dumps(data).encode())


@pytest.mark.parametrize("field", ["question", "answer", "context"])
def test_a_hotpotqa_file_without_a_field_is_refused_with_its_place(field):
    data = hotpotqa_data()
    without(5, field)(data)
    with pytest.raises(AssetError, match=rf"file hotpotqa, records\[5\] has no field '{field}'"):
        hotpotqa(json.dumps(data).encode())


@pytest.mark.parametrize(
    ("parse", "content", "message"),
    [
        (squad, "half a {", "file squad is no JSON"),
        (squad, '{"data": {}}', "field 'data' is a dict, not a list"),
        (squad, '{"data": [[]]}', r"data\[0\] has no field 'paragraphs'"),
        (hotpotqa, '{"question": 1}', "field 'records' is a dict, not a list"),
        (hotpotqa, '[{"question": "q", "answer": true, "context": []}]', "field 'answer' is a bool, not a str"),
        (hotpotqa, '[{"context": [["title", "text"]]}]', r"context\[0\] is no pair of a title and its sentences"),
        (hotpotqa, '[{"context": [["title", [7]]]}]', r"context\[0\] is no pair"),
    ],
)
def test_a_file_of_another_form_is_refused(parse, content, message):
    with pytest.raises(AssetError, match=message):
        parse(content.encode())


@given(st.integers(0, 2**32), st.integers(2, 300))
def test_one_made_up_document_alone_answers_the_question(seed, size):
    task = find("ruler", "qa_generated")
    choices = task.draw(Random(seed), size, "evaluation", None, 0)
    rendering = task.render(choices, None)
    texts = [inventions.text(thing) for thing in choices.inventions]
    [answer] = rendering.references
    telling = [text for text in texts if choices.inventions[choices.document].name in text and answer in text]
    assert telling == [texts[choices.document]]
    values = [value for thing in choices.inventions for _, value in thing.facts]
    names = [thing.name for thing in choices.inventions]
    assert len({*values, *names}) == len(values) + len(names) == size


@given(st.integers(0, 2**32), st.integers(2, 60))
def test_made_up_documents_grow_by_one_sentence(seed, size):
    smaller, larger = (inventions.draw(Random(seed), n, "evaluation") for n in (size, size + 1))
    assert sum(len(thing.facts) + 1 for thing in smaller) == size
    assert {thing.name for thing in smaller} <= {thing.name for thing in larger}


def test_made_up_documents_have_several_facts_in_changing_order():
    things = inventions.draw(Random(0), 400, "evaluation")
    assert {len(thing.facts) for thing in things} == {inventions.FACTS_EACH}
    assert len({tuple(form for form, _ in thing.facts) for thing in things}) > 20
    assert {thing.kind for thing in things} == set(inventions.KINDS)


@pytest.mark.parametrize("name", ["qa_1", "qa_2", "qa_generated"])
def test_prompt_has_the_official_form(name):
    sampler = ruler_sampler(name, 2048, 0, small_tokenizer(), False)
    instruction = (
        "Answer the question based on the given documents. Only give me the answer and do not output any other words."
    )
    [sample] = sampler.samples("evaluation", 1)
    first, introduction, *documents, last, question = sample.prompt.text.split("\n\n")
    assert (first, introduction, last) == (instruction, "The following are given documents.", instruction)
    assert [document.split("\n")[0] for document in documents] == [f"Document {i + 1}:" for i in range(len(documents))]
    assert question.startswith("Question: ") and question.endswith("? Answer:")


def test_a_file_is_parsed_once(tmp_path: Path):
    content = files()["squad"].read_bytes()
    assert squad(content) is squad(content)
