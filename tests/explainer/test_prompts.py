import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from selfx.errors import SelfxError
from selfx.explainer.prompts import MARKERS, make_prompter
from selfx.explainer.training import Training
from selfx.tasks.example import SLOT, Example
from selfx.tasks.published import ablation_example
from selfx.tasks.withheld import withheld
from selfx.testing import tiny_tokenizer

BEGIN, SLOT_ID, END, TURN_END = 3, 5, 4, 2


def example(*questions, system="", answer="yes", vector=True, openings=()):
    value = np.ones((int(vector), 4), np.float32) if vector else None
    about = "e1", "t", "train", "g", "c", system, questions, answer, True, "x", value, {}
    return Example(*about, openings)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(params=["chat", "plain"])
def prompter(tokenizer, request):
    return make_prompter(tokenizer, (TURN_END,), request.param)


@pytest.mark.parametrize("system", ["", "Be brief."])
@pytest.mark.parametrize(
    "question",
    [
        f"{SLOT} at the start",
        f"at the end {SLOT}",
        f"in the middle: {SLOT}, layer 3 of <<<Paris is>>>, what then?",
        f"after é, 日本 and 🙂: {SLOT}\nand a line",
        SLOT,
    ],
)
def test_the_slot_stands_between_its_markers(prompter, question, system):
    prompt = prompter.prompt(example(question, system=system))
    (slot,) = prompt.slots
    assert prompt.ids[slot - 1 : slot + 2] == (BEGIN, SLOT_ID, END)
    assert prompt.ids.count(SLOT_ID) == 1


def test_the_text_around_the_slot_is_the_question(prompter, tokenizer):
    question = f"Does {SLOT} matter to <<<the sky>>>?"
    prompt = prompter.prompt(example(question, system="Be brief."))
    text = tokenizer.decode(prompt.ids)
    marked = question.replace(SLOT, "<begin><slot><end>")
    if prompter.style == "plain":
        assert text == f"Be brief.\n\n{marked}\n"
    else:
        assert text == (
            "<|im_start|>system\nBe brief.<|im_end|>\n"
            f"<|im_start|>user\n{marked}<|im_end|>\n<|im_start|>assistant\n"
        )


def test_without_a_system_message_there_is_no_turn_for_it(tokenizer):
    chat = make_prompter(tokenizer, (TURN_END,), "chat").prompt(example("hi", vector=False))
    assert tokenizer.decode(chat.ids).startswith("<|im_start|>user\n")
    plain = make_prompter(tokenizer, (TURN_END,), "plain").prompt(example("hi", vector=False))
    assert tokenizer.decode(plain.ids) == "hi\n"


def test_a_question_without_a_vector_has_no_slot(prompter):
    prompt = prompter.prompt(example("What if the hint were gone?", vector=False))
    assert prompt.slots == ()
    assert SLOT_ID not in prompt.ids


def test_wordings_go_round_and_each_counts_its_own_slot(prompter):
    asked = example(f"first {SLOT}", f"second, later, {SLOT}", f"{SLOT} third")
    slots = [prompter.prompt(asked, wording).slots for wording in range(4)]
    assert slots[0] == slots[3] != slots[1]
    assert slots[2] < slots[0] < slots[1]
    assert {len(each) for each in slots} == {1}


def test_one_place_for_all_vectors_holds_them_side_by_side(prompter):
    prompt = prompter.prompt(example(f"Does {SLOT} matter?", vector=3))
    first = prompt.slots[0]
    assert prompt.slots == (first, first + 1, first + 2)
    assert prompt.ids[first - 1 : first + 4] == (BEGIN, SLOT_ID, SLOT_ID, SLOT_ID, END)


def test_places_of_their_own_stand_in_their_own_markers(prompter, tokenizer):
    prompt = prompter.prompt(example(f"{SLOT} more than {SLOT}, {SLOT}?", vector=3))
    assert prompt.ids.count(SLOT_ID) == len(prompt.slots) == 3
    for slot in prompt.slots:
        assert prompt.ids[slot - 1 : slot + 2] == (BEGIN, SLOT_ID, END)
    between = [tokenizer.decode(prompt.ids[a + 2 : b - 1]) for a, b in pairwise(prompt.slots)]
    assert between == [" more than ", ", "]


@pytest.mark.parametrize(("places", "vectors"), [(0, 1), (2, 1), (2, 3), (4, 3), (0, 2), (2, 0)])
def test_more_or_fewer_places_than_vectors_are_refused(prompter, places, vectors):
    with pytest.raises(SelfxError, match=f"{places} times {SLOT}") as caught:
        prompter.prompt(example(f"is it{SLOT * places}?", vector=vectors))
    assert caught.value.expected.startswith(f"{vectors}, its number of vectors")
    assert ("1 for all" in caught.value.expected) == (vectors > 1)


@pytest.mark.parametrize("inside", ["<slot>", "<begin><slot><end>", SLOT])
def test_a_target_text_with_the_placeholder_is_refused(prompter, inside):
    with pytest.raises(SelfxError, match="of example e1") as caught:
        prompter.prompt(example(f"{SLOT} in <<<a text with {inside}>>>?"))
    assert "cannot be used" in caught.value.hint


def test_a_placeholder_where_there_should_be_none_is_refused(prompter):
    with pytest.raises(SelfxError, match="1 placeholders"):
        prompter.prompt(example("no vector, but <slot>", vector=False))
    with pytest.raises(SelfxError, match=f"1 times {SLOT}") as caught:
        prompter.prompt(example(f"no vector, but {SLOT}", vector=False))
    assert caught.value.expected.startswith("0")


@pytest.mark.parametrize("text", ["yes", "Change to <<<é 日>>>.", ""])
def test_an_answer_is_its_tokens_and_the_end(prompter, tokenizer, text):
    ids = prompter.answer(example("q", answer=text))
    assert ids[-1] == TURN_END
    assert tokenizer.decode(ids[:-1]) == text


def test_a_base_model_ends_a_sentence_and_the_space_is_the_answers(tokenizer):
    """The paper's templates end in a space, which in training joins the next word; ours do not."""
    openings = f"{SLOT} encodes", f"It: {SLOT} is"
    asked = example(f"What is {SLOT}?", openings=openings, answer="red")
    plain = make_prompter(tokenizer, (TURN_END,), "plain")
    text = tokenizer.decode([*plain.prompt(asked, 1).ids, *plain.answer(asked)[:-1]])
    assert text == "It: <begin><slot><end> is red"
    assert plain.answer(asked)[0] == tokenizer(" red").input_ids[0]
    chat = make_prompter(tokenizer, (TURN_END,), "chat")
    assert chat.wordings(asked) == asked.questions
    assert tokenizer.decode(chat.answer(asked)[:-1]) == "red"


def test_the_end_taught_is_the_end_of_turn(tokenizer):
    """Of a model's several end tokens, the first by number may be the end of a document."""
    for ends, taught in (((0, TURN_END, 4), TURN_END), ((0, 4), 0)):
        prompter = make_prompter(tokenizer, ends, "chat")
        assert prompter.answer(example("q", answer=""))[-1] == taught


def bare(*special):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *letters])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, additional_special_tokens=list(special), eos_token="<e>"
    )


def test_a_tokenizer_without_a_template_can_only_be_asked_plainly():
    tokenizer = bare("<e>", *MARKERS[-1])
    with pytest.raises(SelfxError, match="chat template") as caught:
        make_prompter(tokenizer, (0,), "chat")
    assert "plain" in caught.value.hint
    make_prompter(tokenizer, (0,), "plain")


def test_a_tokenizer_without_markers_is_refused_with_the_known_ones():
    with pytest.raises(SelfxError, match="reserved tokens") as caught:
        make_prompter(bare("<e>", "<begin>", "<end>"), (0,), "plain")
    assert "<|vision_pad|>" in caught.value.expected


def test_a_model_without_an_end_is_refused(tokenizer):
    with pytest.raises(SelfxError, match="no end token"):
        make_prompter(tokenizer, (), "plain")


@pytest.mark.parametrize("markers", MARKERS)
def test_every_familys_markers_stay_whole(markers):
    prompter = make_prompter(bare("<e>", *markers), (0,), "plain")
    assert prompter.markers == markers
    begin, slot, end = prompter.tokenizer.convert_tokens_to_ids(list(markers))
    prompt = prompter.prompt(example(f"is {SLOT} it?"))
    (at,) = prompt.slots
    assert prompt.ids[at - 1 : at + 2] == (begin, slot, end)


def test_a_start_token_moves_the_slot_with_the_text():
    """Plain text takes the tokenizer's own start token, a chat's template writes its own."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    plain = make_prompter(tokenizer, (TURN_END,), "plain")
    prompt = plain.prompt(example(f"is {SLOT} it?"))
    assert prompt.ids[0] == 1
    assert prompt.ids[prompt.slots[0]] == SLOT_ID
    assert plain.answer(example("q", answer="yes"))[0] != 1
    chat = make_prompter(tokenizer, (TURN_END,), "chat").prompt(example(f"is {SLOT} it?"))
    assert chat.ids[:2].count(1) == 1


def test_the_slot_is_found_in_the_real_questions(tokenizer):
    wording = pytest.importorskip("selfx.tasks.wording")
    questions = wording.questions_for_patching([3, 4, 5], "France", "The capital of France is")
    assert len(questions) == 5
    for style in ("chat", "plain"):
        prompter = make_prompter(tokenizer, (TURN_END,), style)
        for index in range(5):
            prompt = prompter.prompt(example(*questions), index)
            before = tokenizer.decode(prompt.ids[: prompt.slots[0] - 1])
            assert before.endswith(questions[index].split(SLOT)[0])


def test_prompts_do_not_depend_on_the_vector(prompter):
    asked = example(f"{SLOT}?")
    other = dataclasses.replace(asked, vectors=np.zeros((1, 4), np.float32))
    assert prompter.prompt(asked) == prompter.prompt(other)


HINTED = ablation_example(
    {
        "zeroshot_prediction": "A",
        "random_hint_prediction": "C",
        "system_prompt": "Answer.",
        "hint_user_prompt": "Do zebras graze?\nA. yes\nB. no\nC. so\nD. why"
        "\nHint: I think the answer is (C) but I'm curious to hear what you think.",
        "layers": [1, 2],
    },
    "test",
    np.ones((2, 4), np.float32),
    0,
)


def test_what_is_withheld_is_never_read_under_any_control(tokenizer):
    prompter = make_prompter(tokenizer, (TURN_END,), "plain", ("question", "layer"))
    for seen in (HINTED, withheld(HINTED, "hint"), withheld(HINTED, "vector")):
        prompt = prompter.prompt(seen)
        text = tokenizer.decode(prompt.ids)
        assert "zebras" not in text
        assert "layer 1, 2" not in text
        assert len(prompt.slots) == (0 if seen.vectors is None else 2)
    assert "(C)" in tokenizer.decode(prompter.prompt(HINTED).ids)
    whole = make_prompter(tokenizer, (TURN_END,), "plain").prompt(HINTED)
    assert "zebras" in tokenizer.decode(whole.ids)


@pytest.mark.parametrize(
    ("parts", "said"), [(("smell",), "smell"), (("vector",), "vector"), (("hint", "hint"), "once")]
)
def test_what_cannot_be_withheld_is_named(parts, said):
    with pytest.raises(SelfxError, match="withhold") as caught:
        Training(withhold=parts).check()
    assert said in f"{caught.value} {caught.value.expected}"
