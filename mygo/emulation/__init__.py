"""An engine that takes time in place of computing: vLLM's own scheduler and cache with MyGO's plugin,
and T seconds where the model's forward pass would be. For load tests of the control plane and for
simulation; whatever it answers is no language, and every face of it says that it is emulated.

- ``engine``: ``EmulatedCore``, one engine on a clock that its driver brings (discrete events).
- ``serving``: ``EmulatedEngine``, the same behind the Engine protocol, on scaled wall time.
- ``timing``: the seconds of a step. ``profile``: the calibration file they come from; ``roofline`` derives
  one from data sheets, ``calibration`` measures one on a real engine.
- ``vllm_scheduler``: drives vLLM's scheduler; ``vllm_config`` configures it.
- ``connector``: the plugin with its clock and its memory replaced: ``copier`` stands for the copies between
  device and host, ``disk`` (on a ``drive``) for the disk tier. ``native``: vLLM's own offloading, to
  compare with. With ``vllm_scheduler``, these are the files here that touch vLLM's internals.

Real are: scheduling, batching, chunked prefill, block hashes, sharing domains, the block pool and its
evictions, sibling hold, what lies in which tier, what is loaded, stored, given up and read ahead, and what
is reported of all that. Not real are the seconds, the tokens, and the bytes of KV.
"""
