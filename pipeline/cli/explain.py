"""camaudit-explain: what a classifier looks at in one picture, as panels for a person."""

from __future__ import annotations

import re
import sys

import hydra
from omegaconf import DictConfig

from pipeline.cli.help import print_help
from pipeline.config import conf_dir
from pipeline.errors import AuditError

FREE_TEXT = ("image", "class", "output", "run")
"""Keys whose values may hold what Hydra would take for syntax."""


def main() -> None:
    """Explain one image and exit; Hydra reads the settings."""
    sys.argv[1:] = [quoted(argument) for argument in sys.argv[1:]]
    if not print_help("explain", sys.argv[1:]):
        _composed()


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="explain")
def _composed(composed: DictConfig) -> None:
    from pipeline.cli import explain_image  # noqa: PLC0415 - torch: help needs none of it

    try:
        for line in explain_image.run(*explain_image.settings(composed)):
            sys.stdout.write(f"{line}\n")
    except AuditError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    sys.exit(0)


def quoted(argument: str) -> str:
    """key=value with a value that Hydra takes as it stands: paths and names may hold anything."""
    key, separator, value = argument.partition("=")
    plain = not value or value[0] in "'\"" or (key == "class" and value[0] == "[")
    if not separator or key not in FREE_TEXT or plain or value == "null":
        return argument
    # Hydra takes backslashes as they stand, but before a quote; OmegaConf ${ for a reference.
    escaped = re.sub(r'(\\*)("|$)', lambda run: 2 * run[1] + "\\" * bool(run[2]) + run[2], value)
    return f'{key}="{escaped}"'.replace("${", "\\${")


if __name__ == "__main__":
    main()
