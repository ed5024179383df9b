from hypothesis import given
from hypothesis import strategies as st

from streamtrain.seeds import derive_key

parts = st.lists(st.one_of(st.integers(), st.text()), max_size=5)


@given(parts, parts)
def test_other_parts_give_another_key(a, b):
    assert (derive_key(*a) == derive_key(*b)) == (a == b)


def test_parts_are_never_run_together_or_added():
    assert derive_key("a", 1, 23) != derive_key("a", 12, 3)
    assert derive_key("a", 1, 1) != derive_key("a", 2, 0)
    assert derive_key("ab", "c") != derive_key("a", "bc")
    assert derive_key(7) != derive_key("7")


@given(parts)
def test_a_key_has_64_bits(parts):
    assert 0 <= derive_key(*parts) < 1 << 64
