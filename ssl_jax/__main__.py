"""The commands of ssl_jax by one name:  ssl-jax COMMAND [FLAGS]  or  python -m ssl_jax COMMAND [FLAGS]"""

import difflib
import runpy
import sys

import ssl_jax
from ssl_jax.settings.text import print_page

COMMANDS = {  # name: module, what it does
    "train": ("ssl_jax.main", "train a config, or resume its run"),
    "evaluate": ("ssl_jax.evaluate", "score a run, on its own data or others"),
    "assign": ("ssl_jax.assign", "sort pictures into clusters"),
    "report": ("ssl_jax.report", "one page on one run or several"),
    "export": ("ssl_jax.export", "write a run's encoder for other programs"),
    "preview": ("ssl_jax.preview", "draw what the augmentations of a config do"),
}


def main():
    """Runs the command that the first argument names, as `python -m` runs its module; lists them without one."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "help"):
        print_page(_listing())
    elif name == "--version":
        print(f"ssl_jax {ssl_jax.__version__}")
    elif name in COMMANDS:
        del sys.argv[1]
        runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(COMMANDS)}"
        sys.exit(_error(f"{name!r} is not a command; {hint}"))


def _listing():
    rows = [f"  {name:<10} {what:<46} python -m {module}" for name, (module, what) in COMMANDS.items()]
    usage = "usage: ssl-jax COMMAND [FLAGS]      such as: ssl-jax train --config=swav"
    return "\n".join([usage, "", *rows, "", "ssl-jax COMMAND --help lists the flags of a command."])


def _error(message):
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
