"""`galaxy-mail check-config`: checks the environment and prints the effective settings."""

import os

import click

from galaxy_mail.config import ClientConfig, Config
from galaxy_mail.settings import markdown_table


@click.command("check-config")
@click.option("--markdown", is_flag=True, help="Print the reference of all variables in Markdown instead.")
def check_config(markdown: bool) -> None:
    """Check the configuration and print the effective settings.

    Secrets are masked. If the configuration is invalid, every problem is listed and the exit status is 2.
    """
    if markdown:
        click.echo(markdown_table((*Config.settings(), *ClientConfig.settings())), nl=False)
        return
    config = Config.from_env(os.environ)
    settings = Config.effective(os.environ)
    width = max(len(f"{one.variable}={one.shown}") for one in settings if len(one.shown) <= 40)
    for one in settings:
        line = f"{one.variable}={one.shown}"
        click.echo(line if one.origin == "environment" else f"{line:{width}}  # {one.origin}")
    for warning in config.warnings():
        click.echo(f"warning: {warning}", err=True)
