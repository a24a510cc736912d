"""What is wrong gets the right status, names itself, and says what to do."""

from __future__ import annotations

import http.client
import json
import time

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygo.api.schemas.base import Body, parse_json
from mygo.api.schemas.chat import ChatBody
from mygo.api.schemas.rag import FilterPart
from mygo.api.schemas.responses import ResponseBody
from mygo.api.schemas.stores import AttachBody, BatchBody, SearchBody, StoreBody
from mygo.errors import BadRequest

MODEL = "smollm2-135m-instruct"
QUICK_S = 20.0
"""Takes milliseconds; what would hang takes minutes. Wide, since the machine may be busy."""
HELLO = [{"role": "user", "content": "hi"}]
CHAT = {"model": MODEL, "messages": HELLO}


def post(face, path, body, **headers):
    raw = body if isinstance(body, bytes | str) else json.dumps(body)
    with face.http() as http_client:
        return http_client.post(path, content=raw, headers={"content-type": "application/json"} | headers)


def refused(face, path, body, status=400):
    response = post(face, path, body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert response.headers["x-request-id"].startswith("req_")
    return error


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
        ),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"max_tokens": 10**400}, "max_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 10**6}, "top_k"),
        ({"n": 2}, "n"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, None),
        ({"stop": [""]}, "stop[0]"),
        ({"seed": 1.5}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"reuse": "blend"}, "reuse"),
        ({"document_order": "random"}, "document_order"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"cache_salt": "x"}, "cache_salt"),
        ({"kv_transfer_params": {"a": 1}}, "kv_transfer_params"),
        ({"vector_store_id": "vs_1"}, "vector_store_id"),
        ({"documents": [{"id": "a", "text": ""}]}, "documents[0].text"),
        ({"documents": [{"id": "a", "text": "x"}] * 2}, "documents[1].id"),
        ({"documents": [{"id": str(n), "text": "x"} for n in range(51)]}, "documents"),
        ({"documents": [{"id": "a", "text": "x"}], "vector_store_ids": ["vs_1"]}, None),
        ({"max_tokens": 5, "max_completion_tokens": 6}, None),
    ],
)
def test_chat_is_refused_by_name_when_a_field_is_wrong(face, change, param):
    error = refused(face, "/v1/chat/completions", CHAT | change)
    assert error["param"] == param
    assert param is None or param.split("[")[0] in error["message"]


def test_misspelt_field_is_told_its_nearest_name(face):
    error = refused(face, "/v1/chat/completions", CHAT | {"vector_store_id": ["vs_1"]})
    assert "did you mean vector_store_ids?" in error["message"]


def test_blend_is_refused_as_exact_only(face):
    assert "exact only" in refused(face, "/v1/chat/completions", CHAT | {"reuse": "blend"})["message"]


@pytest.mark.parametrize(
    "neutral",
    [
        {"tools": [], "tool_choice": "auto", "functions": None, "response_format": {"type": "text"}},
        {"n": 1, "repetition_penalty": 1.0, "min_p": 0, "best_of": 1, "logit_bias": {}},
        {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
        {"parallel_tool_calls": True, "temperature": None, "stop": None, "max_tokens": None},
    ],
)
def test_chat_is_answered_when_unsupported_fields_mean_nothing(face, neutral):
    assert post(face, "/v1/chat/completions", CHAT | neutral).status_code == 200


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        '{"model": NaN}',
        b"\xff\xfe{}",
        '{"model":"\\ud800","messages":[]}',
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"max_tokens": 1' + "0" * 5000 + "}",
        '{"model":"' + MODEL + '","messages":' + "[" * 5000 + "]" * 5000 + "}",
    ],
)
def test_body_is_refused_quickly_when_it_is_no_proper_json(face, raw):
    started = time.perf_counter()
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/vector_stores/vs_1/search"):
        refused(face, path, raw)
    assert time.perf_counter() - started < QUICK_S


def test_deep_filters_are_refused(face):
    deep = {"type": "eq", "key": "k", "value": 1}
    for _ in range(60):
        deep = {"type": "and", "filters": [deep]}
    body = CHAT | {"vector_store_ids": ["vs_1"], "filters": deep}
    assert "nested" in refused(face, "/v1/chat/completions", body)["message"]


@pytest.mark.parametrize(
    "filters",
    [
        {"type": "eq", "value": 1},
        {"type": "in", "key": "k", "value": 1},
        {"type": "gt", "key": "k", "value": [1]},
        {"type": "and", "filters": []},
        {"type": "xor", "filters": []},
        {"type": "eq", "key": "k", "value": None},
        {"type": "eq", "key": "k", "value": 1, "filters": []},
    ],
)
def test_filter_is_refused_when_it_is_not_whole(face, filters):
    error = refused(face, "/v1/vector_stores/vs_1/search", {"query": "x", "filters": filters})
    assert error["param"].startswith("filters")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "file_search"}]}, "tools[0].vector_store_ids"),
        ({"tools": [{"type": "file_search", "vector_store_ids": []}]}, "tools[0].vector_store_ids"),
        (
            {"tools": [{"type": "file_search", "vector_store_ids": ["v"], "max_num_results": 10**6}]},
            "tools[0].max_num_results",
        ),
        ({"input": []}, "input"),
        ({"input": ""}, "input[0].content"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"include": ["reasoning.encrypted_content"]}, "include"),
        ({"background": True}, "background"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"text": {"format": {"type": "json_object"}}}, "text"),
        ({"vector_store_ids": ["v"]}, "vector_store_ids"),
    ],
)
def test_response_is_refused_by_name_when_a_field_is_wrong(face, change, param):
    error = refused(face, "/v1/responses", {"model": MODEL, "input": "hi"} | change)
    assert error["param"] == param


def test_unknown_things_are_not_found(client):
    with pytest.raises(openai.NotFoundError, match="smollm2"):
        client.chat.completions.create(model="gpt-4", messages=HELLO)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(
            model=MODEL, messages=HELLO, extra_body={"vector_store_ids": ["vs_none"]}
        )
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve("file-none")
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.files.retrieve("file-none", vector_store_id="vs_none")
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.search("vs_none", query="x")


def test_routes_answer_in_the_same_shape(face):
    assert "/v1" in refused(face, "/v2/none", {}, status=404)["message"]
    assert refused(face, "/v1/models", {}, status=405)["code"] == "unknown_url"
    assert refused(face, "/v1/models/", {}, status=405)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up", "after=vs_none"])
def test_listing_is_refused_when_its_query_is_wrong(face, query):
    with face.http() as http_client:
        response = http_client.get(f"/v1/vector_stores?{query}")
    assert response.status_code == 400 and response.json()["error"]["param"] == query.split("=")[0]


def test_ten_megabyte_message_is_refused_quickly(face):
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x" * 10_000_000}]}
    started = time.perf_counter()
    assert "max" not in refused(face, "/v1/chat/completions", body, status=413)["code"]
    assert time.perf_counter() - started < QUICK_S


def test_body_is_refused_when_it_is_larger_than_allowed(serve):
    face = serve({"http": {"max_body_bytes": 100_000}, "corpus": {"max_file_bytes": 50_000}})
    refused(face, "/v1/chat/completions", "x" * 150_000, status=413)
    with face.http() as http_client:
        chunks = (b"x" * 10_000 for _ in range(30))  # no content-length: only counting can tell
        assert http_client.post("/v1/chat/completions", content=chunks).status_code == 413
    with pytest.raises(openai.APIStatusError) as failure:
        face.client().files.create(file=("big.txt", b"x" * 2_000_000), purpose="assistants")
    assert failure.value.status_code == 413
    with pytest.raises(openai.APIStatusError, match=r"big\.txt"):
        face.client().files.create(file=("big.txt", b"x" * 60_000), purpose="assistants")


@pytest.mark.parametrize(
    ("file", "purpose", "param"),
    [
        (("empty.txt", b""), "assistants", "file"),
        (("x.txt", b"x"), "fine-tune", "purpose"),
    ],
)
def test_upload_is_refused_when_it_is_of_no_use(client, file, purpose, param):
    with pytest.raises(openai.BadRequestError) as failure:
        client.files.create(file=file, purpose=purpose)
    assert failure.value.param == param


@pytest.mark.parametrize(
    ("content_type", "raw"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"no boundary"),
        ("multipart/form-data; boundary=x", b"--y\r\nbroken"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nhi\r\n--x--',
        ),
    ],
)
def test_upload_is_refused_when_it_is_no_proper_multipart(face, content_type, raw):
    response = post(face, "/v1/files", raw, **{"content-type": content_type})
    assert response.status_code == 400 and response.json()["error"]["message"]


@pytest.mark.parametrize(
    "extra",
    [
        {"chunking_strategy": {"type": "static", "static": {"max_chunk_size_tokens": 100}}},
        {"expires_after": {"anchor": "last_active_at", "days": 1}},
        {"metadata": {"k": 5}},
        {"metadata": {"k" * 65: "v"}},
    ],
)
def test_store_is_refused_when_it_asks_for_what_is_not_offered(face, extra):
    error = refused(face, "/v1/vector_stores", {"name": "x"} | extra)
    assert error["param"].startswith(next(iter(extra)))


def test_conflict_and_full_disk_are_not_retried_by_the_client(face):
    client = face.client(max_retries=3)
    store = client.vector_stores.create()
    file = client.files.create(file=("LOCKED.txt", b"x"), purpose="assistants")
    with pytest.raises(openai.ConflictError):
        client.vector_stores.files.create(store.id, file_id=file.id)
    face.service.disk_full = True
    try:
        attempts = face.service.uploads
        with pytest.raises(openai.InternalServerError) as failure:
            client.files.create(file=("x.txt", b"x"), purpose="assistants")
    finally:
        face.service.disk_full = False
    assert failure.value.status_code == 507 and failure.value.code == "out_of_space"
    assert face.service.uploads == attempts + 1


def test_server_survives_a_client_that_hangs_up_in_its_body(face):
    connection = http.client.HTTPConnection(face.base_url.removeprefix("http://"))
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("content-length", "1000")
    connection.endheaders(b"{")
    connection.close()
    assert post(face, "/v1/chat/completions", CHAT).status_code == 200


BODIES: list[type[Body]] = [ChatBody, ResponseBody, BatchBody, SearchBody, StoreBody]
FIELDS = sorted({name for body in BODIES for name in (*body.model_fields, *body.REFUSED, *body.IGNORED)})
KEYS = st.sampled_from(["type", "role", "content", "text", "id", "key", "value", "filters", "file_id"])
WORDS = st.sampled_from(["user", "text", "and", "in", "eq", "file_search", "message", "", "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(model=st.sampled_from(BODIES), fields=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5))
def test_no_body_causes_anything_but_a_bad_request(model, fields):
    raw = json.dumps({"model": MODEL, "messages": HELLO, "input": "x", "query": "x"} | fields).encode()
    try:
        body = parse_json(model, raw)
        if isinstance(body, ChatBody | SearchBody) and body.filters:
            body.filters.to_filter()
    except BadRequest as error:
        assert str(error)


@pytest.mark.parametrize(
    ("model", "body", "param"),
    [
        (ChatBody, {"model": MODEL, "messages": HELLO * 300_000}, "messages"),
        (
            ChatBody,
            {
                "model": MODEL,
                "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 300_000}],
            },
            "messages[0].content",
        ),
        (ChatBody, CHAT | {"documents": [{"id": "1", "text": "x"}] * 300_000}, "documents"),
        (ResponseBody, {"model": MODEL, "input": HELLO * 300_000}, "input"),
        (ChatBody, CHAT | {"q" * 10_000_000: 1}, "q" * 10_000_000),
    ],
)
def test_body_is_refused_soon_when_it_holds_very_many_things(model, body, param) -> None:
    raw = json.dumps(body).encode()
    began_s = time.process_time()
    with pytest.raises(BadRequest) as refusal:
        parse_json(model, raw)
    assert refusal.value.param == param
    assert time.process_time() - began_s < QUICK_S / 2


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    ("model", "body"),
    [
        (AttachBody, '{"file_id": "file-1", "attributes": {"year": %s}}'),
        (SearchBody, '{"query": "x", "filters": {"type": "eq", "key": "year", "value": %s}}'),
    ],
)
def test_number_is_refused_when_json_could_not_send_it_back(model, body, number) -> None:
    with pytest.raises(BadRequest):
        parse_json(model, (body % number).encode())


@pytest.mark.parametrize(
    ("filters", "problem"),
    [
        ('{"type": "in", "key": "k", "value": [1], "filters": [%s]}', "'in' takes no filters: remove them"),
        ('{"type": "eq", "key": "k", "value": 1, "filters": [%s]}', "'eq' takes no filters: remove them"),
        ('{"type": "and", "key": "k", "filters": [%s]}', "'and' takes no key: compare in its filters"),
        ('{"type": "or", "value": NaN, "filters": [%s]}', "'or' takes no value: compare in its filters"),
    ],
)
def test_filter_is_refused_when_it_is_a_comparison_and_a_compound(filters, problem) -> None:
    body = '{"query": "x", "filters": %s}' % (filters % '{"type": "eq", "key": "k", "value": 1}')
    with pytest.raises(BadRequest, match=problem) as refusal:
        parse_json(SearchBody, body.encode())
    assert refusal.value.param == "filters"


@pytest.mark.parametrize("nested", [False, True])
def test_filters_compare_with_a_bounded_number_of_values(nested: bool) -> None:
    def compared(values: int) -> FilterPart:
        one = FilterPart(type="in", key="user", value=[str(number) for number in range(values)])
        return FilterPart(type="and", filters=[one]) if nested else one

    compared(512).to_filter()
    with pytest.raises(BadRequest, match="513 values, at most 512"):
        compared(513).to_filter()


def test_comparison_with_an_empty_list_counts_as_one() -> None:
    def compared(lists: int) -> FilterPart:
        empty = FilterPart(type="nin", key="user", value=[])
        parts = [FilterPart(type="and", filters=[empty] * 57) for _ in range(lists)]
        return FilterPart(type="and", filters=parts)

    compared(8).to_filter()
    with pytest.raises(BadRequest, match="513 values, at most 512"):
        compared(9).to_filter()
