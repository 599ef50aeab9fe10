from service.views.costs import cost_table


def test_numbers_have_three_digits_and_a_prefix():
    row = {"network": "pruned", "parameters": 77_754, "nonzero": 398, "macs": 555_422_720, "file_bytes": 999_600}
    row |= {"gzip_bytes": 24_400, "eager_ms_1": 0.02846, "eager_ms_64": 2370.4, "onnx_ms_1": 5.0, "onnx_ms_64": None}
    header, rows = cost_table([row])
    cells = dict(zip(header, rows[0], strict=True))
    assert cells == {
        "network": "pruned",
        "parameters": "77.8 k",
        "not 0": "398",
        "MACs": "555 M",
        "file": "1 MB",
        "gzip": "24.4 kB",
        "PyTorch, batch 1": "0.0285 ms",
        "PyTorch, batch 64": "2370 ms",
        "ONNX Runtime, batch 1": "5 ms",
        "ONNX Runtime, batch 64": "-",
    }
