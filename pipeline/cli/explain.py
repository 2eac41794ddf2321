"""camaudit-explain: explain the prediction for one image, and draw its heatmaps as panels."""

from __future__ import annotations

import re
import sys

import hydra
from omegaconf import DictConfig

from pipeline.cli.help import print_help
from pipeline.cli.parser import exit_code_of
from pipeline.config import conf_dir

FREE_TEXT = ("image", "class", "output", "run")
"""Keys whose values may contain characters that are syntax for Hydra."""


def main() -> None:
    """Explain one image and exit; Hydra reads the settings."""
    sys.argv[1:] = [quote(argument) for argument in sys.argv[1:]]
    if not print_help("explain", sys.argv[1:]):
        _composed()


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="explain")
def _composed(composed: DictConfig) -> None:
    def explain() -> int:
        from pipeline.cli import explain_image  # noqa: PLC0415 - imports PyTorch; --help does not

        for line in explain_image.run(*explain_image.settings(composed)):
            sys.stdout.write(f"{line}\n")
        return 0

    sys.exit(exit_code_of("camaudit-explain", explain))


def quote(argument: str) -> str:
    """Quote the value of key=value for Hydra, because a path or name may contain any character."""
    key, separator, value = argument.partition("=")
    plain = not value or value[0] in "'\"" or (key == "class" and value[0] == "[")
    if not separator or key not in FREE_TEXT or plain or value == "null":
        return argument
    # For Hydra a backslash is special before a quote only; for OmegaConf ${ begins a reference.
    escaped = re.sub(r'(\\*)("|$)', lambda run: 2 * run[1] + "\\" * bool(run[2]) + run[2], value)
    return f'{key}="{escaped}"'.replace("${", "\\${")


if __name__ == "__main__":
    main()
