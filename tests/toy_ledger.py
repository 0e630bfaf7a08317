"""A ledger of one claim, for tests that build a small book or a small history around it."""


def ledger(chapter: str = "toy") -> str:
    """Return the text of a claims.toml with the claim ``toy.sum``; keys of that claim may be added at its end."""
    return f"""
[papers]
p2000 = "Author 2000"
[[claim]]
id = "toy.sum"
chapter = "{chapter}"
paper = "p2000"
where = "Table 1"
statement = "The sum is large."
kind = "measurement"
test = "bet"
quantity = "sum"
op = ">="
threshold = 100.0
predicted = "holds"
"""
