"""RLHF's invariants: ratios that begin at 1, a KL that begins at 0, rewards that add up, and the optimum in closed form."""

import copy
import itertools
import math
import warnings
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
    best_of_n,
    log_probs,
    response_log_probs,
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
    """Return prompts of one to P tokens, padded on the left."""
    ids = torch.randint(1, VOCABULARY, (n, P))
    mask = torch.arange(P) >= P - 1 - torch.arange(n)[:, None] % P
    return ids, mask


def seeded(n: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(n)


# --- Responses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["learned", "rotary", "sinusoidal"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_the_responses_alone(positions: Any, temperature: float) -> None:
    policy, (ids, mask) = decoder(positions=positions), prompts()
    settings = {"max_new_tokens": 8, "stop": STOP, "temperature": temperature}
    rollouts = rollout(policy, ids, mask=mask, generator=seeded(), **settings)
    for i in range(len(ids)):
        text = rollouts.ids[i][rollouts.mask[i]]  # without any padding
        n = int(rollouts.response_mask[i].sum())
        logits = policy(text[None, :-1]).logits[0] / temperature
        expected = logits.log_softmax(-1).gather(1, text[1:, None])[-n:, 0]
        torch.testing.assert_close(rollouts.log_prob[i, :n], expected.detach())
        assert not rollouts.log_prob[i, n:].any()


def test_responses_are_written_and_scored_without_dropout() -> None:
    policy, (ids, mask) = decoder(dropout=0.5), prompts()
    settings = {"mask": mask, "max_new_tokens": 8, "stop": STOP}
    still, training = (rollout(policy.train(mode), ids, generator=seeded(), **settings) for mode in (False, True))
    assert policy.training
    torch.testing.assert_close(training.log_prob, still.log_prob, rtol=0, atol=0)


def test_a_response_ends_with_its_stop_token() -> None:
    policy, (ids, mask) = decoder(), prompts(40)
    rollouts = rollout(policy, ids, mask=mask, max_new_tokens=8, stop=STOP, generator=seeded())
    written = rollouts.ids[:, ids.shape[1] :]
    columns = written.tolist(), rollouts.response_mask.tolist(), rollouts.has_eos.tolist()
    for row, keep, has_eos in zip(*columns, strict=True):
        length = row.index(STOP) + 1 if STOP in row else len(row)
        assert keep == [True] * length + [False] * (len(row) - length)
        assert has_eos == (STOP in row)
    assert rollouts.has_eos.any()
    torch.testing.assert_close(rollouts.mask[:, : ids.shape[1]], mask)


def test_texts_and_responses_come_without_padding() -> None:
    policy, (ids, mask) = decoder(), prompts(20)
    rollouts = rollout(policy, ids, mask=mask, max_new_tokens=8, stop=STOP, generator=seeded())
    asked = [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]
    assert rollouts.texts() == [p + a for p, a in zip(asked, rollouts.responses(), strict=True)]
    assert [len(a) for a in rollouts.responses()] == rollouts.response_mask.sum(1).tolist()
    assert all((a[-1] == STOP) == bool(f) for a, f in zip(rollouts.responses(), rollouts.has_eos, strict=True))


def test_responses_cost_the_writer_what_was_noted_and_another_model_what_it_says_of_each_alone() -> None:
    policy, other, (ids, mask) = decoder(), decoder(1), prompts(20)
    rollouts = rollout(policy, ids, mask=mask, max_new_tokens=8, stop=STOP, temperature=0.8, generator=seeded())
    torch.testing.assert_close(response_log_probs(policy, rollouts, temperature=0.8), rollouts.log_prob)
    found = response_log_probs(other, rollouts)
    assert not found.requires_grad
    for row, text, response in zip(found, rollouts.texts(), rollouts.responses(), strict=True):
        alone = torch.tensor([text])
        expected = log_probs(other, alone, torch.ones_like(alone, dtype=torch.bool), len(response))[0]
        torch.testing.assert_close(row[: len(response)], expected.detach())
        assert not row[len(response) :].any()


def test_any_of_several_stop_tokens_ends_a_response() -> None:
    policy, (ids, mask), stops = decoder(), prompts(40), [STOP, 3, 7]
    settings = {"mask": mask, "max_new_tokens": 8}
    rollouts = rollout(policy, ids, stop=stops, generator=seeded(), **settings)
    columns = rollouts.ids[:, ids.shape[1] :].tolist(), rollouts.responses(), rollouts.has_eos.tolist()
    for written, response, has_eos in zip(*columns, strict=True):
        first = next((i for i, token in enumerate(written) if token in stops), len(written) - 1)
        assert response == written[: first + 1]
        assert has_eos == (response[-1] in stops)
    assert {response[-1] for response in rollouts.responses()} >= set(stops)
    one, other = (rollout(policy, ids, stop=stop, generator=seeded(), **settings) for stop in (STOP, [STOP]))
    assert one.responses() == other.responses()
    best = best_of_n(policy, count_threes, ids, 2, stop=stops, generator=seeded(), **settings)
    assert {response[-1] for response in best.responses()} >= set(stops)
    config = RLHFConfig(**{**vars(QUICK), "max_new_tokens": 16})
    assert train_rlhf(policy, policy, count_threes, ids, config, mask=mask, stop=stops)["has_eos"][0] == 1


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        (".", r"stop='.'; give the id of a token, or several"),
        ([3, 2.5], r"stop=\[3, 2.5\]; give the id of a token, or several"),
        (None, "stop=None holds no token; give the id of the one that ends a response"),
        ([], r"stop=\[\] holds no token"),
    ],
)
def test_a_response_must_have_an_end(stop: Any, message: str) -> None:
    policy, (ids, mask) = decoder(), prompts(8)
    settings = {"mask": mask, "stop": stop}
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        rollout(policy, ids, max_new_tokens=2, **settings)
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        best_of_n(policy, count_threes, ids, 2, max_new_tokens=2, **settings)
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        train_rlhf(policy, policy, count_threes, ids, QUICK, **settings)


@pytest.mark.parametrize("change", [{"temperature": 0.0}, {"temperature": math.nan}, {"max_new_tokens": 0}])
def test_a_response_must_be_drawn(change: dict[str, Any]) -> None:
    policy, (ids, mask) = decoder(), prompts()
    with pytest.raises(ValueError, match=r"temperature=.*, max_new_tokens=\d: both must be positive"):
        rollout(policy, ids, mask=mask, stop=STOP, **{"max_new_tokens": 2, **change})


def test_sampling_follows_the_probabilities() -> None:
    policy, n = decoder(), 4000
    ids = torch.tensor([[3, 5]]).expand(n, 2)
    rollouts = rollout(policy, ids, max_new_tokens=1, stop=STOP, generator=seeded())
    found = torch.bincount(rollouts.ids[:, -1], minlength=VOCABULARY) / n
    expected = policy(ids[:1]).logits[0, -1].softmax(-1)
    assert (found - expected).abs().max() < 4 * 0.5 / n**0.5


def test_the_best_of_n_is_one_of_the_n() -> None:
    policy, (ids, mask) = decoder(), prompts()
    reward = RewardModel(decoder(1)).double().eval()
    settings = {"mask": mask, "max_new_tokens": 6, "stop": STOP}
    best = best_of_n(policy, reward, ids, 5, generator=seeded(), **settings)
    again = {"mask": mask.repeat_interleave(5, 0), "max_new_tokens": 6, "stop": STOP}
    tried = rollout(policy, ids.repeat_interleave(5, 0), generator=seeded(), **again)
    scores = reward(tried.ids, mask=tried.mask).view(-1, 5)
    torch.testing.assert_close(reward(best.ids, mask=best.mask), scores.max(1).values)
    one, plain = (
        best_of_n(policy, reward, ids, 1, generator=seeded(), **settings),
        rollout(policy, ids, generator=seeded(), **settings),
    )
    assert torch.equal(one.ids, plain.ids)
    with pytest.raises(ValueError, match="n=0 is below 1"):
        best_of_n(policy, reward, ids, 0, **settings)
    with pytest.raises(ValueError, match="reward_model gave nan to text 0; a reward is a finite number"):
        best_of_n(policy, lambda ids, mask: torch.full((len(ids),), math.nan), ids, 2, **settings)


def test_a_rollout_can_be_learned_from() -> None:
    policy, (ids, mask) = decoder(), prompts()
    rollouts = rollout(policy, ids, mask=mask, max_new_tokens=6, stop=STOP, generator=seeded())
    log_prob = log_probs(policy, rollouts.ids, rollouts.mask, rollouts.response_mask.shape[1])
    (log_prob * rollouts.response_mask - rollouts.log_prob).sum().backward()  # tensors of inference mode would refuse
    written = policy.generate(ids, 4, mask=mask)
    policy(written, written).loss.backward()
    assert all(parameter.grad is not None for parameter in policy.parameters())


def test_prompts_may_be_lists_which_are_padded_on_the_left() -> None:
    policy, (ids, mask) = decoder(), prompts()
    rows = [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]
    settings = {"max_new_tokens": 6, "stop": STOP}
    padded = rollout(policy, ids, mask=mask, generator=seeded(), **settings)
    assert rollout(policy, rows, generator=seeded(), **settings).texts() == padded.texts()
    again = best_of_n(policy, count_threes, rows, 2, generator=seeded(), **settings).texts()
    assert again == best_of_n(policy, count_threes, ids, 2, mask=mask, generator=seeded(), **settings).texts()
    trained = (
        train_rlhf(
            policy, policy, count_threes, given, RLHFConfig(**{**vars(QUICK), "batch_size": 6}), stop=STOP, mask=m
        )
        for given, m in ((rows, None), (ids, mask))
    )
    one, other = (result.history for result in trained)
    assert one[0] == pytest.approx(other[0])


@pytest.mark.parametrize(
    ("given", "mask", "message"),
    [
        (torch.tensor([[5, 6, 7], [8, 1, 1]]), None, "prompts is a tensor of unlike rows without a mask; give mask"),
        (torch.tensor([[5, 6, 7], [8, 1, 1]]), [[1, 1, 1], [1, 0, 0]], "fill up on the left|pad"),
        (torch.tensor([[5, 6, 7], [1, 1, 8]]), [[1, 1, 1]], r"mask is \(1, 3\), prompts \(2, 3\)"),
        (torch.tensor([5, 6, 7]), None, r"prompts has shape \(3,\); give a batch"),
        (torch.tensor([[5.0, 6.0]]), None, "prompts is of type torch.float32; ids are int64"),
        ("a text", None, r"prompts holds text; give rows of ids: \[tokenizer.encode\(text\) for text in prompts\]"),
        (["a text", "another"], None, "prompts holds text; give rows of ids"),
        ([[5, 6], []], None, "prompts holds no token at 1"),
    ],
)
def test_prompts_of_which_nobody_knows_what_is_padding_are_refused(given: Any, mask: Any, message: str) -> None:
    policy = decoder()
    mask = None if mask is None else torch.tensor(mask, dtype=torch.bool)
    config = RLHFConfig(**{**vars(QUICK), "batch_size": 2})
    with as_a_reader_sees_it(), pytest.raises((TypeError, ValueError), match=message):
        rollout(policy, given, mask=mask, max_new_tokens=6, stop=STOP)
    with as_a_reader_sees_it(), pytest.raises((TypeError, ValueError), match=message):
        train_rlhf(policy, policy, count_threes, given, config, mask=mask, stop=STOP)


# --- Rewards ----------------------------------------------------------------------------------------------------------


def test_shaped_rewards_add_up_to_score_minus_kl_coef_times_kl() -> None:
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
    for wrong in (score[:1], score[:, None], score[0]):  # would be broadcast
        with as_a_reader_sees_it(), pytest.raises(ValueError, match=r"score is \(.*\), responses \(4,\)"):
            shape_rewards(wrong, log_prob, ref, mask, 0.3)
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=r"ref_log_prob is \(4, 1\), mask \(4, 6\)"):
        shape_rewards(score, log_prob, ref[:, :1], mask, 0.3)


def test_the_coefficient_follows_the_kl() -> None:
    kl_controller = AdaptiveKL(0.1, target=6, horizon=1000)
    assert kl_controller.update(6, 500) == pytest.approx(0.1)
    assert kl_controller.update(6.6, 500) == pytest.approx(0.1 * 1.05)
    assert kl_controller.update(600, 500) == pytest.approx(0.1 * 1.05 * 1.1)  # cut off at 0.2
    assert kl_controller.update(0, 500) == pytest.approx(0.1 * 1.05 * 1.1 * 0.9)
    with pytest.raises(ValueError, match="target=0 is not positive"):
        AdaptiveKL(0.1, target=0, horizon=1)


# --- Training ---------------------------------------------------------------------------------------------------------

QUICK = RLHFConfig(iterations=2, batch_size=8, max_new_tokens=6, learning_rate=1e-2, warmup=0, kl_coef=0.1)


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


def test_what_the_history_keeps_of_an_update() -> None:
    policy, (ids, mask) = decoder(), prompts(20)
    config = RLHFConfig(**{**vars(QUICK), "n_minibatches": 1, "iterations": 1})
    result = train_rlhf(policy, policy, count_threes, ids, config, mask=mask, stop=STOP)
    row = result.history[0]
    assert row["approx_kl"] == pytest.approx(0, abs=1e-12), "measured before the only step"
    assert row["policy_loss"] == pytest.approx(0, abs=1e-9), "whitened advantages under ratios of 1"
    assert 0 < row["entropy"] < 2 * math.log(VOCABULARY)
    assert row["explained_variance"] == pytest.approx(0), "the critic's head says 0"
    more = train_rlhf(
        policy, policy, count_threes, ids, RLHFConfig(**{**vars(QUICK), "n_epochs": 3}), mask=mask, stop=STOP
    )
    assert more["approx_kl"][-1] > 1e-5
    assert min(more["value_loss"]) > 0
    with pytest.raises(
        KeyError, match="'rewards': the history holds iteration, kl_coef, reward, score, kl, kl_k3, length, has_eos"
    ):
        more["rewards"]


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


def test_more_padding_changes_nothing() -> None:
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
    settings = {"iterations": 40, "batch_size": 32, "missing_eos_penalty": None, "kl_coef": 0.01}
    config = RLHFConfig(**{**vars(QUICK), **settings})
    result = train_rlhf(policy, policy, count_threes, ids, config, mask=mask, stop=STOP)
    assert result["score"][0] < 1
    assert result["score"][-1] > 3
    assert result["kl"][-1] > 1


def test_a_response_without_an_end_gets_the_fixed_score() -> None:
    policy, (ids, mask) = decoder(), prompts(8)
    config = RLHFConfig(**{**vars(QUICK), "iterations": 1, "max_new_tokens": 1, "missing_eos_penalty": -7.0})
    result = train_rlhf(policy, policy, lambda ids, mask: torch.ones(len(ids)), ids, config, mask=mask, stop=STOP)
    share = result["has_eos"][0]
    assert share < 1
    assert result["score"][0] == pytest.approx(share - 7 * (1 - share))
    assert result["reward"][0] == 1, "what the reward model said"


def test_a_penalty_that_pays_for_not_ending_is_noticed_once() -> None:
    policy, (ids, mask) = decoder(), prompts(8)
    settings = {"mask": mask, "stop": STOP}

    def short(ids: Tensor, *, mask: Tensor) -> Tensor:
        return -mask.sum(1).float()

    trap = r"missing_eos_penalty=-1.0 is above the first responses' mean reward of -\d+\.\d\d, .* choose a lower one, or None"
    with as_a_reader_sees_it(), pytest.warns(UserWarning, match=trap) as caught:
        train_rlhf(policy, policy, short, ids, RLHFConfig(**{**vars(QUICK), "missing_eos_penalty": -1.0}), **settings)
    assert len([w for w in caught if "missing_eos" in str(w.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for penalty in (None, -50.0):
            config = RLHFConfig(**{**vars(QUICK), "missing_eos_penalty": penalty})
            train_rlhf(policy, policy, short, ids, config, **settings)
        train_rlhf(policy, policy, count_threes, ids, QUICK, **settings)


def test_a_reward_can_read_the_responses_alone() -> None:
    policy, given = decoder(), [[3, 3, 3], [3], [4, 5]]
    P, seen = max(map(len, given)), []

    def reward(ids: Tensor, *, mask: Tensor) -> Tensor:
        seen.append([row[real].tolist() for row, real in zip(ids[:, P:], mask[:, P:], strict=True)])
        return torch.zeros(len(ids))

    best = best_of_n(policy, reward, given, 1, max_new_tokens=5, stop=STOP, generator=seeded())
    assert seen == [best.responses()]


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda ids, mask: torch.ones(1), r"gave torch.float32 of shape \(1,\); a tensor of 8 floats fits"),
        (lambda ids, mask: torch.ones(()), r"gave torch.float32 of shape \(\); a tensor of 8 floats fits"),
        (lambda ids, mask: torch.ones(8, 1), r"gave torch.float32 of shape \(8, 1\); a tensor of 8 floats fits"),
        (lambda ids, mask: mask.sum(1), r"gave torch.int64 of shape \(8,\); a tensor of 8 floats fits"),
        (lambda ids, mask: [1.0] * 8, "gave list; a tensor of 8 floats fits"),
        (lambda ids, mask: torch.arange(8).float().log(), "gave -inf to text 0; a reward is a finite number"),
        (lambda ids, mask: (torch.arange(8) - 3.0).sqrt(), "gave nan to text 0; a reward is a finite number"),
    ],
)
def test_rewards_that_would_spoil_the_policy_are_refused(reward: Any, message: str) -> None:
    policy, (ids, mask) = decoder(), prompts(8)
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=f"reward_model {message}"):
        train_rlhf(policy, policy, reward, ids, QUICK, mask=mask, stop=STOP)


def test_weights_that_run_away_are_noticed() -> None:
    policy, (ids, mask) = decoder(), prompts(8)
    config = RLHFConfig(**{**vars(QUICK), "learning_rate": 1e200, "n_epochs": 3})
    with pytest.raises(FloatingPointError, match=r"_loss has become (nan|inf|-inf); lower learning_rate"):
        train_rlhf(policy, policy, count_threes, ids, config, mask=mask, stop=STOP)


def test_the_random_numbers_of_the_caller_stay_as_they_are() -> None:
    policy, (ids, mask) = decoder(), prompts(8)
    before = torch.get_rng_state()
    train_rlhf(policy, policy, count_threes, ids, QUICK, mask=mask, stop=STOP)
    assert torch.equal(torch.get_rng_state(), before)


def exact(policy: Decoder, prompt: Tensor, responses: list[tuple[int, ...]]) -> Tensor:
    """Return the log-probability of each response."""
    found = []
    for response in responses:
        ids = torch.cat([prompt, torch.tensor(response)])[None]
        found.append(log_probs(policy, ids, torch.ones_like(ids, dtype=torch.bool), len(response)).sum())
    return torch.stack(found).detach()


def test_the_optimum_is_the_reference_times_exp_of_reward_over_kl_coef() -> None:
    policy, prompt, beta = decoder(vocab_size=4), torch.tensor([2, 1]), 0.5
    responses = [(STOP,), *itertools.product((1, 2, 3), range(4))]  # two tokens at most: 13 responses
    log_ref = exact(policy, prompt, responses)
    assert log_ref.exp().sum().item() == pytest.approx(1, abs=1e-5)

    def reward(ids: Tensor, *, mask: Tensor) -> Tensor:
        return ((ids * torch.tensor([0, 0, 1, 3])[: ids.shape[1]] * mask).sum(1) % 4 / 3).float()

    scores = torch.stack(
        [reward(torch.cat([prompt, torch.tensor(a)])[None], mask=torch.ones(1, 2 + len(a)))[0] for a in responses]
    )
    best = (log_ref + scores / beta).log_softmax(0)
    settings = {"iterations": 150, "batch_size": 256, "max_new_tokens": 2, "kl_coef": beta, "missing_eos_penalty": None}
    config = RLHFConfig(**{**vars(QUICK), **settings, "n_minibatches": 1, "n_epochs": 2, "learning_rate": 5e-3})
    result = train_rlhf(policy, policy, reward, prompt.expand(256, 2), config, stop=STOP)
    found = exact(result.policy, prompt, responses)

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
    settings = {"iterations": 25, "batch_size": 32, "missing_eos_penalty": None, "kl_coef": 0.0}
    lost = {}
    for ptx in (0.0, 2.0):
        config = RLHFConfig(**{**vars(QUICK), **settings, "ptx": ptx})
        more = itertools.repeat(batch)
        result = train_rlhf(policy, policy, count_threes, ids, config, mask=mask, stop=STOP, pretrain_batches=more)
        lost[ptx] = (result.policy(*batch).loss - policy(*batch).loss).item()
        assert not ptx or result["ptx_loss"][-1] < result["ptx_loss"][0]
        assert ("ptx_loss" in result.history[0]) == bool(ptx)
    assert lost[2.0] < 0 < lost[0.0]


def test_pretraining_text_starts_again_where_it_can() -> None:
    policy, (ids, mask) = decoder(), prompts(8)
    text = torch.randint(VOCABULARY, (3, 2, 9))
    batches = [(x[:, :-1], x[:, 1:]) for x in text]  # three, and four are needed
    config = RLHFConfig(**{**vars(QUICK), "ptx": 1.0})
    settings = {"mask": mask, "stop": STOP}
    once = train_rlhf(policy, policy, count_threes, ids, config, pretrain_batches=batches, **settings)
    twice = train_rlhf(policy, policy, count_threes, ids, config, pretrain_batches=[*batches, batches[0]], **settings)
    assert once.history == twice.history
    for used_up in (iter(batches), []):
        with pytest.raises(ValueError, match="pretrain_batches ran out; give a list or a DataLoader"):
            train_rlhf(policy, policy, count_threes, ids, config, pretrain_batches=used_up, **settings)


def test_the_coefficient_can_follow_a_target_and_a_measure_be_taken() -> None:
    policy, (ids, mask) = decoder(), prompts(32)
    settings = {"iterations": 6, "batch_size": 32, "kl_target": 1e-4, "kl_horizon": 100}
    config = RLHFConfig(**{**vars(QUICK), **settings})
    measure = {"evaluate": lambda policy: {"norm": policy.output.weight.norm().item()}, "evaluate_every": 4}
    result = train_rlhf(policy, policy, count_threes, ids, config, mask=mask, stop=STOP, **measure)
    assert result["kl_coef"][0] == pytest.approx(0.1)
    assert result["kl_coef"][-1] > 0.1
    assert [row["iteration"] for row in result.history if "norm" in row] == [4, 6]
    assert result["iteration"] == [1, 2, 3, 4, 5, 6]


def test_a_measure_is_taken_at_the_end_unless_told_otherwise_and_may_be_a_number() -> None:
    policy, (ids, mask) = decoder(), prompts(8)
    settings = {"mask": mask, "stop": STOP}
    for given, named in ((lambda model: 2.5, {"value": 2.5}), (lambda model: {"a": 1, "kl": 3}, {"a": 1, "kl": 3})):
        row, last = train_rlhf(policy, policy, count_threes, ids, QUICK, evaluate=given, **settings).history
        assert not {"value", "a"} & row.keys()
        assert {name: last[name] for name in named} == named
    with pytest.raises(TypeError, match="evaluate returned None; a number or a dictionary of numbers fits"):
        train_rlhf(policy, policy, count_threes, ids, QUICK, evaluate=lambda model: None, **settings)


def test_what_cannot_be_meant_is_refused_before_anything_is_written() -> None:
    policy, (ids, mask) = decoder(), prompts(8)

    def never(ids: Tensor, *, mask: Tensor) -> Tensor:
        raise AssertionError("nothing is judged")

    def train(prompts: Any = ids, config: Any = QUICK, **more: Any) -> None:
        train_rlhf(policy, policy, never, prompts, config, mask=mask, stop=STOP, **more)

    with as_a_reader_sees_it():
        with pytest.raises(TypeError, match=r"config is of type dict; give RLHFConfig\(\*\*config\)"):
            train(config=vars(QUICK))
        with pytest.raises(TypeError, match="evaluate=3.0; give a function of the model"):
            train(evaluate=3.0)
        with pytest.raises(ValueError, match="evaluate_every=2 does nothing without evaluate="):
            train(evaluate_every=2)
        with pytest.raises(TypeError, match=r"prompts is \[5, 6\]; give rows of ids, a single one as \[\[5, 6\]\]"):
            train([5, 6])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": 0}, "iterations=0: give a whole number of at least 1"),
        ({"iterations": 2.5}, "iterations=2.5: give a whole number of at least 1"),
        ({"learning_rate": -1}, "learning_rate=-1: give a positive number"),
        ({"clip": -1}, "clip=-1: give a positive number"),
        ({"gamma": 9}, "gamma=9: give a number from 0 to 1"),
        ({"kl_coef": math.nan}, "kl_coef=nan: give a number of at least 0"),
        ({"missing_eos_penalty": -math.inf}, "missing_eos_penalty=-inf: give a finite number, or None"),
        ({"n_minibatches": 3}, "n_minibatches=3 does not divide batch_size=8"),
        ({"kl_coef": -1.0}, "kl_coef=-1.0: give a number of at least 0"),
        ({"kl_coef": 0.0, "kl_target": 6.0}, "kl_coef=0 cannot follow kl_target=6.0"),
        ({"kl_target": 6.0, "kl_horizon": 100, "batch_size": 512}, "kl_horizon=100 is too short .*; 103 is the least"),
        ({"ptx": 1.0}, "ptx=1.0 needs pretrain_batches"),
        (
            {"batch_size": 64},
            "prompts holds 20; batch_size=64 needs as many at least: a list is repeated by prompts \\* 4",
        ),
        ({"max_new_tokens": 20}, "prompts of 5 tokens and max_new_tokens=20 exceed context_length=24"),
        ({"temperature": 0.0}, "temperature=0.0: give a positive number"),
    ],
)
def test_settings_that_cannot_be_trained_with(change: dict[str, Any], message: str) -> None:
    policy, (ids, mask) = decoder(), prompts(20)
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        config = RLHFConfig(**{**vars(QUICK), **change})
        train_rlhf(policy, policy, count_threes, ids, config, mask=mask, stop=STOP)
