"""`make bench` at tiny sizes: every method is timed, and a cut model costs its neighbours nothing."""

from pathlib import Path


def test_every_benchmark_prints_its_line(monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from benchmarks import bench

    tiny = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    monkeypatch.setattr(bench, "SIZES", tiny)
    bench.steps(1)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert len(lines) == 10  # nine kinds of steps, and an event
    assert lines[0][0] == "plain" and lines[0][-1] == "1.00"
    assert all(float(line[-2]) > 0 for line in lines[:-1])
