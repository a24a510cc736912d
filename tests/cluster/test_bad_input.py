"""Bad input gets the right status and says what to do; nothing hangs."""

from __future__ import annotations

import io
from typing import Any

import httpx
import openai
import pytest
from conftest import MODEL, Cluster
from openai import OpenAI

pytestmark = pytest.mark.ray

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def _post(cluster: Cluster, path: str, content: bytes, **headers: str) -> httpx.Response:
    default = {"Authorization": "Bearer sk-alice", "Content-Type": "application/json"}
    return httpx.post(
        f"{cluster.url}{path}", content=content, headers=default | headers, timeout=60.0, trust_env=False
    )


def test_malformed_json_is_refused(cluster: Cluster) -> None:
    answer = _post(cluster, "/v1/chat/completions", b'{"model": ')
    assert answer.status_code == 400
    assert "JSON" in answer.json()["error"]["message"]


def test_wrong_api_key_is_refused(cluster: Cluster) -> None:
    with pytest.raises(openai.AuthenticationError):
        cluster.client("sk-nobody").models.list()


def test_unknown_model_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=MODEL):
        client.chat.completions.create(model="gpt-5", messages=HELLO)


def test_unknown_store_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="vs_missing"):
        client.chat.completions.create(
            model=MODEL, messages=HELLO, extra_body={"vector_store_ids": ["vs_missing"]}
        )


def test_unknown_file_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="file-missing"):
        client.files.retrieve("file-missing")


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"messages": []}, "messages"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"temperature": 9}, "temperature"),
        ({"extra_body": {"top_k": 0, "vector_store_ids": ["vs_x"]}}, "top_k"),
        ({"extra_body": {"top_k": -1, "vector_store_ids": ["vs_x"]}}, "top_k"),
        ({"extra_body": {"top_k": 1_000_000, "vector_store_ids": ["vs_x"]}}, "top_k"),
        ({"extra_body": {"cache_salt": "x"}}, "cache_salt"),
        ({"extra_body": {"kv_transfer_params": {"remote": 1}}}, "kv_transfer_params"),
        ({"extra_body": {"reuse": "blend"}}, "reuse"),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(
    client: OpenAI, change: dict[str, Any], names: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**({"model": MODEL, "messages": HELLO} | change))
    assert names in str(refused.value)


def test_prompt_beyond_the_context_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 20_000}])
    assert refused.value.code == "context_length_exceeded"


def test_ten_megabyte_message_is_refused_quickly(client: OpenAI) -> None:
    with pytest.raises((openai.BadRequestError, openai.APIStatusError)) as refused:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x" * 10_000_000}])
    assert refused.value.status_code in (400, 413)


def test_files_that_cannot_be_read_fail_with_a_reason_and_the_rest_goes_in(client: OpenAI) -> None:
    store = client.vector_stores.create(name="mixed")
    uploads = {
        "empty.txt": b"",
        "binary.bin": bytes(range(256)) * 8,
        "broken.pdf": b"%PDF-1.7 not really",
        "good.md": b"# Title\n\nThe harbour opens at nine.",
    }
    outcome: dict[str, Any] = {}
    for name, content in uploads.items():
        try:
            file = client.files.create(file=(name, io.BytesIO(content)), purpose="assistants")
        except openai.BadRequestError as refused:
            outcome[name] = ("refused", str(refused))
            continue
        done = client.vector_stores.files.create_and_poll(
            file.id, vector_store_id=store.id, poll_interval_ms=100
        )
        outcome[name] = (done.status, done.last_error.message if done.last_error else "")
    assert outcome["good.md"][0] == "completed"
    for name in ("empty.txt", "binary.bin", "broken.pdf"):
        status, reason = outcome[name]
        assert status in ("failed", "refused")
        assert name in reason
    found = client.vector_stores.search(store.id, query="When does the harbour open?")
    assert found.data[0].filename == "good.md"


def test_unknown_paths_and_methods_have_the_same_error_shape(cluster: Cluster) -> None:
    answer = _post(cluster, "/v1/nothing", b"{}")
    assert answer.status_code == 404
    assert "message" in answer.json()["error"]
    headers = {"Authorization": "Bearer sk-alice"}
    answer = httpx.put(f"{cluster.url}/v1/chat/completions", headers=headers, timeout=30.0, trust_env=False)
    assert answer.status_code == 405
    assert "message" in answer.json()["error"]


def test_health_and_metrics_need_no_key(cluster: Cluster, client: OpenAI) -> None:
    client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1)
    assert httpx.get(f"{cluster.url}/healthz", timeout=30.0, trust_env=False).status_code == 200
    assert httpx.get(f"{cluster.url}/readyz", timeout=30.0, trust_env=False).status_code == 200
    answer = httpx.get(f"{cluster.url}/metrics", timeout=30.0, trust_env=False)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
