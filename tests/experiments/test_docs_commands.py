"""Every command of README.md and of the pages in ``docs/`` parses: its script is there, its flags exist and take what
they are given. Nothing is run.
"""

import argparse
import functools
import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tyro
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser as torchrun_parser

from colaworld.experiments import cli

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/plug_in.md", "docs/scale.md")
NOT_OURS = ("git", "hf", "nvidia-smi", "pip", "tensorboard")
"""Programs whose commands are taken as they stand."""
LEAST = {"README.md": 40, "docs/plug_in.md": 4, "docs/scale.md": 12}


def commands_of(page: str) -> list[str]:
    """The lines of a page's shell blocks, and what stands in the text as `python ...`, without their remarks."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    inline = [" ".join(found.split()) for found in re.findall(r"`(python [^`]+)`", prose)]
    words = [shlex.split(line, comments=True) for line in [*lines, *inline]]
    return list(dict.fromkeys(shlex.join(each) for each in words if each))


class Parsed(Exception):
    """The flags were read; what they are for has not begun."""


@pytest.fixture
def no_script_runs(monkeypatch) -> None:
    """Every door of a script reads its flags and then raises `Parsed`."""
    read, read_plain = tyro.cli, argparse.ArgumentParser.parse_args

    def cli_only(function: Callable[..., object], **given: Any) -> Any:
        if given:  # flags within a flag
            return read(function, **given)
        try:
            read(functools.wraps(function)(lambda *_, **__: None))
        except FileNotFoundError:  # the reader's file, looked for when the flags are read
            pass
        raise Parsed

    def parse_args_only(self: argparse.ArgumentParser, *given: object) -> None:
        read_plain(self, *given)
        raise Parsed

    monkeypatch.setattr(cli.tyro, "cli", cli_only)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args_only)
    monkeypatch.chdir(ROOT)


def parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a command as its program would."""
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    program, *rest = words
    if program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert [word for word in rest if "=" not in word][0] in targets
    elif program == "accelerate":
        assert rest[0] == "launch"
        read = launch_command_parser().parse_known_args(rest[1:])[0]
        parse(["python", read.training_script, *read.training_script_args], monkeypatch)
    elif program == "torchrun":
        read = torchrun_parser().parse_known_args(rest)[0]
        parse(["python", read.training_script, *read.training_script_args], monkeypatch)
    elif words[:3] == ["python", "-m", "pytest"]:
        assert all((ROOT / file).is_file() for file in words[3:])
    elif program == "python":
        module = rest[0] == "-m"
        name, arguments = (rest[1], rest[2:]) if module else (rest[0], rest[1:])
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(Parsed):
            if module:
                runpy.run_module(name, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(name, run_name="__main__")
    else:
        assert program in NOT_OURS


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("page", "command"), [(page, each) for page in PAGES for each in commands_of(page)])
def test_a_command_parses(page, command, no_script_runs, monkeypatch, capsys):
    try:
        parse(shlex.split(command), monkeypatch)
    except SystemExit as end:
        assert end.code == 0 and "--help" in command, f"{page}: {command}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_commands(page):
    assert len(commands_of(page)) >= LEAST[page]


def test_a_flag_that_is_not_there_is_found(no_script_runs, monkeypatch):
    for command in (
        "python experiments/train_world_model.py --no-such-flag",
        "accelerate launch --num_processes 8 experiments/train_world_model.py --preset enormous",
        "torchrun --nproc-per-node 8 experiments/train_world_model.py --warmup.steps many",
        "python -m colaworld.envs.doctor --no-such-flag",
    ):
        with pytest.raises(SystemExit):
            parse(shlex.split(command), monkeypatch)


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_links_to_are_there(page):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not ((ROOT / page).parent / link).exists()]
    assert not missing
