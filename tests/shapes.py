"""The checker of annotations in the tests: beartype, with whole numbers accepted where floats are asked for."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
