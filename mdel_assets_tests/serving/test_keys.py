"""Keys: where they come from, what they open, and that they are never shown."""

import pytest

from mdel_assets.errors import ServingError
from mdel_assets.serving.keys import ApiKeys, read_keys, refuse_open_door

FIRST, SECOND = "first-key-of-the-file", "second-key-of-the-file"


def test_keys_are_the_lines_of_the_file_and_the_variable(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# Anna\n{FIRST}\n\n  {SECOND}  \n")
    keys = read_keys(path, {"MDEL_API_KEY": "third-key-of-the-environment"})
    for key in (FIRST, SECOND, "third-key-of-the-environment"):
        assert keys.let_in(f"Bearer {key}")
    for header in ("", "Bearer ", f"Basic {FIRST}", f"Bearer {FIRST}x", FIRST, "Bearer # Anna"):
        assert not keys.let_in(header), header


def test_without_keys_whoever_asks_is_let_in():
    keys = read_keys(None, {"MDEL_API_KEY": " "})
    assert not keys
    assert keys.let_in("")


def test_a_file_without_a_key_or_with_a_short_one_is_refused_without_showing_it(tmp_path):
    path = tmp_path / "keys"
    for content, told in [("", "has no API key"), ("# none\n", "has no"), ("short\n", "5 char")]:
        path.write_text(content)
        with pytest.raises(ServingError, match=told) as refused:
            read_keys(path, {})
        assert "short" not in str(refused.value)
    with pytest.raises(ServingError, match="cannot be read"):
        read_keys(tmp_path / "absent", {})


def test_no_key_is_held_as_it_is():
    keys = ApiKeys([FIRST])
    assert FIRST not in repr(vars(keys))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machines_own_addresses_need_no_key(host):
    refuse_open_door(host, ApiKeys())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "mdel.example.org", ""])
def test_another_address_needs_a_key(host):
    refuse_open_door(host, ApiKeys([FIRST]))
    with pytest.raises(ServingError, match="--api-key-file"):
        refuse_open_door(host, ApiKeys())
