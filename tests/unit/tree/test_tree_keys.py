"""Segment keys and sharing domains as algebra: no two different paths share a key."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from mygo.tree.keys import domain_salt, narrow, root_key, segment_key
from mygo.types import PUBLIC, DomainTag, SegmentKey

tenants = st.text("abcdefgh0123-", min_size=1, max_size=6).map(DomainTag)
domains = st.lists(tenants | st.just(PUBLIC), max_size=4).map(
    lambda parts: DomainTag("+".join(sorted({p for p in parts if p != PUBLIC})) or PUBLIC)
)
ids = st.lists(st.integers(0, 2**32 - 1), max_size=20)
segments = st.lists(st.tuples(domains, ids), max_size=5)
ROOT = root_key(model="m", kv_dtype="bfloat16")


def path_key(path: list[tuple[DomainTag, list[int]]]) -> SegmentKey:
    key = ROOT
    for domain, token_ids in path:
        key = segment_key(key, domain, token_ids)
    return key


@given(segments, segments)
def test_segment_key_is_equal_only_when_the_whole_path_is(
    one: list[tuple[DomainTag, list[int]]], other: list[tuple[DomainTag, list[int]]]
) -> None:
    assert (path_key(one) == path_key(other)) == (one == other)


@given(ids, st.integers(0, 20))
def test_segment_key_depends_on_where_the_border_lies(token_ids: list[int], cut: int) -> None:
    assume(cut <= len(token_ids))
    whole = path_key([(PUBLIC, token_ids)])
    assert path_key([(PUBLIC, token_ids[:cut]), (PUBLIC, token_ids[cut:])]) != whole


@given(tenants, ids)
def test_segment_key_is_another_when_the_domain_swallows_the_first_id(
    domain: DomainTag, rest: list[int]
) -> None:
    """Scenario: a tag whose bytes run into the ids must not equal a longer tag with fewer ids."""
    token_id = int.from_bytes(b"abcd", "little")
    longer = DomainTag(domain + "abcd")
    assert segment_key(ROOT, domain, [token_id, *rest]) != segment_key(ROOT, longer, rest)


@given(domains, domains, domains)
def test_narrow_is_a_union(a: DomainTag, b: DomainTag, c: DomainTag) -> None:
    assert narrow(a, b) == narrow(b, a)
    assert narrow(a, narrow(b, c)) == narrow(narrow(a, b), c)
    assert narrow(a, a) == a
    assert narrow(a, PUBLIC) == a


@given(tenants, tenants)
def test_narrow_gives_a_domain_of_its_own_when_two_tenants_meet(a: DomainTag, b: DomainTag) -> None:
    assume(a != b and PUBLIC not in (a, b))
    assert narrow(a, b) not in (a, b, PUBLIC)


@given(domains)
def test_narrow_never_widens(path: DomainTag) -> None:
    assume(path != PUBLIC)
    assert narrow(path, PUBLIC) != PUBLIC


def test_root_key_differs_when_any_part_of_the_identity_does() -> None:
    base = {"model": "m", "kv_dtype": "bfloat16", "tokenizer": "t", "lora": "l"}
    keys = {root_key(**base)} | {root_key(**{**base, name: "other"}) for name in base}
    assert len(keys) == 5


def test_domain_salt_depends_on_secret_and_domain() -> None:
    salts = {domain_salt(secret, DomainTag(d)) for secret in (b"one", b"two") for d in ("a", "b")}
    assert len(salts) == 4
    assert domain_salt(b"one", PUBLIC) == domain_salt(b"one", PUBLIC)
