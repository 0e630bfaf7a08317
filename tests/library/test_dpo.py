"""DPO's loss against its definition, and its policy against the closed form that it was derived from."""

import copy
import itertools
from typing import Any

import pytest
import torch
from parity import as_a_reader_sees_it
from torch.nn import functional as F

from nextword.decoder import Decoder, DecoderConfig
from nextword.dpo import dpo_loss, text_log_probs, train_dpo

SIZES: dict[str, Any] = {"vocab_size": 4, "context_length": 8, "d_model": 16, "n_layers": 1, "n_heads": 2}


def model(seed: int = 0, **changes: Any) -> Decoder:
    torch.manual_seed(seed)
    made = Decoder(DecoderConfig(**SIZES, **changes)).double().eval()
    with torch.no_grad():
        for weights in made.parameters():
            weights.add_(0.2 * torch.randn_like(weights))
    return made


def by_definition(model: Decoder, text: list[int]) -> torch.Tensor:
    scores = model(torch.tensor([text[:-1]])).logits[0].log_softmax(-1)
    return torch.stack([scores[i, token] for i, token in enumerate(text[1:])]).sum()


TEXTS = [[0, 1, 2, 3], [0, 2], [0, 3, 3, 1, 2], [0, 1, 1]]


def test_texts_of_any_length_have_the_log_probabilities_that_they_have_alone():
    policy = model()
    expected = torch.stack([by_definition(policy, text) for text in TEXTS])
    torch.testing.assert_close(text_log_probs(policy, TEXTS), expected, rtol=1e-12, atol=1e-12)


def test_the_loss_of_pairs_and_its_gradients_are_equation_7():
    policy, reference, beta = model(), model(1), 0.3
    pairs = [(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[3])]
    losses = []
    for better, worse in pairs:
        ratio = [by_definition(policy, x) - by_definition(reference, x).detach() for x in (better, worse)]
        losses.append(-F.logsigmoid(beta * ratio[0] - beta * ratio[1]))
    expected = torch.stack(losses).mean()
    ours = dpo_loss(policy, reference, [[(a, 1), (b, 0)] for a, b in pairs], beta)
    assert ours.item() == pytest.approx(expected.item(), abs=1e-12)
    weights = [*policy.parameters()]
    both = (torch.autograd.grad(loss, weights, allow_unused=True) for loss in (ours, expected))
    for a, b in zip(*both, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert all(x.grad is None for x in reference.parameters())


def test_more_than_two_texts_are_all_their_pairs_and_comparisons_may_differ_in_size():
    policy, reference = model(), model(1)
    ratings = [3.0, -1.0, 2.0, 2.0]
    pairs = [
        [(TEXTS[i], 1), (TEXTS[j], 0)]
        for i, j in itertools.permutations(range(4), 2)
        if ratings[i] > ratings[j]  # the two of 2.0 make no pair
    ]
    whole = [*zip(TEXTS, ratings, strict=True)]
    mean = torch.stack([dpo_loss(policy, reference, [pair], 0.5) for pair in pairs]).mean()
    assert dpo_loss(policy, reference, [whole], 0.5).item() == pytest.approx(mean.item(), abs=1e-12)
    both = (mean + dpo_loss(policy, reference, [pairs[0]], 0.5)) / 2
    assert dpo_loss(policy, reference, [whole, pairs[0]], 0.5).item() == pytest.approx(both.item(), abs=1e-12)


def test_it_begins_at_log_2_and_leaves_both_models_as_they_are():
    policy = model(dropout=0.5).train()
    before = copy.deepcopy(policy.state_dict())
    trained, losses = train_dpo(policy, policy, [[[(TEXTS[0], 1), (TEXTS[1], 0)]]] * 3)
    assert losses[0] == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-6), "dropout is off"
    assert losses[-1] < losses[0] and not trained.training and policy.training
    assert all(torch.equal(before[name], x) for name, x in policy.state_dict().items())


def test_trained_on_a_taste_it_ends_at_the_closed_form():
    """Ranked by Bradley-Terry with a known reward, the best policy is π_ref e^(r/β), normalised."""
    reference, beta = model(), 0.5
    answers = [[0, a, b] for a, b in itertools.product((1, 2, 3), range(4))]
    reward = torch.tensor([(a == 1) - (a == 2) + 0.5 * (b == 1) for _, a, b in answers], dtype=torch.float64)
    draw = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(150):
        i, j = torch.randint(len(answers), (2, 128), generator=draw)
        first = torch.rand(128, generator=draw) < (reward[i] - reward[j]).sigmoid()
        rows = zip(i.tolist(), j.tolist(), first.tolist(), strict=True)
        batches.append([[(answers[a], won), (answers[b], not won)] for a, b, won in rows if a != b])
    trained, _ = train_dpo(reference, reference, batches, beta=beta, learning_rate=1e-2)
    with torch.no_grad():
        before, after = (text_log_probs(m, answers).log_softmax(0) for m in (reference, trained))
    best = (before + reward / beta).log_softmax(0)
    apart = [(p.exp() * (p - best)).sum().item() for p in (before, after)]
    assert apart[0] > 0.5 and apart[1] < 0.03, apart


@pytest.mark.parametrize(
    "change, message",
    [
        ({"beta": 0}, "beta=0 is not positive"),
        ({"batches": []}, "batches is empty"),
        ({"batches": [[[([0], 1), ([0, 1], 0)]]]}, "a single token at 0"),
        ({"batches": [[[([0, 1], 1), ([0, 2], 1)]]]}, "no pair to learn from"),
        ({"batches": [[[("good", 1), ("bad", 0)]]]}, "holds text"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(change, message):
    usual = {"batches": [[[(TEXTS[0], 1), (TEXTS[1], 0)]]], "beta": 0.1}
    with as_a_reader_sees_it(), pytest.raises((TypeError, ValueError), match=message):
        train_dpo(model(), model(), **usual | change)


def test_a_loss_that_is_not_finite_is_reported():
    broken = model()
    with torch.no_grad():
        broken.embedding.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="batch 0"):
        train_dpo(broken, model(), [[[(TEXTS[0], 1), (TEXTS[1], 0)]]])
