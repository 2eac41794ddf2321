"""The help of the commands whose settings Hydra composes, in half the time that Hydra takes.

Hydra lists all of its own groups of settings before it prints a help text that names none of them.
The text here is the one that Hydra prints.
"""

from __future__ import annotations

import sys
from string import Template

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from pipeline.config import conf_dir

FLAGS = ("--help", "-h")


def print_help(config_name: str, arguments: list[str]) -> bool:
    """Print the help of a command, if the arguments ask for it and Hydra needs no other flag.

    Args:
        config_name: name of the command's file in conf/, without suffix.
        arguments: the command line: flags, and settings such as dataset=manifest, whose keys are
            then listed.

    Returns:
        Whether the help was printed; False leaves the command line to Hydra.

    Raises:
        SystemExit: a setting that does not exist (exit code 1).
    """
    flags = {each for each in arguments if each.startswith("-")}
    if not flags or not flags <= set(FLAGS):
        return False
    overrides = [each for each in arguments if each not in FLAGS]
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            composed = compose(config_name, overrides, return_hydra_config=True)
    except HydraException as error:  # Hydra itself would print a traceback
        sys.exit(str(error))
    template = Template(composed.hydra.help.template)
    own = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    settings = OmegaConf.to_yaml(own, resolve=False)
    text = template.substitute(APP_CONFIG_GROUPS=_groups(), CONFIG=settings)
    sys.stdout.write(f"{text}\n")
    return True


def _groups() -> str:
    """One line per group of settings with its choices, in alphabetical order."""
    lines = []
    for folder in sorted(path for path in conf_dir().iterdir() if path.is_dir()):
        choices = sorted(file.stem for file in folder.glob("*.yaml"))
        if choices and folder.name != "hydra":
            lines.append(f"{folder.name}: {', '.join(choices)}\n")
    return "".join(lines)
