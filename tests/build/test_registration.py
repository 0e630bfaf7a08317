"""When a claim was registered is history: what is frozen cannot change in silence, and nothing disappears."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from toy_ledger import ledger

import registration
from nextword.book import claims

ROOT = Path(__file__).parents[2]
CLAIM = ledger()
AMENDED = """
[[claim.amended]]
date = "2026-01-02"
was = { threshold = 100.0 }
why = "After a look at the data."
verdict = "fails"
"""


class Repository:
    """A small repository with a ledger."""

    def __init__(self, root):
        self.root = root
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.email", "a@example.org")
        self.git("config", "user.name", "A")

    def git(self, *arguments):
        subprocess.run(["git", *arguments], cwd=self.root, check=True, capture_output=True)

    def write(self, path, content):
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())

    def commit(self, **files):
        for name, content in files.items():
            self.write(
                {"ledger": registration.LEDGER, "calibration": registration.CALIBRATION}.get(name, name), content
            )
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "x", "--allow-empty")

    def claims(self):
        return claims.read_ledger(self.root / registration.LEDGER)

    def faults(self):
        return registration.faults(self.claims(), registration.history(self.root))


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path)


def calibration(*ids):
    return json.dumps({"cpu": {id: {} for id in ids}})


def run_file():
    return gzip.compress(b'{"points": []}', mtime=0)


def test_a_claim_registered_before_its_calibration_says_so(repository):
    repository.commit(ledger=CLAIM)
    repository.commit(calibration=calibration("toy.sum"))
    row = registration.history(repository.root)["toy.sum"]
    assert row.before and row.to_dict()["when"] == "before" and row.data


def test_a_claim_that_comes_with_its_calibration_is_late(repository):
    repository.commit(ledger=CLAIM, calibration=calibration("toy.sum"))
    assert registration.history(repository.root)["toy.sum"].to_dict()["when"] == "after"


def test_a_claim_that_comes_with_or_after_its_recorded_run_is_late(repository):
    repository.commit(**{f"{registration.RUNS}/toy_run.json.gz": run_file()})
    repository.commit(ledger=CLAIM + 'runs = ["toy_run"]\n')
    assert not registration.history(repository.root)["toy.sum"].before


def test_a_claim_whose_data_had_been_seen_is_late(repository):
    repository.commit(ledger=CLAIM + "seen = true\n")
    assert not registration.history(repository.root)["toy.sum"].before


def test_a_run_under_another_name_is_still_data_of_its_day(repository):
    run = "toy_run.json.gz"
    repository.commit(**{f"{registration.RUNS}/{run}": run_file()})
    repository.commit(ledger=CLAIM + 'runs = ["toy_run"]\n')
    repository.git("mv", f"{registration.RUNS}/{run}", f"{registration.RUNS}/contest.json.gz")
    repository.commit(ledger=CLAIM + 'runs = ["contest"]\n')
    assert not registration.history(repository.root)["toy.sum"].before


def test_a_later_run_beside_the_first_or_none_makes_no_claim_earlier(repository):
    repository.commit(**{f"{registration.RUNS}/toy_run.json.gz": run_file()})
    repository.commit(ledger=CLAIM + 'runs = ["toy_run"]\n')
    repository.commit(**{f"{registration.RUNS}/later.json.gz": run_file()})
    for runs in ('runs = ["toy_run", "later"]\n', 'runs = ["later"]\n', ""):
        repository.commit(ledger=CLAIM + runs)
        assert not registration.history(repository.root)["toy.sum"].before


def test_what_was_seen_stays_seen(repository):
    repository.commit(ledger=CLAIM + "seen = true\n")
    repository.commit(ledger=CLAIM)
    assert not registration.history(repository.root)["toy.sum"].before


def test_a_claim_changed_after_its_data_counts_as_late(repository):
    repository.commit(ledger=CLAIM)
    repository.commit(ledger=CLAIM.replace("100.0", "90.0") + AMENDED)
    repository.commit(calibration=calibration("toy.sum"))
    assert registration.history(repository.root)["toy.sum"].before, "changed before its data"
    twice = CLAIM.replace("100.0", "80.0") + AMENDED + AMENDED.replace("100.0", "90.0")
    repository.commit(ledger=twice)
    assert repository.faults() == [] and not registration.history(repository.root)["toy.sum"].before


@pytest.mark.parametrize(
    ("started", "before"), [("2020-01-01T00:00:00+00:00", False), ("2100-01-01T00:00:00+00:00", True)]
)
def test_a_point_begun_before_the_claim_was_committed_makes_it_late(repository, started, before):
    repository.commit(ledger=CLAIM + 'runs = ["toy_run"]\n')
    run = {"points": [{"settings": {}, "result": 1, "made": {"started": started}}]}
    repository.commit(**{f"{registration.RUNS}/toy_run.json.gz": gzip.compress(json.dumps(run).encode(), mtime=0)})
    assert registration.history(repository.root)["toy.sum"].before is before


@pytest.mark.parametrize(
    ("old", "new"), [('chapter = "toy"', 'chapter = "other"'), ('test = "bet"', 'test = "replication"')]
)
def test_chapter_and_badge_are_frozen_too(repository, old, new):
    repository.commit(ledger=CLAIM)
    repository.write(registration.LEDGER, CLAIM.replace(old, new))
    [message] = repository.faults()
    assert "toy.sum" in message and old.split(" = ")[0] in message


def test_it_takes_all_the_runs_that_decide_a_claim(repository):
    repository.commit(**{f"{registration.RUNS}/old.json.gz": run_file()})
    repository.commit(ledger=CLAIM + 'runs = ["old", "new"]\n')
    repository.commit(**{f"{registration.RUNS}/new.json.gz": run_file()})
    assert registration.history(repository.root)["toy.sum"].before


@pytest.mark.parametrize(
    "old, new",
    [
        ("threshold = 100.0", "threshold = 90.0"),
        ('op = ">="', 'op = ">"'),
        ('predicted = "holds"', 'predicted = "fails"'),
        ('quantity = "sum"', 'quantity = "sum of some"'),
    ],
)
@pytest.mark.parametrize("committed", [True, False])
def test_a_silent_change_of_what_is_frozen_is_noticed(repository, old, new, committed):
    repository.commit(ledger=CLAIM)
    repository.write(registration.LEDGER, CLAIM.replace(old, new))
    if committed:
        repository.commit()
    [message] = repository.faults()
    assert "toy.sum" in message and "amended" in message and old.split(" = ")[0] in message


def test_a_change_and_its_way_back_are_noticed(repository):
    for text in (CLAIM, CLAIM.replace("100.0", "90.0"), CLAIM):
        repository.commit(ledger=text)
    assert len(repository.faults()) == 1


def test_a_change_that_tells_what_it_was_is_no_fault(repository):
    repository.commit(ledger=CLAIM)
    repository.commit(ledger=CLAIM.replace("100.0", "90.0") + AMENDED)
    assert repository.faults() == []


@pytest.mark.parametrize("was", ["{ threshold = 95.0 }", "{ threshold = 100.0, predicted = 'fails' }"])
def test_an_amendment_that_does_not_tell_the_truth_is_noticed(repository, was):
    repository.commit(ledger=CLAIM)
    repository.commit(ledger=CLAIM.replace("100.0", "90.0") + AMENDED.replace("{ threshold = 100.0 }", was))
    assert len(repository.faults()) == 1


def test_words_that_are_not_frozen_may_change(repository):
    repository.commit(ledger=CLAIM)
    repository.commit(ledger=CLAIM.replace("The sum is large.", "The sum is at least a hundred."))
    assert repository.faults() == []


def test_a_claim_that_disappears_is_noticed_and_a_withdrawn_one_is_not(repository):
    second = CLAIM + CLAIM.split("\n", 3)[3].replace("toy.sum", "toy.mean")
    repository.commit(ledger=second)
    repository.write(registration.LEDGER, CLAIM)
    [message] = repository.faults()
    assert "toy.mean" in message and "withdrawn" in message
    repository.write(registration.LEDGER, second + 'withdrawn = "It could not fail."\n')
    assert repository.faults() == []


def test_no_history_and_a_cut_history_are_said_clearly(repository, tmp_path):
    with pytest.raises(registration.NoHistory, match="no history"):
        registration.history(tmp_path / "nowhere")
    repository.commit(ledger=CLAIM)
    repository.commit(ledger=CLAIM + "\n# more\n")
    shallow = tmp_path / "shallow"
    subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{repository.root}", str(shallow)], check=True)
    with pytest.raises(registration.NoHistory, match="shallow"):
        registration.history(shallow)


def test_a_recorded_run_waits_for_its_claims_to_be_committed(repository):
    text = CLAIM + 'runs = ["toy_run"]\n'
    repository.commit(ledger=text)
    assert registration.uncommitted("toy_run", repository.root) == []
    repository.write(registration.LEDGER, text.replace("100.0", "90.0"))
    assert registration.uncommitted("toy_run", repository.root) == ["toy.sum"]
    assert registration.uncommitted("other_run", repository.root) == []


@pytest.fixture(scope="module")
def known():
    return registration.of_this_book()


def test_the_books_own_ledger_is_what_its_history_says(known):
    assert registration.faults(claims.ledger(), known) == []


def test_every_amendment_says_when_and_how_it_was_judged_before():
    for claim in claims.ledger().values():
        for entry in claim.amended:
            assert entry.date.startswith("20") and len(entry.why) > 20 and entry.verdict, claim.id


def test_the_two_changed_bets_and_the_late_registrations_are_on_file(known):
    ledger = claims.ledger()
    assert any(entry.was.get("predicted") == "holds" for entry in ledger["gpt3.alternating"].amended)
    assert any("quantity" in entry.was for entry in ledger["scaling.lstm"].amended)
    late = [id for id, row in known.items() if not row.before and ledger[id].kind != "report"]
    assert len(late) >= 63
