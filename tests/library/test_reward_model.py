"""The ranking loss against its definition, and a reward model that does not see filling."""

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parity import as_a_reader_sees_it, randomised
from torch import Tensor
from torch.nn import functional as F

from nextword import checkpoints
from nextword.decoder import Decoder, DecoderConfig
from nextword.reward_model import (
    RewardModel,
    comparison_accuracy,
    comparison_loss,
    ranking_loss,
    ranks,
    train_reward_model,
)


def by_definition(rewards: Tensor, ranks: Tensor) -> float:
    losses = []
    for row, rank in zip(rewards.tolist(), ranks.tolist(), strict=True):
        pairs = [
            math.log(1 + math.exp(row[worse] - row[better]))
            for better, worse in itertools.permutations(range(len(row)), 2)
            if 0 < rank[better] < rank[worse]
        ]
        if pairs:
            losses.append(sum(pairs) / len(pairs))
    return sum(losses) / len(losses)


RANKS = torch.tensor([[1, 2, 3, 4], [2, 1, 1, 3], [1, 0, 2, 0], [1, 1, 1, 0]])


def test_the_loss_is_the_mean_over_pairs_and_then_over_prompts() -> None:
    rewards = torch.randn(4, 4, dtype=torch.float64)
    assert ranking_loss(rewards, RANKS).item() == pytest.approx(by_definition(rewards, RANKS))
    flat = torch.stack([rewards[0, [0, 0, 1]], rewards[0, [1, 2, 2]]])  # three of six pairs
    assert not math.isclose(-F.logsigmoid(flat[0] - flat[1]).mean().item(), ranking_loss(rewards, RANKS).item())


def test_two_completions_are_one_logistic_regression() -> None:
    rewards = torch.randn(5, 2, dtype=torch.float64)
    loss = ranking_loss(rewards, torch.tensor([[1, 2]]).expand(5, 2))
    torch.testing.assert_close(loss, -F.logsigmoid(rewards[:, 0] - rewards[:, 1]).mean())


def test_what_the_loss_does_not_see() -> None:
    rewards, order = torch.randn(4, 4, dtype=torch.float64), torch.tensor([2, 0, 3, 1])
    loss = ranking_loss(rewards, RANKS)
    torch.testing.assert_close(ranking_loss(rewards + torch.randn(4, 1, dtype=torch.float64), RANKS), loss)  # a shift
    torch.testing.assert_close(ranking_loss(rewards[:, order], RANKS[:, order]), loss)  # the order
    missing = rewards.masked_fill(RANKS == 0, 1e3)
    torch.testing.assert_close(ranking_loss(missing, RANKS), loss)
    for nothing in (math.nan, -math.inf, math.inf):
        absent = rewards.masked_fill(RANKS == 0, nothing).requires_grad_()
        found = ranking_loss(absent, RANKS)
        torch.testing.assert_close(found, loss)
        (slope,) = torch.autograd.grad(found, absent)
        assert slope.isfinite().all() and not slope[RANKS == 0].any()
    torch.testing.assert_close(ranking_loss(rewards[:3], RANKS[:3]), loss)  # a prompt without a pair


def test_gradients_and_large_gaps() -> None:
    rewards = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ranking_loss(x, RANKS), (rewards,))
    far = torch.tensor([[-500.0, 500.0]], requires_grad=True)
    loss = ranking_loss(far, torch.tensor([[1, 2]]))
    loss.backward()
    assert loss.item() == 1000  # a sigmoid and then a logarithm would be infinite
    assert far.grad is not None
    assert far.grad.tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize(
    ("given_ranks", "message"),
    [
        (torch.ones(1, 3, dtype=torch.int64), "ranks: all are equal or missing"),
        (torch.tensor([[1, -1, 2]]), "ranks holds -1"),
        (torch.ones(2, 3, dtype=torch.int64), r"rewards is \(1, 3\), ranks \(2, 3\)"),
    ],
)
def test_ranks_that_teach_nothing_are_refused(given_ranks: Tensor, message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        ranking_loss(torch.zeros(1, 3), given_ranks)


def tiny() -> Decoder:
    return Decoder(DecoderConfig(vocab_size=4, context_length=8, d_model=16, n_layers=1, n_heads=2))


def model(seed: int = 0, **change: Any) -> RewardModel:
    torch.manual_seed(seed)
    body = Decoder(DecoderConfig(vocab_size=30, context_length=16, d_model=12, n_layers=2, n_heads=3, **change))
    return randomised(RewardModel(body)).double().eval()


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_filling_changes_no_reward(positions: str) -> None:
    reward = model(positions=positions)
    texts = [torch.randint(30, (n,)) for n in (5, 3, 1)]
    alone = torch.stack([reward(text[None])[0] for text in texts])
    for left in (0, 2, 4):
        ids, mask = torch.full((3, 11), 7), torch.zeros(3, 11, dtype=torch.bool)
        for i, text in enumerate(texts):
            ids[i, left + 1 : left + 1 + len(text)] = text
            mask[i, left + 1 : left + 1 + len(text)] = True
        torch.testing.assert_close(reward(ids, mask=mask), alone)
        ids[~mask] = 3
        torch.testing.assert_close(reward(ids, mask=mask), alone)


def test_a_reward_is_the_number_at_the_last_token() -> None:
    reward, ids = model(), torch.randint(30, (4, 6))
    everywhere = reward.token_values(ids)
    torch.testing.assert_close(reward(ids), everywhere[:, -1])
    torch.testing.assert_close(reward(ids[:, :3]), everywhere[:, 2])
    without_a_token = torch.arange(4)[:, None].expand(4, 6) != 1
    assert reward(ids, mask=without_a_token).isnan().tolist() == [False, True, False, False]


def test_normalised_rewards_keep_their_order() -> None:
    reward, ids = model(), torch.randint(30, (20, 6))
    before = reward(ids)
    shifted = copy.deepcopy(reward)
    shifted.normalize(ids, scale=False)
    torch.testing.assert_close(shifted(ids), before - before.mean())
    for _ in range(2):  # a second time changes nothing
        reward.normalize(ids)
        found = reward(ids)
        assert found.mean().item() == pytest.approx(0, abs=1e-6)
        assert found.std().item() == pytest.approx(1, abs=1e-6)
    assert (found.argsort() == before.argsort()).all()
    with pytest.raises(ValueError, match="ids holds 1 texts; give two or more"):
        reward.normalize(ids[:1])
    with pytest.raises(ValueError, match="all texts have the same reward"):
        reward.normalize(ids[:1].expand(3, 6))
    with pytest.raises(ValueError, match="a text has a reward that is no finite number"):
        reward.normalize(ids, mask=torch.zeros_like(ids, dtype=torch.bool), scale=False)


def test_the_head_starts_as_in_learning_to_summarise() -> None:
    heads = [
        RewardModel(Decoder(DecoderConfig(vocab_size=30, context_length=16, d_model=48, n_layers=1, n_heads=3))).head
        for _ in range(60)
    ]
    spread = torch.cat([head.weight.flatten() for head in heads]).std().item()
    assert spread == pytest.approx(1 / 7, rel=0.05)
    assert not any(head.bias.any() for head in heads)


def test_it_learns_to_count() -> None:
    torch.manual_seed(0)
    reward = RewardModel(tiny())
    adam = torch.optim.Adam(reward.parameters(), lr=1e-2)
    for _ in range(60):
        ids = torch.randint(4, (8 * 5, 8))
        goodness = (ids == 3).sum(1).view(8, 5)
        loss = ranking_loss(reward(ids).view(8, 5), ranks(goodness))
        adam.zero_grad()
        loss.backward()
        adam.step()
    ids = torch.randint(4, (500, 8))
    found = torch.corrcoef(torch.stack([reward(ids).detach(), (ids == 3).sum(1).float()]))[0, 1]
    assert found > 0.9


# --- From comparisons to a reward model -----------------------------------------------------------------------------------


def test_ranks_by_hand() -> None:
    ratings = torch.tensor([[3.0, 1, -2, 1], [0, 0, 0, 0], [torch.nan, -1, torch.nan, 5]])
    assert ranks(ratings).tolist() == [[1, 2, 4, 2], [1, 1, 1, 1], [0, 2, 0, 1]]
    assert ranks(torch.tensor([[7, 9]])).tolist() == [[2, 1]], "whole numbers"


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=7))
def test_a_rank_counts_who_is_better(ratings: list[int]) -> None:
    expected = [1 + sum(other > rating for other in ratings) for rating in ratings]
    assert ranks(torch.tensor([ratings])).tolist() == [expected]


COMPARISONS = [
    [([5, 6, 7], 3), ([8], -1), ([9, 1], 3)],
    [([2, 2, 2, 2], 0.5), ([3, 4], 0.25)],  # of another size
    [([1], 2), ([2], 2)],  # no pair
]


def test_the_loss_on_comparisons_is_that_of_each_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTWORD_BF16", "0")
    reward = model().float()
    losses = []
    for texts in COMPARISONS[:2]:
        numbers = [reward(torch.tensor([ids])).item() for ids, _ in texts]
        gaps = [
            numbers[i] - numbers[j]
            for i, j in itertools.permutations(range(len(texts)), 2)
            if texts[i][1] > texts[j][1]
        ]
        losses.append(sum(math.log(1 + math.exp(-gap)) for gap in gaps) / len(gaps))
    assert comparison_loss(reward, COMPARISONS).item() == pytest.approx(sum(losses) / 2, rel=1e-5)
    with pytest.raises(ValueError, match="no pair to learn from"):
        comparison_loss(reward, COMPARISONS[2:])


@pytest.mark.parametrize(
    ("comparisons", "message"),
    [
        ([], "comparisons is empty; give one at least"),
        ([[("good", 1), ("bad", 0)]], r"comparisons holds text; give rows of ids: \[tokenizer.encode\(text\) for text"),
        ([[([5], 1), ([], 0)]], "comparisons holds no token at 1"),
        ([("good", "bad")], r"a comparison is a list of \(ids, rating\), not of 'good'"),
        (COMPARISONS[0], r"a comparison is a list of \(ids, rating\), not of \[5, 6, 7\]; batches are lists of them"),
        ([[5, 6, 7]], r"a comparison is a list of \(ids, rating\), not of 5"),
        ([[([5], 1.0), ([6], math.nan)]], "comparisons holds the rating nan; leave out a text"),
    ],
)
def test_what_is_no_comparison_is_refused(comparisons: Any, message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises((TypeError, ValueError), match=message):
        comparison_loss(model(), comparisons)


def test_comparisons_that_were_not_cut_into_batches_are_refused_before_an_update() -> None:
    body = tiny()
    with as_a_reader_sees_it(), pytest.raises(TypeError, match=r"cut them|\[comparisons\[i : i \+ 16\] for i in range"):
        train_reward_model(body, counting(8, 0))  # type: ignore[arg-type]


def test_many_texts_are_scored_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTWORD_BF16", "0")
    reward = model().float()
    texts = [torch.randint(30, (n,)).tolist() for n in (3, 1, 7, 2, 5)]
    alone = torch.cat([reward(torch.tensor([ids])) for ids in texts]).detach()
    for batch_size in (1, 2, 5, 256):
        torch.testing.assert_close(reward.score(texts, batch_size=batch_size), alone)
    wrong: tuple[tuple[Any, str], ...] = (
        ([], "texts is empty; give a row of ids"),
        ([[1], []], "texts holds no token at 1"),
        ("a text", "texts holds text; give rows of ids"),
        (["a text"], "texts holds text; give rows of ids"),
    )
    for given_texts, message in wrong:
        with as_a_reader_sees_it(), pytest.raises((TypeError, ValueError), match=message):
            reward.score(given_texts)


def test_scores_can_be_computed_with() -> None:
    reward = model()
    scale = torch.ones(2, requires_grad=True)
    (reward.score([[1, 2], [3]]) * scale).sum().backward()  # tensors of inference mode would refuse
    assert scale.grad is not None


def test_a_saved_reward_model_gives_the_same_rewards(tmp_path: Path) -> None:
    reward, ids = model(attention=("dense", "local"), window=4).float(), torch.randint(30, (5, 6))
    reward.normalize(ids)
    reward.save(tmp_path / "taste", card={"data": "none"})
    before = torch.get_rng_state()
    again = RewardModel.from_pretrained(tmp_path / "taste")
    assert torch.equal(torch.get_rng_state(), before), "loading draws no random numbers of the caller"
    assert not again.training and again.config == reward.config
    torch.testing.assert_close(again(ids), reward(ids), rtol=0, atol=0)
    assert type(checkpoints.load(tmp_path / "taste").model) is RewardModel
    reward.decoder.save(tmp_path / "body")
    with pytest.raises(ValueError, match="holds a Decoder, not a RewardModel"):
        RewardModel.from_pretrained(tmp_path / "body")


def counting(n: int, seed: int) -> list[list[tuple[list[int], float]]]:
    """Return comparisons of five texts each by how many threes they have."""
    ids = torch.randint(4, (n, 5, 8), generator=torch.Generator().manual_seed(seed))
    return [[(row, row.count(3)) for row in texts] for texts in ids.tolist()]


def test_training_starts_from_a_copy_and_learns_new_comparisons() -> None:
    body = tiny()
    before, new = copy.deepcopy(body.state_dict()), counting(100, 1)
    batches = [counting(8, 100 + i) for i in range(60)]
    torch.manual_seed(0)
    reward, losses = train_reward_model(body, batches, learning_rate=1e-2)
    assert len(losses) == 60 and not reward.training
    assert comparison_loss(reward, new).item() < 0.4 < losses[0]
    assert all(torch.equal(x, before[name]) for name, x in body.state_dict().items())
    torch.manual_seed(0)
    assert train_reward_model(body, batches[:1], learning_rate=1e-2)[1] == losses[:1], "the same head"


def test_the_rate_rises_and_falls_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda adam: rates.append(adam.param_groups[0]["lr"]) or step(adam))
    train_reward_model(tiny(), [counting(2, 0)] * 4, learning_rate=1.0, warmup=2)
    assert rates == pytest.approx([0.5, 0.75, 0.5, 0.25])
    rates.clear()
    train_reward_model(tiny(), [counting(2, 0)] * 2, learning_rate=1.0, warmup=0)
    assert rates == pytest.approx([1.0, 0.5])
    rates.clear()
    train_reward_model(tiny(), [counting(2, 0)] * 5, learning_rate=1.0)  # too few for ten updates of warm-up
    assert rates == pytest.approx([0.5, 0.8, 0.6, 0.4, 0.2])
    with pytest.raises(FloatingPointError, match="the loss of batch 1 is nan; lower learning_rate"):
        train_reward_model(tiny(), [counting(2, 0)] * 4, learning_rate=1e30)
    with as_a_reader_sees_it(), pytest.raises(ValueError, match="batches is empty"):
        train_reward_model(tiny(), [])


def test_accuracy_counts_the_pairs_that_are_ordered_as_they_are_rated() -> None:
    class Longer(RewardModel):
        def forward(self, ids: Tensor, *, mask: Tensor | None = None) -> Tensor:
            assert mask is not None and not self.training
            return mask.sum(1).float()

    model = Longer(Decoder(DecoderConfig(vocab_size=9, context_length=8, d_model=4, n_layers=1, n_heads=1))).train()
    one, two, three = [1], [1, 2], [1, 2, 3]
    assert comparison_accuracy(model, [[(two, 1), (one, 0)]]) == 1 and model.training
    assert comparison_accuracy(model, [[(one, 1), (two, 0)]]) == 0
    # three > one right, three > two right, two > one wrong; equal ratings make no pair, equal rewards none that is right
    texts = [[(three, 2.5), (two, 0), (one, 1)], [(one, 1), (two, 1)], [(one, 1), ([7], 0)]]
    assert comparison_accuracy(model, texts) == 2 / 4
    with pytest.raises(ValueError, match="all ratings are equal, so there is no pair"):
        comparison_accuracy(model, [[(one, 1), (two, 1)]])


def test_one_row_in_place_of_rows_is_refused() -> None:
    model = RewardModel(Decoder(DecoderConfig(vocab_size=9, context_length=8, d_model=4, n_layers=1, n_heads=1)))
    for texts, message in (
        ([1, 2], r"texts is \[1, 2\]; give rows of ids, a single one as \[\[5, 6\]\]"),
        (torch.ones(2, 3, dtype=torch.int64), r"texts is a tensor of shape \(2, 3\); give rows of ids, as lists"),
    ):
        with as_a_reader_sees_it(), pytest.raises(TypeError, match=message):
            model.score(texts)
