"""SelfIE asks an untrained model: both mentions of the word are the vector, at the length asked."""

import jax
import numpy as np
import pytest

from selfx.explainer.answer import untrained
from selfx.explainer.selfie import ANSWER, PLAIN, QUESTION, selfie
from selfx.explainer.training import Training
from selfx.models.decoder import forward


@pytest.fixture(scope="module", params=["plain", pytest.param("chat", marks=pytest.mark.slow)])
def asked(tiny_lm, request):
    return untrained(tiny_lm, Training(style=request.param))


def by_hand(asked, vector, scale, steps):
    """Greedy, one token after the other, from embeddings that are written by hand."""
    tokenizer, model, word = asked.base.tokenizer, asked.model, "<slot>"
    if asked.prompter.style == "plain":
        text = f"{PLAIN.format(word)} {ANSWER.format(word)}"
    else:
        turns = [{"role": "user", "content": QUESTION.format(word)}]
        start = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        text = start + ANSWER.format(word)
    ids = list(tokenizer(text, add_special_tokens=False).input_ids)
    slots = [i for i, token in enumerate(ids) if token == tokenizer.convert_tokens_to_ids(word)]
    assert len(slots) == 2
    wanted = scale * vector / np.linalg.norm(vector)
    run = jax.jit(forward)

    class Write:
        """An edit that knows where."""

        def __call__(self, x, at):
            for slot in slots:
                x = x.at[:, slot].set(wanted) if x.shape[1] > slot else x
            return x

    jax.tree_util.register_pytree_node(Write, lambda e: ((), None), lambda *_: Write())
    written = []
    for _ in range(steps):
        logits = run(model, np.array([ids]), edits={"embeddings": (Write(),)}).logits
        token = int(logits[0, -1].argmax())
        if token in asked.base.eos_ids:
            break
        written.append(token)
        ids.append(token)
    return tokenizer.decode(written, skip_special_tokens=True).strip().split("\n")[0].strip()


def test_what_it_says_is_what_the_model_says_with_its_embeddings_replaced(asked):
    vectors = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
    for scale in (1.0, 25.0):
        said = selfie(asked, vectors, scale, max_new_tokens=3, batch_size=2)
        assert said == [by_hand(asked, vector, scale, 3) for vector in vectors]


def test_the_length_of_the_vector_does_not_matter_and_its_direction_does(asked):
    vectors = np.random.default_rng(1).standard_normal((4, 32)).astype(np.float32)
    said = selfie(asked, vectors, 50.0, max_new_tokens=4, batch_size=4)
    assert selfie(asked, 7 * vectors, 50.0, max_new_tokens=4, batch_size=4) == said
    assert len(set(said)) > 1
