"""The door of every script: one sentence, and an exit code that says whose fault it is."""

import sys

import pytest

from colaworld.experiments.cli import main


@pytest.mark.parametrize(
    ("error", "code"), [(ValueError, 2), (FileNotFoundError, 2), (FloatingPointError, 1), (KeyboardInterrupt, 130)]
)
def test_errors_become_a_sentence_and_an_exit_code(error, code, monkeypatch, capsys):
    def script(number: int = 3) -> None:
        raise error(f"number is {number}")

    monkeypatch.setattr(sys, "argv", ["script.py", "--number", "7"])
    monkeypatch.delenv("COLAWORLD_DEBUG", raising=False)
    with pytest.raises(SystemExit) as stopped:
        main(script)
    assert stopped.value.code == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert error is KeyboardInterrupt or said == "error: number is 7\n"
