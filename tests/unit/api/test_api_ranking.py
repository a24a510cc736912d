"""Ranking options reach retrieval from every face that searches."""

from __future__ import annotations

import openai
import pytest

HYBRID = {"hybrid_search": {"embedding_weight": 0.3, "text_weight": 0.7}, "score_threshold": 0.2}


def weights(retrieval):
    return retrieval.embedding_weight, retrieval.text_weight, retrieval.min_score


def asked(face, client, ranking=None):
    """What retrieval is asked for by chat, responses and search."""
    store = client.vector_stores.create()
    model = client.models.list().data[0].id
    extra = {"ranking_options": ranking} if ranking else {}
    body = {"vector_store_ids": [store.id], **extra}
    client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "question"}], extra_body=body
    )
    tool = {"type": "file_search", "vector_store_ids": [store.id], **extra}
    client.responses.create(model=model, input="question", tools=[tool])
    client.vector_stores.search(store.id, query="question", extra_body=extra)
    return [*(request.retrieval for _, request in face.service.requests[-2:]), face.service.searched[-1]]


def test_hybrid_weights_reach_retrieval_from_every_face(client, face):
    assert [weights(each) for each in asked(face, client, HYBRID)] == [(0.3, 0.7, 0.2)] * 3


def test_searches_are_by_vectors_unless_asked_otherwise(client, face):
    assert [weights(each) for each in asked(face, client)] == [(1.0, 0.0, None)] * 3


def test_ranker_none_leaves_out_the_reranker(client, face):
    assert [each.rerank for each in asked(face, client, {"ranker": "none"})] == [False] * 3
    assert [each.rerank for each in asked(face, client, {"ranker": "auto"})] == [True] * 3
    assert [each.rerank for each in asked(face, client)] == [True] * 3


def test_deployment_says_what_words_count_when_the_request_does_not(serve):
    face = serve({"retrieval": {"text_weight": 0.5}})
    assert [weights(each) for each in asked(face, face.client())] == [(1.0, 0.5, None)] * 3
    by_vectors = {"hybrid_search": {"embedding_weight": 1, "text_weight": 0}}
    assert [weights(each) for each in asked(face, face.client(), by_vectors)] == [(1.0, 0.0, None)] * 3


def test_hybrid_search_is_refused_when_there_is_no_index_of_words(serve):
    face = serve({"retrieval": {"words": False}})
    with pytest.raises(openai.BadRequestError, match="no index of words"):
        asked(face, face.client(), HYBRID)
    by_vectors = {"hybrid_search": {"embedding_weight": 1, "text_weight": 0}}
    assert len(asked(face, face.client(), by_vectors)) == 3


@pytest.mark.parametrize(
    "weight",
    [
        {"text_weight": -1},
        {"embedding_weight": 0, "text_weight": 0},
        {"embedding_weight": 0, "text_weight": 1e-323},
    ],
)
def test_weights_that_weigh_nothing_are_refused(client, face, weight):
    with pytest.raises(openai.BadRequestError, match="weight"):
        asked(face, client, {"hybrid_search": weight})
