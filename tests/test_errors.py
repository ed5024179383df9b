import pytest

from streamtrain import errors


def tree(kind=errors.StreamtrainError):
    yield kind
    for child in kind.__subclasses__():
        yield from tree(child)


def test_exit_codes_are_those_of_the_design():
    assert {kind.__name__: kind.exit_code for kind in tree()} == {
        "StreamtrainError": 1, "DivergedError": 1, "UsageError": 2, "SourceError": 65,
        "ManifestError": 65, "CorruptShardError": 65, "CheckpointError": 65, "NoInputError": 66,
        "OutputError": 73, "DiskError": 74, "StoppedError": 75, "ConfigError": 78,
        "SchemaError": 78, "BudgetError": 78, "MismatchError": 78,
    }  # fmt: skip


@pytest.mark.parametrize("kind", list(tree()))
def test_an_error_is_one_line_whatever_a_hostile_name_holds(kind):
    error = kind("found \x1b[31mred\r", where="a\nb", remedy="do\x00that")
    text = str(error)
    assert text.isprintable()
    assert text == "a\\x0ab: found \\x1b[31mred\\x0d; do\\x00that"
    assert error.as_dict() == {
        "kind": kind.kind, "message": "found \x1b[31mred\r", "where": "a\nb",
        "remedy": "do\x00that",
    }  # fmt: skip
