"""The command `galaxy-mail`."""

import click


@click.group()
def main() -> None:
    """Galaxy Mail: accepts, renders, sends, retries and audits a platform's outgoing mail."""
