"""A trace's requests as bodies for ``/v1/chat/completions``, with their documents inline."""

from __future__ import annotations

import json
from dataclasses import replace

from benchmarks.synthesis import Synthesizer
from mygo.workloads.trace import Trace


class Bodies:
    """Bodies by running number. A trace that is too short begins again, with new questions."""

    def __init__(
        self,
        trace: Trace,
        texts: Synthesizer,
        *,
        model: str,
        output_tokens: int | None,
        questions_from: int = 0,
    ) -> None:
        """``output_tokens`` bounds the length of answers; None leaves it to the trace. ``questions_from``
        numbers the first question: equal numbers are equal questions, which a cluster may still hold."""
        self._trace = trace
        self._texts = texts
        self._model = model
        self._most = output_tokens
        self._questions_from = questions_from

    def body(self, number: int) -> bytes:
        """JSON. Takes milliseconds for a long prompt, so it is made before the request is due."""
        requests = self._trace.requests
        request = replace(requests[number % len(requests)], number=self._questions_from + number)
        words = self._texts.words(self._trace, request)
        turns = len(words.history)
        messages = [("system", words.system)] if words.system else []
        # turns of a conversation, the last of them an answer
        messages += [
            ("assistant" if (turns - index) % 2 else "user", text) for index, text in enumerate(words.history)
        ]
        messages.append(("user", words.question))
        output_tokens = request.output_tokens
        if self._most is not None:
            output_tokens = min(output_tokens, self._most)
        documents = zip(request.documents, words.documents, strict=True)
        return json.dumps(
            {
                "model": self._model,
                "messages": [{"role": role, "content": text} for role, text in messages],
                "documents": [{"id": name, "text": text} for name, text in documents],
                "max_tokens": max(1, output_tokens),
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ).encode()
