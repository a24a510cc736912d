"""An engine that takes time in place of computing: vLLM's own scheduler and cache with MyGO's plugin,
and T seconds where the model's forward pass would be. For load tests of the control plane and for
simulation; whatever it answers is no language, and every face of it says that it is emulated.

- ``engine``: ``EmulatedCore``, one engine on a clock that its driver brings (discrete events).
- ``serving``: ``EmulatedEngine``, the same behind the Engine protocol, on scaled wall time.
- ``timing``: the seconds of a step. ``profile``: the calibration file they come from; ``roofline`` derives
  one from data sheets, ``calibration`` measures one on a real engine.
- ``vllm_scheduler``: the only file here that touches vLLM's internals.

Real are: scheduling, batching, chunked prefill, block hashes, sharing domains, the block pool and its
evictions, sibling hold, and what is reported of them. Not real are the seconds and the tokens.
"""
