"""What runs inside vLLM's engine process: the only room that touches vLLM's internals.

vLLM loads ``connector.MygoConnector`` as a KV connector (``--kv-transfer-config``, see
``settings.engine_arguments``). On the scheduler's side it

- gives blocks of a narrower sharing domain their own identity (``identity``),
- holds a request while another computes the same blocks (``siblings``),
- keeps the ledger of what the device cache really holds, by segment (``ledger``),
- and tells its worker process about it over a Unix socket (``reporter`` -> ``receiver``).

It loads and stores no KV, so on the engine's worker side it does nothing at all. Every vLLM
attribute that is used is pinned by ``tests/unit/vllm_plugin/test_plugin_contract.py``;
``versions`` refuses a vLLM that these tests did not see.

``settings``, ``versions``, ``receiver`` and ``ledger`` import without vLLM.
"""
