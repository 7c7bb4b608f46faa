"""How commands fail: what people read, and what a program gets."""

from __future__ import annotations

from quotapool.cli.errors import fail


def test_a_servers_words_in_an_error_do_not_control_the_terminal(capsys):
    assert fail("the store says \x1b[2J\x1b]0;title\x07no\r\nand more", code=1) == 1
    assert capsys.readouterr().err == "quotapool: the store says [2J]0;titleno\nand more\n"
