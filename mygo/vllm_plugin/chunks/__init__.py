"""Chunk reuse inside vLLM: documents' KV kept apart from their prompts, placed in others, partly repaired.

Reading order: ``layout`` (the idea), ``live`` and ``documents`` (a request), ``chunks`` (the scheduler's
half) with ``planning``, ``captures`` and ``holdings``, ``step`` (what it tells), ``mover`` (the workers'
half) with ``layers`` and ``scatter``; ``worker`` connects it to vLLM, ``refusals`` says for whom it cannot
be. Whether blends are good enough is for ``quality`` to say, with ``comparing`` and ``deviations`` (what it
learns in the workers), ``guard_file`` (what outlives the engine) and ``quality_view`` (what people see).

Why repair is part of vLLM's own step, and no forward beside it: what is repaired counts against the step's
token budget, so that running decodes wait no longer than for any prefill; it is batched, and every rank and
layer sees one step as ever.
"""
