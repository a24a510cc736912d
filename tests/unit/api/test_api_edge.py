"""Keys, health, and the small parts that stand alone."""

from __future__ import annotations

import errno
import pickle

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygo.api import errors
from mygo.api.auth import Keyring
from mygo.api.files import safe_filename
from mygo.api.memory import ResponseMemory
from mygo.errors import NotFound, Unauthorized
from mygo.filters import Comparison, Compound, matches
from mygo.types import TenantId

A, B = TenantId("a"), TenantId("b")


def test_keys_separate_tenants(serve):
    face = serve({"http": {"api_keys": {"key-a": "a", "key-b": "b"}}})
    mine = face.client("key-a").vector_stores.create(name="mine")
    with pytest.raises(openai.NotFoundError):
        face.client("key-b").vector_stores.retrieve(mine.id)
    assert face.client("key-b").vector_stores.list().data == []
    response = face.client("key-a").responses.create(model="smollm2-135m-instruct", input="one")
    with pytest.raises(openai.NotFoundError):
        face.client("key-b").responses.retrieve(response.id)
    with pytest.raises(openai.AuthenticationError) as failure:
        face.client("key-c").models.list()
    assert failure.value.code == "invalid_api_key"
    assert "x-request-id" in failure.value.response.headers
    with face.http() as http_client:
        assert http_client.get("/v1/models").status_code == 401
        assert http_client.get("/v1/none").status_code == 401
        for path in ("/healthz", "/readyz", "/metrics"):
            assert http_client.get(path).status_code == 200
        assert "key-a" not in http_client.get("/v1/models").text


def test_public_store_is_readable_by_others(serve):
    face = serve({"http": {"api_keys": {"key-a": "a", "key-b": "b"}}})
    store = face.client("key-a").vector_stores.create(extra_body={"domain": "public"})
    assert face.client("key-b").vector_stores.retrieve(store.id).domain == "public"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic secret", "secret", "Bearer secre", "Bearer secrets"]
)
def test_keyring_refuses_what_is_not_a_key(header):
    with pytest.raises(Unauthorized):
        Keyring({"secret": "a"}).tenant(header)


def test_keyring_knows_its_tenants_and_asks_nothing_without_keys():
    keys = Keyring({"secret": "a", "geheim": "b"})
    assert (keys.tenant("Bearer secret"), keys.tenant("bearer geheim")) == ("a", "b")
    assert Keyring({}).tenant(None) == "default"


def test_readiness_says_what_is_missing(face):
    with face.http() as http_client:
        assert http_client.get("/readyz").json() == {"ready": True, "missing": [], "detail": {"workers": 2}}
        face.service.missing = ("worker 1 is loading the model",)
        try:
            response = http_client.get("/readyz")
        finally:
            face.service.missing = ()
        assert response.status_code == 503
        assert response.json()["missing"] == ["worker 1 is loading the model"]
        assert http_client.get("/healthz").status_code == 200
        assert http_client.get("/metrics").text == "mygo_requests_total 1\n"


def test_full_disk_is_507_whatever_raised_it():
    seen = errors.view(OSError(errno.ENOSPC, "No space left on device"), "req_1")
    assert (seen.status, seen.headers) == (507, {"x-should-retry": "false"})


def test_error_keeps_its_param_when_it_crosses_a_process():
    error = pickle.loads(pickle.dumps(NotFound("no store", param="vector_store_id")))
    seen = errors.view(error, "req_1")
    assert (seen.status, seen.param, seen.code) == (404, "vector_store_id", "not_found")


scalars = st.one_of(st.booleans(), st.integers(-3, 3), st.sampled_from(["a", "b"]))


@given(held=st.one_of(st.none(), scalars), value=scalars)
def test_comparisons_agree_with_one_another(held, value):
    attributes = {} if held is None else {"k": held}

    def holds(operator):
        return matches(Comparison("k", operator, value), attributes)

    assert holds("eq") != holds("ne")
    assert holds("eq") == matches(Comparison("k", "in", (value,)), attributes)
    assert holds("ne") == matches(Comparison("k", "nin", (value,)), attributes)
    assert not (holds("lt") and holds("gt"))
    ordered = held is not None and isinstance(held, str) == isinstance(value, str)
    if ordered and not isinstance(held, bool) and not isinstance(value, bool):
        assert holds("eq") == (held == value)
        assert holds("lt") == (held < value) and holds("gte") == (held >= value)
        assert holds("gt") == (held > value) and holds("lte") == (held <= value)
    else:
        assert not any(map(holds, ("lt", "lte", "gt", "gte")))


def test_true_is_not_one():
    assert not matches(Comparison("k", "eq", 1), {"k": True})
    assert matches(Comparison("k", "eq", 1.0), {"k": 1})


def test_compounds_combine():
    yes, no = Comparison("k", "eq", "v"), Comparison("k", "ne", "v")
    assert matches(Compound("or", (no, Compound("and", (yes, yes)))), {"k": "v"})
    assert not matches(Compound("and", (yes, no)), {"k": "v"})


@given(st.lists(st.tuples(st.sampled_from("rwd"), st.sampled_from("xyz"), st.integers(0, 6)), max_size=40))
def test_memory_holds_the_latest_within_its_bytes(steps):
    memory, recent, values = ResponseMemory(max_bytes=10), [], {}
    for action, key, size in steps:
        if action == "w":
            memory.remember(A, key, bytes(size))
            values[key] = size
            recent = [each for each in recent if each != key] + [key]
            while sum(values.values()) > 10:
                del values[recent.pop(0)]
        elif action == "d":
            assert memory.forget(A, key) == (key in values)
            values.pop(key, None)
            recent = [each for each in recent if each != key]
        else:
            value = memory.recall(A, key)
            assert (None if value is None else len(value)) == values.get(key)
            if value is not None:
                recent = [each for each in recent if each != key] + [key]
        assert memory.recall(B, key) is None


@pytest.mark.parametrize(
    ("given_name", "kept"),
    [
        ("a.txt", "a.txt"),
        ("/etc/passwd", "passwd"),
        ("C:\\docs\\a.md", "a.md"),
        ("", "upload"),
        ("..", "upload"),
        ("a\r\nb\x00.txt", "ab.txt"),
        ("x" * 300 + ".txt", "x" * 251 + ".txt"),
    ],
)
def test_filename_is_made_safe(given_name, kept):
    assert safe_filename(given_name) == kept
