"""Data sets: counts, splits by a hash, and what each loader tidies."""

import json
import re
from collections import Counter
from statistics import fmean, pstdev

import pytest

from nextword import data, fetching

SPLIT = [
    data.load_wikitext2,
    data.load_tatoeba,
    data.load_english,
    data.load_cmudict,
    data.load_boolq,
    data.load_nq_open,
    data.load_quac,
    data.load_case_summaries,
    data.load_stories,
    data.load_trec,
    data.load_prose,
]


def test_unknown_names_list_what_there_is():
    for load in SPLIT:
        with pytest.raises(ValueError, match="split='dev': choose 'train', 'valid' or 'test'"):
            load("dev")
    for load in (data.load_ratings, data.load_snippets):
        with pytest.raises(ValueError, match="domain='songs': choose 'movies', 'products', 'tweets', 'editorials'"):
            load("songs")


def test_make_data_prints_the_attribution_of_each_source(monkeypatch, capsys):
    fetched = []
    monkeypatch.setattr(data, "fetch", fetched.append)
    data.main()
    assert fetched == list(fetching.SOURCES)
    assert capsys.readouterr().out.splitlines() == [data.attribution(name) for name in fetching.SOURCES]


def test_wikitext2_has_the_published_word_counts():
    """Merity et al. 2016, Table 1, count 2,088,628 training tokens with an end mark per line; the raw text has 2,051,910."""
    counts = {split: len(data.load_wikitext2(split).split()) for split in ("train", "valid", "test")}
    assert counts == {"train": 2_051_910, "valid": 213_886, "test": 241_211}


def test_tatoeba_splits_go_by_the_english_sentence():
    splits = {s: data.load_tatoeba(s) for s in ("train", "valid", "test")}
    english = {s: {p.english for p in pairs} for s, pairs in splits.items()}
    assert sum(map(len, splits.values())) == 140_868
    assert not english["train"] & english["test"] and not english["train"] & english["valid"]
    assert 0.005 < len(splits["test"]) / 140_868 < 0.015
    assert all("tatoeba" in p.attribution for p in splits["test"])


def test_english_has_each_sentence_of_tatoeba_once_in_the_split_of_its_pairs():
    train, test = data.load_english("train"), data.load_english("test")
    assert (len(train), len(test), len({*train, *test})) == (187_703, 1912, 187_703 + 1912)
    paired = list(dict.fromkeys(pair.english for pair in data.load_tatoeba("test")))
    assert test[: len(paired)] == paired, "the Spanish pairs come first"
    assert train[0] == "Go."


def test_boolq_splits_go_by_the_passage():
    splits = {s: data.load_boolq(s) for s in ("train", "valid", "test")}
    assert {s: len(questions) for s, questions in splits.items()} == {"train": 12_205, "valid": 259, "test": 233}
    passages = {s: {q.passage for q in questions} for s, questions in splits.items()}
    assert sum(map(len, passages.values())) == len(set.union(*passages.values())) == 10_148, "no passage in two splits"
    questions = [q for part in splits.values() for q in part]
    assert sum(q.answer for q in questions) == 7907
    assert all(type(q.answer) is bool and q.question == q.question.lower() and " -- " in q.passage for q in questions)
    first = splits["train"][0]
    assert (first.question, first.answer) == ("do you have to be an all-star to be in the home run derby", False)
    assert first.passage.startswith("Home Run Derby -- Some notable performances")


def test_nq_open_splits_go_by_an_answer():
    splits = {s: data.load_nq_open(s) for s in ("train", "valid", "test")}
    questions = [q for part in splits.values() for q in part]
    assert len({q.question for q in questions}) == len(questions) == 3569
    assert {s: len(part) for s, part in splits.items()} == {"train": 1397, "valid": 373, "test": 1799}
    keys = {s: {min(q.answers) for q in part} for s, part in splits.items()}
    assert sum(map(len, keys.values())) == len(set.union(*keys.values())), "no such answer in two splits"
    assert data.load_nq_open() == splits["train"]
    answers = {q.question: q.answers for q in questions}
    assert answers["who sings it's all about the bass lyrics"] == ("Meghan Trainor",)
    assert answers["who runs the senate when the president of the senate is absent"] == (
        "president pro tempore",
        "a president pro tempore",
    )


def test_nq_open_is_tidy():
    questions = [q for s in ("train", "valid", "test") for q in data.load_nq_open(s)]
    assert sum(len(q.answers) for q in questions) == 6359
    for q in questions:
        assert q.question == q.question.lower() and not q.question.endswith("?")
        assert q.answers and all(q.answers) and len(set(q.answers)) == len(q.answers), q
        assert not any(
            re.search(r"[^\S ]|  |^ | $|\u200b|[\u00c2\u00c3](?!\w)", text) for text in (q.question, *q.answers)
        ), q
    answers = {answer for q in questions for answer in q.answers}
    assert {'M\u00e1ire "Moya" Brennan', "-27.2\u00b0C", "December 6, 1964", "composed by Ram Singh Thakuri"} <= answers


def test_case_summaries_are_at_most_half_as_long_as_their_accounts():
    splits = {s: data.load_case_summaries(s) for s in ("train", "valid", "test")}
    assert {s: len(cases) for s, cases in splits.items()} == {"train": 164, "valid": 156, "test": 486}
    cases = [case for part in splits.values() for case in part]
    assert {case.document for case in cases} <= {*data.load_court_cases()}
    assert all(0 < 2 * len(case.summary) <= len(case.document) for case in cases)
    assert not any(re.search(r"</?(p|br|i|b)\b|&\w+;", case.summary) for case in cases)


def test_stories_have_questions_with_two_answers():
    splits = {s: data.load_stories(s) for s in ("train", "valid", "test")}
    assert {s: len(stories) for s, stories in splits.items()} == {"train": 9, "valid": 5, "test": 87}
    stories = [story for part in splits.values() for story in part]
    assert len({story.plot for story in stories}) == 101
    for story in stories:
        asked = [q.question for q in story.questions]
        assert len(asked) == len({*asked}) >= 20
        assert all(len(q.answers) == 2 and all(q.answers) for q in story.questions)
    first = next(s for s in stories if s.plot.startswith("Mark Hunter"))
    assert first.questions[0].question == "Who is Mark Hunter?"


def test_quac_gives_each_passage_once():
    splits = {s: data.load_quac(s) for s in ("train", "valid", "test")}
    assert {s: len(passages) for s, passages in splits.items()} == {"train": 960, "valid": 19, "test": 21}
    passages = [passage for part in splits.values() for passage in part]
    assert len(set(passages)) == 1000
    assert not any("CANNOTANSWER" in passage or passage != passage.strip() for passage in passages)


def test_trec_questions_come_once_with_one_of_six_labels():
    splits = {s: data.load_trec(s) for s in ("train", "valid", "test")}
    assert {s: len(questions) for s, questions in splits.items()} == {"train": 4091, "valid": 572, "test": 1208}
    questions = [q for part in splits.values() for q in part]
    assert len({q.text for q in questions}) == 5871
    counts = Counter(data.TREC_LABELS[q.label] for q in questions)
    assert counts.most_common(1)[0][0] == "entity" and min(counts, key=counts.get) == "abbreviation"
    assert ("Who is Snoopy 's arch-enemy ?", data.TREC_LABELS.index("person")) in questions
    assert ("What does INRI stand for when used on Jesus ' cross ?", 2) in questions


def test_prose_is_passages_questions_and_sentences_each_in_one_split():
    splits = {s: data.load_prose(s) for s in ("train", "valid", "test")}
    assert {s: len(texts) for s, texts in splits.items()} == {"train": 198_415, "valid": 2077, "test": 2116}
    assert not set(splits["valid"]) & set(splits["train"]) and data.load_prose("test") == splits["test"]
    question = data.load_boolq("valid")[0]
    own = next(text for text in splits["valid"] if text.startswith(question.passage))
    assert f"\nQuestion: {question.question}?" in own
    assert set(data.load_quac("valid") + data.load_english("valid")) < set(splits["valid"])


def test_court_cases_are_plain_text():
    cases = data.load_court_cases()
    assert len(cases) == len(set(cases)) == 868
    assert not any(re.search(r"[<>]|&\w+;", case) or case != case.strip() for case in cases)
    assert cases[0].startswith("On March 8th, 2014, several citizens of Montgomery, Alabama")


def test_the_bible_is_tidy_and_whole():
    text = data.load_bible()
    chapters = text.split("\n\n")
    assert len(chapters) == 1189 and len(text.split()) == 764_786
    assert chapters[0].startswith("In the beginning God created the heavens and the earth. Now the earth was formless")
    assert chapters[-1].endswith("The grace of the Lord Jesus be with all the saints. Amen.")
    psalms = [chapter for chapter in chapters if re.match(r"(BOOK [IV]+\s)?Psalm \d", chapter)]
    numbers = [re.search(r"Psalm (\d+)", psalm)[1] for psalm in psalms]
    assert numbers == [str(n) for n in range(1, 151)], "each psalm begins with its number"
    assert psalms[22].startswith("Psalm 23\nA Psalm by David.\nYahweh is my shepherd: I shall lack nothing.")
    assert "Adah and Zillah, Hear my voice,\nYou wives of Lamech, listen" in chapters[3], "lines of poetry stay"
    assert not re.search(r"`|  |\n{3}| \n|\n |[.,;:!?][A-Za-z]", text), (
        "no stray quotes and spaces, no verses run together"
    )


def test_snippets_are_the_bare_texts():
    texts = {domain: data.load_snippets(domain) for domain in ("movies", "products", "tweets", "editorials")}
    counts = {domain: len(snippets) for domain, snippets in texts.items()}
    assert counts == {"movies": 10_605, "products": 3708, "tweets": 4200, "editorials": 5190}
    for domain, snippets in texts.items():
        assert all(text and text == text.strip() for text in snippets), domain
        assert not any(re.search(r"&(amp|lt|gt|quot);|\t|\r|\n|\ufffd|\d\t", text) for text in snippets), domain
    assert texts["movies"][2] == "Effective but too tepid biopic"
    assert texts["products"][0] == "troubleshooting ad-2500 and ad-2600 no picture scrolling b/w."
    assert texts["tweets"][1] == "Yay. Another good phone interview."
    assert any("clichés" in text for text in texts["movies"]) and any("<3" in text for text in texts["tweets"])


RATED = {
    "movies": (10_605, 198_810),
    "products": (3708, 74_160),
    "tweets": (4200, 159_750),
    "editorials": (5190, 103_800),
}
DOCUMENTS = {"products": 300, "editorials": 498}


@pytest.mark.parametrize("domain", RATED)
def test_ratings_belong_to_their_texts(domain):
    """The file of texts gives the mean rating of each; only for 199 tweets does it give another."""
    rated = data.load_ratings(domain)
    assert (len(rated), sum(len(r.ratings) for r in rated)) == RATED[domain]
    assert all(type(n) is int and -4 <= n <= 4 for r in rated for n in r.ratings)
    assert min(len(r.ratings) for r in rated) == (15 if domain == "movies" else 20)
    assert [r.text for r in rated] == data.load_snippets(domain)
    assert len({r.document for r in rated}) == DOCUMENTS.get(domain, len(rated))
    path = fetching.fetch_folder("ratings") / f"{data._RATED[domain]}_GroundTruth.txt"
    with open(path, encoding="utf8") as file:
        means = [float(line.split("\t")[1]) for line in file if not line.startswith("id")]
    away = [abs(sum(r.ratings) / len(r.ratings) - mean) for r, mean in zip(rated, means, strict=True)]
    assert sum(distance > 1e-6 for distance in away) == (199 if domain == "tweets" else 0)
    assert max(away) < 1.13


@pytest.mark.parametrize("domain", RATED)
def test_ratings_are_those_whose_mean_and_spread_the_file_gives(domain):
    path = fetching.fetch_folder("ratings") / f"{data._RATED[domain]}_anonDataRatings.txt"
    with open(path, encoding="utf-8-sig") as file:
        lines = [line.split("\t") for line in file if line.strip()]
    ratings = [r.ratings for r in data.load_ratings(domain)]
    for column, measure in ((1, fmean), (2, pstdev)):
        given = sorted(float(line[column]) for line in lines)
        assert sorted(map(measure, ratings)) == pytest.approx(given, abs=6e-6)


def test_ratings_of_known_texts():
    movies, products = data.load_ratings("movies"), data.load_ratings("products")
    assert movies[2][:2] == ("Effective but too tepid biopic", (-1, 0, -1, 0, -1, -1, -1, -1, 0, -2, 1, 1, -1, -1, -1))
    assert products[0].ratings == (0, -1, 0, 0, -1, -2, 0, -2, 0, -2, -1, 0, -1, -2, -1, -1, -1, -2, 0, -1)
    cool = next(r for r in products if r.text == "it is an extremely cool gizmo.")
    assert fmean(cool.ratings) == 2.95, "which stands elsewhere in the file of ratings"


def test_analogies_are_the_published_families():
    families = data.load_analogies()
    sizes = [23, 116, 30, 68, 23, 32, 29, 37, 34, 33, 41, 40, 37, 30]
    assert [len(pairs) for pairs in families.values()] == sizes and sum(sizes) == 573
    names = list(families)
    assert names[:5] == ["capital-common-countries", "capital-world", "currency", "city-in-state", "family"]
    assert [re.match(r"gram\d-", name)[0] for name in names[5:]] == [f"gram{n}-" for n in range(1, 10)]
    for name, pairs in families.items():
        assert len(set(pairs)) == len(pairs), name
        assert all(len(pair) == 2 and pair[0] != pair[1] and "" not in pair for pair in pairs), name
    assert set(families["capital-common-countries"]) <= set(families["capital-world"])
    assert families["capital-common-countries"][:2] == [("Athens", "Greece"), ("Baghdad", "Iraq")]
    assert ("king", "queen") in families["family"] and ("bad", "worse") in families["gram3-comparative"]


def test_each_question_of_the_analogy_test_sets_two_listed_pairs_side_by_side():
    """Mikolov et al. 2013, section 4.1: 8,869 semantic and 10,675 syntactic questions, in five and nine families."""
    families, asked = data.load_analogies(), []
    for section in data._read("analogies").split(": ")[1:]:
        name, *lines = section.splitlines()
        for a, b, c, d in map(str.split, lines):
            assert {(a, b), (c, d)} <= set(families[name])
        asked.append(len(lines))
    assert (sum(asked[:5]), sum(asked[5:])) == (8869, 10_675)


def test_occupations_are_not_gendered_by_definition():
    names = data.load_occupations()
    assert len(set(names)) == len(names) == 280 and names == sorted(names)
    assert names[:3] == ["accountant", "acquaintance", "adjunct professor"]
    assert {"nurse", "plumber", "taxi driver", "singer songwriter"} <= set(names)
    gendered = {"actor", "actress", "businesswoman", "dad", "headmaster", "maid", "monk", "nun", "steward", "waiter"}
    assert not gendered & set(names) and not {"confesses", "soft spoken"} & set(names)
    assert not [name for name in names if re.search(r"_|man$|woman$|[^a-z ]", name)]


@pytest.mark.parametrize("language", ["english", "japanese"])
def test_winograd_twins_have_their_slots_and_opposite_answers(language):
    twins = data.load_winograd(language)
    assert len(twins) == len({twin.id for twin in twins}) > 20
    for twin in twins:
        assert twin.text.count("[pronoun]") == twin.text.count("[word]") == 1, twin.id
        assert len(set(twin.candidates)) == len(set(twin.words)) == 2 and sorted(twin.answers) == [0, 1], twin.id
        assert bool(twin.gloss) == (language == "japanese"), twin.id


def test_a_winograd_word_goes_with_its_answer(tmp_path, monkeypatch):
    twins = [{"word": "small", "answer": 1}, {"word": "large", "answer": 0}]
    row = {"id": "t", "text": "[pronoun] is too [word].", "pronoun": "it", "candidates": ["cup", "box"], "twins": twins}
    (tmp_path / "winograd.json").write_text(json.dumps({"title": "Twins", "english": [row], "japanese": []}))
    monkeypatch.setattr(data, "_BUNDLED", tmp_path)
    twin = data.WinogradSchema("t", "[pronoun] is too [word].", "it", ("cup", "box"), ("small", "large"), (1, 0), "")
    assert data.load_winograd() == [twin]
    with pytest.raises(ValueError, match="language='title': choose 'english' or 'japanese'"):
        data.load_winograd("title")


def test_cmudict_lists_every_way_to_say_a_word():
    splits = {s: data.load_cmudict(s) for s in ("train", "valid", "test")}
    words = {word.spelling: word.phonemes for words in splits.values() for word in words}
    assert sum(map(len, splits.values())) == len(words) == 117_493, "no word stands in two splits"
    assert all(0.008 < len(splits[s]) / 117_493 < 0.012 for s in ("valid", "test"))
    said = {spelling: [" ".join(way) for way in words[spelling]] for spelling in ("tomato", "aalborg", "abdicate")}
    assert said["tomato"] == ["T AH M EY T OW", "T AH M AA T OW"]
    assert said["aalborg"] == ["AO L B AO R G", "AA L B AO R G"], "without the comment"
    assert said["abdicate"] == ["AE B D AH K EY T"]
    assert len({sound for ways in words.values() for way in ways for sound in way}) == 39
    assert all(ways and all(ways) and len(set(ways)) == len(ways) for ways in words.values())
    assert data.load_cmudict() == splits["train"]


def test_cmudict_drops_stress_twins_and_spellings_with_other_signs(tmp_path, monkeypatch):
    lines = ["record R AH0 K AO1 R D", "record(2) R EH1 K ER0 D", "record(3) R AH1 K AO2 R D", "a.m. EY2 EH1 M"]
    folder = tmp_path / "cmudict/data"
    folder.mkdir(parents=True)
    (folder / "cmudict.dict").write_text("\n".join([*lines, "it's IH1 T S", "ad-hoc AE1 D HH AA1 K", ""]))
    monkeypatch.setattr(data, "fetch", lambda name: tmp_path)
    ways = (("R", "AH", "K", "AO", "R", "D"), ("R", "EH", "K", "ER", "D"))
    assert data.load_cmudict(data.split_of("record")) == [data.Pronunciation("record", ways)]
