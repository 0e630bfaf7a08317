"""The checks of the exercises are checked: solutions pass, planted mistakes are named, nonsense is refused kindly."""

import ast
import inspect
import itertools
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nextword import check, contrastive, encoder, evaluation, instructions, multimodal
from nextword.attention import pad
from nextword.decoder import Decoder, DecoderConfig
from nextword.tokenizers import ByteBPE
from nextword.wordpiece import WordPiece

EXERCISES = {
    "2003_next_word": ["kneser_ney", "neural_ngram_logits"],
    "2016_gnmt": ["additive_attention", "beam_score"],
    "2017_transformer": ["causal_attention", "multi_head", "sinusoidal_positions"],
    "2018_gpt1": ["next_token_loss", "classification_head"],
    "2018_bert": ["mask_tokens", "sentence_pair_input"],
    "2019_gpt2": ["learn_merges", "nucleus"],
    "2019_sparse_transformer": ["strided_mask", "fixed_mask"],
    "2020_scaling_laws": ["fit_power_law", "chinchilla_optimum"],
    "2020_gpt3": ["few_shot_prompt", "answer_score"],
    "2017_ppo": ["gae", "clipped_objective"],
    "2022_instructgpt": ["ranking_loss", "shaped_rewards"],
    "2023_dolly": ["response_targets", "token_shift"],
    "2021_clip": ["contrastive_loss", "name_classifier"],
    "2023_palm_e": ["mixed_sentence", "merge_regions"],
}
NAMES = sorted(itertools.chain(*EXERCISES.values()))


# --- What a reader would write ----------------------------------------------------------------------------------------


def kneser_ney(counts, D):
    seen = counts > 0
    total = counts.sum(1, keepdim=True)
    followers = seen.sum(1, keepdim=True)
    p_w = seen.sum(0) / seen.sum()
    p = (counts - D).clamp(min=0) / total + D * followers / total * p_w
    return torch.where(total > 0, p, p_w)


def neural_ngram_logits(contexts, C, H, d, U, W, b):
    x = C[contexts].flatten(1)
    a = torch.tanh(d + x @ H.T)
    return b + x @ W.T + a @ U.T


def additive_attention(s, h, W_q, W_m, v, mask):
    e = torch.tanh((s @ W_q.T)[:, None] + h @ W_m.T) @ v
    alpha = e.masked_fill(~mask, -torch.inf).softmax(-1)
    return alpha @ h


def beam_score(log_probs, attention, alpha, beta):
    lp = ((5 + len(log_probs)) / 6) ** alpha
    cp = beta * attention.sum(0).clamp(max=1).log().sum()
    return log_probs.sum() / lp + cp


def causal_attention(q, k, v):
    T, D = q.shape
    scores = q @ k.T / math.sqrt(D)
    hidden = ~torch.ones(T, T).tril().bool()
    return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v


def multi_head(x, W, n_heads):
    T, C = x.shape
    q, k, v = ((x @ w.T).view(T, n_heads, -1).transpose(0, 1) for w in W[:3])
    weights = (q @ k.mT / math.sqrt(C / n_heads)).softmax(-1)
    return (weights @ v).transpose(0, 1).reshape(T, C) @ W[3].T


def sinusoidal_positions(T, C):
    x = torch.zeros(T, C)
    angles = torch.arange(T)[:, None] / 10_000 ** (torch.arange(0, C, 2) / C)
    x[:, 0::2] = angles.sin()
    x[:, 1::2] = angles.cos()
    return x


def next_token_loss(logits, ids):
    log_p = logits[:, :-1].log_softmax(-1)
    chosen = log_p.gather(-1, ids[:, 1:, None])
    return -chosen.mean()


def classification_head(hidden, ids, W_y, extract):
    last = (ids == extract).int().argmax(1)
    return hidden[torch.arange(len(ids)), last] @ W_y.T


def mask_tokens(ids, special, scores, fate, words, mask_id):
    n = max(1, round(0.15 * ids.shape[1]))
    order = scores.masked_fill(special, 2.0).argsort(1)
    chosen = torch.zeros_like(special).scatter(1, order[:, :n], True)
    inputs = ids.masked_fill(chosen & (fate < 0.8), mask_id)
    inputs = torch.where(chosen & (fate >= 0.9), words, inputs)
    return inputs, ids.masked_fill(~chosen, -100)


def sentence_pair_input(a, b, cls, sep, max_tokens):
    a, b = list(a), list(b)
    while len(a) + len(b) > max_tokens - 3:
        (a if len(a) > len(b) else b).pop()
    ids = [cls, *a, sep, *b, sep]
    return ids, [0] * (len(a) + 2) + [1] * (len(b) + 1)


def learn_merges(words, n):
    pieces = {word: list(word) for word in words}  # the tokens of each word
    merges = []
    for _ in range(n):
        counts = Counter()
        for word, tokens in pieces.items():
            for pair in itertools.pairwise(tokens):
                counts[pair] += words[word]
        best = max(counts, key=counts.get)
        merges.append(best)
        for word, tokens in pieces.items():
            joined = []
            for token in tokens:
                if joined and (joined[-1], token) == best:
                    joined[-1] += token
                else:
                    joined.append(token)
            pieces[word] = joined
    return merges


def nucleus(logits, p):
    probabilities, order = logits.softmax(-1).sort(descending=True)
    before = probabilities.cumsum(-1) - probabilities
    kept = torch.where(before < p, probabilities, 0.0)
    kept = kept / kept.sum()
    return torch.zeros_like(kept).scatter(0, order, kept)


def strided_mask(T, stride):
    i, j = torch.arange(T)[:, None], torch.arange(T)
    return (j <= i) & ((i - j < stride) | ((i - j) % stride == 0))


def fixed_mask(T, stride, c):
    i, j = torch.arange(T)[:, None], torch.arange(T)
    return (j <= i) & ((i // stride == j // stride) | (j % stride >= stride - c))


def fit_power_law(x, loss):
    slope, intercept = np.polyfit(np.log(x), np.log(loss), 1)
    return -slope, np.exp(-intercept / slope)


def chinchilla_optimum(C, A, B, alpha, beta):
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    N = G * (C / 6) ** (beta / (alpha + beta))
    return N, C / 6 / N


def few_shot_prompt(examples, k, query, instruction=""):
    lines = [instruction] if instruction else []
    others = [(q, a) for q, a in examples if q != query]
    lines += [f"{q} -> {a}" for q, a in others[:k]]
    return "\n".join([*lines, f"{query} ->"])


def answer_score(logits, ids, n):
    log_p = logits[:-1].log_softmax(-1)
    chosen = log_p[torch.arange(len(log_p)), ids[1:]]
    return chosen[-n:].sum()


def gae(rewards, values, dones, last_value, gamma, lam):
    advantages = torch.zeros_like(rewards)
    later, next_value = 0.0, last_value
    for t in reversed(range(len(rewards))):
        goes_on = 1 - dones[t]
        delta = rewards[t] + gamma * goes_on * next_value - values[t]
        later = delta + gamma * lam * goes_on * later
        advantages[t] = later
        next_value = values[t]
    return advantages


def clipped_objective(log_prob, old_log_prob, advantage, clip):
    ratio = (log_prob - old_log_prob).exp()
    limited = ratio.clamp(1 - clip, 1 + clip)
    return torch.minimum(ratio * advantage, limited * advantage).mean()


def ranking_loss(rewards, ranks):
    better = ranks[:, :, None] < ranks[:, None, :]
    losses = -F.logsigmoid(rewards[:, :, None] - rewards[:, None, :])
    return ((losses * better).sum((1, 2)) / better.sum((1, 2))).mean()


def shaped_rewards(score, log_prob, ref_log_prob, mask, beta):
    rewards = -beta * (log_prob - ref_log_prob) * mask
    last = mask.sum(1) - 1
    rewards[torch.arange(len(score)), last] += score
    return rewards


def response_targets(prompt, response, end):
    text = [*prompt, *response, end]
    n = len(prompt) - 1
    targets = [-100] * n + text[n + 1 :]
    return text[:-1], targets


def token_shift(base_logits, chosen):
    score = base_logits.gather(1, chosen[:, None])
    return (base_logits > score).sum(1) + 1


def contrastive_loss(logits):
    pairs = torch.arange(len(logits))
    over_texts = F.cross_entropy(logits, pairs)
    over_pictures = F.cross_entropy(logits.T, pairs)
    return (over_texts + over_pictures) / 2


def name_classifier(vectors):
    mean = vectors.mean(0)
    return mean / mean.norm(dim=-1, keepdim=True)


def mixed_sentence(picture, words, positions):
    x = torch.cat([picture, words], 1)
    return x + positions[: x.shape[1]]


def merge_regions(x, h, w):
    B, _, c = x.shape
    x = x.view(B, h // 2, 2, w // 2, 2, c)
    x = x.permute(0, 1, 3, 2, 4, 5)
    return x.reshape(B, h * w // 4, 4 * c)


SOLUTIONS = {name: globals()[name] for name in NAMES}

# --- What a reader might write: a line of the solution changed, and what the message must ask -------------------------

PLANTED = [
    ("kneser_ney", "p_w = seen.sum(0) / seen.sum()", "p_w = counts.sum(0) / counts.sum()", "how often each word came"),
    ("kneser_ney", "p_w = seen.sum(0)", "p_w = seen.sum(1)", "along the other axis"),
    ("kneser_ney", " + D * followers / total * p_w", "", "who gets what it saved"),
    ("kneser_ney", ".clamp(min=0)", "", "max(…, 0)"),
    ("kneser_ney", "(counts - D)", "counts", "was D taken from the counts"),
    ("kneser_ney", "D * followers / total", "D / total", "How many different followers"),
    ("kneser_ney", "torch.where(total > 0, p, p_w)", "p", "0/0 is NaN"),
    ("kneser_ney", "torch.where(total > 0, p, p_w)", "p.nan_to_num(0)", "all zeros"),
    ("neural_ngram_logits", "C[contexts]", "C[contexts.flip(1)]", "the last word first"),
    ("neural_ngram_logits", "C[contexts].flatten(1)", "C[contexts].transpose(1, 2).flatten(1)", "stay together"),
    ("neural_ngram_logits", " + x @ W.T", "", "where is Wx"),
    ("neural_ngram_logits", "return b + ", "return ", "where is b?"),
    ("neural_ngram_logits", "torch.tanh(d + x @ H.T)", "torch.tanh(x @ H.T)", "where is d?"),
    ("neural_ngram_logits", "torch.tanh(d + x @ H.T)", "d + torch.tanh(x @ H.T)", "inside the brackets"),
    ("neural_ngram_logits", "torch.tanh(d + x @ H.T)", "d + x @ H.T", "where is the tanh"),
    ("neural_ngram_logits", "b + x @ W.T + a @ U.T", "(b + x @ W.T + a @ U.T).softmax(1)", "a softmax too many"),
    ("additive_attention", "e.masked_fill(~mask, -torch.inf)", "e", "where does the mask come in"),
    ("additive_attention", "~mask", "mask", "Only padding is read"),
    ("additive_attention", "-torch.inf", "0", "e⁰ is 1"),
    ("additive_attention", "softmax(-1)", "softmax(0)", "over the source words"),
    ("additive_attention", "alpha @ h", "alpha @ (h @ W_m.T)", "the mean be over h_j"),
    (
        "additive_attention",
        "torch.tanh((s @ W_q.T)[:, None] + h @ W_m.T) @ v",
        "s @ W_q.T @ (h @ W_m.T).T",
        "Here they are added",
    ),
    ("additive_attention", "torch.tanh", "", "does not matter"),
    ("beam_score", "((5 + len(log_probs)) / 6) ** alpha", "len(log_probs) ** alpha", "where are the 5 and the 6"),
    ("beam_score", "((5 + len(log_probs)) / 6) ** alpha", "(5 + len(log_probs)) ** alpha / 6", "inside the brackets"),
    ("beam_score", "((5 + len(log_probs)) / 6) ** alpha", "len(log_probs)", "With α = 0, what should lp be"),
    ("beam_score", "attention.sum(0)", "attention.sum(1)", "Each source word must be covered"),
    ("beam_score", ".clamp(max=1)", "", "where is min(…, 1)"),
    ("beam_score", "/ lp + cp", "* lp + cp", "should it be divided"),
    ("beam_score", "log_probs.sum() / lp + cp", "(log_probs.sum() + cp) / lp", "lp divides the coverage"),
    ("causal_attention", ".masked_fill(hidden, -torch.inf)", "", "come later: where is the mask"),
    ("causal_attention", ".tril()", ".triu()", "the right way round"),
    ("causal_attention", ".tril()", ".tril(-1)", "the diagonal"),
    ("causal_attention", "-torch.inf", "0", "e⁰ is 1"),
    ("causal_attention", "softmax(-1)", "softmax(0)", "along the last axis"),
    ("causal_attention", " / math.sqrt(D)", "", "too sharp"),
    ("causal_attention", "math.sqrt(D)", "D", "too even"),
    ("causal_attention", "math.sqrt(D)", "D ** 0.25", "instead of √D"),
    ("causal_attention", "q @ k.T", "k @ q.T", "KQᵀ"),
    ("multi_head", "math.sqrt(C / n_heads)", "math.sqrt(C)", "divided by √C,"),
    ("multi_head", "view(T, n_heads, -1).transpose(0, 1)", "reshape(n_heads, T, -1)", "cuts the text"),
    (
        "multi_head",
        "(weights @ v).transpose(0, 1).reshape(T, C)",
        "(weights @ v).reshape(T, C)",
        "which transpose must be undone",
    ),
    ("multi_head", " @ W[3].T", "", "the output matrix"),
    ("multi_head", "x @ w.T", "x @ w", "made as x @ w"),
    ("multi_head", "q, k, v =", "k, q, v =", "Queries and keys"),
    (
        "sinusoidal_positions",
        "x[:, 0::2] = angles.sin()",
        "return torch.cat([angles.sin(), angles.cos()], 1)",
        "All sines",
    ),
    ("sinusoidal_positions", "torch.arange(0, C, 2)", "torch.arange(0, C // 2)", "where is the 2"),
    ("sinusoidal_positions", "/ 10_000 **", "* 10_000 **", "instead of divided"),
    ("sinusoidal_positions", "torch.arange(T)", "torch.arange(1, T + 1)", "begin at 1"),
    ("sinusoidal_positions", "10_000", "1000", "The base is 1000"),
    ("next_token_loss", "logits[:, :-1]", "logits[:, 1:]", "both cut at the start"),
    ("next_token_loss", "chosen.mean()", "chosen.sum()", "the sum over all tokens"),
    ("next_token_loss", "-chosen", "chosen", "The sign"),
    ("next_token_loss", ".log_softmax(-1)", "", "bare logits"),
    ("next_token_loss", "log_softmax(-1)", "log_softmax(1)", "over the positions"),
    ("next_token_loss", "log_softmax(-1)", "softmax(-1)", "where is the logarithm"),
    ("next_token_loss", "log_softmax(-1)", "softmax(-1).log()", "its log is -inf"),
    ("next_token_loss", "-chosen.mean()", "-chosen.mean().detach()", "no gradient passes"),
    ("next_token_loss", "-chosen.mean()", "-chosen.mean().item()", "no gradient passes"),
    ("classification_head", "torch.arange(len(ids)), last]", "torch.arange(len(ids)), -1]", "The last position"),
    ("classification_head", "hidden[torch.arange(len(ids)), last]", "hidden[:, 0]", "The first position"),
    ("classification_head", "last] @", "last - 1] @", "The position before extract"),
    ("classification_head", "hidden[torch.arange(len(ids)), last]", "hidden.mean(1)", "The mean of all positions"),
    ("classification_head", "hidden[torch.arange(len(ids)), last]", "hidden[:, last]", "the shape"),
    ("classification_head", "W_y.T", "W_y", "shapes cannot be multiplied"),
    ("mask_tokens", "chosen & (fate < 0.8)", "chosen", "All chosen tokens became [MASK]"),
    ("mask_tokens", "ids.masked_fill(~chosen, -100)", "ids", "where is -100"),
    ("mask_tokens", "ids.masked_fill(~chosen, -100)", "inputs.masked_fill(~chosen, -100)", "need only copy"),
    ("mask_tokens", "~chosen, -100", "~chosen, 0", "The label is 0"),
    ("mask_tokens", "scores.masked_fill(special, 2.0)", "scores", "A special token was chosen"),
    ("mask_tokens", "argsort(1)", "argsort(1, descending=True)", "Special tokens were chosen"),
    ("mask_tokens", "chosen = torch", "chosen = (scores < 0.15) & ~special if True else torch", "a chance of 15 %"),
    ("sentence_pair_input", "[cls, *a, sep, *b, sep]", "[cls, *a, sep, *b]", "ids: "),
    ("sentence_pair_input", "(len(a) + 2) + [1] * (len(b) + 1)", "(len(a) + 1) + [1] * (len(b) + 2)", "first [SEP]"),
    ("sentence_pair_input", "> max_tokens - 3", "> max_tokens", "too long by three"),
    ("sentence_pair_input", ".pop()", ".pop(0)", "lost its first tokens"),
    ("sentence_pair_input", "len(a) > len(b)", "len(a) >= len(b)", "Both texts are equally long"),
    ("sentence_pair_input", "(a if len(a) > len(b) else b)", "a", "Only the first text"),
    ("learn_merges", "+= words[word]", "+= 1", "Each word was counted once"),
    ("learn_merges", "max(", "min(", "The rarest pair"),
    ("learn_merges", "merges.append(best)", 'merges.append("".join(best))', "one string"),
    ("learn_merges", "itertools.pairwise(tokens)", "set(itertools.pairwise(tokens))", "once a word"),
    ("learn_merges", "pieces[word] = joined", "pass", "came"),
    ("nucleus", "before < p", "before + probabilities < p", "crosses p is gone"),
    ("nucleus", "kept = kept / kept.sum()", "pass", "where is it scaled"),
    ("nucleus", "torch.zeros_like(kept).scatter(0, order, kept)", "kept", "in sorted order"),
    ("nucleus", "torch.zeros_like(kept).scatter(0, order, kept)", "kept[order]", "the wrong words"),
    ("nucleus", "before < p", "probabilities >= p", "their sum that should reach p"),
    ("strided_mask", "(j <= i) & ", "", "where is j <= i"),
    ("strided_mask", "(i - j < stride) | ", "", "Only every stride-th"),
    ("strided_mask", " | ((i - j) % stride == 0)", "", "Only the last stretch"),
    ("strided_mask", "(i - j) % stride", "j % stride", "the same for every row"),
    ("strided_mask", "i - j < stride)", "i - j < stride - 1)", "one too short"),
    ("strided_mask", "(i - j < stride) |", "(i - j < stride) &", "in both parts"),
    ("fixed_mask", "stride - c", "stride - c + 1", "one position short"),
    ("fixed_mask", "(i // stride == j // stride)", "(i - j < stride)", "The own block moves along"),
    ("fixed_mask", "(i // stride == j // stride) | ", "", "Only the ends of blocks"),
    ("fixed_mask", "j % stride >= stride - c", "j % stride < c", "The first c positions"),
    ("fixed_mask", "return ", "return ~", "have changed places"),
    ("fit_power_law", "return -slope", "return slope", "wrong sign"),
    ("fit_power_law", "np.exp(-intercept / slope)", "np.exp(intercept)", "scale^exponent"),
    ("fit_power_law", "np.exp(-intercept / slope)", "np.exp(intercept / slope)", "a minus before"),
    ("fit_power_law", "np.exp(-", "10 ** (-", "the same logarithm"),
    ("fit_power_law", "np.log(loss)", "loss", "the loss itself"),
    ("chinchilla_optimum", "(beta / (alpha", "(alpha / (alpha", "The exponents"),
    ("chinchilla_optimum", "N, C / 6 / N", "N, C / N", "D is C / N"),
    ("chinchilla_optimum", "alpha * A / (beta * B)", "beta * B / (alpha * A)", "upside down"),
    ("chinchilla_optimum", "alpha * A / (beta * B)", "A / B", "without α / β"),
    ("chinchilla_optimum", "N, C / 6 / N", "C / 6 / N, N", "changed places"),
    ("few_shot_prompt", 'f"{query} ->"', 'f"{query} -> "', "ends with a space"),
    ("few_shot_prompt", " if q != query", "", "own answer"),
    ("few_shot_prompt", "in examples if q != query", "in examples[:k] if q != query", "One example is missing"),
    ("few_shot_prompt", "others[:k]", "others", "All examples"),
    ("few_shot_prompt", "[instruction] if instruction else []", "[instruction]", "an empty line"),
    ("few_shot_prompt", "[instruction] if instruction else []", "[]", "The instruction is missing"),
    ("answer_score", "logits[:-1]", "logits[1:]", "read already"),
    ("answer_score", "[-n:].sum()", "[-n:].mean()", "the mean over"),
    ("answer_score", "[-n:].sum()", ".sum()", "The whole text"),
    ("answer_score", ".log_softmax(-1)", "", "bare logits"),
    ("answer_score", "log_softmax(-1)", "softmax(-1).log()", "its log is -inf"),
    ("gae", "goes_on = 1 - dones[t]", "goes_on = 1", "make no difference"),
    ("gae", "gamma * lam * goes_on", "gamma * lam", "still counts A_"),
    ("gae", "gamma * goes_on * next_value", "gamma * next_value", "still counts V_"),
    ("gae", "gamma * lam * goes_on * later", "0", "These are the δ alone"),
    ("gae", "later, next_value = 0.0, last_value", "later, next_value = 0.0, 0.0", "after the last step"),
    ("gae", "gamma * lam * goes_on", "lam * goes_on", "fade by λ alone"),
    ("gae", "return advantages", "return advantages + values", "A + V"),
    ("clipped_objective", "return torch", "return -torch", "The sign"),
    ("clipped_objective", ".exp()", "", "Where is exp"),
    ("clipped_objective", "(log_prob - old_log_prob)", "(old_log_prob - log_prob)", "upside down"),
    ("clipped_objective", "minimum", "maximum", "The larger of the two"),
    (
        "clipped_objective",
        "torch.minimum(ratio * advantage, limited * advantage)",
        "(limited * advantage)",
        "where is min",
    ),
    (
        "clipped_objective",
        "torch.minimum(ratio * advantage, limited * advantage)",
        "(ratio * advantage)",
        "Nothing is clipped",
    ),
    ("clipped_objective", ".exp()", ".exp().detach()", "no gradient passes"),
    ("ranking_loss", "<", ">", "when the worse response"),
    ("ranking_loss", "<", "<=", "equal rank"),
    ("ranking_loss", " / better.sum((1, 2))", "", "a sum over pairs"),
    ("ranking_loss", "-F.logsigmoid", "F.logsigmoid", "The sign"),
    (
        "ranking_loss",
        "((losses * better).sum((1, 2)) / better.sum((1, 2))).mean()",
        "losses[better].mean()",
        "all prompts",
    ),
    (
        "ranking_loss",
        "(rewards[:, :, None] - rewards[:, None, :])",
        "(rewards[:, :, None] - rewards[:, None, :]).detach()",
        "no gradient passes",
    ),
    ("shaped_rewards", "log_prob - ref_log_prob", "ref_log_prob - log_prob", "is rewarded"),
    ("shaped_rewards", "last = mask.sum(1) - 1", "last = -1", "in the last column"),
    ("shaped_rewards", " * mask", "", "Padding has a price"),
    ("shaped_rewards", "-beta * ", "-1 * ", "does not depend on β"),
    (
        "shaped_rewards",
        "rewards[torch.arange(len(score)), last] += score",
        "rewards += score[:, None] * mask",
        "every token",
    ),
    ("response_targets", "targets = [-100] * n + text[n + 1 :]", "targets = text[1:]", "The prompt is learned as well"),
    ("response_targets", "n = len(prompt) - 1", "n = len(prompt)", "The first id of the response"),
    ("response_targets", "n = len(prompt) - 1", "n = max(0, len(prompt) - 2)", "The last id of the prompt"),
    ("response_targets", "text[:-1], targets", "text[:-1], targets[:-1] + [-100]", "never stops"),
    (
        "response_targets",
        "text[:-1], targets",
        "text[:-1], [-100 if t == end else t for t in targets]",
        "never stops",
    ),
    ("response_targets", "*response, end]", "*response]", "The end is missing"),
    (
        "response_targets",
        "targets = [-100] * n + text[n + 1 :]",
        "targets = [-100] * (n + 1) + response",
        "stands in the same place",
    ),
    ("response_targets", "text[:-1], targets", "text, [-100, *targets]", "Nothing was shifted"),
    ("response_targets", "text[:-1], targets", "text, targets", "one target is missing"),
    ("response_targets", "text[:-1], targets", "text, [*targets, -100]", "was filled up"),
    (
        "response_targets",
        "targets = [-100] * n + text[n + 1 :]",
        "targets = [-100 if t in prompt else t for t in text[1:]]",
        "does the place decide",
    ),
    ("response_targets", "-100", "0", "The target is 0"),
    ("response_targets", "text[:-1], targets", "targets, text[:-1]", "changed places"),
    ("token_shift", ".sum(1) + 1", ".sum(1)", "has rank 0"),
    ("token_shift", ">", "<", "the wrong way"),
    ("token_shift", "(base_logits > score).sum(1) + 1", "(base_logits >= score).sum(1)", "the worst of their ranks"),
    (
        "token_shift",
        "(base_logits > score).sum(1) + 1",
        "base_logits.argsort(dim=1, descending=True, stable=True).argsort(1).gather(1, chosen[:, None])[:, 0] + 1",
        "should they share",
    ),
    (
        "token_shift",
        "(base_logits > score).sum(1) + 1",
        "base_logits.argsort(1, descending=True).gather(1, chosen[:, None])[:, 0] + 1",
        "Where in that list",
    ),
    ("token_shift", "base_logits.gather(1, chosen[:, None])", "base_logits.amax(1, keepdim=True)", "own choices"),
    ("token_shift", "(base_logits > score).sum(1) + 1", "score.squeeze(1)", "floats came"),
    (
        "token_shift",
        "score = base_logits",
        "base_logits = base_logits.softmax(1); score = base_logits",
        "the scores themselves",
    ),
    ("token_shift", ".sum(1) + 1", ".sum(1) > 0", "but not how far"),
    ("token_shift", ".sum(1) + 1", ".sum(1).double().mean() + 1", "should each token have its own"),
    ("contrastive_loss", "(over_texts + over_pictures) / 2", "over_texts", "Only the pictures choose"),
    ("contrastive_loss", "(over_texts + over_pictures) / 2", "over_pictures", "Only the texts choose"),
    ("contrastive_loss", "logits.T", "logits", "Only the pictures choose"),
    ("contrastive_loss", " / 2", "", "were added"),
    ("contrastive_loss", ", pairs)", ', pairs, reduction="sum")', "the sum over the pairs: should"),
    (
        "contrastive_loss",
        "(over_texts + over_pictures) / 2",
        "(over_texts + over_pictures) * len(logits)",
        "sums over the pairs of both",
    ),
    ("contrastive_loss", "torch.arange(len(logits))", "torch.arange(len(logits)).flip(0)", "run backwards"),
    ("contrastive_loss", "torch.arange(len(logits))", "torch.zeros(len(logits), dtype=int)", "The same text is right"),
    (
        "contrastive_loss",
        "torch.arange(len(logits))",
        "torch.full(logits.shape, 1 / len(logits))",
        "All answers count as right",
    ),
    (
        "contrastive_loss",
        "return (over_texts + over_pictures) / 2",
        "return -logits.flatten().log_softmax(0)[:: len(logits) + 1].mean()",
        "over all N·N pairs",
    ),
    ("contrastive_loss", "return (over_texts", "return -(over_texts", "The sign"),
    (
        "contrastive_loss",
        "return (over_texts + over_pictures) / 2",
        "return -logits.diagonal().mean()",
        "The bare logits",
    ),
    (
        "contrastive_loss",
        "return (over_texts + over_pictures) / 2",
        "return -sum(logits.softmax(d).diagonal().log().mean() for d in (0, 1)) / 2",
        "its log is -inf",
    ),
    (
        "contrastive_loss",
        "return (over_texts + over_pictures) / 2",
        "return -sum(logits.softmax(d).diagonal().mean() for d in (0, 1)) / 2",
        "the mean of probabilities",
    ),
    (
        "contrastive_loss",
        "return (over_texts + over_pictures) / 2",
        "return 1 - sum(logits.softmax(d).diagonal().mean() for d in (0, 1)) / 2",
        "the mean of 1 - p",
    ),
    ("contrastive_loss", "pairs = ", "logits = logits.detach(); pairs = ", "no gradient passes"),
    ("name_classifier", " / mean.norm(dim=-1, keepdim=True)", "", "The mean is shorter than 1"),
    ("name_classifier", "vectors.mean(0)", "vectors.mean(1)", "over the names"),
    ("name_classifier", "vectors.mean(0)", "vectors.mean(2)", "none is left"),
    ("name_classifier", "norm(dim=-1", "norm(dim=0", "Columns have length 1"),
    ("name_classifier", "norm(dim=-1, keepdim=True)", "norm()", "All numbers together"),
    ("name_classifier", "norm(dim=-1, keepdim=True)", "square().sum(-1, keepdim=True)", "where is the square root"),
    ("name_classifier", "norm(dim", "norm(p=1, dim", "should it be their squares"),
    ("name_classifier", "mean / mean.norm(dim=-1, keepdim=True)", "mean.softmax(-1)", "A softmax"),
    ("name_classifier", "vectors.mean(0)", "vectors[0]", "Only the first prompt"),
    ("name_classifier", "vectors.mean(0)", "vectors[-1]", "Only the last prompt"),
    ("name_classifier", "vectors.mean(0)", "vectors.amax(0)", "The largest of each number"),
    ("name_classifier", "vectors.mean(0)", "vectors.flatten(0, 1)", "Each prompt kept its own"),
    ("name_classifier", "vectors.mean(0)", "vectors.mean(0, keepdim=True)", "An axis for the prompts is left"),
    ("mixed_sentence", "[picture, words]", "[words, picture]", "The words stand first"),
    ("mixed_sentence", " + positions[: x.shape[1]]", "", "No position was added"),
    (
        "mixed_sentence",
        "return x + positions[: x.shape[1]]",
        "return torch.cat([picture, words + positions[: words.shape[1]]], 1)",
        "Only the words have positions, counted from 0",
    ),
    (
        "mixed_sentence",
        "return x + positions[: x.shape[1]]",
        "x[:, picture.shape[1] :] += positions[picture.shape[1] : x.shape[1]]; return x",
        "the picture has none",
    ),
    (
        "mixed_sentence",
        "return x + positions[: x.shape[1]]",
        "x[:, : picture.shape[1]] += positions[: picture.shape[1]]; return x",
        "Only the picture has positions",
    ),
    (
        "mixed_sentence",
        "x = torch.cat([picture, words], 1)",
        "return torch.cat([y + positions[: y.shape[1]] for y in (picture, words)], 1)",
        "begin anew at the first word",
    ),
    (
        "mixed_sentence",
        "positions[: x.shape[1]]",
        "positions[(torch.arange(x.shape[1]) - picture.shape[1] + 1).clamp(min=0)]",
        "The whole picture stands at position 0",
    ),
    (
        "mixed_sentence",
        "x = torch.cat([picture, words], 1)",
        "N = picture.shape[1]; picture = picture + positions[:N]; words = words + positions[N + 1 :][: words.shape[1]]; "
        "return torch.cat([picture, words], 1)",
        "A position is left free",
    ),
    (
        "mixed_sentence",
        "x = torch.cat([picture, words], 1)",
        "N = picture.shape[1]; picture = picture + positions[:N]; words = words + positions[N - 1 :][: words.shape[1]]; "
        "return torch.cat([picture, words], 1)",
        "shares a position with the end",
    ),
    (
        "mixed_sentence",
        "return x + positions[: x.shape[1]]",
        "return x + positions[: x.shape[1]].roll(picture.shape[1], 0)",
        "The words have the first positions",
    ),
    ("mixed_sentence", "[: x.shape[1]]", "[1 : x.shape[1] + 1]", "begin at 1"),
    ("mixed_sentence", "[: x.shape[1]]", "[-x.shape[1] :]", "The last rows"),
    ("mixed_sentence", "[: x.shape[1]]", "[0]", "the same position"),
    ("mixed_sentence", "x + positions", "x * positions", "multiplied"),
    ("mixed_sentence", "x + positions", "x + 2 * positions", "added twice"),
    ("mixed_sentence", "words], 1)", "words], 0)", "rows of a batch"),
    ("mixed_sentence", "words], 1)", "words], -1)", "side by side"),
    ("mixed_sentence", "torch.cat([picture, words], 1)", "picture + words", "added to the picture's"),
    ("mixed_sentence", "[picture, words]", "[picture.detach(), words]", "no gradient passes"),
    ("merge_regions", "x = x.permute(0, 1, 3, 2, 4, 5)", "", "Four neighbours in one row"),
    ("merge_regions", "h // 2, 2, w // 2", "w // 2, 2, h // 2", "Rows and columns are exchanged"),
    ("merge_regions", "0, 1, 3, 2, 4, 5", "0, 1, 3, 4, 2, 5", "column by column: should upper right"),
    ("merge_regions", "0, 1, 3, 2, 4, 5", "0, 3, 1, 2, 4, 5", "The squares are taken column by column"),
    ("merge_regions", "0, 1, 3, 2, 4, 5", "0, 1, 3, 5, 2, 4", "interleaved"),
    ("merge_regions", "return x.reshape(B, h * w // 4, 4 * c)", "return x.mean((3, 4)).flatten(1, 2)", "the mean of"),
    ("merge_regions", "return x.reshape(B, h * w // 4, 4 * c)", "return x.sum((3, 4)).flatten(1, 2)", "were added"),
    ("merge_regions", "return x.reshape(B, h * w // 4, 4 * c)", "return x.amax((3, 4)).flatten(1, 2)", "The largest"),
    (
        "merge_regions",
        "return x.reshape",
        "x = x[:, :, :, 0, 0]; return x.flatten(1, 2) if True else x",
        "Only the upper",
    ),
    ("merge_regions", "4, 5)", "4, 5).flip(3)", "The lower regions come first"),
    ("merge_regions", "4, 5)", "4, 5).flip(4)", "The right regions come first"),
    ("merge_regions", "h // 2, 2, w // 2, 2, c)", "2, h // 2, 2, w // 2, c).permute(0, 2, 1, 4, 3, 5)", "four corners"),
    ("merge_regions", "h * w // 4, 4 * c", "h * w, c", "each is still a token"),
    ("merge_regions", "h * w // 4, 4 * c", "h // 2, w // 2, 4 * c", "still stand in rows and columns"),
    ("merge_regions", "h * w // 4, 4 * c", "h * w // 4, 4, c", "on an axis of their own"),
    ("merge_regions", "0, 1, 3, 2, 4, 5", "0, 2, 4, 1, 3, 5", "Squares and places are exchanged"),
]


def changed(name, old, new):
    source = inspect.getsource(SOLUTIONS[name])
    assert old in source, f"{old!r} does not stand in the solution of {name}"
    code = compile(source.replace(old, new), name, "exec")
    space = dict(globals())
    exec(code, space)
    return space[name]


@pytest.mark.parametrize(("name", "old", "new", "asks"), PLANTED, ids=[f"{row[0]}: {row[3]}" for row in PLANTED])
def test_a_planted_mistake_is_named(name, old, new, asks):
    with pytest.raises(check.Wrong) as caught:
        getattr(check, name)(changed(name, old, new))
    assert any(words in str(caught.value) for words in asks.split("|")), str(caught.value)


def test_each_check_has_three_planted_mistakes_and_more_with_a_message_of_its_own():
    planted = Counter(row[0] for row in PLANTED)
    assert set(planted) == set(NAMES) and min(planted.values()) >= 3
    assert all(len({row[3] for row in PLANTED if row[0] == name}) >= 3 for name in NAMES)


# --- Right ones pass --------------------------------------------------------------------------------------------------


def test_each_chapter_has_two_checks_and_there_are_no_others():
    assert set(check.__all__) == {*NAMES, "Wrong", "stub", "hints"}
    assert len(EXERCISES) == 14 and min(map(len, EXERCISES.values())) == 2


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_passes_and_is_told_what_it_proves(name, capsys):
    getattr(check, name)(SOLUTIONS[name])
    written = capsys.readouterr().out
    assert written.startswith(f"{name} is right: equal to ") and written.count("\n") == 1
    given = {line.strip() for line in check.stub(getattr(check, name)).splitlines()}
    lines = [line for line in inspect.getsource(SOLUTIONS[name]).splitlines()[1:] if line.strip() not in given]
    assert 1 <= len(lines) <= 15


@pytest.mark.parametrize("name", NAMES)
def test_a_stub_has_the_solutions_arguments_and_is_asked_for_its_return(name):
    text = check.stub(getattr(check, name))
    [function] = ast.parse(text).body
    assert function.name == name and ast.get_docstring(function)
    assert [a.arg for a in function.args.args] == [*inspect.signature(SOLUTIONS[name]).parameters]
    space = dict(globals())
    exec(text, space)
    message = refused(name, space[name])
    assert "returned None: does it end in a return" in message or name == "learn_merges"


@pytest.mark.parametrize("name", NAMES)
def test_two_hints_which_are_sentences(name):
    hints = check.hints(getattr(check, name))
    assert len(hints) == 2 and all(hint[-1] in ".?" and "\n" not in hint for hint in hints)


def loop_heads(x, W, n_heads):
    q, k, v = (x @ w.T for w in W[:3])
    heads = []
    for part in torch.arange(x.shape[1]).chunk(n_heads):
        weights = F.softmax(q[:, part] @ k[:, part].T / len(part) ** 0.5, dim=1)
        heads.append(weights @ v[:, part])
    return torch.cat(heads, 1) @ W[3].T


def loop_masking(ids, special, scores, fate, words, mask_id):
    inputs, labels = ids.clone(), torch.full_like(ids, -100)
    for b in range(len(ids)):
        free = [t for t in range(ids.shape[1]) if not special[b, t]]
        for t in sorted(free, key=lambda t: scores[b, t])[: max(1, round(0.15 * ids.shape[1]))]:
            labels[b, t] = ids[b, t]
            if fate[b, t] < 0.8:
                inputs[b, t] = mask_id
            elif fate[b, t] >= 0.9:
                inputs[b, t] = words[b, t]
    return [inputs, labels]


def loop_nucleus(logits, p):
    q, kept, mass = torch.softmax(logits, 0), torch.zeros(len(logits)), 0.0
    while mass < p:
        i = int((q - kept).argmax())
        kept[i] = q[i]
        mass += float(q[i])
    return kept / mass


def loop_ranking(rewards, ranks):
    losses = []
    for r, k in zip(rewards, ranks, strict=True):
        pairs = [(i, j) for i in range(len(r)) for j in range(len(r)) if k[i] < k[j]]
        losses.append(sum(F.softplus(r[j] - r[i]) for i, j in pairs) / len(pairs))
    return sum(losses) / len(losses)


def sum_of_deltas(rewards, values, dones, last_value, gamma, lam):
    advantages = []
    for t in range(len(rewards)):
        total, weight = 0.0, 1.0
        for s in range(t, len(rewards)):
            following = 0 if dones[s] else values[s + 1] if s + 1 < len(values) else last_value
            total += weight * (rewards[s] + gamma * following - values[s])
            weight *= 0 if dones[s] else gamma * lam
        advantages.append(float(total))
    return advantages


def line_by_lstsq(x, loss):
    rows = torch.tensor(np.stack([-np.log(x), np.ones(len(x))], 1))
    exponent, height = torch.linalg.lstsq(rows, torch.tensor(np.log(loss))[:, None]).solution[:, 0]
    return exponent, (height / exponent).exp()


def blanked_targets(prompt, response, end):
    text = torch.tensor([*prompt, *response, end])
    targets = text.clone()
    targets[: len(prompt)] = -100
    return [text[:-1], targets[1:]]


def loop_pairs(logits):
    costs = [torch.logsumexp(row, 0) - row[i] for x in (logits, logits.T) for i, row in enumerate(x)]
    return sum(costs) / len(costs)


def unfolded(x, h, w):
    columns = F.unfold(x.mT.unflatten(2, (h, w)), 2, stride=2)  # (B, c·4, h·w/4), channels outside
    return columns.unflatten(1, (-1, 4)).permute(0, 3, 2, 1).flatten(2)


OTHER_WAYS = {
    "causal_attention": lambda q, k, v: F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0],
    "multi_head": loop_heads,
    "next_token_loss": lambda logits, ids: F.cross_entropy(logits[:, :-1].mT, ids[:, 1:]),
    "mask_tokens": loop_masking,
    "nucleus": loop_nucleus,
    "ranking_loss": loop_ranking,
    "gae": sum_of_deltas,
    "fit_power_law": line_by_lstsq,
    "clipped_objective": lambda new, old, A, e: (
        -torch.max(-(new - old).exp() * A, -torch.clip((new - old).exp(), 1 - e, 1 + e) * A).mean()
    ),
    "strided_mask": lambda T, n: torch.tensor(
        [[j <= i and (i - j < n or (i - j) % n == 0) for j in range(T)] for i in range(T)]
    ),
    "learn_merges": lambda words, n: [list(pair) for pair in learn_merges(words, n)],
    "sentence_pair_input": lambda *given: [torch.tensor(x) for x in sentence_pair_input(*given)],
    "answer_score": lambda logits, ids, n: float(answer_score(logits, ids, n)),
    "response_targets": blanked_targets,
    "token_shift": lambda x, chosen: [
        sorted(row, reverse=True).index(row[i]) + 1 for row, i in zip(x.tolist(), chosen, strict=True)
    ],
    "contrastive_loss": loop_pairs,
    "name_classifier": lambda vectors: F.normalize(vectors.sum(0), dim=1),  # a sum has the direction of the mean
    "mixed_sentence": lambda picture, words, positions: torch.cat(
        [picture + positions[: picture.shape[1]], words + positions[picture.shape[1] :][: words.shape[1]]], 1
    ),
    "merge_regions": unfolded,
}


@pytest.mark.parametrize("name", OTHER_WAYS)
def test_another_way_to_write_it_passes(name):
    getattr(check, name)(OTHER_WAYS[name])


@pytest.mark.parametrize("name", ["causal_attention", "sinusoidal_positions", "gae", "nucleus", "shaped_rewards"])
def test_single_precision_passes(name):
    getattr(check, name)(lambda *given: SOLUTIONS[name](*given).float())


@pytest.mark.parametrize("name", ["kneser_ney", "causal_attention", "gae"])
def test_lists_and_arrays_pass(name):
    getattr(check, name)(lambda *given: SOLUTIONS[name](*given).tolist())
    getattr(check, name)(lambda *given: SOLUTIONS[name](*given).numpy())


def test_a_check_leaves_the_readers_settings_alone():
    def draws(T, C):
        torch.rand(3)
        assert torch.get_default_dtype() == torch.float64
        return torch.zeros(T, C)

    before, dtype = torch.get_rng_state(), torch.get_default_dtype()
    with pytest.raises(check.Wrong):
        check.sinusoidal_positions(draws)
    check.neural_ngram_logits(neural_ngram_logits)
    assert torch.equal(torch.get_rng_state(), before) and torch.get_default_dtype() == dtype
    with torch.no_grad():
        check.next_token_loss(next_token_loss)


# --- Nonsense is refused ----------------------------------------------------------------------------------------------


def refused(name, function):
    with pytest.raises(check.Wrong) as caught:
        getattr(check, name)(function)
    return str(caught.value)


def mapped(change, result):
    """Change every number of a result."""
    if isinstance(result, (tuple, list)) and not isinstance(result[0], (str, tuple)):
        return type(result)(mapped(change, x) for x in result)
    return change(result)


@pytest.mark.parametrize("name", NAMES)
def test_zeros_are_refused(name):
    def zero(x):
        if isinstance(x, (str, list, tuple)):
            return type(x)()
        return torch.zeros_like(x) if isinstance(x, torch.Tensor) else 0 * x

    refused(name, lambda *given: mapped(zero, SOLUTIONS[name](*given)))


@pytest.mark.parametrize("name", NAMES)
def test_the_inputs_themselves_are_refused(name):
    for i in range(len(inspect.signature(SOLUTIONS[name]).parameters)):
        refused(name, lambda *given, i=i: given[i])
    refused(name, lambda *given: given)


@pytest.mark.parametrize("name", NAMES)
def test_an_error_is_passed_on_with_the_arguments(name):
    def broken(*given):
        raise ZeroDivisionError("there is no spoon")

    message = refused(name, broken)
    assert "broken raised ZeroDivisionError: there is no spoon" in message and "It was called with" in message
    assert "raised TypeError" in refused(name, lambda: 1)


@pytest.mark.parametrize("name", NAMES)
def test_other_kinds_are_refused(name):
    assert "came" in refused(name, lambda *given: {"a": 1})
    assert "came" in refused(name, lambda *given: object())
    assert "the function itself" in refused(name, 3.5)


TEXT = {"sentence_pair_input", "learn_merges", "few_shot_prompt", "response_targets"}  # or lists, not numbers
WHOLE = {"mask_tokens", "strided_mask", "fixed_mask", "token_shift"}  # whole numbers or booleans, which are never NaN


def table(name, monkeypatch):
    """Return what a check is made of."""
    found = SimpleNamespace()

    def capture(theirs, reference, cases, mistakes, **rest):
        found.reference, found.cases, found.mistakes, found.rest = reference, cases, mistakes, rest

    with monkeypatch.context() as patch:
        patch.setattr(check, "_compare", capture)
        getattr(check, name)(None)
    return found


@pytest.mark.parametrize("name", sorted({*NAMES} - TEXT - {"mask_tokens", "fit_power_law", "chinchilla_optimum"}))
def test_another_shape_is_named(name):
    message = refused(name, lambda *given: torch.as_tensor(SOLUTIONS[name](*given))[None])
    assert "the shape (1," in message and "was expected" in message


@pytest.mark.parametrize("name", sorted({*NAMES} - TEXT - WHOLE))
def test_nan_is_named(name):
    message = refused(name, lambda *given: mapped(lambda x: x * math.nan, SOLUTIONS[name](*given)))
    assert "nan came" in message and "NaN comes from" in message


@pytest.mark.parametrize("name", sorted({*NAMES} - TEXT - WHOLE))
def test_what_is_no_usual_mistake_is_located(name):
    message = refused(name, lambda *given: mapped(lambda x: x * 1.003 + 1e-3, SOLUTIONS[name](*given)))
    assert (
        "None of the usual mistakes" in message and "was expected" in message and "Work it out by hand, for" in message
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_input_is_named(name, monkeypatch):
    inputs = next(iter(table(name, monkeypatch).cases.values()))
    places = [i for i, x in enumerate(inputs) if isinstance(x, (torch.Tensor, np.ndarray, list, dict))]

    def spoil(x):
        if isinstance(x, list):
            x.append(x[0])
        elif isinstance(x, dict):
            x.popitem()
        else:
            x[...] = ~x if x.dtype == torch.bool else x + 1

    for i in places:

        def careless(*given, i=i):
            result = SOLUTIONS[name](*given)
            spoil(given[i])
            return result

        assert f"careless changes its argument {i + 1} in place" in refused(name, careless)
    assert places or all(isinstance(x, (int, float)) for x in inputs)


def test_masks_and_ids_are_of_their_kind():
    assert "floats came" in refused("strided_mask", lambda *given: strided_mask(*given).float())
    assert "whole numbers came" in refused("fixed_mask", lambda *given: fixed_mask(*given).int())
    assert "floats came" in refused("token_shift", lambda *given: token_shift(*given).float())
    message = refused("mask_tokens", lambda *given: tuple(x.float() for x in mask_tokens(*given)))
    assert "inputs: floats came" in message
    assert "2 things were expected, inputs and labels" in refused("mask_tokens", lambda *given: mask_tokens(*given)[0])


def test_the_message_says_where_and_asks(capsys):
    message = refused("causal_attention", changed("causal_attention", ".tril()", ".triu()"))
    assert message == (
        "causal_attention, on q = 0 and v = the identity, where the result is the weights: "
        "0.5 came at row 2, position 3; 0 was expected.\n"
        "A row looks at what comes later and not at what came before: is the triangle the right way round?"
    )
    assert capsys.readouterr().out == ""


def test_two_mistakes_at_once_are_told_one_after_the_other():
    source = inspect.getsource(causal_attention).replace(".tril()", ".triu()").replace(" / math.sqrt(D)", "")
    space = dict(globals())
    exec(source, space)
    assert "the right way round" in refused("causal_attention", space["causal_attention"])
    exec(source.replace(".triu()", ".tril()"), space)
    assert "too sharp" in refused("causal_attention", space["causal_attention"])


def test_what_a_reader_prints_is_printed_once_for_each_input(capsys):
    def talking(T, stride):
        print("row", T)
        return torch.ones(T, T).bool()

    refused("strided_mask", talking)
    assert capsys.readouterr().out == "row 1\nrow 7\n"  # up to the first that fails


# --- The tables of mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_each_mistake_is_told_from_all_others(name, monkeypatch, capsys):
    made_of = table(name, monkeypatch)
    assert len(made_of.cases) >= 3 and len(made_of.mistakes) >= 6
    getattr(check, name)(made_of.reference)
    for question, mistake in made_of.mistakes.items():
        assert refused(name, mistake).endswith(f"\n{question}")


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_double(name, monkeypatch):
    for inputs in table(name, monkeypatch).cases.values():
        for x in itertools.chain(*(x if isinstance(x, list) else [x] for x in inputs)):
            assert not (isinstance(x, torch.Tensor) and x.is_floating_point()) or x.dtype == torch.float64


# --- Where a check's own rule stands for the library's ----------------------------------------------------------------


def test_the_masking_is_the_librarys():
    ids = torch.randint(10, 99, (50, 40))
    special = torch.zeros_like(ids).bool()
    special[:, [0, 17, -1]] = True
    a, b = (torch.Generator().manual_seed(3) for _ in range(2))
    scores, fate, words = torch.rand(50, 40, generator=a), torch.rand(50, 40, generator=a), None
    words = torch.randint(99, (50, 40), generator=a)
    expected = encoder.mask_tokens(ids, special=special, mask_id=3, vocab_size=99, generator=b)
    for found, theirs in zip(mask_tokens(ids, special, scores, fate, words, 3), expected, strict=True):
        assert torch.equal(found, theirs)


def test_the_pairs_are_the_librarys():
    wordpiece = WordPiece(["[UNK]", "[CLS]", "[SEP]", "[MASK]", "yes", "no"])
    encoding = wordpiece.encode("yes no", "no no yes")
    assert sentence_pair_input([4, 5], [5, 5, 4], 1, 2, 99) == (encoding.ids, encoding.segments)


def test_the_answers_score_is_the_librarys():
    toy = Decoder(DecoderConfig(vocab_size=256, context_length=16, d_model=16, n_layers=1, n_heads=2)).eval()
    letters = ByteBPE.train([], 256)
    ids = torch.tensor(letters.encode("2 + 2 = 4!"))
    expected = evaluation.loglikelihood(toy, letters, [("2 + 2 =", " 4!")])[0].log_prob
    with torch.inference_mode():
        logits = toy(ids[None]).logits[0]
    assert answer_score(logits, ids, 3).item() == pytest.approx(expected, abs=1e-4)


def test_the_token_shift_is_the_librarys():
    toy = Decoder(DecoderConfig(vocab_size=30, context_length=16, d_model=16, n_layers=1, n_heads=2)).eval()
    prompt, written = [4, 9, 1], [7, 2, 2, 11]
    with torch.inference_mode():
        logits = toy(torch.tensor([prompt + written])).logits[0, 2:-1]
    assert torch.equal(token_shift(logits, torch.tensor(written)), instructions.token_ranks(toy, prompt, written))


@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_contrastive_loss_is_the_librarys(n):
    logits = 3 * torch.randn(n, n, dtype=torch.float64)
    torch.testing.assert_close(contrastive_loss(logits), contrastive.contrastive_loss(logits))


def test_the_classifier_of_names_is_the_librarys():
    sizes = {"size": 4, "d_embed": 6, "d_model": 8, "n_heads": 2, "n_layers": 1, "patch": 4, "vision_layers": 1}
    toy = contrastive.CLIP(contrastive.CLIPConfig(vocab_size=257, context_length=9, vision="transformer", **sizes))
    letters, names, prompts = ByteBPE.train([], 256), ["cat", "dog", "eel"], ["{}", "a {}", "{} s"]
    with torch.inference_mode():
        texts = [[[*letters.encode(prompt.format(name)), 256] for name in names] for prompt in prompts]
        vectors = torch.stack([toy.encode_texts(*pad(rows)) for rows in texts])
    expected = contrastive.name_vectors(toy, names, letters, 256, prompts=prompts)
    torch.testing.assert_close(name_classifier(vectors), expected)


def test_the_mixed_sentence_is_the_librarys():
    decoder = Decoder(DecoderConfig(vocab_size=30, context_length=16, d_model=16, n_layers=1, n_heads=2))
    toy = multimodal.PictureLM(decoder, multimodal.PictureTokens(16, size=8, widths=(4,), d_vision=8, n_heads=2)).eval()
    ids, pictures = torch.randint(30, (3, 5)), torch.rand(3, 3, 8, 8)
    with torch.inference_mode():
        expected = toy.sentence(ids, pictures)
        found = mixed_sentence(toy.encoder(pictures), decoder.embedding(ids), decoder.positions.weight)
    assert found.shape == (3, 4 + 5, 16) and torch.equal(found, expected)


def test_the_merging_of_regions_is_the_librarys():
    toy = multimodal.PictureTokens(16, size=24, widths=(4,), d_vision=8, n_heads=2).eval()
    toy.block, toy.norm, toy.projection = (torch.nn.Identity() for _ in range(3))
    pictures = torch.rand(2, 3, 24, 24)
    with torch.inference_mode():
        regions = toy.stem(pictures).flatten(2).mT + toy.positions
        assert torch.equal(merge_regions(regions, 12, 12), toy(pictures))
