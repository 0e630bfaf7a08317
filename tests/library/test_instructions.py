"""Instruction tuning: which tokens are learned, from whatever batch; what stays frozen; and answers one at a time."""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parity import as_a_reader_sees_it, assert_close, randomised
from torch import Tensor

from nextword.decoder import Decoder, DecoderConfig
from nextword.instructions import (
    FRAME,
    Answer,
    Record,
    answer,
    framed,
    freeze,
    ids_and_targets,
    instruction_batches,
    token_ranks,
    weight_change,
)
from nextword.layers import next_token_loss
from nextword.tokenizers import ByteBPE
from nextword.training import TrainConfig, fit

END = 256
LETTERS = ByteBPE.train([], 257, special_tokens=["<end>"])
SHORT = "{instruction}>"
RECORDS = [Record("a?", "b"), Record("twice c", "c c"), Record("d", "dog"), Record("count", "1, 2, 3, 4")]


def tiny(**change: Any) -> Decoder:
    torch.manual_seed(0)
    sizes = {"vocab_size": 257, "context_length": 64, "d_model": 8, "n_layers": 3, "n_heads": 2}
    return Decoder(DecoderConfig(**{**sizes, **change}))


def random_model(seed: int = 0, **change: Any) -> Decoder:
    return randomised(tiny(**change), seed).eval()


# --- What is learned --------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda text: "<end>" not in text)


@given(TEXTS, TEXTS.filter(bool), st.sampled_from([FRAME, SHORT, "Q: {instruction}\nA:", "é{instruction}"]))
def test_the_response_and_its_end_are_learned_and_nothing_before_them(
    instruction: str, response: str, frame: str
) -> None:
    ids, targets = ids_and_targets(Record(instruction, response), LETTERS, END, frame=frame)
    prompt, written = LETTERS.encode(frame.replace("{instruction}", instruction)), [*LETTERS.encode(response), END]
    assert [*ids, targets[-1]] == prompt + written
    assert targets == [-100] * (len(prompt) - 1) + written


@given(TEXTS, TEXTS.filter(bool))
def test_without_the_restriction_everything_is_learned(instruction: str, response: str) -> None:
    ids, targets = ids_and_targets(Record(instruction, response), LETTERS, END, response_only=False)
    text = LETTERS.encode(FRAME.format(instruction=instruction) + response)  # letters: nothing to merge at the seam
    assert (ids, targets) == (text, [*text[1:], END])


def test_prompt_and_response_are_encoded_apart() -> None:
    merging = ByteBPE.train(["xy"], 258, special_tokens=["<end>"])
    assert merging.encode("xy") == [256]
    ids, targets = ids_and_targets(Record("-", "y"), merging, 257, frame="{instruction}x")
    assert (ids, targets) == (merging.encode("-x") + merging.encode("y"), [-100, *merging.encode("y"), 257])


def test_the_loss_is_the_mean_over_the_tokens_of_the_response() -> None:
    model, record = random_model(), Record("Name a fish.", "A cod.")
    prompt, response = LETTERS.encode(framed(record.instruction, SHORT)), LETTERS.encode(record.response)
    ids, targets = (torch.tensor([row]) for row in ids_and_targets(record, LETTERS, END, frame=SHORT))
    text, costs = [*prompt, *response, END], []
    for t in range(1, len(text)):  # each token after those before it, which are all that the model is given
        log_p = model(torch.tensor([text[:t]])).logits[0, -1].log_softmax(-1)
        costs.append(-log_p[text[t]].item())
    learned = costs[len(prompt) - 1 :]
    loss = sum(learned) / (len(response) + 1)
    assert model(ids, targets).loss.item() == pytest.approx(loss, rel=1e-12)
    assert model.training_loss(ids, targets).item() == pytest.approx(loss, rel=1e-12)
    for other in (costs, costs[len(prompt) :], costs[len(prompt) - 2 :], learned[:-1]):
        assert not math.isclose(sum(other) / len(other), loss, rel_tol=1e-6)


def test_what_the_prompt_predicts_gets_no_gradient() -> None:
    model, (ids, targets) = random_model(), ids_and_targets(Record("Hi?", "Yo"), LETTERS, END, frame=SHORT)
    logits = model(torch.tensor([ids])).logits.detach().requires_grad_()
    (slope,) = torch.autograd.grad(next_token_loss(logits, torch.tensor([targets])), logits)
    assert slope[0].abs().sum(-1).ne(0).tolist() == [target != -100 for target in targets]
    assert slope[0].abs().sum(-1).ne(0).sum() == 3


@pytest.mark.parametrize("response_only", [True, False])
def test_an_empty_response_is_refused(response_only: bool) -> None:
    with pytest.raises(ValueError, match="empty response to 'Name a fish.': there is nothing to learn"):
        ids_and_targets(Record("Name a fish.", ""), LETTERS, END, response_only=response_only)


# --- The frame --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instruction", ["{}", "{instruction}", "f'{x:{y}}'", "\\1 %s", "", "{"])
def test_braces_in_an_instruction_are_kept(instruction: str) -> None:
    assert framed(instruction, "<{instruction}>") == f"<{instruction}>"
    assert framed(instruction, "{x} {instruction}") == "{x} " + instruction, "and those of the frame"


@pytest.mark.parametrize("frame", ["", "### Response:", "{instruction} {instruction}", "{ instruction }", "{0}"])
def test_a_frame_has_one_place_for_the_instruction(frame: str) -> None:
    calls: list[Any] = [
        lambda: framed("Hi?", frame),
        lambda: ids_and_targets(Record("Hi?", "Yo"), LETTERS, END, frame=frame),
        lambda: instruction_batches(RECORDS, LETTERS, 2, end_id=END, frame=frame),
        lambda: answer(tiny(), LETTERS, ["Hi?"], end_id=END, frame=frame),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"frame=.*: write \{instruction\} once"):
            call()


# --- Batches ----------------------------------------------------------------------------------------------------------

Row = tuple[tuple[int, ...], tuple[int, ...]]


def rows(batch: tuple[Tensor, Tensor]) -> list[Row]:
    """Return a batch without its padding, which stands behind the last target."""
    found = []
    for ids, targets in zip(*batch, strict=True):
        n = int(targets.ne(-100).nonzero().max()) + 1
        assert (targets[n:] == -100).all()
        found.append((tuple(ids[:n].tolist()), tuple(targets[:n].tolist())))
    return found


def alone(records: list[Record], **settings: Any) -> list[Row]:
    pairs = (ids_and_targets(record, LETTERS, END, **settings) for record in records)
    return [(tuple(ids), tuple(targets)) for ids, targets in pairs]


MANY = [Record(f"spell {n}", "x" * (n % 4 + 1) + str(n)) for n in range(10)]


@pytest.mark.parametrize("batch_size", [1, 4, 10, 25])
@pytest.mark.parametrize("settings", [{}, {"response_only": False}, {"frame": SHORT}])
def test_every_pass_holds_every_record_once_in_another_order(batch_size: int, settings: dict[str, Any]) -> None:
    batches = instruction_batches(MANY, LETTERS, batch_size, end_id=END, **settings)
    drawn: list[Row] = []
    while len(drawn) < 50:
        drawn += rows(batch := next(batches))
        assert batch[0].shape == batch[1].shape and len(batch[0]) == batch_size
        assert batch[0].shape[1] == max(len(ids) for ids, _ in rows(batch)), "no longer than its longest"
    passes = [drawn[i : i + 10] for i in range(0, 50, 10)]
    assert all(sorted(one) == sorted(alone(MANY, **settings)) for one in passes)
    assert len({tuple(one) for one in passes}) == 5


def test_four_records_fill_a_batch_of_eight() -> None:
    batch = next(instruction_batches(RECORDS, LETTERS, 8, end_id=END))
    assert Counter(rows(batch)) == Counter(alone(RECORDS) * 2)


def test_filling_is_not_learned() -> None:
    model = random_model()
    ids, targets = next(instruction_batches(RECORDS, LETTERS, 4, end_id=END, frame=SHORT))
    lengths = torch.tensor([len(row) for row, _ in rows((ids, targets))])
    filling = torch.arange(ids.shape[1]) >= lengths[:, None]
    assert filling.sum() > 10 and (targets[filling] == -100).all()
    loss = model(ids, targets).loss
    for other in (0, 9, 255):
        assert_close(model(ids.masked_fill(filling, other), targets).loss, loss)
    # A batch is the mean over its tokens, so that longer responses weigh more.
    costs = [(model(*(torch.tensor([part]) for part in row)).loss, len(row[1])) for row in alone(RECORDS, frame=SHORT)]
    counts = [len(record.response) + 1 for record in RECORDS]
    assert_close(loss, sum(cost * n for (cost, _), n in zip(costs, counts, strict=True)) / sum(counts))


def test_the_seed_decides_the_order() -> None:
    def first(seed: int) -> list[list[Row]]:
        batches = instruction_batches(MANY, LETTERS, 3, end_id=END, seed=seed)
        torch.rand(seed + 1)  # what others draw does not matter
        return [rows(batch) for batch in itertools.islice(batches, 9)]

    assert first(4) == first(4) != first(5)
    default = instruction_batches(MANY, LETTERS, 3, end_id=END)
    assert first(0) == [rows(batch) for batch in itertools.islice(default, 9)]


@pytest.mark.parametrize(
    ("records", "batch_size", "message"),
    [
        ([], 4, "records holds 0 and batch_size=4; one at least"),
        (RECORDS, 0, "records holds 4 and batch_size=0; one at least"),
        (RECORDS, -2, "records holds 4 and batch_size=-2; one at least"),
        ([*RECORDS, Record("Say nothing.", "")], 2, "empty response to 'Say nothing.'"),
    ],
)
def test_wrong_batches_are_refused_before_the_first_is_drawn(
    records: list[Record], batch_size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        instruction_batches(records, LETTERS, batch_size, end_id=END)


def test_four_records_are_learned_by_heart() -> None:
    model = tiny(d_model=16)
    batches = instruction_batches(RECORDS, LETTERS, 8, end_id=END, frame=SHORT)
    fit(model, batches, TrainConfig(steps=250, learning_rate=1e-2))
    given_back = answer(model, LETTERS, [record.instruction for record in RECORDS], end_id=END, frame=SHORT)
    assert given_back == [Answer(record.response, True) for record in RECORDS]


# --- Frozen weights ---------------------------------------------------------------------------------------------------


def trained(model: Decoder) -> tuple[dict[str, Tensor], set[str]]:
    """Return copies of the parameters before a few updates, and the names of those that have moved."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    batches = instruction_batches(RECORDS, LETTERS, 4, end_id=END, frame=SHORT)
    fit(model, batches, TrainConfig(steps=3, learning_rate=1e-2, weight_decay=0.5))
    return before, {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize("n_blocks", [0, 1, 2])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_frozen_weights_stay_and_all_others_move(n_blocks: int, positions: str) -> None:
    model = tiny(positions=positions)
    freeze(model, n_blocks)
    before, moved = trained(model)
    frozen = ("embedding.", "positions.", *(f"blocks.{i}." for i in range(n_blocks)))
    assert model.output.weight is model.embedding.weight, "tied, and so frozen as well"
    assert moved == {name for name in before if not name.startswith(frozen)} and "norm.weight" in moved
    assert {name for name, p in model.named_parameters() if p.requires_grad} == moved


def test_freezing_anew_replaces_what_was_frozen() -> None:
    model = tiny()
    freeze(model, 2)
    freeze(model, 1)
    assert all(p.requires_grad for p in model.blocks[1].parameters())
    assert not any(p.requires_grad for p in model.blocks[0].parameters())
    freeze(model, 2)
    assert not any(p.requires_grad for p in model.blocks[1].parameters())


@pytest.mark.parametrize("n_blocks", [-1, 3, 30])
def test_a_block_is_left_to_train(n_blocks: int) -> None:
    model = tiny()
    with pytest.raises(ValueError, match=rf"n_blocks={n_blocks} is outside 0 … 2; the model has 3"):
        freeze(model, n_blocks)
    assert all(p.requires_grad for p in model.parameters()), "and nothing was frozen on the way"


# --- Answers ----------------------------------------------------------------------------------------------------------

ASKED = ["b", "a longer question", "", "mid", "another one, longer still", "b"]


def ending(seed: int) -> Decoder:
    """Return a random model that ends some answers: its table scores the end about as high as the likeliest letter."""
    model = random_model(seed)
    with torch.no_grad():
        model.embedding.weight[END] *= 3
    return model


def one_by_one(model: Decoder, asked: list[str], n: int) -> list[Answer]:
    answers = []
    for text in asked:
        ids = torch.tensor([LETTERS.encode(framed(text, SHORT))])
        written = model.generate(ids, n, temperature=0, stop=END)[0, ids.shape[1] :].tolist()
        ended = END in written
        assert END not in written[:-1]
        answers.append(Answer(LETTERS.decode(written[:-1] if ended else written).strip(), ended))
    return answers


@pytest.mark.parametrize("batch_size", [1, 2, 4, 32])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_answers_are_those_of_each_instruction_alone(batch_size: int, positions: str) -> None:
    model = random_model(1, positions=positions)
    found = answer(model, LETTERS, ASKED, end_id=END, max_new_tokens=8, frame=SHORT, batch_size=batch_size)
    assert found == one_by_one(model, ASKED, 8) and len(set(found)) > 2 and found[0] == found[5]


def test_an_answer_ends_by_itself_or_is_cut_off() -> None:
    kinds: Counter[bool] = Counter()
    for seed in range(6):
        model = ending(seed)
        found = answer(model, LETTERS, ASKED, end_id=END, max_new_tokens=12, frame=SHORT)
        assert found == one_by_one(model, ASKED, 12)
        assert not any("<end>" in text for text, _ in found)
        kinds.update(ended for _, ended in found)
    assert kinds[True] > 3 and kinds[False] > 3


class Scripted(Decoder):
    """Writes what follows each letter in a script, whatever stands before it."""

    follows: dict[int, int]

    def hidden(self, ids: Tensor, **rest: Any) -> Tensor:
        after = [[self.follows.get(i, END) for i in row] for row in ids.tolist()]
        for layer in rest.get("cache") or ():
            layer.length += ids.shape[1]
        return torch.nn.functional.one_hot(torch.tensor(after), 257).float()


def scripted(text: str) -> Scripted:
    model = Scripted(DecoderConfig(vocab_size=257, context_length=64, d_model=257, n_layers=1, n_heads=1))
    with torch.no_grad():
        model.embedding.weight.copy_(torch.eye(257))
    ids = LETTERS.encode(text)
    model.follows = dict(itertools.pairwise(ids))
    return model


def test_an_answer_is_the_text_before_the_end_without_space_around_it() -> None:
    model = scripted("> yes\n")
    ask = {"end_id": END, "frame": SHORT}
    assert answer(model, LETTERS, ["x"], **ask) == [Answer("yes", True)]
    for n, text, ended in ((6, "yes", True), (5, "yes", False), (3, "ye", False), (1, "", False)):
        assert answer(model, LETTERS, ["x"], max_new_tokens=n, **ask) == [Answer(text, ended)]
    assert answer(scripted(">"), LETTERS, ["x"], **ask) == [Answer("", True)], "an end at once"


def test_a_row_that_ends_early_waits_for_the_longest() -> None:
    model = scripted("abcdefgh")
    found = answer(model, LETTERS, ["f", "xxxxxa", "xh", "c"], end_id=END, frame=".{instruction}")
    assert found == [Answer("gh", True), Answer("bcdefgh", True), Answer("", True), Answer("defgh", True)]


def test_answers_leave_the_model_as_it_was() -> None:
    model = ending(0).train()
    first = answer(model, LETTERS, ASKED, end_id=END, frame=SHORT)
    assert model.training and all(p.grad is None for p in model.parameters())
    torch.rand(3)
    assert answer(model, LETTERS, ASKED, end_id=END, frame=SHORT) == first


@pytest.mark.parametrize(
    ("instructions", "n", "message"),
    [
        ([], 8, r"instructions=\[\]: give a list of texts, one at least"),
        ("Name a fish.", 8, "instructions='Name a fish.': give a list of texts, one at least"),
        (["x", "y" * 60], 8, "instructions and 8 new tokens need 69 positions; context_length=64"),
        (["x"], 63, "instructions and 63 new tokens need 65 positions; context_length=64"),
    ],
)
def test_what_cannot_be_answered_is_refused(instructions: Any, n: int, message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        answer(tiny(), LETTERS, instructions, end_id=END, max_new_tokens=n, frame=SHORT)
    assert len(answer(tiny(), LETTERS, ["x"], end_id=END, max_new_tokens=62, frame=SHORT)) == 1, "which just fits"


# --- How far weights move, and how far words ----------------------------------------------------------------------------


def copied(model: Decoder) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_weights_that_did_not_move_have_changed_by_nothing() -> None:
    model = tiny()
    assert weight_change(copied(model), model) == 0.0
    assert weight_change(dict(model.named_parameters()), copy.deepcopy(model)) == 0.0


def test_the_change_of_weights_by_hand() -> None:
    model = tiny()
    before = copied(model)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.25)
    assert weight_change(before, model) == pytest.approx(0.25, rel=1e-5)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        one = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        one["norm.weight"][0], one["embedding.weight"][2, 3] = 3.0, 4.0  # a length of 5
        model.norm.weight[0], model.embedding.weight[2, 3] = 6.0, 8.0
        model.blocks[1].attention.out.bias[1] = 12.0  # 3, 4 and 12 make 13
    assert weight_change(one, model) == pytest.approx(13 / 5)


def test_frozen_weights_count_as_unmoved() -> None:
    model = tiny()
    freeze(model, 2)
    before, moved = trained(model)
    length = math.sqrt(sum(w.double().square().sum().item() for w in before.values()))
    now = dict(model.named_parameters())
    way = math.sqrt(sum((now[name] - before[name]).double().square().sum().item() for name in moved))
    assert 0 < weight_change(before, model) == pytest.approx(way / length, rel=1e-4)


def test_what_a_model_writes_itself_is_its_first_choice() -> None:
    model, prompt = random_model(), LETTERS.encode("Name a fish.>")
    written = model.generate(torch.tensor([prompt]), 10, temperature=0)[0, len(prompt) :].tolist()
    assert token_ranks(model, prompt, written).tolist() == [1] * 10


def test_a_rank_is_the_place_among_the_likeliest_after_all_before_it() -> None:
    model, prompt, written = random_model(2), [4, 9, 200], [17, 3, END, 17, 90]
    found = token_ranks(model, prompt, written)
    for t, token in enumerate(written):
        logits = model(torch.tensor([prompt + written[:t]])).logits[0, -1]
        assert logits.argsort(descending=True).tolist().index(token) + 1 == found[t]
    assert len(set(found.tolist())) == 5 and found.dtype == torch.int64 and not found.requires_grad
    assert token_ranks(model, prompt, written[:1]).tolist() == found[:1].tolist()
    assert found[3] != found[0], "the same token at another place"


@pytest.mark.parametrize(
    ("prompt", "written", "message"),
    [
        ([], [1], "prompt holds 0 ids and written 1; one at least is needed of both"),
        ([1, 2], [], "prompt holds 2 ids and written 0; one at least is needed of both"),
    ],
)
def test_ranks_need_a_prompt_and_something_written(prompt: list[int], written: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_ranks(tiny(), prompt, written)


def test_ranks_are_those_without_dropout():
    torch.manual_seed(0)
    model = Decoder(DecoderConfig(vocab_size=40, context_length=16, d_model=8, n_layers=1, n_heads=1, dropout=0.5))
    model.train()
    first, second = (token_ranks(model, [1, 2], [3, 4, 5]).tolist() for _ in range(2))
    assert first == second and model.training, "the model comes back in the mode it was in"
