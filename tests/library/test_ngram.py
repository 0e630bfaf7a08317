"""Counted and neural n-grams against slow independent versions, hand-worked examples and nltk."""

import math
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import as_a_reader_sees_it

from nextword import ngram
from nextword.ngram import NegativeSampler, NeuralNGram, NeuralNGramConfig, NGram, context_batches

V = 5
SMOOTHINGS = ("mle", "add_k", "kneser_ney")
corpora = st.lists(st.integers(0, V - 2), min_size=5, max_size=60)  # the word V - 1 never occurs
queries = st.lists(st.integers(0, V - 1), min_size=0, max_size=12)
orders = st.integers(1, 5)


class Reference:
    """The same models from dictionaries of tuples, one word at a time, written from the equations."""

    def __init__(self, order, smoothing, ids, k=0.01, backoff=0.4):
        self.order, self.smoothing, self.k, self.backoff = order, smoothing, k, backoff
        n = range(1, order + 1)
        self.counts = {m: Counter(tuple(ids[i : i + m]) for i in range(len(ids) - m + 1)) for m in n}
        if smoothing == "kneser_ney":
            for m in range(1, order):  # shortest first: each needs the occurrences one order up
                self.counts[m] = Counter(gram[1:] for gram in self.counts[m + 1])

    def p(self, word, context):
        context = tuple(context)[max(len(context) - self.order + 1, 0) :]
        shorter = self.p(word, context[1:]) if context else 1 / V
        counts = self.counts[len(context) + 1]
        after = {gram[-1]: c for gram, c in counts.items() if gram[:-1] == context}
        total = sum(after.values())
        if self.smoothing == "add_k":
            return (after.get(word, 0) + self.k) / (total + self.k * V)
        if total == 0:
            return shorter
        if self.smoothing == "mle":
            return (1 - self.backoff) * after.get(word, 0) / total + self.backoff * shorter
        n1, n2 = (sum(c == times for c in counts.values()) for times in (1, 2))
        D = n1 / (n1 + 2 * n2) if n1 and n2 else 0.5
        return max(after.get(word, 0) - D, 0) / total + D * len(after) / total * shorter


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@settings(deadline=None, max_examples=60)
@given(ids=corpora, query=queries, order=orders)
def test_equals_the_slow_version(smoothing, ids, query, order):
    model = NGram(order, smoothing, vocab_size=V, k=0.3, backoff=0.25).fit(ids)
    slow = Reference(order, smoothing, ids, k=0.3, backoff=0.25)
    expected = [slow.p(word, query[:t]) for t, word in enumerate(query)]
    np.testing.assert_allclose(np.exp(model.log_prob(query)), expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(model.distribution(query), [slow.p(w, query) for w in range(V)], rtol=1e-12)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@settings(deadline=None, max_examples=60)
@given(ids=corpora, context=queries, order=orders, backoff=st.sampled_from([0.0, 0.4, 0.99]))
def test_every_distribution_sums_to_one(smoothing, ids, context, order, backoff):
    model = NGram(order, smoothing, vocab_size=V, backoff=backoff).fit(ids)
    for h in (context, ids[-4:], ids[:3], [V - 1] * 3, []):  # any, last, first, never seen, empty
        p = model.distribution(h)
        assert abs(p.sum() - 1) < 1e-12
        assert (p >= 0).all()


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@settings(deadline=None, max_examples=40)
@given(ids=corpora, query=queries.filter(len), order=orders)
def test_log_prob_is_the_log_of_the_distributions_entry(smoothing, ids, query, order):
    model = NGram(order, smoothing, vocab_size=V).fit(ids)
    entries = [model.distribution(query[:t])[word] for t, word in enumerate(query)]
    np.testing.assert_allclose(model.log_prob(query), np.log(entries), rtol=1e-12, atol=1e-12)
    assert model.perplexity(query) == pytest.approx(np.prod(entries) ** (-1 / len(query)), rel=1e-12)


def test_kneser_ney_bigram_by_hand():
    text = list("ababacbcaabdabb")
    names = sorted(set(text))
    ids = [names.index(w) for w in text]
    pairs = Counter(zip(text, text[1:], strict=False))
    assert pairs[("a", "b")] == 4
    once, twice = [sum(c == n for c in pairs.values()) for n in (1, 2)]
    D = once / (once + 2 * twice)
    assert (once, twice, D) == (8, 1, 8 / 10)
    left = {w: len({v for v, x in pairs if x == w}) for w in names}  # how many different words stand before w
    assert left == {"a": 4, "b": 3, "c": 2, "d": 1}  # one 1 and one 2, so the discount of the single words is 1/3
    p_continuation = {w: (left[w] - 1 / 3) / 10 + (4 * 1 / 3) / 10 * 1 / 4 for w in names}
    lam = D * len({w for v, w in pairs if v == "a"}) / 6
    expected = {w: max(pairs[("a", w)] - D, 0) / 6 + lam * p_continuation[w] for w in names}
    model = NGram(2, "kneser_ney", vocab_size=4).fit(ids)
    np.testing.assert_allclose(model.distribution([names.index("a")]), list(expected.values()), rtol=1e-13)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_kneser_ney_agrees_with_nltk(order, monkeypatch):
    """With nltk's single discount at every order but the lowest, where nltk takes none."""
    nltk_lm = pytest.importorskip("nltk.lm")
    from nltk.util import everygrams

    rng = np.random.default_rng(order)
    ids = rng.choice(V, 150, p=[0.4, 0.3, 0.2, 0.09, 0.01])
    ids = np.concatenate([ids, ids[:order]])  # every shorter gram has a word before it; nltk would divide by zero
    discounts = iter([0.0] + [0.3] * (order - 1))
    monkeypatch.setattr(ngram, "discount", lambda counts: next(discounts))
    ours = NGram(order, "kneser_ney", vocab_size=V).fit(ids)
    words = [str(i) for i in ids]
    theirs = nltk_lm.KneserNeyInterpolated(order, discount=0.3)
    theirs.fit([list(everygrams(words, max_len=order))], words)
    for context in [*rng.integers(0, V, (15, order - 1)), ids[-order + 1 :]]:
        history = [str(i) for i in context]
        expected = [theirs.score(str(w), history) for w in range(V)]
        np.testing.assert_allclose(ours.distribution(context), expected, rtol=1e-12, atol=1e-15)


def test_a_frequent_word_after_one_word_only_continues_little():
    """Francisco is frequent but follows San alone; glasses is rarer but follows many words."""
    fillers = [f"word{i}" for i in range(20)]
    text = ["San", "Francisco"] * 30 + [w for f in fillers for w in (f, "glasses")]
    names = sorted(set(text)) + ["reading"]
    ids = [names.index(w) for w in text]
    francisco, glasses, reading, san = (names.index(w) for w in ("Francisco", "glasses", "reading", "San"))
    counts = NGram(2, "mle", vocab_size=len(names)).fit(ids).distribution([reading])
    kneser_ney = NGram(2, "kneser_ney", vocab_size=len(names)).fit(ids)
    assert counts[francisco] > counts[glasses]
    assert kneser_ney.distribution([reading])[francisco] < kneser_ney.distribution([reading])[glasses] / 5
    assert kneser_ney.distribution([san])[francisco] > 0.9


def test_bare_maximum_likelihood_is_infinite_on_new_text_without_a_warning(recwarn):
    model = NGram(2, "mle", vocab_size=3, backoff=0.0).fit([0, 1, 0, 1, 2])
    assert model.perplexity([0, 2]) == math.inf
    assert np.isneginf(model.log_prob([0, 2])).tolist() == [False, True]
    assert model.perplexity([0, 1]) == pytest.approx((2 / 5 * 1) ** -0.5)
    np.testing.assert_allclose(model.distribution([2]), [2 / 5, 2 / 5, 1 / 5])  # never followed: the single words
    assert not recwarn.list


def test_discount_of_a_text_too_small_to_estimate_one():
    assert ngram.discount(np.array([1, 1, 2])) == 0.5
    assert ngram.discount(np.array([1, 2, 2])) == 0.2
    for counts in ([3, 3], [1, 1, 3], [2, 2], [0, 0]):
        assert ngram.discount(np.array(counts)) == ngram.UNINFORMED_DISCOUNT


@settings(deadline=None, max_examples=40)
@given(ids=corpora, query=queries, n=st.integers(1, 3))
def test_seen_context(ids, query, n):
    stood = {tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)}
    expected = [t >= n and tuple(query[t - n : t]) in stood for t in range(len(query))]
    assert NGram(3, vocab_size=V).fit(ids).seen_context(query, n).tolist() == expected


def test_the_kind_of_row_does_not_matter():
    rows = [[0, 1, 2, 0, 1], np.array([0, 1, 2, 0, 1], np.uint16), torch.tensor([0, 1, 2, 0, 1])]
    values = [NGram(2, "kneser_ney", vocab_size=3).fit(row).log_prob(row) for row in rows]
    assert (values[0] == values[1]).all() and (values[0] == values[2]).all()
    assert values[0].dtype == np.float64


def test_samples_follow_the_counts():
    model = NGram(2, "mle", vocab_size=4, backoff=0.0).fit([0, 1, 0, 2, 0, 1, 3, 0, 1, 0])
    draw = model.sample(800, context=[0], generator=torch.Generator().manual_seed(1))
    again = model.sample(800, context=[0], generator=torch.Generator().manual_seed(1))
    assert (draw == again).all() and draw.shape == (800,)
    pairs = Counter(zip(draw[:-1].tolist(), draw[1:].tolist(), strict=True))
    assert set(pairs) == {(0, 1), (0, 2), (1, 0), (1, 3), (2, 0), (3, 0)}  # no pair that the text lacks
    assert pairs[(0, 1)] / (pairs[(0, 1)] + pairs[(0, 2)]) == pytest.approx(3 / 4, abs=0.08)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: NGram(0, vocab_size=3), ValueError, "order=0"),
        (lambda: NGram(2, "katz", vocab_size=3), Exception, "katz"),
        (lambda: NGram(2, vocab_size=0), ValueError, "vocab_size=0"),
        (lambda: NGram(2, "add_k", vocab_size=3, k=0.0), ValueError, "k=0"),
        (lambda: NGram(2, vocab_size=3, backoff=1.0), ValueError, "backoff=1"),
        (lambda: NGram(2, vocab_size=3).log_prob([0]), RuntimeError, "fit"),
        (lambda: NGram(3, vocab_size=3).fit([0, 1]), ValueError, "order 3"),
        (lambda: NGram(1, vocab_size=3).fit([0, 3]), ValueError, "holds 3"),
        (lambda: NGram(1, vocab_size=3).fit([0, -1]), ValueError, "holds -1"),
        (lambda: NGram(1, vocab_size=3).fit(np.zeros((2, 2), int)), ValueError, r"\(2, 2\)"),
        (lambda: NGram(1, vocab_size=3).fit(np.array([0.5, 1.0])), TypeError, "float64"),
        (lambda: NGram(1, vocab_size=3).fit([0, 1]).perplexity([]), ValueError, "empty"),
        (lambda: NeuralNGram(NeuralNGramConfig(vocab_size=10)).perplexity([]), ValueError, "empty"),
        (lambda: NeuralNGram(NeuralNGramConfig(vocab_size=10)).log_prob([10]), ValueError, "holds 10"),
        (lambda: NGram(2, vocab_size=3).fit([0, 1]).seen_context([0], 3), ValueError, "n=3"),
        (lambda: NGram(2, vocab_size=3).fit([0, 1]).sample(-1), ValueError, "n=-1"),
        (lambda: NeuralNGramConfig(10), TypeError, "positional"),
        (lambda: NeuralNGramConfig(vocab_size=0), ValueError, "vocab_size=0"),
        (lambda: NeuralNGramConfig(vocab_size=10, order=1), ValueError, "order=1"),
        (lambda: NeuralNGramConfig(vocab_size=10, order=2.5), ValueError, "order=2.5: give a whole number"),
        (lambda: NeuralNGramConfig(vocab_size=10, dropout=1.0), ValueError, "dropout=1"),
        (lambda: NeuralNGramConfig(vocab_size=10, pad_id=10), ValueError, "pad_id=10"),
        (lambda: NeuralNGram(NeuralNGramConfig(vocab_size=10))(torch.zeros(2, 3).long()), ValueError, "4 are needed"),
        (lambda: NGram("3", vocab_size=3), ValueError, "order='3': give a whole number from 1 up"),
        (lambda: NGram(2, vocab_size=9.0), ValueError, "vocab_size=9.0: give a whole number"),
        (lambda: NGram(2, vocab_size=3).fit("a text"), ValueError, r"shape \(\)"),
        (lambda: NGram(2, vocab_size=3).fit(["a", "text"]), TypeError, "ids holds <U"),
        (lambda: context_batches([1, 2, 3], 3, 2), ValueError, "batch_size=2: the text has 1"),
        (lambda: context_batches([1, 2, 3], 1, 2), ValueError, "order=1"),
        (lambda: NegativeSampler([1, 2], 3, n_frequent=3, n_drawn=1), ValueError, "n_frequent=3"),
        (lambda: NegativeSampler([1, 2], 3, n_frequent=1, n_drawn=0), ValueError, "n_drawn=0"),
    ],
)
def test_bad_input_is_named(call, error, words):
    with as_a_reader_sees_it(), pytest.raises(error, match=words):
        call()


# --- Bengio's network -----------------------------------------------------------------------------------------------


def small(**changes):
    """A tiny network in double precision whose every weight matters."""
    torch.manual_seed(3)
    net = NeuralNGram(NeuralNGramConfig(vocab_size=11, order=4, d_model=3, d_hidden=5, **changes)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.6)
    return net


def transcription(weights, contexts, direct, tied):
    """y = b + Wx + U tanh(d + Hx), one context and one word at a time."""
    C, H, d, UW, b = (weights[name] for name in ("C.weight", "H.weight", "H.bias", "UW.weight", "b"))
    UW = C @ UW if tied else UW
    h = len(d)
    y = np.zeros((len(contexts), len(b)))
    for row, context in enumerate(contexts):
        x = np.concatenate([C[word] for word in context])
        hidden = np.tanh(d + H @ x)
        for i in range(len(b)):
            y[row, i] = b[i] + UW[i, :h] @ hidden + (UW[i, h:] @ x if direct else 0)
    return y


def nll(y, targets):
    return float(np.mean([math.log(sum(math.exp(v) for v in row)) - row[t] for row, t in zip(y, targets, strict=True)]))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("direct", [False, True])
def test_network_equals_the_equation_with_its_gradients(direct, tied):
    net = small(direct=direct, tie_embeddings=tied)
    contexts, targets = torch.randint(11, (6, 3)), torch.randint(11, (6,))
    weights = {name: p.detach().numpy().copy() for name, p in net.named_parameters()}
    output = net(contexts, targets)
    y = transcription(weights, contexts.numpy(), direct, tied)
    np.testing.assert_allclose(output.logits.detach().numpy(), y, rtol=1e-12, atol=1e-12)
    assert output.loss.item() == pytest.approx(nll(y, targets), rel=1e-12)

    output.loss.backward()
    eps = 1e-5
    for name, parameter in net.named_parameters():
        for index in list(np.ndindex(*parameter.shape))[::3]:
            losses = []
            for sign in (1, -1):
                moved = {k: v.copy() for k, v in weights.items()}
                moved[name][index] += sign * eps
                losses.append(nll(transcription(moved, contexts.numpy(), direct, tied), targets))
            slope = (losses[0] - losses[1]) / (2 * eps)
            assert parameter.grad[index].item() == pytest.approx(slope, rel=1e-5, abs=1e-8), (name, index)


@pytest.mark.parametrize("with_negatives", [False, True])
def test_gradcheck(with_negatives):
    net = small()
    names, values = zip(*net.named_parameters(), strict=True)
    batch = [torch.tensor([[1, 2, 3], [3, 3, 0]]), torch.tensor([4, 2])]
    if with_negatives:
        batch += [torch.tensor([0, 2, 9]), torch.tensor([0.0, -0.5, 0.7], dtype=torch.double)]

    def loss(*parameters):
        return torch.func.functional_call(net, dict(zip(names, parameters, strict=True)), tuple(batch)).loss

    assert torch.autograd.gradcheck(loss, [v.detach().requires_grad_() for v in values])


def test_word_order_in_the_context_matters():
    net = small()
    assert not torch.allclose(net(torch.tensor([[1, 2, 3]])).logits, net(torch.tensor([[3, 2, 1]])).logits)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("direct", [False, True])
def test_starts_at_ln_v_and_learns_a_batch_by_heart(direct, tied):
    torch.manual_seed(0)
    net = NeuralNGram(
        NeuralNGramConfig(vocab_size=500, order=3, d_model=16, d_hidden=32, direct=direct, tie_embeddings=tied)
    )
    # Contexts are all different, else no network could tell their targets apart.
    contexts, targets = torch.randperm(500)[:64].view(32, 2), torch.randint(500, (32,))
    assert net(contexts, targets).loss.item() == pytest.approx(math.log(500), abs=0.1)
    net(torch.arange(500).view(250, 2), torch.arange(250)).loss.backward()
    for name, parameter in net.named_parameters():
        assert (parameter.grad != 0).any(), name
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(120):
        optimizer.zero_grad()
        loss = net(contexts, targets).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


def test_ignored_targets_do_not_count():
    net = small()
    contexts = torch.randint(11, (4, 3))
    alone = net(contexts[:2], torch.tensor([5, 6])).loss
    assert torch.allclose(net(contexts, torch.tensor([5, 6, -100, -100])).loss, alone)


def test_log_prob_pads_the_beginning_and_does_not_depend_on_the_batch():
    net = small(pad_id=7, dropout=0.5)
    ids = [3, 1, 4, 1, 5]
    padded = [7, 7, 7, *ids]
    net.eval()
    rows = [net(torch.tensor([padded[t : t + 3]])).logits.log_softmax(-1)[0, w].item() for t, w in enumerate(ids)]
    net.train()
    np.testing.assert_allclose(net.log_prob(ids, batch_size=2), rows, rtol=1e-12)  # dropout was off
    assert net.training
    assert net.perplexity(ids) == pytest.approx(math.exp(-np.mean(rows)), rel=1e-12)
    for t, word in enumerate(ids):
        p = net.distribution(ids[:t])
        assert p.sum() == pytest.approx(1, abs=1e-12)
        assert math.log(p[word]) == pytest.approx(rows[t], rel=1e-12)


def test_network_samples_follow_its_distribution():
    net = small()
    draws = [int(net.sample(1, context=[2, 9], generator=torch.Generator().manual_seed(s))[0]) for s in range(400)]
    shares = np.bincount(draws, minlength=11) / len(draws)
    np.testing.assert_allclose(shares, net.distribution([2, 9]), atol=0.09)
    first, second = (net.sample(9, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert (first == second).all() and first.shape == (9,)


def test_batches_visit_every_position_once_a_pass():
    ids = torch.randperm(41)  # every word once, so a word tells its position
    position = ids.argsort()
    passes = context_batches(ids, 4, 6, generator=torch.Generator().manual_seed(0))
    first, second = list(islice(passes, 6)), list(islice(passes, 6))  # 38 positions: 6 batches of 6, two left out
    for contexts, targets in first + second:
        t = position[targets]
        assert (contexts == torch.stack([ids[t - 3], ids[t - 2], ids[t - 1]], dim=1)).all()
    for one_pass in (first, second):
        assert len(torch.cat([targets for _, targets in one_pass]).unique()) == 36
    assert (first[0][1] != second[0][1]).any()
    again = context_batches(ids, 4, 6, generator=torch.Generator().manual_seed(0))
    assert all((a[0] == b[0]).all() for a, b in zip(first, again, strict=False))


# --- Importance sampling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_all_words_as_negatives_give_the_full_softmax(tied):
    net = small(tie_embeddings=tied)
    contexts, targets = torch.randint(11, (6, 3)), torch.randint(11, (6,))
    net(contexts, targets).loss.backward()
    expected = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    full = net(contexts, targets).loss
    loss = net(contexts, targets, torch.arange(11), torch.zeros(11, dtype=torch.double)).loss
    loss.backward()
    assert torch.allclose(loss, full, rtol=1e-12)
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-9, atol=1e-12)


def test_the_estimated_sum_is_right_on_average():
    """One negative: averaged over all that can be drawn, the sum of exp(y) over the words other than the target."""
    net = small()
    contexts, targets = torch.randint(11, (6, 3)), torch.randint(11, (6,))
    sampler = NegativeSampler([0, 1, 1, 2, 3, 3, 3, 9], 11, n_frequent=2, n_drawn=1)
    assert sampler.frequent.tolist() == [3, 1]
    frequent, always = sampler.frequent, torch.zeros(2)
    total = torch.zeros(6, dtype=torch.double)
    for word, q in zip(sampler.others, sampler.q, strict=True):
        words = torch.cat([frequent, word[None]])
        logits = net(contexts, targets, words, torch.cat([always, q.log()[None]])).logits
        total += q * logits.exp().sum(1)
    assert torch.allclose(total, net(contexts).logits.exp().sum(1), rtol=1e-9)


def test_negatives_are_drawn_as_often_as_they_say():
    sampler = NegativeSampler([0] * 50 + [1] * 30 + [2] * 15 + [3] * 4, 6, n_frequent=1, n_drawn=8)
    generator = torch.Generator().manual_seed(0)
    draws = [sampler.draw(generator) for _ in range(2000)]
    words = torch.stack([w for w, _ in draws])
    assert (words[:, 0] == 0).all() and all(e[0] == 0 for _, e in draws)  # the frequent word: always, so ln 1
    mean = torch.bincount(words[:, 1:].flatten(), minlength=6) / 2000
    expected = {int(w): float(e.exp()) for ws, es in draws[:200] for w, e in zip(ws[1:], es[1:], strict=True)}
    assert set(expected) == {1, 2, 3, 4, 5}  # words that never occurred can be drawn too
    for word, times in expected.items():
        assert mean[word].item() == pytest.approx(times, rel=0.15)
    assert sum(expected.values()) == pytest.approx(8)


def test_negatives_need_their_expectation():
    with pytest.raises(ValueError, match="log_expected"):
        small()(torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, dtype=torch.long), torch.tensor([1]))


def test_batches_bring_negatives_that_the_network_takes():
    ids = torch.arange(60) % 11
    sampler = NegativeSampler(ids, 11, n_frequent=3, n_drawn=4)
    batch = next(context_batches(ids, 4, 5, negatives=sampler, generator=torch.Generator().manual_seed(0)))
    output = NeuralNGram(NeuralNGramConfig(vocab_size=11, order=4, d_model=3, d_hidden=5))(*batch)
    assert output.logits.shape == (5, 1 + 7) and output.loss.isfinite()


def test_a_variant_is_the_model_that_would_have_been_fitted() -> None:
    ids = np.random.default_rng(0).integers(0, 9, 500)
    counted = NGram(5, "add_k", vocab_size=9, k=0.7, backoff=0.2).fit(ids)
    for order in (1, 3, 5):
        for smoothing in ("mle", "add_k", "kneser_ney"):
            fitted = NGram(order, smoothing, vocab_size=9, k=0.7, backoff=0.2).fit(ids)
            variant = counted.variant(order=order, smoothing=smoothing)
            assert np.array_equal(variant.log_prob(ids), fitted.log_prob(ids))
    with pytest.raises(ValueError, match="order=6"):
        counted.variant(order=6)


def test_kneser_ney_shares_out_exactly_what_it_discounts():
    ids = np.random.default_rng(0).integers(0, 9, 300)
    shorter, grams, longer = ngram.count_kgrams(ids, 3, 9)
    for counts, above in ((grams.counts, None), (np.bincount(longer.suffixes, minlength=len(grams.keys)), longer)):
        alpha, lam = ngram.kneser_ney(grams, above, len(shorter.keys))
        D = ngram.discount(counts)
        for h in range(len(shorter.keys)):
            own = grams.contexts == h
            c_h, followers = counts[own].sum(), (counts[own] > 0).sum()
            assert lam[h] == pytest.approx(D * followers / c_h)
            np.testing.assert_allclose(alpha[own], np.maximum(counts[own] - D, 0) / c_h)
            assert alpha[own].sum() + lam[h] == pytest.approx(1, abs=1e-12)
