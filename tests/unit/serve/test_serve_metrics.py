"""The metrics page of the whole cluster is valid exposition text."""

from prometheus_client.parser import text_string_to_metric_families

from mygo import metrics
from mygo.serve.instruments import merge

PAGE = """# HELP ray_mygo_requests Answers.
# TYPE ray_mygo_requests counter
ray_mygo_requests{{outcome="ok",node="{node}"}} {value}
# HELP ray_object_store_memory Not ours.
# TYPE ray_object_store_memory gauge
ray_object_store_memory{{node="{node}"}} 1
"""


def test_merge_joins_families_when_two_nodes_report_the_same_metric() -> None:
    text = merge([PAGE.format(node="a", value=2), PAGE.format(node="b", value=3)])
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert text.count("# TYPE ray_mygo_requests") == 1
    samples = families["ray_mygo_requests"].samples
    assert {sample.labels["node"]: sample.value for sample in samples} == {"a": 2.0, "b": 3.0}


def test_merge_leaves_out_metrics_when_they_are_not_of_serving() -> None:
    assert "object_store" not in merge([PAGE.format(node="a", value=2)])


def test_merge_names_a_node_when_it_did_not_answer() -> None:
    assert "# no answer from http://x" in merge(
        ["# no answer from http://x\n", PAGE.format(node="a", value=1)]
    )


def test_metric_names_are_unique_and_carry_help() -> None:
    names = [metric.name for metric in metrics.ALL]
    assert len(names) == len(set(names))
    assert all(metric.help.endswith(".") for metric in metrics.ALL)
