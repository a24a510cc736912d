"""Chunk reuse inside vLLM: documents' KV kept apart from their prompts, placed in others, partly repaired.

Reading order: ``layout`` (the idea), ``live`` and ``documents`` (a request), ``chunks`` (the scheduler's
half) with ``planning``, ``captures``, ``holdings`` and ``wants``, ``step`` (what it tells), ``mover`` (the
workers' half) with ``layers``, ``link`` and ``scatter``; ``worker`` connects it to vLLM, ``refusals`` says
for whom it cannot be. Whether blends are good enough is for ``quality`` to say, with ``comparing`` and
``deviations`` (what it learns in the workers), ``guard_file`` (what outlives the engine) and ``quality_view``
(what people see).

Why repair is part of vLLM's own step, and no forward beside it: what is repaired counts against the step's
token budget, so that running decodes wait no longer than for any prefill; it is batched, and every rank and
layer sees one step as ever.

Why steps that keep KV run the model without compiled code: keys are taken before they are turned, by hooks of
modules, which compiled code does not call. An operation of ours in the graph would cut it once more in each
layer, in every step; as it is, only a document that is computed for the first time costs more.
"""
