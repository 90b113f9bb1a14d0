"""All commands under one name:  ssl-jax COMMAND [FLAGS]  or  python -m ssl_jax COMMAND [FLAGS]"""

import difflib
import runpy
import sys

import ssl_jax
from ssl_jax.settings.text import print_page

COMMANDS = {  # name: module, summary
    "train": ("ssl_jax.main", "train a config, or resume its run"),
    "evaluate": ("ssl_jax.evaluate", "score a run or a weight file on data"),
    "assign": ("ssl_jax.assign", "sort images into clusters"),
    "embed": ("ssl_jax.embed", "write the features of images to a file"),
    "report": ("ssl_jax.report", "write a page on one or several runs"),
    "export": ("ssl_jax.export", "export a run's encoder for other programs"),
    "preview": ("ssl_jax.preview", "draw the augmentations of a config"),
}


def main() -> None:
    """Runs the command named by the first argument; without one, lists all commands."""
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
        print(f"error: {name!r} is not a command; {hint}", file=sys.stderr)
        sys.exit(2)


def _listing() -> str:
    usage = "usage: ssl-jax COMMAND [FLAGS]      such as: ssl-jax train --config=swav"
    commands = [
        f"  {name:<10} {summary:<46} python -m {module}"
        for name, (module, summary) in COMMANDS.items()
    ]
    return "\n".join([usage, "", *commands, "", "ssl-jax COMMAND --help lists a command's flags."])


if __name__ == "__main__":
    main()
