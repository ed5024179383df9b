import numpy as np

from streamtrain.kernels.row_key import row_keys


def keys(key, ordinals):
    out = np.empty(len(ordinals), np.uint64)
    row_keys(np.uint64(key), np.asarray(ordinals, np.uint64), out)
    return out


def python_row_key(key, ordinal):
    def mix(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    return mix(mix((ordinal + 0x9E3779B97F4A7C15) % 2**64) ^ key)


def test_row_keys_are_what_plain_integers_give():
    ordinals = [0, 1, 2, 12345, 2**40, 2**62 - 1]
    for key in (0, 1, 2**64 - 1, 0x0123456789ABCDEF):
        assert keys(key, ordinals).tolist() == [python_row_key(key, o) for o in ordinals]


def test_row_keys_never_change():
    # Shuffles and splits of datasets out there depend on these.
    assert keys(7, range(3)).tolist() == GOLDEN


def test_no_two_rows_share_a_key_and_keys_are_spread():
    found = keys(3, range(200_000))
    assert len(np.unique(found)) == 200_000
    top = np.bincount((found >> np.uint64(60)).astype(int), minlength=16)
    # 12,500 expected in each sixteenth, standard deviation 108: five of them.
    assert abs(top - 12_500).max() < 540


def test_keys_of_different_streams_are_unrelated():
    order_a, order_b = np.argsort(keys(1, range(5000))), np.argsort(keys(2, range(5000)))
    assert abs(np.corrcoef(order_a, order_b)[0, 1]) < 0.08


GOLDEN = [236966933211079599, 12966676493058619558, 3270201391739464176]
