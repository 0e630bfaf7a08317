"""RLHF's invariants: ratios that begin at 1, a KL that begins at 0, rewards that add up, and the optimum in closed form."""

import copy
import itertools
from typing import Any

import pytest
import torch
from parity import as_a_reader_sees_it, randomised
from torch import Tensor

from nextword.decoder import Decoder, DecoderConfig
from nextword.ppo import approx_kl
from nextword.reward_model import RewardModel
from nextword.rlhf import (
    AdaptiveKL,
    RLHFConfig,
    answer_log_probs,
    best_of_n,
    log_probs,
    rollout,
    shape_rewards,
    train_rlhf,
)

STOP, VOCABULARY = 0, 12


@pytest.fixture(autouse=True)
def exact_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTWORD_BF16", "0")


def decoder(seed: int = 0, **change: Any) -> Decoder:
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCABULARY, "context_length": 24, "d_model": 16, "n_layers": 2, "n_heads": 2}
    return randomised(Decoder(DecoderConfig(**{**sizes, **change}))).eval()


def prompts(n: int = 6, P: int = 5) -> tuple[Tensor, Tensor]:
    """Return prompts of one to P tokens, filled up on the left."""
    ids = torch.randint(1, VOCABULARY, (n, P))
    mask = torch.arange(P) >= P - 1 - torch.arange(n)[:, None] % P
    return ids, mask


def seeded(n: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(n)


# --- Answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["learned", "rotary", "sinusoidal"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_the_answers_alone(positions: Any, temperature: float) -> None:
    policy, (ids, mask) = decoder(positions=positions), prompts()
    how = {"max_new_tokens": 8, "stop": STOP, "temperature": temperature}
    answers = rollout(policy, ids, mask=mask, generator=seeded(), **how)
    for i in range(len(ids)):
        text = answers.ids[i][answers.mask[i]]  # without any filling
        n = int(answers.answer[i].sum())
        logits = policy(text[None, :-1]).logits[0] / temperature
        expected = logits.log_softmax(-1).gather(1, text[1:, None])[-n:, 0]
        torch.testing.assert_close(answers.log_prob[i, :n], expected.detach())
        assert not answers.log_prob[i, n:].any()


def test_answers_are_written_and_scored_without_dropout() -> None:
    policy, (ids, mask) = decoder(dropout=0.5), prompts()
    how = {"mask": mask, "max_new_tokens": 8, "stop": STOP}
    still, training = (rollout(policy.train(mode), ids, generator=seeded(), **how) for mode in (False, True))
    assert policy.training
    torch.testing.assert_close(training.log_prob, still.log_prob, rtol=0, atol=0)


def test_an_answer_ends_with_its_stop_token() -> None:
    policy, (ids, mask) = decoder(), prompts(40)
    answers = rollout(policy, ids, mask=mask, max_new_tokens=8, stop=STOP, generator=seeded())
    written = answers.ids[:, ids.shape[1] :]
    for row, keep, finished in zip(written.tolist(), answers.answer.tolist(), answers.finished.tolist(), strict=True):
        length = row.index(STOP) + 1 if STOP in row else len(row)
        assert keep == [True] * length + [False] * (len(row) - length)
        assert finished == (STOP in row)
    assert answers.finished.any()
    torch.testing.assert_close(answers.mask[:, : ids.shape[1]], mask)


def test_texts_and_answers_come_without_filling() -> None:
    policy, (ids, mask) = decoder(), prompts(20)
    answers = rollout(policy, ids, mask=mask, max_new_tokens=8, stop=STOP, generator=seeded())
    asked = [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]
    assert answers.texts() == [p + a for p, a in zip(asked, answers.answers(), strict=True)]
    assert [len(a) for a in answers.answers()] == answers.answer.sum(1).tolist()
    assert all((a[-1] == STOP) == bool(f) for a, f in zip(answers.answers(), answers.finished, strict=True))


def test_answers_cost_the_writer_what_was_noted_and_another_model_what_it_says_of_each_alone() -> None:
    policy, other, (ids, mask) = decoder(), decoder(1), prompts(20)
    answers = rollout(policy, ids, mask=mask, max_new_tokens=8, stop=STOP, temperature=0.8, generator=seeded())
    torch.testing.assert_close(answer_log_probs(policy, answers, temperature=0.8), answers.log_prob)
    found = answer_log_probs(other, answers)
    assert not found.requires_grad
    for row, text, answer in zip(found, answers.texts(), answers.answers(), strict=True):
        alone = torch.tensor([text])
        expected = log_probs(other, alone, torch.ones_like(alone, dtype=torch.bool), len(answer))[0]
        torch.testing.assert_close(row[: len(answer)], expected.detach())
        assert not row[len(answer) :].any()


def test_sampling_follows_the_probabilities() -> None:
    policy, n = decoder(), 4000
    ids = torch.tensor([[3, 5]]).expand(n, 2)
    answers = rollout(policy, ids, max_new_tokens=1, stop=STOP, generator=seeded())
    found = torch.bincount(answers.ids[:, -1], minlength=VOCABULARY) / n
    expected = policy(ids[:1]).logits[0, -1].softmax(-1)
    assert (found - expected).abs().max() < 4 * 0.5 / n**0.5


def test_the_best_of_n_is_one_of_the_n() -> None:
    policy, (ids, mask) = decoder(), prompts()
    reward = RewardModel(decoder(1)).double().eval()
    how = {"mask": mask, "max_new_tokens": 6, "stop": STOP}
    best = best_of_n(policy, reward, ids, 5, generator=seeded(), **how)
    again = {"mask": mask.repeat_interleave(5, 0), "max_new_tokens": 6, "stop": STOP}
    tried = rollout(policy, ids.repeat_interleave(5, 0), generator=seeded(), **again)
    scores = reward(tried.ids, mask=tried.mask).view(-1, 5)
    torch.testing.assert_close(reward(best.ids, mask=best.mask), scores.max(1).values)
    one, plain = (
        best_of_n(policy, reward, ids, 1, generator=seeded(), **how),
        rollout(policy, ids, generator=seeded(), **how),
    )
    assert torch.equal(one.ids, plain.ids)
    with pytest.raises(ValueError, match="n=0 is below 1"):
        best_of_n(policy, reward, ids, 0, **how)


# --- Rewards ----------------------------------------------------------------------------------------------------------


def test_shaped_rewards_add_up_to_score_minus_beta_times_kl() -> None:
    score, log_prob, ref = torch.randn(4), -torch.rand(4, 6), -torch.rand(4, 6)
    mask = torch.arange(6) < torch.tensor([[6], [1], [3], [5]])
    shaped = shape_rewards(score, log_prob, ref, mask, 0.3)
    kl = (approx_kl(ref - log_prob, "k1") * mask).sum(1)
    torch.testing.assert_close(shaped.sum(1), score - 0.3 * kl)
    assert not shaped[~mask].any()
    for i, n in enumerate((6, 1, 3, 5)):
        assert shaped[i, n - 1].item() == pytest.approx((score[i] - 0.3 * (log_prob - ref)[i, n - 1]).item())
    torch.testing.assert_close(shape_rewards(score, log_prob, log_prob, mask, 9.0).sum(1), score)
    with as_a_reader_sees_it(), pytest.raises(ValueError, match="mask is False in all of row 2"):
        shape_rewards(score, log_prob, ref, mask & (torch.arange(4)[:, None] != 2), 0.3)


def test_the_price_follows_the_kl() -> None:
    beta = AdaptiveKL(0.1, target=6, horizon=1000)
    assert beta.update(6, 500) == pytest.approx(0.1)
    assert beta.update(6.6, 500) == pytest.approx(0.1 * 1.05)
    assert beta.update(600, 500) == pytest.approx(0.1 * 1.05 * 1.1)  # cut off at 0.2
    assert beta.update(0, 500) == pytest.approx(0.1 * 1.05 * 1.1 * 0.9)
    with pytest.raises(ValueError, match="target=0 is not positive"):
        AdaptiveKL(0.1, target=0, horizon=1)


# --- Training ---------------------------------------------------------------------------------------------------------

QUICK = RLHFConfig(iterations=2, batch_size=8, max_new_tokens=6, learning_rate=1e-2, warmup=0, beta=0.1)


def test_the_first_ratio_is_1_and_the_first_kl_0() -> None:
    policy, (ids, mask) = decoder(dropout=0.5), prompts(20)
    policy.train()
    reward = RewardModel(decoder(1, dropout=0.5)).double().train()
    result = train_rlhf(policy, policy, reward, ids, QUICK, mask=mask, stop=STOP)
    for row in result.history:
        assert row["first_ratio"] < 1e-12
    assert policy.training, "modes are put back"
    assert reward.training, "modes are put back"
    without = train_rlhf(policy.eval(), policy, reward.eval(), ids, QUICK, mask=mask, stop=STOP)
    assert result.history == without.history
    assert result.history[0]["kl"] == 0
    assert result.history[0]["kl_k3"] == 0
    assert result.history[1]["kl_k3"] > 1e-3


def test_what_is_given_stays_as_it_is_and_a_seed_decides() -> None:
    policy, (ids, mask) = decoder(), prompts(20)
    reward = RewardModel(decoder(1)).double().eval()
    before = copy.deepcopy([policy.state_dict(), reward.state_dict()])
    one, two = (train_rlhf(policy, policy, reward, ids, QUICK, mask=mask, stop=STOP) for _ in range(2))
    for module, weights in zip((policy, reward), before, strict=True):
        assert all(torch.equal(weight, weights[name]) for name, weight in module.state_dict().items())
    assert one.history == two.history
    other = train_rlhf(policy, policy, reward, ids, RLHFConfig(**{**vars(QUICK), "seed": 1}), mask=mask, stop=STOP)
    assert one.history != other.history
    assert one["score"] == [row["score"] for row in one.history]
    assert not torch.equal(one.policy.output.weight, policy.output.weight)


def test_more_filling_changes_nothing() -> None:
    policy, (ids, mask) = decoder(), prompts(8)
    reward = RewardModel(decoder(1)).double().eval()
    wide = torch.nn.functional.pad(ids, (4, 0), value=9), torch.nn.functional.pad(mask, (4, 0), value=False)
    one = train_rlhf(policy, policy, reward, ids, QUICK, mask=mask, stop=STOP)
    two = train_rlhf(policy, policy, reward, wide[0], QUICK, mask=wide[1], stop=STOP)
    for a, b in zip(one.history, two.history, strict=True):
        assert a == pytest.approx(b, rel=1e-6, abs=1e-9)


def count_threes(ids: Tensor, *, mask: Tensor) -> Tensor:
    return ((ids == 3) & mask)[:, -6:].float().sum(1)


def test_it_learns_what_a_function_rewards() -> None:
    policy, (ids, mask) = decoder(), prompts(32)
    settings = {"iterations": 40, "batch_size": 32, "unfinished": None, "beta": 0.01}
    config = RLHFConfig(**{**vars(QUICK), **settings})
    result = train_rlhf(policy, policy, count_threes, ids, config, mask=mask, stop=STOP)
    assert result["score"][0] < 1
    assert result["score"][-1] > 3
    assert result["kl"][-1] > 1


def test_an_unfinished_answer_gets_the_fixed_score() -> None:
    policy, (ids, mask) = decoder(), prompts(8)
    config = RLHFConfig(**{**vars(QUICK), "iterations": 1, "max_new_tokens": 1, "unfinished": -7.0})
    row = train_rlhf(policy, policy, lambda ids, mask: torch.ones(len(ids)), ids, config, mask=mask, stop=STOP).history[
        0
    ]
    assert row["score"] == pytest.approx(row["finished"] - 7 * (1 - row["finished"]))


def exact(policy: Decoder, prompt: Tensor, answers: list[tuple[int, ...]]) -> Tensor:
    """Return the log-probability of each answer."""
    found = []
    for answer in answers:
        ids = torch.cat([prompt, torch.tensor(answer)])[None]
        found.append(log_probs(policy, ids, torch.ones_like(ids, dtype=torch.bool), len(answer)).sum())
    return torch.stack(found).detach()


def test_the_optimum_is_the_reference_times_exp_of_reward_over_beta() -> None:
    policy, prompt, beta = decoder(vocab_size=4), torch.tensor([2, 1]), 0.5
    answers = [(STOP,), *itertools.product((1, 2, 3), range(4))]  # two tokens at most: 13 answers
    log_ref = exact(policy, prompt, answers)
    assert log_ref.exp().sum().item() == pytest.approx(1, abs=1e-5)

    def reward(ids: Tensor, *, mask: Tensor) -> Tensor:
        return ((ids * torch.tensor([0, 0, 1, 3])[: ids.shape[1]] * mask).sum(1) % 4 / 3).float()

    scores = torch.stack(
        [reward(torch.cat([prompt, torch.tensor(a)])[None], mask=torch.ones(1, 2 + len(a)))[0] for a in answers]
    )
    best = (log_ref + scores / beta).log_softmax(0)
    settings = {"iterations": 150, "batch_size": 256, "max_new_tokens": 2, "beta": beta, "unfinished": None}
    config = RLHFConfig(**{**vars(QUICK), **settings, "n_minibatches": 1, "n_epochs": 2, "learning_rate": 5e-3})
    result = train_rlhf(policy, policy, reward, prompt.expand(256, 2), config, stop=STOP)
    found = exact(result.policy, prompt, answers)

    def value(log_pi: Tensor) -> float:
        return (log_pi.exp() * (scores - beta * (log_pi - log_ref))).sum().item()

    gap = (found.exp() * (found - best)).sum().item()
    start = (log_ref.exp() * (log_ref - best)).sum().item()
    assert start > 0.3
    assert gap < 0.05
    assert value(log_ref) < value(found) <= value(best) + 1e-5
    assert value(best) - value(found) == pytest.approx(beta * gap, abs=1e-4)  # the objective falls short by β·KL


def test_pretraining_text_is_not_forgotten() -> None:
    policy, (ids, mask) = decoder(), prompts(32)
    text = torch.randint(VOCABULARY, (4, 20))
    batch = text[:, :-1], text[:, 1:]
    settings = {"iterations": 25, "batch_size": 32, "unfinished": None, "beta": 0.0}
    lost = {}
    for ptx in (0.0, 2.0):
        config = RLHFConfig(**{**vars(QUICK), **settings, "ptx": ptx})
        more = itertools.repeat(batch)
        result = train_rlhf(policy, policy, count_threes, ids, config, mask=mask, stop=STOP, pretrain_batches=more)
        lost[ptx] = (result.policy(*batch).loss - policy(*batch).loss).item()
        assert result["ptx_loss"] == [] if not ptx else result["ptx_loss"][-1] < result["ptx_loss"][0]
    assert lost[2.0] < 0 < lost[0.0]


def test_the_price_can_follow_a_target_and_a_measure_be_taken() -> None:
    policy, (ids, mask) = decoder(), prompts(32)
    settings = {"iterations": 6, "batch_size": 32, "kl_target": 1e-4, "kl_horizon": 100}
    config = RLHFConfig(**{**vars(QUICK), **settings})
    how = {"evaluate": lambda policy: {"norm": policy.output.weight.norm().item()}, "evaluate_every": 4}
    result = train_rlhf(policy, policy, count_threes, ids, config, mask=mask, stop=STOP, **how)
    assert result["beta"][0] == pytest.approx(0.1)
    assert result["beta"][-1] > 0.1
    assert result["iteration"] == [4, 6]
    assert len(result["norm"]) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": 0}, "iterations=0 is below 1"),
        ({"n_minibatches": 3}, "n_minibatches=3 does not divide batch_size=8"),
        ({"beta": -1.0}, "beta=-1.0 is negative"),
        ({"beta": 0.0, "kl_target": 6.0}, "beta=0 cannot follow kl_target=6.0"),
        ({"ptx": 1.0}, "ptx=1.0 needs pretrain_batches"),
        ({"batch_size": 64}, "prompts holds 20; batch_size=64 needs as many at least"),
        ({"max_new_tokens": 20}, "prompts of 5 tokens and max_new_tokens=20 exceed context_length=24"),
        ({"temperature": 0.0}, "temperature=0.0 is not positive"),
    ],
)
def test_settings_that_cannot_be_trained_with(change: dict[str, Any], message: str) -> None:
    policy, (ids, mask) = decoder(), prompts(20)
    with pytest.raises(ValueError, match=message):
        config = RLHFConfig(**{**vars(QUICK), **change})
        train_rlhf(policy, policy, count_threes, ids, config, mask=mask, stop=STOP)
