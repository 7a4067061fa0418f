from headscope.pipeline import progress as module
from headscope.pipeline.progress import clock, progress


def test_items_pass_and_the_last_line_says_all_are_done(capsys):
    assert list(progress([3, 1, 2], "prompts")) == [3, 1, 2]
    assert capsys.readouterr().err == "prompts: 3/3, 0 s left\n"


def test_the_time_left_is_the_mean_time_of_what_is_done(capsys, monkeypatch):
    times = iter([0.0, 10.0, 11.0, 30.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(times))
    assert list(progress("abc", "rows")) == ["a", "b", "c"]
    assert capsys.readouterr().err == "rows: 1/3, 20 s left\nrows: 3/3, 0 s left\n"


def test_durations_are_read_at_a_glance():
    assert [clock(seconds) for seconds in (7, 185, 7380)] == ["7 s", "3 min 05 s", "2 h 03 min"]
