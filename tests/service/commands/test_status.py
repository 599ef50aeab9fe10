import json


def test_status_is_json_for_programs(toy, sweeps):
    toy.trial(None, status="error")
    (status,) = json.loads(sweeps("status", "toy", "--json")[0])
    assert [row["status"] for row in status["failed"]] == ["error"]
