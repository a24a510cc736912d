"""What runs inside vLLM's engine process: the only room that touches vLLM's internals.

vLLM loads ``connector.MygoConnector`` as a KV connector (``--kv-transfer-config``, see
``settings.engine_arguments``). On the scheduler's side it

- gives blocks of a narrower sharing domain their own identity (``identity``),
- holds a request while another computes the same blocks (``siblings``),
- keeps the ledger of what the tiers really hold, by segment (``ledger``),
- decides what lies on the device, in host memory and on disk (``tiers``, ``disk``),
- admits requests in an order that knows the cache (``admission``, loaded by ``scheduler_cls``),
- lets go of deleted passages (``retirement``),
- tells its worker process about it, and takes commands, over a Unix socket (``reporter``, ``receiver``).

On the worker's side it moves KV between tiers, if there are any but the device. Every vLLM attribute that is
used is pinned by ``tests/unit/vllm_plugin/test_plugin_contract.py``;
``versions`` refuses a vLLM that these tests did not see.

``settings``, ``versions``, ``receiver`` and ``ledger`` import without vLLM.
"""
