from kerastools._core.table import Printed, format_table


def test_columns_are_aligned_and_numbers_end_flush():
    lines = format_table(["layer", "value"], [["dense", 1.0], ["head [x]", 12345.678]]).splitlines()
    assert lines[0].split() == ["layer", "value"]
    assert lines[2].endswith("    1")
    assert lines[3].startswith("head [x]")
    assert lines[3].endswith("1.235e+04")


def test_a_table_without_rows_is_its_header():
    assert format_table(["layer", "value"], []).split()[:2] == ["layer", "value"]


def test_a_title_may_be_longer_than_the_table():
    lines = format_table(["a"], [[1]], title="longer than the table").splitlines()
    assert lines[:2] == ["longer than the table", "a"]


def test_a_report_is_its_text_in_a_terminal_and_in_a_notebook():
    class Report(Printed):
        def __str__(self):
            return "a < b"

    assert repr(Report()) == str(Report())
    assert Report()._repr_html_() == "<pre>a &lt; b</pre>"
